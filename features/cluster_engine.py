"""Extraction on the workers of a cluster, each with a :class:`.engine.LocalEngine` of its own."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import get_worker

from ..cluster import Cluster, Failed, as_it_is, device_here, run_all
from ..corpora import Clip
from ..errors import BadClipError, MachineError, UserError, counted, first_line
from ..remote import Remote
from .batching import Batch, Embeddings, plan
from .cache import difference
from .decoding import DecodedClip
from .devices import choose_devices
from .engine import LocalEngine, open_engine
from .options import ExtractOptions
from .perturbation import Perturbation
from .training_record import TrainingRecord

#: Clips that one task decodes and checks.
CLIPS_PER_TASK = 64
#: Most seconds of audio that one task embeds, on a CPU and on a GPU: what a dead worker loses.
TASK_SECONDS = {"cpu": 120.0, "gpu": 3600.0}
#: Seconds between two lines about the speed.
_REPORT_SECONDS = 30.0

#: The batches that one task embeds.
Task = tuple[Batch, ...]


@dataclass(frozen=True)
class _EngineFacts:
    key: Mapping[str, Any]
    is_cpu: bool
    window_seconds: float
    training: TrainingRecord | None


@dataclass
class ClusterEngine:
    """An engine that runs on the workers of a cluster, each with an engine of its own."""

    cluster: Cluster
    options: ExtractOptions
    #: A worker keeps its engine for one extraction: the files of an encoder may change in between.
    _token: str = field(init=False, default_factory=lambda: uuid4().hex)
    _facts: _EngineFacts = field(init=False)
    _speed: "_Speed" = field(init=False, default_factory=lambda: _Speed())
    _resources: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        if Path(self.options.encoder).is_dir():  # workers have another working directory
            folder = str(Path(self.options.encoder).resolve())
            self.options = replace(self.options, encoder=folder)
        self._resources = self.cluster.resources
        ((_, result),) = self._run(_describe, [None])
        if isinstance(result, Failed):
            raise MachineError(
                f"--cluster: a worker cannot load the encoder ({first_line(result.error)}); see "
                "the worker's log"
            )
        self._facts = result

    @property
    def key(self) -> Mapping[str, Any]:
        """All that the numbers depend on, as one worker states it; all others must agree."""
        return self._facts.key

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""
        return self._facts.training

    def check(self, clips: Sequence[Clip]) -> Iterator[DecodedClip | BadClipError]:
        """Decode and check clips on the workers, and yield each or an error, in order.

        Every worker must see the files under the same absolute path. Raise UserError if a worker
        does not see a file that exists here, and MachineError if workers failed on some clips.
        """
        starts = range(0, len(clips), CLIPS_PER_TASK)
        groups = [clips[start : start + CLIPS_PER_TASK] for start in starts]
        early: dict[int, list[Any]] = {}
        next_group = 0
        for number, results in self._run(_check, groups, prepare=_absolute):
            if isinstance(results, Failed):
                raise MachineError(
                    f"{groups[number][0].file}: it, or one of {len(groups[number]) - 1} others, "
                    f"cannot be decoded on a worker ({first_line(results.error)}); see the "
                    "worker's log"
                )
            early[number] = results
            while next_group in early:
                for clip, result in zip(groups[next_group], early.pop(next_group), strict=True):
                    if isinstance(result, _Unseen):
                        if isinstance(clip.file, Path) and clip.file.exists():
                            raise _not_seen(result.worker, clip.file)
                        yield result.error
                    elif isinstance(result, BadClipError):
                        yield result
                    else:
                        yield DecodedClip(clip, result)
                next_group += 1

    def _run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[Any],
        *more: Any,
        prepare: Callable[[Any], Any] = as_it_is,
    ) -> Iterator[tuple[int, Any]]:
        return run_all(
            self.cluster,
            function,
            tasks,
            self._token,
            self.options,
            *more,
            prepare=prepare,
            resources=self._resources,
        )

    def plan(self, clips: Sequence[DecodedClip]) -> list[Batch]:
        """Sort clips into batches, as :meth:`LocalEngine.plan` does."""
        seconds = 0.0 if self._facts.is_cpu else self.options.batch_seconds
        return plan(clips, seconds, self._facts.window_seconds)

    def perturbed(self, perturbation: Perturbation) -> "ClusterEngine":
        """Return an engine on the same workers that perturbs every clip first."""
        return ClusterEngine(self.cluster, replace(self.options, perturbation=perturbation))

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches on the workers, several to a task, and yield each as it is done.

        In the end, raise MachineError if some were tried and failed too often.
        """
        seconds = TASK_SECONDS["cpu" if self._facts.is_cpu else "gpu"]
        tasks = make_tasks(batches, seconds, self.cluster.threads)
        speed = self._speed
        speed.begin()
        lost = []
        for number, result in self._run(_embed, tasks, dict(self.key), prepare=_absolute_task):
            task = tasks[number]
            if isinstance(result, Failed):
                lost.append((task, result.error))
                continue
            worker, elapsed, arrays = result
            speed.add(worker, _seconds(task), elapsed)
            if speed.is_due():  # where no bar shows it, as in the log of a batch system
                self.cluster.say(f"cluster  {speed}")
            yield from zip(task, arrays, strict=True)
        if lost:
            task, error = lost[0]
            n_clips = sum(len(batch) for task, _ in lost for batch in task)
            raise MachineError(
                f"--cluster: {len(lost)} of {counted(len(tasks), 'task')} "
                f"({counted(n_clips, 'clip')}, one of the first {task[0][0].clip.file}) failed too "
                f"often ({first_line(error)}); the results of the others are kept: run the same "
                "command again, or remove the cause"
            )

    @property
    def progress(self) -> object:
        """What is being done; its text says how fast, and which worker is the slowest."""
        return self._speed


