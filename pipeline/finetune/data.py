"""Clips for training: decoded once, batched by length, padded at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ...corpora import Clip
from ...errors import BadClipError, BadClipsError
from ...features.audio import Waveform, check_length
from ...features.copies import keep_consistent, mark_recordings
from ...features.decoding import DecodedClip, DecodingOptions, decode_clip, load_clip
from ...features.front_end import FrontEnd, prepare
from ...features.in_order import in_order
from ...features.perturbation import Perturbation
from ...features.read_ahead import Content, read_ahead
from ...progress import Say, Track, no_track, say_nothing
from .augment import augment, mix
from .options import TrainingOptions

Targets = NDArray[np.float32]

#: Decoded audio up to this size is kept in memory; the rest is decoded in every epoch.
HELD_BYTES = 2 << 30


@dataclass(frozen=True)
class Sounds:
    """The audio of all clips."""

    clips: tuple[DecodedClip, ...]
    front_end: FrontEnd  #: The encoder's.
    #: Prepared waveforms that are kept in memory, by index of the clip.
    held: dict[int, Waveform] = field(repr=False)
    perturbation: Perturbation | None = None  #: What is done to every clip first.

    def waveform(self, index: int) -> Waveform:
        """Return the prepared waveform of a clip, shape (n_samples,)."""
        if index in self.held:
            return self.held[index]
        rate = self.front_end.sampling_rate
        options = DecodingOptions(rate, perturbation=self.perturbation)
        waveform = load_clip(self.clips[index], options)
        return prepare(self.front_end, waveform)

    def take(self, rows: Sequence[int]) -> "Sounds":
        """Return some of the clips, by their indices."""
        held = {n: self.held[row] for n, row in enumerate(rows) if row in self.held}
        return replace(self, clips=tuple(self.clips[row] for row in rows), held=held)

    def perturbed(self, perturbation: Perturbation) -> "Sounds":
        """Return the same clips, perturbed; each is decoded when it is needed."""
        return replace(self, held={}, perturbation=perturbation)


def decode_clips(
    clips: Sequence[Clip],
    front_end: FrontEnd,
    *,
    minimum_samples: int = 0,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> tuple[Sounds, list[BadClipError]]:
    """Decode every clip once, to check and hash it; keep those that fit in memory.

    A clip must have ``minimum_samples`` where that is more than the encoder needs. Return the
    usable clips, ordered by corpus and name, as in a cache, and why the others are not usable.
    """
    options = DecodingOptions(front_end.sampling_rate)
    shortest = max(minimum_samples, front_end.minimum_samples)

    def decode(item: tuple[Clip, Content]) -> tuple[DecodedClip, Waveform] | BadClipError:
        clip, content = item
        try:
            waveform, facts = decode_clip(clip.file, content(), options)
            rate, longest = options.sampling_rate, front_end.maximum_samples
            check_length(clip.file, len(waveform), rate, shortest, longest)
        except BadClipError as error:
            return error
        return DecodedClip(clip, facts), prepare(front_end, waveform)

    ordered = sorted(clips, key=lambda clip: (clip.corpus, clip.name))
    usable: list[DecodedClip] = []
    bad: list[BadClipError] = []
    held: dict[int, Waveform] = {}
    free = HELD_BYTES
    items = read_ahead(ordered, lambda clip: clip.file)
    decoded = in_order(decode, items, workers, ahead=8)
    for result in track(decoded, "checking clips", len(ordered)):
        if isinstance(result, BadClipError):
            bad.append(result)
            continue
        clip, waveform = result
        free -= waveform.nbytes
        if free >= 0:
            held[len(usable)] = waveform
        usable.append(clip)
    return Sounds(tuple(usable), front_end, held), bad


def decode_all(
    clips: Sequence[Clip],
    front_end: FrontEnd,
    *,
    minimum_samples: int = 0,
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Sounds:
    """Decode clips as :func:`decode_clips` does, and refuse all if some are unusable.

    With ``skip_bad``, unusable clips are omitted, and ``say`` prints a line for each. No recording
    of the result occurs with two speakers. Raise BadClipsError if clips are unusable, unless
    ``skip_bad``, or if all are.
    """
    sounds, bad = decode_clips(
        clips, front_end, minimum_samples=minimum_samples, workers=workers, track=track
    )
    marked = mark_recordings(sounds.clips, workers=workers, track=track)
    sounds = replace(sounds, clips=tuple(marked))
    good = keep_consistent(marked, bad)
    if not bad:
        return sounds
    if not skip_bad or not good:
        raise BadClipsError(bad, f"{len(good)} can")
    for error in bad:
        say(f"skipped  {error}")
    return sounds.take([row for row, clip in enumerate(sounds.clips) if clip in good])


class Examples(Dataset[tuple[Waveform, Targets]]):
    """Some of the clips, with their targets.

    ``rows`` are the indices of the clips in ``sounds``; ``targets``, float32, shape (n_clips,
    n_outputs), are for each of these the share of each label, or the rating.
    """

    def __init__(self, sounds: Sounds, rows: Sequence[int], targets: Targets) -> None:
        self.sounds, self.rows, self.targets = sounds, list(rows), targets

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Waveform, Targets]:
        """Return a prepared waveform and its targets, shape (n_outputs,)."""
        return self.sounds.waveform(self.rows[index]), self.targets[index]

    @property
    def seconds(self) -> list[float]:
        """The duration of each clip."""
        return [self.sounds.clips[row].facts.seconds for row in self.rows]

    @property
    def all_held(self) -> bool:
        """Whether all clips are in memory, so that no file is read."""
        return all(row in self.sounds.held for row in self.rows)


class VariedExamples(Examples):
    """Clips that are changed at random, in another way in every epoch.

    Of the options, ``augment``, ``mixup`` and ``seed`` are used.
    """

    def __init__(self, examples: Examples, options: TrainingOptions) -> None:
        super().__init__(examples.sounds, examples.rows, examples.targets)
        self.options, self.epoch = options, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that comes next."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[Waveform, Targets]:
        """Return a prepared waveform and its targets, which depend on the epoch alone."""
        options, front_end = self.options, self.sounds.front_end
        draw = np.random.default_rng((options.seed, self.epoch, self.rows[index]))
        waveform, targets = super().__getitem__(index)
        waveform = augment(waveform, front_end.sampling_rate, options.augment, draw)
        if options.mixup:
            share = float(draw.beta(options.mixup, options.mixup))
            share = max(share, 1 - share)  # the first is not cut off, so it counts more
            other, others = super().__getitem__(int(draw.integers(len(self))))
            waveform = mix(waveform, other, share)
            targets = np.float32(share) * targets + np.float32(1 - share) * others
        return prepare(front_end, waveform), targets


@dataclass(frozen=True)
class Collator:
    """Makes a batch of examples, padded with zeros at the end, with a mask."""

    front_end: FrontEnd

    def __call__(self, examples: Sequence[tuple[Waveform, Targets]]) -> dict[str, torch.Tensor]:
        """Return the model's inputs and ``labels``, float32, shape (n_clips, n_outputs)."""
        inputs = self.front_end.inputs([waveform for waveform, _ in examples])
        return {**inputs, "labels": torch.from_numpy(np.stack([each for _, each in examples]))}


class ByLength(Sampler[int]):
    """Shuffled clips, in batches of similar length.

    The order is a function of seed and epoch alone, so that a resumed training has the same.
    ``lengths`` are the durations of the clips; ``on_epoch`` is also called with the epoch that
    comes next.
    """

    #: The clips of so many batches are drawn at random, then sorted by length.
    POOL = 8

    def __init__(
        self,
        lengths: Sequence[float],
        batch_size: int,
        seed: int,
        on_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch, self.on_epoch = 0, on_epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that comes next."""
        self.epoch = epoch
        if self.on_epoch:
            self.on_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield each index once."""
        draw = np.random.default_rng((self.seed, self.epoch))
        drawn = draw.permutation(len(self.lengths))
        pool = self.POOL * self.batch_size
        pools = [drawn[start : start + pool] for start in range(0, len(drawn), pool)]
        ordered = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in pools])
        whole = len(ordered) // self.batch_size * self.batch_size
        batches = ordered[:whole].reshape(-1, self.batch_size)
        yield from draw.permutation(batches).ravel().tolist()
        yield from ordered[whole:].tolist()  # the rest, less than a batch, comes last
