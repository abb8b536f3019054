"""Middleware of every request: who may call, and headers of every response."""

import hmac
import logging
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .description import is_secret
from .metrics import Metrics
from .options import ServeOptions
from .refused import Refused

_LOG = logging.getLogger("serpipe.serving")

#: Methods without side effects.
_READING = ("GET", "HEAD", "OPTIONS")
#: Nothing is fetched from other origins, only the page's own script runs, no page frames it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Check host, origin and token; count requests; turn exceptions into refusals.

    Requests of other paths than ``paths`` are counted as one.
    """

    def __init__(
        self, app: ASGIApp, options: ServeOptions, metrics: Metrics, paths: frozenset[str]
    ) -> None:
        self._app, self._options, self._metrics, self._paths = app, options, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, send_guarded)
            except Refused as refused:
                await refusal(refused)(scope, receive, send_guarded)
            except ClientDisconnect:
                status = 499  # nginx's status for a client that disconnected
            except Exception:
                _LOG.exception("a request failed")
                if status:  # too late for another response: abort
                    raise
                failed = Refused(500, "The server failed; its log says why.")
                await refusal(failed)(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            if scope["path"].startswith("/speakers/"):
                path = "/speakers/{speaker}"  # ids are secret
            self._metrics.answered(path, status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts, token = self._options.hosts, self._options.token
        if hosts is not None and _host(headers.get("host", "")) not in hosts:
            # Otherwise a foreign page whose name resolves to this server could read the answers.
            raise Refused(
                403, f"The server is not known by that name; use one of {', '.join(hosts)}."
            )
        if scope["method"] not in _READING and self._is_foreign(headers):
            # A foreign page may not make a visitor's browser send audio, even if it cannot read the
            # answer.
            raise Refused(403, "The request comes from a page that is not the server's own.")
        # Browsers send OPTIONS requests without the token; the answer reveals nothing.
        if token is None or not is_secret(scope["path"]) or scope["method"] == "OPTIONS":
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode(), token.encode())
        if kind.lower() != "bearer" or not is_right:
            raise Refused(
                401,
                "The token is missing or wrong; send 'Authorization: Bearer TOKEN'.",
                {"WWW-Authenticate": "Bearer"},
            )

    def _is_foreign(self, headers: Headers) -> bool:
        """Whether a browser sends this for a page that is neither the server's own nor allowed."""
        origins, hosts = headers.getlist("origin"), headers.getlist("host")
        if len(origins) == 1 and origins[0] in self._options.allow_origin:
            return False
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return True
        # Programs send no Origin; all but very old browsers do, unless the method is GET.
        return bool(origins) and [_authority(each) for each in origins] != [
            host.lower() for host in hosts
        ]


def refusal(refused: Refused) -> JSONResponse:
    """Return the response of a refusal."""
    return JSONResponse(
        {"detail": refused.detail}, status_code=refused.status, headers=refused.headers
    )


def _authority(origin: str) -> str | None:
    """Return host and port of an Origin header, as in a Host header; None if it is malformed."""
    scheme, _, authority = origin.partition("://")
    return authority.lower() if scheme in ("http", "https") and authority else None


def _host(header: str) -> str:
    """Return the name in a Host header without the port; empty if it is malformed."""
    match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^\s:@/\[\]]+))(?::\d{1,5})?", header.lower())
    return (match[1] or match[2]) if match else ""
