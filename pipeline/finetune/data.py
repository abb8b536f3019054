"""Clips as a training takes them: opened once, batched by length, padded last."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from ...corpora import Clip
from ...errors import BadClipError
from ...features.audio import CHANNEL_POLICY, Waveform, check_length, read_waveform
from ...features.batching import HeardClip, in_order, load_clip
from ...features.front_end import FrontEnd, prepare
from ...progress import Track, no_track

#: Decoded audio is kept in memory up to here; what is beyond is decoded in every epoch.
HELD_BYTES = 2 << 30


@dataclass(frozen=True)
class Sounds:
    """The audio of all clips.

    Attributes
    ----------
    heard : tuple of HeardClip
        The clips.
    front_end : FrontEnd
        The encoder's.
    held : mapping of int to ndarray of float32
        Prepared waveforms that are in memory, by position.
    """

    heard: tuple[HeardClip, ...]
    front_end: FrontEnd
    held: dict[int, Waveform] = field(repr=False)

    def waveform(self, position: int) -> Waveform:
        """Return a prepared waveform, shape (n_samples,)."""
        if position in self.held:
            return self.held[position]
        read = load_clip(self.heard[position], self.front_end.sampling_rate, None)
        return prepare(self.front_end, read)

    @property
    def seconds(self) -> list[float]:
        """How long each clip is."""
        return [heard.facts.seconds for heard in self.heard]


def open_clips(
    clips: Sequence[Clip],
    front_end: FrontEnd,
    *,
    minimum_samples: int = 0,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> tuple[Sounds, list[BadClipError]]:
    """Decode every clip once: to check and hash it, and to keep it where there is room.

    Parameters
    ----------
    clips : sequence of Clip
        What to open.
    front_end : FrontEnd
        The encoder's.
    minimum_samples : int
        The shortest clip that is taken, if that is more than what the encoder needs.
    workers : int
        Threads.
    track : callable
        Shows progress.

    Returns
    -------
    sounds : Sounds
        Those that can be used, ordered by corpus and name, as in a cache.
    bad : list of BadClipError
        Why the others cannot.
    """
    rate = front_end.sampling_rate
    shortest = max(minimum_samples, front_end.minimum_samples)

    def hear(clip: Clip) -> tuple[HeardClip, Waveform] | BadClipError:
        try:
            waveform, facts = read_waveform(clip.file, rate, CHANNEL_POLICY)
            check_length(clip.file, len(waveform), rate, shortest, front_end.maximum_samples)
        except BadClipError as error:
            return error
        return HeardClip(clip, facts), prepare(front_end, waveform)

    ordered = sorted(clips, key=lambda clip: (clip.corpus, clip.name))
    heard: list[HeardClip] = []
    bad: list[BadClipError] = []
    held: dict[int, Waveform] = {}
    room = HELD_BYTES
    for found in track(in_order(hear, ordered, workers, ahead=8), "checking clips", len(ordered)):
        if isinstance(found, BadClipError):
            bad.append(found)
            continue
        room -= found[1].nbytes
        if room >= 0:
            held[len(heard)] = found[1]
        heard.append(found[0])
    return Sounds(tuple(heard), front_end, held), bad


class Examples(Dataset[tuple[Waveform, int]]):
    """Some of the clips, with the places of their labels.

    Parameters
    ----------
    sounds : Sounds
        The audio of all clips.
    rows : sequence of int
        Positions in it.
    targets : sequence of int
        Of each of these, the place of its label.
    """

    def __init__(self, sounds: Sounds, rows: Sequence[int], targets: Sequence[int]) -> None:
        self.sounds, self.rows, self.targets = sounds, list(rows), list(targets)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[Waveform, int]:
        """Return a prepared waveform and the place of its label."""
        return self.sounds.waveform(self.rows[place]), self.targets[place]

    @property
    def seconds(self) -> list[float]:
        """How long each is."""
        return [self.sounds.heard[row].facts.seconds for row in self.rows]

    @property
    def all_held(self) -> bool:
        """Whether no file must be read."""
        return all(row in self.sounds.held for row in self.rows)


def collator(
    front_end: FrontEnd,
) -> Callable[[Sequence[tuple[Waveform, int]]], dict[str, torch.Tensor]]:
    """Return what makes a batch of examples: padded with zeros at the end, with a mask."""

    def collate(examples: Sequence[tuple[Waveform, int]]) -> dict[str, torch.Tensor]:
        inputs = front_end.inputs([waveform for waveform, _ in examples])
        return {**inputs, "labels": torch.tensor([target for _, target in examples])}

    return collate


class ByLength(Sampler[int]):
    """Shuffled clips, those that share a batch of like length.

    The order is a function of seed and epoch alone, so that a resumed training has the same.

    Parameters
    ----------
    lengths : sequence of float
        Of the clips.
    batch_size : int
        Clips of a batch.
    seed : int
        Of the shuffles.
    """

    #: So many batches are drawn at random, then sorted among themselves.
    POOL = 8

    def __init__(self, lengths: Sequence[float], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield each position once."""
        draw = np.random.default_rng((self.seed, self.epoch))
        drawn = draw.permutation(len(self.lengths))
        pool = self.POOL * self.batch_size
        pools = [drawn[start : start + pool] for start in range(0, len(drawn), pool)]
        ordered = np.concatenate([p[np.argsort(self.lengths[p], kind="stable")] for p in pools])
        whole = len(ordered) // self.batch_size * self.batch_size
        batches = ordered[:whole].reshape(-1, self.batch_size)
        yield from draw.permutation(batches).ravel().tolist()
        yield from ordered[whole:].tolist()  # the rest, which fills no batch, comes last
