"""The paths of the server and what each does."""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .._version import __version__
from ..artifacts.models.prediction import Prediction
from ..artifacts.models.saved_model import Model, Recording
from ..artifacts.models.windows import MINIMUM_HOP
from ..errors import MachineError, UserError, first_line
from ..features.audio import MAX_SECONDS, Waveform
from .answers import NOTE, AnswerLog, answer, as_csv, as_json, clean_name, model_facts, model_name
from .body import Upload, bytes_to_hold, check_form, content_type, read_bytes, read_form
from .decode import Decoders
from .description import describe, security
from .guard import Guard, refusal
from .memory import ByteBudget, Lease, release_memory
from .metrics import Metrics
from .options import Options
from .queue import Job, ModelQueue
from .refused import Refused, unusable

_PAGE = Path(__file__).parent / "page"
#: All files of the page, by path: what a client asks for never becomes a path.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: A model that has been at one batch for so many time limits is taken to hang.
_HANGS = 3
#: An upload that stalls for so many seconds gives way to others when there is no room.
_STALLED_SECONDS = 5.0
#: Nobody is told to come back later than in so many seconds.
_LATEST_RETURN = 120
#: Free memory is given back once this much has been held, when no request is in work.
_RELEASED_BYTES = 16 << 20
_PLAIN_BYTES = ("", "application/octet-stream", "application/x-audio", "application/ogg")

_QUERY: dict[str, Any] = {"ge": MINIMUM_HOP, "le": MAX_SECONDS, "allow_inf_nan": False}

Window = Annotated[
    float | None,
    Query(**_QUERY, description="Length of the timeline's windows, in seconds."),
]
Hop = Annotated[
    float | None,
    Query(**_QUERY, description="From one window to the next, in seconds; not above window."),
]
#: What SageMaker passes on, of its own CustomAttributes, in place of a query.
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_SECONDS = r"(\d{1,4}(?:\.\d{1,4})?)"
_TIMELINE = re.compile(rf"window={_SECONDS}(?:, ?hop={_SECONDS})?")
Attributes = Annotated[
    str | None,
    Header(alias=_ATTRIBUTES, description="window=3,hop=1: as in the query, for SageMaker."),
]


