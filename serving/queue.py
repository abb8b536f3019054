"""One thread that runs the model on what is waiting, several clips at once."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from ..artifacts.model import Model
from ..errors import BadClipError, SerpipeError
from ..features.audio import Waveform
from ..pipeline.predict import Prediction

_LOG = logging.getLogger("serpipe.serving")


@dataclass(frozen=True)
class Job:
    """A clip to be heard.

    Attributes
    ----------
    waveform : ndarray of float32, shape (n_samples,)
        Mono, at the model's rate.
    source : str
        What the answer calls it.
    window, hop : float or None
        Of the timeline, in seconds.
    audio_sha256 : str
        Hash of the samples as they were decoded; empty if it is not known.
    answer : Future of Prediction
        Where the answer will be. One that is cancelled before its turn is not heard.
    given_up : Event
        Set when nobody waits for the answer any more: then it need not be heard to its end.
    """

    waveform: Waveform
    source: str
    window: float | None
    hop: float | None
    audio_sha256: str = ""
    answer: "Future[Prediction]" = field(default_factory=Future)
    given_up: threading.Event = field(default_factory=threading.Event)

    @property
    def manner(self) -> tuple[float | None, float | None]:
        """Only jobs of the same manner can be heard at once."""
        return self.window, self.hop


class _GivenUpError(Exception):
    """Nobody waits for what the model is at."""


class ModelQueue:
    """Clips that wait for the model, and the one thread that runs it.

    Parameters
    ----------
    model : Model
        What hears them.
    batch : int
        Clips at once, at most.
    max_seconds : float
        Seconds at once, at most, unless a single clip has more.
    heard : callable
        Called with the number of clips and the seconds that it took, after each batch.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        max_seconds: float,
        heard: Callable[[int, float], None],
    ) -> None:
        self._model, self._batch, self._heard = model, batch, heard
        self._max_samples = max_seconds * model.sampling_rate
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name="serpipe-model", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Let a clip wait for its turn.

        Raises
        ------
        RuntimeError
            If the queue is closed.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the queue is closed")
            self._waiting.append(job)
            self._changed.notify()

    def __len__(self) -> int:
        """Return how many clips wait."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def busy_seconds(self) -> float:
        """How long the model has been at the present batch; 0 if it is idle."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def close(self, timeout: float) -> None:
        """Hear what is waiting, then end the thread; leave a model that takes longer alone."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    def _work(self) -> None:
        while jobs := self._take():
            self._began = began = time.monotonic()
            self._hear(jobs)
            self._began = None
            self._heard(len(jobs), time.monotonic() - began)

    def _take(self) -> list[Job]:
        """Wait for clips; return those that can be heard at once. None are left: return none."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                first = self._waiting[0]
                room = self._max_samples - len(first.waveform)
                jobs, left = [first], deque[Job]()
                for job in list(self._waiting)[1:]:
                    fits = job.manner == first.manner and len(job.waveform) <= room
                    if fits and len(jobs) < self._batch:
                        jobs.append(job)
                        room -= len(job.waveform)
                    else:
                        left.append(job)
                self._waiting = left
                if live := [job for job in jobs if job.answer.set_running_or_notify_cancel()]:
                    return live

    def _hear(self, jobs: list[Job]) -> None:
        def check() -> None:
            if all(job.given_up.is_set() for job in jobs):
                raise _GivenUpError

        try:
            window, hop = jobs[0].manner
            told = self._model.predict_batch(
                [job.waveform for job in jobs],
                [job.source for job in jobs],
                audio_sha256=[job.audio_sha256 for job in jobs],
                window=window,
                hop=hop,
                check=check,
            )
            for job, prediction in zip(jobs, told, strict=True):
                if isinstance(prediction, BadClipError):
                    job.answer.set_exception(prediction)
                else:
                    job.answer.set_result(prediction)
        except Exception as error:  # the thread must live, and every job be answered
            if len(jobs) == 1:
                if not isinstance(error, (SerpipeError, _GivenUpError)):
                    _LOG.exception("the model failed")
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:  # so that one clip does not spoil the answer of the others
                self._hear([job])
