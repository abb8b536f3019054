"""Run the server until it is told to stop."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..artifacts.models.saved_model import Model
from ..errors import UserError
from .answers import AnswerLog, as_json
from .app import Service, make_app
from .logs import quiet_logs
from .options import LOOPBACK, ServeOptions
from .sockets import BACKLOG, backlog_for, connections_allowed

#: Seconds in which the head of a request must arrive, also on an idle connection.
_HEAD_SECONDS = 10.0
_SENTENCE = as_json({"detail": "The server has too many connections; try again later."})
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_SENTENCE), _SENTENCE)
)

#: Connections that the system may hold until the server accepts them.
_WAITING = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a name or address of this machine; port 0 is any free port.

    Raise UserError if the address is not of this machine, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # asyncio sets this only on sockets that name their protocol. Without it each answer waits
        # 40 ms for the delayed acknowledgement of the client.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}); choose an address of "
            "this machine and a free port"
        ) from None


def run(
    model: Model,
    options: ServeOptions,
    listener: socket.socket,
    say: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those in progress.

    ``listener`` is from :func:`listen`; ``say`` takes lines of text for the operator. Raise
    UserError if the log cannot be written, or the system allows too few open files.
    """
    quiet_logs()
    connections = connections_allowed(options)
    log = AnswerLog(Path(options.log)) if options.log else None
    app = make_app(Service(model, options, log))
    host, port = listener.getsockname()[:2]
    say(f"serve    http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C to stop)")
    if host not in LOOPBACK and options.token is None:
        say(f"warning  anyone who can reach {host} can use it: there is no token; see --token-file")
    with _ignore_second_signal():
        _Server(configure(app, options, connections)).run(sockets=[listener])
    say("serve    stopped; every request in progress was answered")


class _Server(uvicorn.Server):
    """A server that lets many connections wait in the system although it accepts few at a time.

    asyncio has one setting for both. Clients retry a connection that may not wait a second later.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(_WAITING)


def configure(app: ASGIApp, options: ServeOptions, connections: int = 1024) -> uvicorn.Config:
    """Return the configuration of uvicorn for an application from :func:`make_app`.

    ``connections`` is from :func:`.sockets.connections_allowed`.
    """
    return uvicorn.Config(
        app,
        http=_connection(options.upload_timeout, connections),
        ws="none",
        loop="asyncio",
        backlog=backlog_for(connections),
        log_config=None,
        log_level="error",  # lower levels log what clients send
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(
            options.timeout + options.upload_timeout + options.max_wait
        ),
    )


def _connection(seconds: float, most: int) -> type[H11Protocol]:
    """Return uvicorn's connection with limits on waiting time and on the number of connections.

    A connection is closed if what it waits for (the next request, the rest of a refused body, a
    client that reads an answer) takes more than ``seconds``, or the head of a request more than
    ten. A connection beyond ``most`` replaces the one that has been idle longest; if none is idle,
    it is refused.
    """
    #: Connections without a request in progress, longest idle first.
    idle: dict[H11Protocol, None] = {}

    class Connection(H11Protocol):
        _limit: asyncio.TimerHandle | None = None
        _write_limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                if not idle:
                    transport.write(_TOO_MANY)
                    transport.close()
                    return
                oldest = next(iter(idle))
                del idle[oldest]
                oldest.transport.abort()
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._write_limit = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            if self._write_limit:
                self._write_limit.cancel()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            if self._write_limit:
                self._write_limit.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            theirs, ours = self.conn.their_state, self.conn.our_state
            is_refused = theirs is h11.SEND_BODY and ours is h11.DONE
            if theirs is h11.IDLE or is_refused:
                limit = seconds if is_refused else min(seconds, _HEAD_SECONDS)
                self._limit = self._limit or self.loop.call_later(limit, self.transport.abort)
                idle.setdefault(self)
            else:
                self._unwatch()

        def _unwatch(self) -> None:
            idle.pop(self, None)
            if self._limit:
                self._limit.cancel()
                self._limit = None

    return Connection


@contextlib.contextmanager
def _ignore_second_signal() -> Iterator[None]:
    """Ignore the signal that uvicorn raises again after it has shut down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: None) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
