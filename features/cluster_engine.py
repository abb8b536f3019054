"""Extraction on the workers of a cluster: each holds a :class:`.engine.LocalEngine` of its own."""

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
from .batching import Batch, Embeddings, HeardClip, plan
from .cache import difference
from .devices import choose_devices
from .engine import EngineOptions, LocalEngine, open_engine
from .training_record import TrainingRecord

#: Clips that are opened by one task.
HEARD_AT_ONCE = 64
#: Most seconds of audio of a task, on a CPU and on a GPU: what a dead worker loses.
SHARD_SECONDS = {"cpu": 120.0, "gpu": 3600.0}
#: Seconds between two lines on how fast it goes.
_TOLD_EVERY = 30.0

Shard = tuple[Batch, ...]


@dataclass(frozen=True)
class _Facts:
    key: Mapping[str, Any]
    is_cpu: bool
    window_seconds: float
    training: TrainingRecord | None


@dataclass
class ClusterEngine:
    """An engine whose work is done by the workers of a cluster.

    Attributes
    ----------
    cluster : Cluster
        Where.
    options : EngineOptions
        What each worker makes its engine of.
    """

    cluster: Cluster
    options: EngineOptions
    #: A worker keeps its engine for one extraction: the files of an encoder may change in between.
    _token: str = field(init=False, default_factory=lambda: uuid4().hex)
    _facts: _Facts = field(init=False)
    _speed: "_Speed" = field(init=False, default_factory=lambda: _Speed())
    _resources: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        if Path(self.options.encoder).is_dir():  # workers have another working directory
            folder = str(Path(self.options.encoder).resolve())
            self.options = replace(self.options, encoder=folder)
        self._resources = self.cluster.resources
        ((_, told),) = self._run(_describe, [None])
        if isinstance(told, Failed):
            raise MachineError(
                f"--cluster: a worker cannot load the encoder ({first_line(told.error)}); expected "
                "it to; see the worker's own log"
            )
        self._facts = told

    @property
    def key(self) -> Mapping[str, Any]:
        """All that the numbers depend on: as a worker tells it, and every other must."""
        return self._facts.key

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""
        return self._facts.training

    def hear(self, clips: Sequence[Clip]) -> Iterator[HeardClip | BadClipError]:
        """Open clips on the workers.

        Parameters
        ----------
        clips : sequence of Clip
            Whose files every worker must find under the same absolute path.

        Yields
        ------
        HeardClip or BadClipError
            One for each, in their order.

        Raises
        ------
        UserError
            If a worker does not see a file that is there.
        MachineError
            If some cannot even be tried.
        """
        starts = range(0, len(clips), HEARD_AT_ONCE)
        groups = [clips[start : start + HEARD_AT_ONCE] for start in starts]
        early: dict[int, list[Any]] = {}
        next_place = 0
        for place, told in self._run(_hear, groups, prepare=_absolute):
            if isinstance(told, Failed):
                raise MachineError(
                    f"{groups[place][0].file}: it, or one of {len(groups[place]) - 1} others, "
                    f"cannot be opened on a worker ({first_line(told.error)}); expected it to; "
                    "see the worker's own log"
                )
            early[place] = told
            while next_place in early:
                for clip, each in zip(groups[next_place], early.pop(next_place), strict=True):
                    if isinstance(each, _Unseen):
                        if isinstance(clip.file, Path) and clip.file.exists():
                            raise _not_seen(each.worker, clip.file)
                        yield each.error
                    else:
                        yield each if isinstance(each, BadClipError) else HeardClip(clip, each)
                next_place += 1

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

    def plan(self, clips: Sequence[HeardClip]) -> list[Batch]:
        """Sort clips into batches, as :meth:`LocalEngine.plan` does."""
        seconds = 0.0 if self._facts.is_cpu else self.options.batch_seconds
        return plan(clips, seconds, self._facts.window_seconds)

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches on the workers, several to a task.

        Parameters
        ----------
        batches : sequence of tuple of HeardClip
            From :meth:`plan`.

        Yields
        ------
        batch : tuple of HeardClip
        embeddings : dict of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling. Batches come as they are done.

        Raises
        ------
        MachineError
            In the end, if some were tried and failed too often.
        """
        found = shards(batches, SHARD_SECONDS["cpu" if self._facts.is_cpu else "gpu"],
                       self.cluster.threads)  # fmt: skip
        speed = self._speed
        speed.begin()
        lost = []
        for place, told in self._run(_embed, found, dict(self.key), prepare=_absolute_shard):
            if isinstance(told, Failed):
                lost.append((found[place], told.error))
                continue
            worker, elapsed, arrays = told
            speed.add(worker, _seconds(found[place]), elapsed)
            if speed.is_due():  # where no bar shows it, as in the log of a batch system
                self.cluster.say(f"cluster  {speed}")
            yield from zip(found[place], arrays, strict=True)
        if lost:
            shard, error = lost[0]
            n_clips = sum(len(batch) for shard, _ in lost for batch in shard)
            raise MachineError(
                f"--cluster: {len(lost)} of {counted(len(found), 'shard')} "
                f"({counted(n_clips, 'clip')}, one of the first "
                f"{shard[0][0].clip.file}) failed too often ({first_line(error)}); expected each "
                "to be done; what the others gave is kept: run the same command again, or remove "
                "what is wrong"
            )

    @property
    def progress(self) -> object:
        """What is being done; its text says how fast, and which worker is the slowest."""
        return self._speed


def shards(batches: Sequence[Batch], most_seconds: float, threads: int) -> list[Shard]:
    """Put batches together into shards of about equal seconds of audio.

    Parameters
    ----------
    batches : sequence of tuple of HeardClip
        In the order of the plan, longest clips first.
    most_seconds : float
        Of a shard; one batch may have more.
    threads : int
        That share the work: each is given several shards, so that all end at about the same time.

    Returns
    -------
    list of tuple of Batch
        In the order of the batches.
    """
    total = sum(_seconds((batch,)) for batch in batches)
    most = min(most_seconds, max(total / (8 * max(threads, 1)), 1.0))
    found: list[list[Batch]] = []
    room = 0.0
    for batch in batches:
        seconds = _seconds((batch,))
        if not found or seconds > room:
            found.append([])
            room = most
        found[-1].append(batch)
        room -= seconds
    return [tuple(shard) for shard in found]


class _Speed:
    """How fast each worker is, told now and then."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was before: whoever shows it keeps the object."""
        self.began = self.told = time.monotonic()
        self.work: dict[str, tuple[float, float]] = {}

    def add(self, worker: str, audio: float, elapsed: float) -> None:
        done, took = self.work.get(worker, (0.0, 0.0))
        self.work[worker] = (done + audio, took + elapsed)

    def is_due(self) -> bool:
        """Whether the last line is long ago."""
        now = time.monotonic()
        due = now - self.told > _TOLD_EVERY
        self.told = now if due else self.told
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
    """A clip whose file a worker does not find."""

    worker: str
    error: BadClipError


