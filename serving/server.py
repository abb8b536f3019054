"""Run the server until it is told to end."""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..artifacts.model import Model
from ..errors import UserError
from .answers import AnswerLog
from .app import Service, make_app
from .options import LOOPBACK, Options


def listen(host: str, port: int) -> socket.socket:
    """Return a socket at an address.

    Parameters
    ----------
    host : str
        A name or an address of this machine.
    port : int
        0 is any that is free.

    Returns
    -------
    socket

    Raises
    ------
    UserError
        If it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # asyncio would, but not on a socket that does not name its protocol: without it each answer
        # waits 40 ms for the client's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"--host {host} --port {port}: cannot listen there ({error}); expected an address of "
            "this machine and a free port; choose others"
        ) from None


def serve(
    model: Model,
    options: Options,
    listener: socket.socket,
    say: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish what has begun.

    Parameters
    ----------
    model : Model
        What hears.
    options : Options
        The limits.
    listener : socket
        From :func:`listen`.
    say : callable
        Called with a line for the operator.

    Raises
    ------
    UserError
        If the log cannot be written.
    """
    log = AnswerLog(options.log) if options.log else None
    app = make_app(Service(model, options, log))
    host, port = listener.getsockname()[:2]
    say(f"serve    http://{f'[{host}]' if ':' in host else host}:{port}  (Ctrl-C ends it)")
    if host not in LOOPBACK and options.token is None:
        say(f"warning  whoever reaches {host} can use it: there is no token; see --token-file")
    with _ends_in_peace():
        uvicorn.Server(configure(app, options)).run(sockets=[listener])
    say("serve    ended; all that had begun is answered")


def configure(app: ASGIApp, options: Options) -> uvicorn.Config:
    """Return how uvicorn is to run an application.

    Parameters
    ----------
    app : ASGI application
        From :func:`make_app`.
    options : Options
        The limits.

    Returns
    -------
    uvicorn.Config
    """
    return uvicorn.Config(
        app,
        http=_connection(options.upload_timeout),
        ws="none",
        log_config=None,
        log_level="error",  # below it is what strangers send
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(options.timeout + options.upload_timeout),
    )


def _connection(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's connection with a limit on the time that it lacks.

    So long may the head of a request take to arrive, and the rest of a body that was refused.
    """

    class Connection(H11Protocol):
        _limit: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            theirs, ours = self.conn.their_state, self.conn.our_state
            if theirs is h11.IDLE or (theirs is h11.SEND_BODY and ours is h11.DONE):
                self._limit = self._limit or self.loop.call_later(seconds, self.transport.close)
            else:
                self._unwatch()

        def _unwatch(self) -> None:
            if self._limit:
                self._limit.cancel()
                self._limit = None

    return Connection


@contextlib.contextmanager
def _ends_in_peace() -> Iterator[None]:
    """Let the signal that uvicorn raises again, when all is done, pass."""
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
