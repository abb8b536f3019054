"""Clips as a PyTorch data set, at any sampling rate, to train your own models."""

import math
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..choices import CHANNELS, check_choice
from ..corpora import CLIP_COLUMNS, Clip
from ..corpora.data import gather
from ..errors import UserError, counted
from .audio import CHANNEL_POLICY, RATES, read_waveform

#: A waveform, shape (n_samples,), and the index of its label or its number.
Item = tuple[torch.Tensor, int | float]

#: Columns that identify a clip or its speaker, which cannot be predicted for new speakers.
_NOT_TARGETS = ("path", "name", "speaker")


class ClipDataset(Dataset[Item]):
    """The clips of any corpus with their targets; audio is decoded on access.

    Split by speaker: a model scores higher on other clips of its training speakers than on new
    speakers. ``speakers`` gives the groups:

    >>> from sklearn.model_selection import GroupKFold
    >>> from torch.utils.data import DataLoader, Subset
    >>> from serpipe.features.dataset import collate, corpus_dataset
    >>> dataset = corpus_dataset("sample", 16000)
    >>> folds = GroupKFold(5).split(dataset.clips, groups=dataset.speakers)
    >>> for train, test in folds:
    ...     assert not {dataset.speakers[i] for i in train} & {dataset.speakers[i] for i in test}
    ...     loader = DataLoader(Subset(dataset, train), 8, shuffle=True, collate_fn=collate)
    >>> waveforms, lengths, labels = next(iter(loader))
    >>> waveforms.shape == (8, lengths.max()), labels.shape
    (True, torch.Size([8]))

    Parameters
    ----------
    clips : sequence of Clip
        Such as those of :func:`~serpipe.corpora.manifest.read_manifest`.
    sampling_rate : int
        Of the waveforms, in Hz.
    target : str
        What is predicted: a field of :class:`~serpipe.corpora.clip.Clip` such as ``"emotion"`` or
        ``"shared_emotion"``, or a column of ``Clip.more``, where numbers stay numbers. Clips
        without a value are omitted.
    labels : sequence of str, optional
        All labels, in the order of their indices; by default those of the clips, sorted. Give them
        if several data sets must agree.
    channels : {"mean", "left", "right"}
        How several channels become one, as in :func:`~serpipe.features.audio.read_waveform`.

    Attributes
    ----------
    clips : tuple of Clip
        The clips that have the target.
    targets : tuple of int or tuple of float
        The index of each clip's label in ``labels``, or each clip's number.
    speakers : tuple of str
        The speaker of each clip. Speakers of two corpora with the same name count as one, so that
        the clips of a speaker are never separated.
    labels : tuple of str
        Empty if numbers are predicted.

    Raises
    ------
    UserError
        If the target is unknown, no clip has it, a label is not among ``labels``, or the rate or
        the channels are invalid.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sampling_rate: int,
        *,
        target: str = "emotion",
        labels: Sequence[str] | None = None,
        channels: str = CHANNEL_POLICY,
    ) -> None:
        check_choice("channels", channels, CHANNELS)
        if not RATES[0] <= sampling_rate <= RATES[1]:
            raise UserError(
                f"sampling rate {sampling_rate}: expected {RATES[0]} to {RATES[1]} Hz; most "
                "encoders need 16000"
            )
        self.sampling_rate = sampling_rate
        self.channels = channels
        pairs = _with_target(clips, target)
        self.clips = tuple(clip for clip, _ in pairs)
        self.speakers = tuple(clip.speaker for clip in self.clips)
        self.labels: tuple[str, ...] = ()
        self.targets: tuple[int, ...] | tuple[float, ...]
        numbers = [value for _, value in pairs if not isinstance(value, str)]
        words = [value for _, value in pairs if isinstance(value, str)]
        if numbers and words:
            raise UserError(
                f"target {target}: {numbers[0]} for one clip and {words[0]!r} for another; choose "
                "another target, or clips of one corpus"
            )
        if numbers:
            if labels is not None:
                raise UserError(
                    f"target {target}: holds numbers, which have no labels; omit labels"
                )
            self.targets = tuple(float(number) for number in numbers)
        else:
            self.labels = tuple(sorted(set(words)) if labels is None else labels)
            self.targets = _indices(self.clips, words, self.labels, target)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        """Decode a clip; return its waveform and its target.

        Raise BadClipError if it cannot be decoded. In a worker process of a data loader this
        becomes a RuntimeError with the same text.
        """
        waveform, _ = read_waveform(self.clips[index].file, self.sampling_rate, self.channels)
        return torch.from_numpy(waveform), self.targets[index]


def corpus_dataset(
    data: str,
    sampling_rate: int,
    *,
    target: str = "emotion",
    labels: Sequence[str] | None = None,
    channels: str = CHANNEL_POLICY,
    skip_bad: bool = False,
) -> ClipDataset:
    """Find the clips of a corpus and return them as a data set.

    Parameters
    ----------
    data : str
        As for ``--data``: ``"sample"``, a folder, or ``"CORPUS=DIR"``.
    sampling_rate, target, labels, channels
        As for :class:`ClipDataset`.
    skip_bad : bool
        Omit files that are not named as clips of the corpus, instead of raising an error.

    Returns
    -------
    ClipDataset

    Raises
    ------
    UserError
        If there is no such folder or corpus, or as :class:`ClipDataset` raises it.
    BadClipsError
        If files are not named as clips of the corpus, unless ``skip_bad``.
    """
    clips = gather([data], skip_bad=skip_bad).clips
    return ClipDataset(clips, sampling_rate, target=target, labels=labels, channels=channels)


def collate(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return clips of different lengths as one batch: the ``collate_fn`` of a data loader.

    Parameters
    ----------
    batch : sequence of (tensor of float32, int or float)
        Items of a :class:`ClipDataset`.

    Returns
    -------
    waveforms : tensor of float32, shape (n_clips, longest)
        With zeros after the end of each clip.
    lengths : tensor of int64, shape (n_clips,)
        Samples of each clip.
    targets : tensor, shape (n_clips,)
        int64 indices of labels, or float32 numbers.
    """
    waveforms = [waveform for waveform, _ in batch]
    targets = [target for _, target in batch]
    numbers = any(isinstance(target, float) for target in targets)
    return (
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.int64),
        torch.tensor(targets, dtype=torch.float32 if numbers else torch.int64),
    )