class Service:
    """A model with all that stands between it and requests.

    Parameters
    ----------
    model : Model
        What hears.
    options : Options
        The limits.
    log : AnswerLog, optional
        Where answers are kept.
    """

    def __init__(self, model: Model, options: Options, log: AnswerLog | None = None) -> None:
        self.model, self.options, self.log = model, options, log
        self.metrics = Metrics()
        self.queue = ModelQueue(model, options.batch, options.max_seconds, self.metrics.measured)
        self.decoders = Decoders(model.sampling_rate, model.predictor.channels, options)
        self.threads = ThreadPoolExecutor(options.decoders, thread_name_prefix="serpipe-decode")
        self.budget = ByteBudget(options.work_bytes)
        self._uploads: set[Upload] = set()
        self._next_return = 0.0
        self._held_bytes = 0

    @property
    def in_work(self) -> int:
        """Requests that have a place, from their first byte to their answer."""
        return len(self._uploads)

    @property
    def is_well(self) -> bool:
        """Whether the model can be expected to answer."""
        hangs = self.queue.busy_seconds > _HANGS * self.options.timeout
        return self.queue.is_alive and not hangs

    async def handle(
        self,
        request: Request,
        read: Callable[[Request, Options, Upload], Awaitable[None]],
        window: float | None,
        hop: float | None,
    ) -> dict[str, Any]:
        """Read a body and return what the model says of it, as JSON values.

        Parameters
        ----------
        request : Request
            Whose body it is.
        read : callable
            Reads it: :func:`read_form` or :func:`read_bytes`.
        window, hop : float or None
            Of the timeline, in seconds.

        Raises
        ------
        Refused
            429 if no place is free or the wait would be long; 503 if its memory or its turn does
            not come in time, 504 if the model is not done in time; what ``read`` raises; 422 if
            the audio cannot be used.
        """
        self.check_query(window, hop)
        try:
            with self._place() as upload:
                size = bytes_to_hold(request, self.options)
                seconds = self.options.max_wait
                async with self.budget.lease(size, seconds, self._end_a_stalled_upload) as lease:
                    self._held_bytes += size
                    await read(request, self.options, upload)
                    work = self._recognize(upload, lease, window, hop)
                    return await _unless_it_hangs_up(request, work)
        except Refused as refused:
            if refused.status in (429, 503):
                refused.headers.setdefault("Retry-After", str(self._seconds_to_return()))
            raise

    @contextmanager
    def _place(self) -> Iterator[Upload]:
        """Take one of the places of those in work, from before the first byte is read."""
        options = self.options
        if self.in_work >= options.queue:
            self._end_a_stalled_upload()
        if self.in_work >= options.queue:
            raise Refused(
                429,
                f"The server has {self.in_work} requests in work, which is its limit; "
                "come back in a moment.",
            )
        ahead = sum(each.stalled_seconds < _STALLED_SECONDS / 5 for each in self._uploads)
        if (wait := ahead * self._seconds_per_turn) > options.max_wait:
            raise Refused(
                429,
                f"The {ahead} requests in work will take about {wait:.0f} s; the server "
                f"lets none wait for more than {options.max_wait:g} s; come back in a moment.",
            )
        upload = Upload()
        self._uploads.add(upload)
        try:
            yield upload
        finally:
            self._uploads.discard(upload)
            if not self._uploads and self._held_bytes > _RELEASED_BYTES:
                asyncio.get_running_loop().call_later(1.0, self._release_memory_if_idle)

    def _end_a_stalled_upload(self) -> None:
        """Give the place of the upload that has stalled for longest, or is too slow, to others."""
        longest = max(self._uploads, key=lambda each: each.stalled_seconds, default=None)
        is_stalled = longest is not None and longest.stalled_seconds > _STALLED_SECONDS
        limit = self.options.upload_timeout
        too_slow = (each for each in self._uploads if each.is_too_slow(limit))
        ended = longest if is_stalled else next(too_slow, None)
        if ended:
            ended.end()
            self._uploads.discard(ended)

    def _release_memory_if_idle(self) -> None:
        if not self._uploads and self._held_bytes:
            self._held_bytes = 0
            asyncio.get_running_loop().run_in_executor(None, release_memory)

    @property
    def _seconds_per_turn(self) -> float:
        """How long the model takes for one window of one request, all threads at work."""
        return self.metrics.seconds_per_window / self.queue.lanes

    def _seconds_to_return(self) -> int:
        """Return when to come back: about when half of what is in work is done, each at a turn.

        Those who are refused one after the other get times that are a turn of the model apart, so
        that they do not all come back at once.
        """
        now, turn = time.monotonic(), self._seconds_per_turn
        soonest = now + min(max(1.0, self.in_work * turn / 2), _LATEST_RETURN / 2)
        self._next_return = max(self._next_return + turn, soonest)
        if self._next_return > now + _LATEST_RETURN:
            self._next_return = soonest
        return math.ceil(self._next_return - now)

    async def _recognize(
        self, upload: Upload, lease: Lease, window: float | None, hop: float | None
    ) -> dict[str, Any]:
        job: Job | None = None
        try:
            async with asyncio.timeout(self.options.timeout):
                loop = asyncio.get_running_loop()
                sha256, recording = await loop.run_in_executor(
                    self.threads, self._open, upload, window, hop
                )
                lease.resize(recording.waveform.nbytes)
                job = Job(recording)
                self.queue.put(job)
                prediction: Prediction = await asyncio.wrap_future(job.answer)
        except TimeoutError:
            limit = f"{self.options.timeout:g} s"
            if job and not job.answer.cancelled():
                raise Refused(504, f"The model takes more than {limit} for the audio.") from None
            raise Refused(
                503, f"The audio's turn does not come within {limit}; come back later."
            ) from None
        except UserError as error:
            raise unusable(error) from None
        except MachineError:
            raise Refused(
                503, "The server's memory does not hold the audio; expected a shorter one."
            ) from None
        finally:
            upload.content = b""  # whoever hung up may still wait for a decoder
            if job:
                job.given_up.set()
            # An error that it holds refers to this frame: a cycle, which would keep the audio.
            del job
        self.metrics.add("audio_seconds", prediction.seconds)
        told = answer(prediction, self.model, sha256)
        if self.log:
            try:
                self.log.append(told)
            except OSError:  # whoever asked gets the answer; the operator sees the count
                self.metrics.add("log_failures")
        return told

    def _open(
        self, upload: Upload, window: float | None, hop: float | None
    ) -> tuple[str, Recording]:
        """Decode an upload, let go of its bytes, and cut the recording into windows."""
        content, upload.content = upload.content, b""
        sha256 = hashlib.sha256(content).hexdigest()
        waveform, audio_sha256 = self.decoders.decode(content)
        del content
        self._check_timeline(waveform, window, hop)
        source = clean_name(upload.name)
        return sha256, self.model.cut(waveform, source, audio_sha256, window, hop)

    def check_query(self, window: float | None, hop: float | None) -> None:
        """Refuse a window and a hop that the model cannot follow, before any byte is read.

        Raises
        ------
        Refused
            With status 422.
        """
        if hop is not None and window is None:
            raise Refused(422, "The query has a hop without a window; expected both, or none.")
        try:
            self.model.check_windows(window, hop)
        except UserError as error:
            told = first_line(error).replace(self.model.name, "the model")
            told = told.replace("--", "").rpartition("; ")[0]
            raise Refused(422, f"The query's {told}.") from None

    def _check_timeline(self, waveform: Waveform, window: float | None, hop: float | None) -> None:
        step, most = hop or window, self.options.max_segments
        seconds = len(waveform) / self.model.sampling_rate
        if step is not None and seconds / step > most:
            raise Refused(
                422,
                f"The timeline would have more than {most} windows; expected a window and a hop "
                "that give fewer.",
            )

    def close(self) -> None:
        """Answer what is waiting, then end processes and threads."""
        self.queue.close(self.options.timeout)
        self.threads.shutdown(wait=True)
        self.decoders.close()
        if self.log:
            self.log.close()