def _not_seen(worker: str, file: Path) -> UserError:
    return UserError(
        f"--cluster: worker {worker} does not find {file}, which is here; expected every clip "
        "under the same path on all workers; share the folder with them"
    )


class _Kept:
    """The engine that a worker made last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.token = ""
        self.engine: LocalEngine | None = None

    def of(self, token: str, options: EngineOptions) -> LocalEngine:
        with self.lock:
            if self.engine is None or self.token != token:
                self.engine = None  # the memory of the one before is needed
                device = device_here(choose_devices(options.devices))
                # What runs at once on a worker are its tasks: each has one thread.
                self.engine = open_engine(options, [device], workers=1)
                self.token = token
            return self.engine


def _engine(token: str, options: EngineOptions) -> LocalEngine:
    """Return this worker's engine: loaded once, and kept."""
    kept: _Kept = get_worker().__dict__.setdefault("serpipe_engine", _Kept())
    return kept.of(token, options)


def _describe(_: None, token: str, options: EngineOptions) -> _Facts:
    engine = _engine(token, options)
    encoder = engine.encoders[0]
    is_cpu = encoder.device.type == "cpu"
    return _Facts(dict(engine.key), is_cpu, encoder.window_seconds, engine.training)


def _hear(clips: Sequence[Clip], token: str, options: EngineOptions) -> list[Any]:
    told: list[Any] = []
    for clip, each in zip(clips, _engine(token, options).hear(clips), strict=True):
        if not isinstance(each, BadClipError):
            told.append(each.facts)
        else:
            seen = isinstance(clip.file, Remote) or clip.file.exists()
            told.append(each if seen else _Unseen(str(get_worker().address), each))
    return told


def _embed(
    shard: Shard, token: str, options: EngineOptions, key: Mapping[str, Any]
) -> tuple[str, float, list[Embeddings]]:
    engine, worker = _engine(token, options), str(get_worker().address)
    differs = difference(engine.key, key)
    if differs:
        raise UserError(
            f"--cluster: worker {worker} would compute otherwise: {differs}; expected workers that "
            "are alike; leave it out, or name another --devices or --precision"
        )
    for heard in (heard for batch in shard for heard in batch):
        file = heard.clip.file
        if isinstance(file, Path) and not file.exists():
            raise _not_seen(worker, file)
    began = time.perf_counter()
    arrays = [embeddings for _, embeddings in engine.embed(shard)]
    return worker, time.perf_counter() - began, arrays


def _absolute(clips: Sequence[Clip]) -> list[Clip]:
    return [clip.absolute() for clip in clips]


def _absolute_shard(shard: Shard) -> Shard:
    return tuple(
        tuple(HeardClip(heard.clip.absolute(), heard.facts) for heard in batch) for batch in shard
    )


def _seconds(shard: Shard) -> float:
    return sum(heard.facts.seconds for batch in shard for heard in batch)
