"""The paths of the server and what each does."""

import asyncio
import hashlib
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .._version import __version__
from ..artifacts.models.saved_model import Model, Recording, WindowEmbedder
from ..artifacts.models.windows import MINIMUM_HOP
from ..errors import MachineError, UserError, first_line
from ..features.audio import MAX_SECONDS, Waveform
from .answers import NOTE, AnswerLog, answer, as_csv, as_json, clean_name, model_facts, model_name
from .body import (
    Upload,
    bytes_to_hold,
    check_form,
    content_type,
    read_bytes,
    read_clips,
    read_form,
)
from .decode import Decoders
from .description import SPEAKER, describe, security
from .guard import Guard, refusal
from .memory import ByteBudget, Lease, release_memory
from .metrics import Metrics
from .options import ServeOptions
from .queue import Job, ModelQueue
from .refused import Refused, unusable
from .speakers import Speakers

_PAGE = Path(__file__).parent / "page"
#: All files of the page, by path: a path sent by a client is never opened.
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: A model that takes this many time limits for one batch is assumed to hang.
_HANGING_LIMITS = 3
#: After this many seconds without progress, an upload makes way for others.
_STALLED_SECONDS = 5.0
#: Maximum number of seconds in Retry-After.
_LATEST_RETRY = 120
#: Free memory is released after this much was held, when no request is in progress.
_RELEASED_BYTES = 16 << 20
_PLAIN_BYTES = ("", "application/octet-stream", "application/x-audio", "application/ogg")

_QUERY: dict[str, Any] = {"ge": MINIMUM_HOP, "le": MAX_SECONDS, "allow_inf_nan": False}

Window = Annotated[
    float | None,
    Query(**_QUERY, description="Length of the windows of the timeline, in seconds."),
]
Hop = Annotated[
    float | None,
    Query(**_QUERY, description="Seconds from one window to the next; at most the window."),
]
#: SageMaker sends its CustomAttributes in this header, in place of a query.
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_SECONDS = r"(\d{1,4}(?:\.\d{1,4})?)"
_TIMELINE = re.compile(rf"window={_SECONDS}(?:, ?hop={_SECONDS})?")
Attributes = Annotated[
    str | None,
    Header(alias=_ATTRIBUTES, description="window=3,hop=1 in place of a query, for SageMaker."),
]