async def recognize(
    request: Request,
    window: Window = None,
    hop: Hop = None,
    format: Annotated[Literal["json", "csv"], Query(description="Of the answer.")] = "json",
) -> Response:
    """Recognize the emotion in the file of a form."""
    check_form(request)
    told = await _service(request).handle(request, read_form, window, hop)
    return _answer(told, format == "csv")


async def invocations(
    request: Request, window: Window = None, hop: Hop = None, attributes: Attributes = None
) -> Response:
    """Recognize the emotion in the body itself, as SageMaker asks for it."""
    if attributes:
        window, hop = _timeline_of(attributes)
    kind = content_type(request)
    if not kind.startswith(("audio/", "video/")) and kind not in _PLAIN_BYTES:
        raise Refused(415, "The body is not said to be audio; expected a content-type of audio/*.")
    told = await _service(request).handle(request, read_bytes, window, hop)
    return _answer(told, request.headers.get("accept", "").startswith("text/csv"))


async def _unless_it_hangs_up(
    request: Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any]:
    """Return what the work gives; end it, and free its place, if the client leaves meanwhile."""

    async def hangs_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.create_task(work), asyncio.create_task(hangs_up())
    try:
        await asyncio.wait({answer, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientDisconnect
        return answer.result()
    finally:
        answer.cancel()
        leaving.cancel()
        await asyncio.gather(answer, leaving, return_exceptions=True)
        del answer, leaving  # as in Service._recognize


async def ping(request: Request) -> Response:
    """Say by the status alone whether the model can answer, as SageMaker asks for it."""
    return Response(status_code=200 if _service(request).is_well else 503)


async def healthz(request: Request) -> Response:
    """Say whether the model can answer, and how much is waiting."""
    service = _service(request)
    told = {
        "status": "ok" if service.is_well else "the model does not answer",
        "in_work": service.in_work,
        "waiting": len(service.queue),
        "version": __version__,
    }
    return _json(told, 200 if service.is_well else 503)


async def metrics(request: Request) -> Response:
    """Count, in Prometheus' text format."""
    service = _service(request)
    gauges = {
        "in_work": service.in_work,
        "waiting": len(service.queue),
        "work_bytes": service.budget.used,
        "up": service.is_well,
    }
    text = service.metrics.text({name: float(value) for name, value in gauges.items()})
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def model(request: Request) -> Response:
    """Describe the model: what it tells, how it scored, what it is not; and the limits."""
    service = _service(request)
    options = service.options
    limits = {
        "bytes": options.max_bytes,
        "seconds": options.max_seconds,
        "windows": options.max_segments,
    }
    return _json(model_facts(service.model) | {"limits": limits, "logged": bool(service.log)})


async def docs(request: Request) -> Response:
    """List the paths, on a page that fetches nothing from elsewhere."""
    from jinja2 import Environment

    text = (_PAGE / "docs.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string(text)
    page = template.render(api=request.app.openapi(), note=NOTE)
    return Response(page, media_type="text/html")


async def page(request: Request) -> Response:
    """Give a file of the page."""
    name, kind = _FILES[request.scope["route"].path]
    content = (_PAGE / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


def make_app(service: Service) -> FastAPI:
    """Return the application; it closes the service when it ends.

    Parameters
    ----------
    service : Service
        What answers.

    Returns
    -------
    FastAPI
        To be run by any ASGI server, in one process.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="serpipe",
        version=__version__,
        description=f"Emotion in speech, as {model_name(service.model)} hears it. {NOTE}",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for path, function, method in (
        ("/recognize", recognize, "POST"),
        ("/invocations", invocations, "POST"),
        ("/ping", ping, "GET"),
        ("/healthz", healthz, "GET"),
        ("/metrics", metrics, "GET"),
        ("/model", model, "GET"),
    ):
        told = describe(path, service.options)
        app.add_api_route(path, function, methods=[method], response_class=Response, **told)
    for path in _FILES:
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _say_no_such_path)
    app.add_exception_handler(RequestValidationError, _say_what_is_invalid)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.openapi().setdefault("components", {}).update(security(service.options))
    app.add_middleware(Guard, options=service.options, metrics=service.metrics, paths=paths)
    if origins := service.options.origins:  # around the guard: its refusals can be read as well
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return app


async def _say_no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {
        404: "There is nothing at this path; /docs lists those that there are.",
        405: "This path does not take that method; /docs says which it takes.",
    }
    detail = told.get(error.status_code, str(error.detail))
    return refusal(Refused(error.status_code, detail, error.headers))


async def _say_what_is_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return refusal(Refused(422, f"The query's {first['loc'][-1]} is invalid: {first['msg']}."))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _timeline_of(attributes: str) -> tuple[float | None, float | None]:
    """Return window and hop, of the header."""
    found = _TIMELINE.fullmatch(attributes)
    window, hop = (float(each) if each else None for each in found.groups()) if found else (0, None)
    if window == 0 or hop == 0:
        raise Refused(
            422, f"The header {_ATTRIBUTES} is not understood; expected 'window=3,hop=1' or "
            "'window=3', in seconds.",
        )  # fmt: skip
    return window, hop


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status_code=status, media_type="application/json")


def _answer(told: dict[str, Any], is_csv: bool) -> Response:
    if is_csv:
        return Response(as_csv(told), media_type="text/csv; charset=utf-8")
    return _json(told)