def _with_target(clips: Sequence[Clip], target: str) -> list[tuple[Clip, str | float]]:
    """Return the clips that have a target, each with its value."""
    known = [column for column in CLIP_COLUMNS if column not in _NOT_TARGETS]
    more = sorted({column for clip in clips for column in clip.more})
    if target not in known and target not in more:
        raise UserError(
            f"target {target!r}: no such column; choose one of {', '.join([*known, *more])}"
        )
    pairs = []
    for clip in clips:
        value = getattr(clip, target) if target in known else clip.more.get(target, "")
        if value != "" and not (isinstance(value, float) and math.isnan(value)):
            pairs.append((clip, value))
    if not pairs:
        raise UserError(
            f"target {target}: empty for {counted(len(clips), 'clip')}; choose another target"
        )
    return pairs


def _indices(
    clips: Sequence[Clip], words: Sequence[str], labels: Sequence[str], target: str
) -> tuple[int, ...]:
    index_of = {label: index for index, label in enumerate(labels)}
    if len(index_of) < len(labels):
        raise UserError(f"labels {', '.join(labels)}: one occurs twice; remove it")
    for clip, word in zip(clips, words, strict=True):
        if word not in index_of:
            raise UserError(
                f"{clip.file}: its {target} is {word!r}, which is not among the labels "
                f"{', '.join(labels)}; add it, or omit such clips"
            )
    return tuple(index_of[word] for word in words)