class Service:
    """A model with its queue, decoders, limits, counters, and perhaps a file for its answers."""

    def __init__(self, model: Model, options: ServeOptions, log: AnswerLog | None = None) -> None:
        self.model, self.options, self.log = model, options, log
        self.metrics = Metrics()
        self.queue = ModelQueue(
            model, options.batch_size, options.max_seconds, self.metrics.measured
        )
        self.decoders = Decoders(model.sampling_rate, model.predictor.channels, options)
        self.threads = ThreadPoolExecutor(options.decoders, thread_name_prefix="serpipe-decode")
        self.budget = ByteBudget(options.work_megabytes << 20)
        self.speakers = Speakers(options.speakers, options.speaker_seconds)
        self._uploads: set[Upload] = set()
        self._next_retry = 0.0
        self._held_bytes = 0

    @property
    def in_progress(self) -> int:
        """Number of requests in progress, from first byte to answer."""
        return len(self._uploads)

    @property
    def is_well(self) -> bool:
        """Whether the model can be expected to answer."""
        is_hanging = self.queue.busy_seconds > _HANGING_LIMITS * self.options.timeout
        return self.queue.is_alive and not is_hanging

    async def handle(
        self,
        request: Request,
        read: Callable[[Request, ServeOptions, Upload], Awaitable[None]],
        window: float | None,
        hop: float | None,
        speaker: str | None = None,
    ) -> dict[str, Any]:
        """Read a body and return the prediction as JSON values.

        ``read`` is :func:`read_form` or :func:`read_bytes`; ``window`` and ``hop`` of the timeline
        are in seconds, and ``speaker`` is the id of a profile. Raise Refused: 429 if there are too
        many requests or the wait would be too long; 503 if there is no memory or no turn in time;
        504 if the model takes too long; 422 if the audio cannot be used; 404 if there is no such
        speaker; and those of ``read``.
        """
        self.check_query(window, hop)
        adapted = None if speaker is None else self.model.adapted(self.speakers.use(speaker))

        def work(upload: Upload, lease: Lease) -> Coroutine[Any, Any, dict[str, Any]]:
            return self._recognize(upload, lease, window, hop, adapted)

        return await self._process(request, read, work)

    async def enrol(self, request: Request) -> dict[str, Any]:
        """Read clips and return the id of a profile of their speaker, as JSON values.

        Raise Refused as :meth:`handle` does, and 422 if the model cannot be adapted to speakers.
        """
        if self.model.predictor.adapter is None:
            raise Refused(422, "The model has no enrolment, and cannot be adapted to speakers.")
        return await self._process(request, read_clips, self._enrol)

    async def _process(
        self,
        request: Request,
        read: Callable[[Request, ServeOptions, Upload], Awaitable[None]],
        work: Callable[[Upload, Lease], Coroutine[Any, Any, dict[str, Any]]],
    ) -> dict[str, Any]:
        """Read a body within the limits, and return what ``work`` makes of it."""
        try:
            with self._admit() as upload:
                size = bytes_to_hold(request, self.options)
                seconds = self.options.max_wait
                async with self.budget.lease(size, seconds, self._end_a_stalled_upload) as lease:
                    self._held_bytes += size
                    await read(request, self.options, upload)
                    return await _unless_disconnected(request, work(upload, lease))
        except Refused as refused:
            if refused.status in (429, 503):
                refused.headers.setdefault("Retry-After", str(self._seconds_to_retry()))
            raise

    @contextmanager
    def _admit(self) -> Iterator[Upload]:
        """Count a request as in progress before its first byte is read, or refuse it."""
        options = self.options
        if self.in_progress >= options.queue:
            self._end_a_stalled_upload()
        if self.in_progress >= options.queue:
            raise Refused(
                429,
                f"The server has {self.in_progress} requests in progress, which is its limit; "
                "try again in a moment.",
            )
        ahead = sum(each.stalled_seconds < _STALLED_SECONDS / 5 for each in self._uploads)
        if (wait := ahead * self._seconds_per_turn) > options.max_wait:
            raise Refused(
                429,
                f"The {ahead} requests in progress will take about {wait:.0f} s, and the limit of "
                f"waiting is {options.max_wait:g} s; try again in a moment.",
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
        """End the upload that has stalled longest, or one that is too slow, to admit others."""
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
        """Seconds that the model takes per window when all threads are busy."""
        return self.metrics.seconds_per_window / self.queue.lanes

    def _seconds_to_retry(self) -> int:
        """Return when to retry: about when half of the requests in progress are answered.

        Successive refusals get times one turn of the model apart, so that the clients do not all
        return at once.
        """
        now, turn = time.monotonic(), self._seconds_per_turn
        soonest = now + min(max(1.0, self.in_progress * turn / 2), _LATEST_RETRY / 2)
        self._next_retry = max(self._next_retry + turn, soonest)
        if self._next_retry > now + _LATEST_RETRY:
            self._next_retry = soonest
        return math.ceil(self._next_retry - now)

    async def _recognize(
        self,
        upload: Upload,
        lease: Lease,
        window: float | None,
        hop: float | None,
        adapted: Model | None,
    ) -> dict[str, Any]:
        sha256 = ""

        def decode() -> list[Recording]:
            nonlocal sha256
            sha256, recording = self._open(upload, window, hop)
            return [recording]

        (prediction,) = await self._score(upload, lease, decode, adapted)
        self.metrics.add("audio_seconds", prediction.seconds)
        if self.options.abstain:
            prediction = prediction.abstained()
        content = answer(prediction, self.model, sha256)
        if self.log:
            try:
                self.log.append(content)
            except OSError:  # the client gets its answer; the operator sees the counter
                self.metrics.add("log_failures")
        return content

    async def _enrol(self, upload: Upload, lease: Lease) -> dict[str, Any]:
        embedder = self.model.embedder()
        embedded = await self._score(upload, lease, partial(self._open_clips, upload), embedder)
        try:
            profile = self.model.profile(list(itertools.chain(*embedded)))
        except UserError as error:
            raise unusable(error) from None
        return {
            "speaker": self.speakers.add(profile),
            "clips": profile.n_clips,
            "adapted": profile.is_adapted,
            "fewest": self.model.check_adapts().fewest,
            "seconds": self.options.speaker_seconds,
        }

    async def _score(
        self,
        upload: Upload,
        lease: Lease,
        decode: Callable[[], list[Recording]],
        model: Model | WindowEmbedder | None,
    ) -> list[Any]:
        """Return what the queue makes of all recordings of an upload, by ``model``."""
        jobs: list[Job] = []
        try:
            async with asyncio.timeout(self.options.timeout):
                loop = asyncio.get_running_loop()
                recordings = await loop.run_in_executor(self.threads, decode)
                lease.resize(sum(each.waveform.nbytes for each in recordings))
                jobs += [Job(each, model) for each in recordings]
                del recordings
                for job in jobs:
                    self.queue.put(job)
                return [await asyncio.wrap_future(job.answer) for job in jobs]
        except TimeoutError:
            limit = f"{self.options.timeout:g} s"
            answers = [job.answer for job in jobs]
            if any(each.running() or (each.done() and not each.cancelled()) for each in answers):
                raise Refused(504, f"The model takes more than {limit} for the audio.") from None
            raise Refused(
                503, f"The audio was not processed within {limit}; try again later."
            ) from None
        except UserError as error:
            raise unusable(error) from None
        except MachineError:
            raise Refused(
                503, "The audio does not fit in the server's memory; send a shorter one."
            ) from None
        finally:
            upload.content, upload.clips = b"", []  # it may still wait for a decoder
            for job in jobs:
                job.given_up.set()
            # An exception in one refers to this frame: the cycle would keep the audio in memory.
            answers = job = None  # type: ignore[assignment]
            jobs.clear()

    def _open(
        self, upload: Upload, window: float | None, hop: float | None
    ) -> tuple[str, Recording]:
        """Decode an upload, release its bytes, and cut the recording into windows."""
        content, upload.content = upload.content, b""
        sha256 = hashlib.sha256(content).hexdigest()
        waveform, audio_sha256 = self.decoders.decode(content)
        del content
        self._check_timeline(waveform, window, hop)
        source = clean_name(upload.name)
        return sha256, self.model.cut(waveform, source, audio_sha256, window, hop)

    def _open_clips(self, upload: Upload) -> list[Recording]:
        """Decode all clips of an upload, and release their bytes; together they have one limit."""
        recordings: list[Recording] = []
        seconds = 0.0
        while upload.clips:  # they are emptied if the request is given up
            waveform, audio_sha256 = self.decoders.decode(upload.clips.pop(0))
            seconds += len(waveform) / self.model.sampling_rate
            if seconds > self.options.max_seconds:
                raise Refused(
                    422,
                    f"The clips last more than {self.options.max_seconds:g} s together, which is "
                    "the limit.",
                )
            name = f"clip {len(recordings) + 1}"
            recordings.append(self.model.cut(waveform, name, audio_sha256))
        return recordings

    def check_query(self, window: float | None, hop: float | None) -> None:
        """Refuse (422) a window or hop that the model does not support, before any byte is read."""
        if hop is not None and window is None:
            raise Refused(422, "The query has a hop without a window; send both or neither.")
        try:
            self.model.check_windows(window, hop)
        except UserError as error:
            problem = first_line(error).replace(self.model.name, "the model")
            problem = problem.replace("--", "").rpartition("; ")[0]
            raise Refused(422, f"The query's {problem}.") from None

    def _check_timeline(self, waveform: Waveform, window: float | None, hop: float | None) -> None:
        step, most = hop or window, self.options.max_segments
        seconds = len(waveform) / self.model.sampling_rate
        if step is not None and seconds / step > most:
            raise Refused(
                422,
                f"The timeline would have more than {most} windows; send a larger window or hop.",
            )

    def close(self) -> None:
        """Answer all waiting requests, then end processes and threads."""
        self.queue.close(self.options.timeout)
        self.threads.shutdown(wait=True)
        self.decoders.close()
        if self.log:
            self.log.close()


async def recognize(
    request: Request,
    window: Window = None,
    hop: Hop = None,
    format: Annotated[Literal["json", "csv"], Query(description="Format of the answer.")] = "json",
    speaker: Annotated[
        str | None, Query(max_length=100, description="Id from /speakers of who speaks.")
    ] = None,
) -> Response:
    """Recognize the emotion in the file of a form."""
    check_form(request)
    content = await _service(request).handle(request, read_form, window, hop, speaker)
    return _answer(content, format == "csv")


async def enrol(request: Request) -> Response:
    """Make a profile of a speaker from the files of a form, whose emotions are not known."""
    check_form(request)
    return _json(await _service(request).enrol(request))


async def forget(request: Request, speaker: str) -> Response:
    """Delete the profile of a speaker."""
    _service(request).speakers.remove(speaker)
    return _json({"deleted": True})


async def invocations(
    request: Request, window: Window = None, hop: Hop = None, attributes: Attributes = None
) -> Response:
    """Recognize the emotion in the body itself, by the contract of SageMaker."""
    if attributes:
        window, hop = _timeline_of(attributes)
    kind = content_type(request)
    if not kind.startswith(("audio/", "video/")) and kind not in _PLAIN_BYTES:
        raise Refused(415, "The body is not declared as audio; send a content-type of audio/*.")
    content = await _service(request).handle(request, read_bytes, window, hop)
    return _answer(content, request.headers.get("accept", "").startswith("text/csv"))


async def _unless_disconnected(
    request: Request, work: Coroutine[Any, Any, dict[str, Any]]
) -> dict[str, Any]:
    """Return the result of the work; cancel it if the client disconnects meanwhile."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, leaving = asyncio.create_task(work), asyncio.create_task(disconnect())
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
    """Tell by the status whether the model responds, by the contract of SageMaker."""
    return Response(status_code=200 if _service(request).is_well else 503)


async def healthz(request: Request) -> Response:
    """Tell whether the model responds, and how many requests are waiting."""
    service = _service(request)
    health = {
        "status": "ok" if service.is_well else "the model does not respond",
        "in_work": service.in_progress,
        "waiting": len(service.queue),
        "version": __version__,
    }
    return _json(health, 200 if service.is_well else 503)


async def metrics(request: Request) -> Response:
    """Count requests and runs of the model, in the text format of Prometheus."""
    service = _service(request)
    gauges = {
        "in_work": service.in_progress,
        "waiting": len(service.queue),
        "work_bytes": service.budget.used,
        "up": service.is_well,
    }
    text = service.metrics.text({name: float(value) for name, value in gauges.items()})
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def model(request: Request) -> Response:
    """Describe the model: what it predicts, how it scored, how not to read it; and the limits."""
    service = _service(request)
    options = service.options
    limits = {
        "bytes": options.max_bytes,
        "seconds": options.max_seconds,
        "windows": options.max_segments,
    }
    return _json(model_facts(service.model) | {"limits": limits, "logged": bool(service.log)})


async def docs(request: Request) -> Response:
    """List the paths, on a page that loads nothing from other origins."""
    from jinja2 import Environment

    text = (_PAGE / "docs.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string(text)
    page = template.render(api=request.app.openapi(), note=NOTE)
    return Response(page, media_type="text/html")


async def page(request: Request) -> Response:
    """Return a file of the page."""
    name, kind = _FILES[request.scope["route"].path]
    content = (_PAGE / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


def make_app(service: Service) -> FastAPI:
    """Return the application, to be run by any ASGI server in one process.

    It closes the service when it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="serpipe",
        version=__version__,
        description=f"Emotion in speech, as predicted by {model_name(service.model)}. {NOTE}",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    for path, function, method in (
        ("/recognize", recognize, "POST"),
        ("/invocations", invocations, "POST"),
        ("/speakers", enrol, "POST"),
        (SPEAKER, forget, "DELETE"),
        ("/ping", ping, "GET"),
        ("/healthz", healthz, "GET"),
        ("/metrics", metrics, "GET"),
        ("/model", model, "GET"),
    ):
        description = describe(path, service.options)
        app.add_api_route(path, function, methods=[method], response_class=Response, **description)
    for path in _FILES:
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(HTTPException, _refuse_path)
    app.add_exception_handler(RequestValidationError, _refuse_query)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.openapi().setdefault("components", {}).update(security(service.options))
    app.add_middleware(Guard, options=service.options, metrics=service.metrics, paths=paths)
    # Outside the guard, so that pages can read its refusals.
    if origins := service.options.allow_origin:
        from starlette.middleware.cors import CORSMiddleware

        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return app


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: "There is nothing at this path; /docs lists all paths.",
        405: "This path does not support this method; see /docs.",
    }
    detail = details.get(error.status_code, str(error.detail))
    return refusal(Refused(error.status_code, detail, error.headers))


async def _refuse_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return refusal(Refused(422, f"The query's {first['loc'][-1]} is invalid: {first['msg']}."))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _timeline_of(attributes: str) -> tuple[float | None, float | None]:
    """Return window and hop from the header of SageMaker."""
    match = _TIMELINE.fullmatch(attributes)
    window, hop = (float(each) if each else None for each in match.groups()) if match else (0, None)
    if window == 0 or hop == 0:
        raise Refused(
            422, f"The header {_ATTRIBUTES} is invalid; send 'window=3,hop=1' or 'window=3', in "
            "seconds.",
        )  # fmt: skip
    return window, hop


def _json(value: Any, status: int = 200) -> Response:
    return Response(as_json(value), status_code=status, media_type="application/json")


def _answer(content: dict[str, Any], is_csv: bool) -> Response:
    if is_csv:
        return Response(as_csv(content), media_type="text/csv; charset=utf-8")
    return _json(content)
