"""The queue of the model: threads score one window of each waiting request in turn."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..artifacts.models.saved_model import Model, Recording, WindowEmbedder
from ..errors import SerpipeError

_LOG = logging.getLogger("serpipe.serving")


@dataclass(frozen=True)
class Job:
    """A recording to be predicted."""

    #: From :meth:`Model.cut`.
    recording: Recording
    #: What scores its windows and combines them, if it is not the model of the queue.
    model: Model | WindowEmbedder | None = None
    #: If it is cancelled before its first turn, the recording is not scored.
    answer: "Future[Any]" = field(default_factory=Future)
    #: Set when nobody waits for the answer any more: no further window is scored.
    given_up: threading.Event = field(default_factory=threading.Event)


class _Progress:
    """Progress of a job; changed under the lock of the queue."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.next = 0
        self.missing = len(job.recording.windows)
        self.scored: list[Any] = [None] * self.missing


#: A job and the number of one of its windows.
_Piece = tuple[_Progress, int]


class ModelQueue:
    """Recordings that wait for the model, and the threads that run it.

    The threads take one window of each request in turn, so that a long timeline delays the others
    by one window at a time. On a CPU each thread scores a window alone, so that the scores are
    bit-equal to those of :meth:`Model.predict`; on a GPU one thread scores batches of at most
    ``batch`` windows and ``max_seconds`` of audio, unless a single window is longer.

    ``measured`` is called after each batch with its number of windows, the number of recordings
    that it completed, and its duration in seconds.
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        max_seconds: float,
        measured: Callable[[int, int, float], None],
    ) -> None:
        lanes = model.predictor.lanes
        self._model, self._measured = model, measured
        self._batch = 1 if lanes else batch
        self._max_samples = max_seconds * model.sampling_rate
        self._waiting: deque[_Progress] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._began: dict[int, float] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(n,), name=f"serpipe-model-{n}", daemon=True)
            for n in range(max(1, lanes))
        ]
        for thread in self._threads:
            thread.start()

    def put(self, job: Job) -> None:
        """Enqueue a recording; raise RuntimeError if the queue is closed."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the queue is closed")
            self._waiting.append(_Progress(job))
            self._changed.notify()

    def __len__(self) -> int:
        """Return the number of recordings that wait for their first turn."""
        with self._changed:
            return sum(progress.next == 0 for progress in self._waiting)

    @property
    def lanes(self) -> int:
        """Number of threads that run the model."""
        return len(self._threads)

    @property
    def is_alive(self) -> bool:
        """Whether all threads run."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def busy_seconds(self) -> float:
        """Seconds since the oldest current batch began; 0 if the model is idle."""
        began = min(list(self._began.values()), default=None)
        return 0.0 if began is None else time.monotonic() - began

    def close(self, timeout: float) -> None:
        """Answer all waiting requests, then end the threads; after ``timeout`` seconds, give up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self, lane: int) -> None:
        while pieces := self._take():
            self._began[lane] = began = time.monotonic()
            completed = self._score(pieces)
            del self._began[lane]
            self._measured(len(pieces), completed, time.monotonic() - began)

    def _take(self) -> list[_Piece]:
        """Wait for windows and return the next batch; empty if the queue is closed."""
        with self._changed:
            while True:
                pieces: list[_Piece] = []
                room = self._max_samples
                while self._waiting and len(pieces) < self._batch:
                    progress = self._waiting[0]
                    if not self._is_wanted(progress):
                        self._waiting.popleft()
                        continue
                    start, end = progress.job.recording.windows[progress.next]
                    if pieces and end - start > room:
                        break
                    room -= end - start
                    pieces.append((progress, progress.next))
                    progress.next += 1
                    self._waiting.popleft()
                    if progress.next < len(progress.scored):
                        self._waiting.append(progress)  # behind the other requests
                        self._changed.notify()  # an idle thread can take the next window
                if pieces or self._closed:
                    return pieces
                self._changed.wait()

    @staticmethod
    def _is_wanted(progress: _Progress) -> bool:
        job = progress.job
        if job.given_up.is_set():
            job.answer.cancel()
            return False
        return progress.next > 0 or job.answer.set_running_or_notify_cancel()

    def _score(self, pieces: Sequence[_Piece]) -> int:
        """Score windows, answer the recordings that are then complete, and return their number."""
        model = self._model_of(pieces[0])
        if any(self._model_of(piece) is not model for piece in pieces):
            return sum(self._score([piece]) for piece in pieces)
        try:
            waveforms = [progress.job.recording.piece(number) for progress, number in pieces]
            scored = model.score(waveforms)
        except Exception as error:  # the thread must survive, and every job needs an answer
            if len(pieces) > 1:  # so that one recording does not fail the others
                return sum(self._score([piece]) for piece in pieces)
            self._fail(pieces[0][0].job, error)
            return 0
        completed = []
        with self._changed:
            for (progress, number), each in zip(pieces, scored, strict=True):
                progress.scored[number] = each
                progress.missing -= 1
                if not progress.missing:
                    completed.append(progress)
        for progress in completed:
            try:
                answer = model.combine(progress.job.recording, progress.scored)
            except Exception as error:
                self._fail(progress.job, error)
            else:
                progress.job.answer.set_result(answer)
        return len(completed)

    def _model_of(self, piece: _Piece) -> Model | WindowEmbedder:
        return piece[0].job.model or self._model

    def _fail(self, job: Job, error: Exception) -> None:
        if not isinstance(error, SerpipeError):
            _LOG.error("the model failed", exc_info=error)
        job.given_up.set()
        with self._changed:  # another thread may fail on the same job at the same time
            if not job.answer.done():
                # Its traceback would keep the audio of all windows in memory.
                job.answer.set_exception(error.with_traceback(None))