def make_tasks(batches: Sequence[Batch], most_seconds: float, threads: int) -> list[Task]:
    """Put batches together, in their order, into tasks of about equal seconds of audio.

    A task has at most ``most_seconds``, or a single batch. Each of the ``threads`` of all workers
    gets several tasks, so that all end at about the same time.
    """
    total = sum(_seconds((batch,)) for batch in batches)
    most = min(most_seconds, max(total / (8 * max(threads, 1)), 1.0))
    tasks: list[list[Batch]] = []
    room = 0.0
    for batch in batches:
        seconds = _seconds((batch,))
        if not tasks or seconds > room:
            tasks.append([])
            room = most
        tasks[-1].append(batch)
        room -= seconds
    return [tuple(task) for task in tasks]


class _Speed:
    """The speed of each worker, as text for the progress bar or a line in a log."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start again: what shows the speed keeps the object."""
        self.began = self.reported = time.monotonic()
        self.work: dict[str, tuple[float, float]] = {}

    def add(self, worker: str, audio: float, elapsed: float) -> None:
        done, took = self.work.get(worker, (0.0, 0.0))
        self.work[worker] = (done + audio, took + elapsed)

    def is_due(self) -> bool:
        """Whether the next line in the log is due."""
        now = time.monotonic()
        due = now - self.reported > _REPORT_SECONDS
        self.reported = now if due else self.reported
        return due

    def __str__(self) -> str:
        rates = {name: done / took for name, (done, took) in self.work.items()}
        slowest = min(rates, key=rates.__getitem__, default=None)
        if slowest is None:
            return "embedding clips"
        total = sum(done for done, _ in self.work.values()) / (time.monotonic() - self.began)
        return (
            f"embedding clips: {total:.1f} s of audio a second by {counted(len(rates), 'worker')}; "
            f"slowest {slowest}: {rates[slowest]:.1f}"
        )


@dataclass(frozen=True)
class _Unseen:
    """A clip whose file a worker does not see."""

    worker: str
    error: BadClipError


def _not_seen(worker: str, file: Path) -> UserError:
    return UserError(
        f"--cluster: worker {worker} does not find {file}, which exists here; share the folder "
        "with all workers under the same path"
    )


class _Kept:
    """The engine that a worker made last, for one extraction."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token = ""
        self.engine: LocalEngine | None = None

    def of(self, token: str, options: ExtractOptions) -> LocalEngine:
        with self.lock:
            if self.engine is None or self.token != token:
                self.engine = None  # the memory of the previous one is needed
                device = device_here(choose_devices(options.devices))
                # Tasks run in parallel on a worker: each has one thread.
                self.engine = open_engine(options, [device], workers=1)
                self.token = token
            return self.engine


def _engine(token: str, options: ExtractOptions) -> LocalEngine:
    """Return this worker's engine: loaded once, and kept."""
    kept: _Kept = get_worker().__dict__.setdefault("serpipe_engine", _Kept())
    return kept.of(token, options)


def _describe(_: None, token: str, options: ExtractOptions) -> _EngineFacts:
    engine = _engine(token, options)
    encoder = engine.encoders[0]
    is_cpu = encoder.device.type == "cpu"
    return _EngineFacts(dict(engine.key), is_cpu, encoder.window_seconds, engine.training)


def _check(clips: Sequence[Clip], token: str, options: ExtractOptions) -> list[Any]:
    """Return, for each clip, the facts of its audio, a BadClipError, or that it was not seen."""
    results: list[Any] = []
    for clip, result in zip(clips, _engine(token, options).check(clips), strict=True):
        if not isinstance(result, BadClipError):
            results.append(result.facts)
        elif isinstance(clip.file, Remote) or clip.file.exists():
            results.append(result)
        else:
            results.append(_Unseen(str(get_worker().address), result))
    return results


def _embed(
    task: Task, token: str, options: ExtractOptions, key: Mapping[str, Any]
) -> tuple[str, float, list[Embeddings]]:
    """Return the address of the worker, the seconds it took, and the embeddings of each batch."""
    engine, worker = _engine(token, options), str(get_worker().address)
    differs = difference(engine.key, key)
    if differs:
        raise UserError(
            f"--cluster: worker {worker} would compute other numbers: {differs}; omit it, or "
            "choose --devices or --precision that all workers have"
        )
    for decoded in (decoded for batch in task for decoded in batch):
        file = decoded.clip.file
        if isinstance(file, Path) and not file.exists():
            raise _not_seen(worker, file)
    began = time.perf_counter()
    arrays = [embeddings for _, embeddings in engine.embed(task)]
    return worker, time.perf_counter() - began, arrays


def _absolute(clips: Sequence[Clip]) -> list[Clip]:
    return [clip.absolute() for clip in clips]


def _absolute_task(task: Task) -> Task:
    return tuple(
        tuple(DecodedClip(each.clip.absolute(), each.facts) for each in batch) for batch in task
    )


def _seconds(task: Task) -> float:
    return sum(each.facts.seconds for batch in task for each in batch)
