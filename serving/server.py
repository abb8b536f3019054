"""Run the server until it is told to end."""

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

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
        return socket.create_server((host, port), family=family, backlog=2048)
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
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=round(options.timeout + options.upload_timeout),
    )
    with _ends_in_peace():
        uvicorn.Server(config).run(sockets=[listener])
    say("serve    ended; all that had begun is answered")


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
