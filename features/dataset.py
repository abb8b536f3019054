"""Clips as PyTorch wants them, at any sampling rate: for those who train models of their own."""

import math
from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..corpora import CLIP_COLUMNS, Clip
from ..corpora.data import gather
from ..errors import UserError, counted
from .audio import CHANNEL_POLICY, RATES, check_channels, read_waveform

#: A waveform, shape (n_samples,), and the position of its label or its number.
Item = tuple[torch.Tensor, int | float]

#: Columns that name a clip or its talker: nothing that a new speaker's clip could be told by.
_NOT_TARGETS = ("path", "name", "speaker")


class ClipDataset(Dataset[Item]):
    """The clips of any corpus with what is to be predicted of them; audio is read when asked for.

    Split by speaker: a model that has heard a speaker in training scores higher on that speaker's
    other clips than on anybody else's. ``speakers`` is there for that:

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
        What is to be predicted: a field of :class:`~serpipe.corpora.clip.Clip` such as
        ``"emotion"`` or ``"shared_emotion"``, or a column of ``Clip.more``, whose numbers are
        predicted as numbers. Clips where it is empty, lacking or NaN are left out.
    labels : sequence of str, optional
        All labels, in the order in which they are counted; those of the clips, sorted, by default.
        Give it where data sets must agree on what a number means.
    channels : {"mean", "left", "right"}
        How several channels become one, as in :func:`~serpipe.features.audio.read_waveform`.

    Attributes
    ----------
    clips : tuple of Clip
        Those that remain; what follows is in their order.
    targets : tuple of int or tuple of float
        The position of each clip's label in ``labels``, or each clip's number.
    speakers : tuple of str
        Who talks in each clip. Speakers of two corpora who bear the same name count as one, which
        never parts the clips of a speaker.
    labels : tuple of str
        Empty where numbers are predicted.

    Raises
    ------
    UserError
        If there is no such target, no clip has it, a label is not among ``labels``, or the rate or
        the channels cannot be had.
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
        check_channels(channels)
        if not RATES[0] <= sampling_rate <= RATES[1]:
            raise UserError(
                f"sampling rate {sampling_rate}: cannot be had; expected {RATES[0]} to {RATES[1]} "
                "Hz; most encoders want 16000"
            )
        self.sampling_rate = sampling_rate
        self.channels = channels
        pairs = _having(clips, target)
        self.clips = tuple(clip for clip, _ in pairs)
        self.speakers = tuple(clip.speaker for clip in self.clips)
        self.labels: tuple[str, ...] = ()
        self.targets: tuple[int, ...] | tuple[float, ...]
        numbers = [value for _, value in pairs if not isinstance(value, str)]
        words = [value for _, value in pairs if isinstance(value, str)]
        if numbers and words:
            raise UserError(
                f"target {target}: {numbers[0]} for one clip and {words[0]!r} for another; "
                "expected numbers or labels for all; choose another target, or clips of one corpus"
            )
        if numbers:
            if labels is not None:
                raise UserError(
                    f"target {target}: numbers, and labels are given; expected labels only where "
                    "words are predicted; leave labels out"
                )
            self.targets = tuple(float(number) for number in numbers)
        else:
            self.labels = tuple(sorted(set(words)) if labels is None else labels)
            self.targets = _positions(self.clips, words, self.labels, target)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips)

    def __getitem__(self, index: int) -> Item:
        """Decode one clip.

        Parameters
        ----------
        index : int
            Its position in ``clips``.

        Returns
        -------
        waveform : tensor of float32, shape (n_samples,)
            Full scale is 1.
        target : int or float
            The position of its label in ``labels``, or its number.

        Raises
        ------
        BadClipError
            If the clip cannot be decoded. A worker process of a data loader makes that a
            RuntimeError with the same text.
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
    """Find the clips of a corpus and make a data set of them.

    Parameters
    ----------
    data : str
        As after ``--data``: ``"sample"``, a folder, or ``"CORPUS=DIR"``.
    sampling_rate, target, labels, channels
        As for :class:`ClipDataset`.
    skip_bad : bool
        Leave out files that are not named as clips of the corpus, instead of raising.

    Returns
    -------
    ClipDataset

    Raises
    ------
    UserError
        If there is no such folder or corpus, or as :class:`ClipDataset` does.
    BadClipsError
        If files are not named as clips of the corpus, unless ``skip_bad``.
    """
    found = gather([data], skip_bad=skip_bad)
    return ClipDataset(found.clips, sampling_rate, target=target, labels=labels, channels=channels)


def collate(batch: Sequence[Item]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put clips of different lengths into one batch: the ``collate_fn`` of a data loader.

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
        int64 positions of labels, or float32 numbers.
    """
    waveforms = [waveform for waveform, _ in batch]
    targets = [target for _, target in batch]
    numbers = any(isinstance(target, float) for target in targets)
    return (
        pad_sequence(waveforms, batch_first=True),
        torch.tensor([len(waveform) for waveform in waveforms], dtype=torch.int64),
        torch.tensor(targets, dtype=torch.float32 if numbers else torch.int64),
    )


def _having(clips: Sequence[Clip], target: str) -> list[tuple[Clip, str | float]]:
    """Return the clips that have a target, and what it is."""
    known = [column for column in CLIP_COLUMNS if column not in _NOT_TARGETS]
    more = sorted({column for clip in clips for column in clip.more})
    if target not in known and target not in more:
        raise UserError(
            f"target {target!r}: there is no such column; expected one of "
            f"{', '.join([*known, *more])}; choose one of them"
        )
    pairs = []
    for clip in clips:
        value = getattr(clip, target) if target in known else clip.more.get(target, "")
        if value != "" and not (isinstance(value, float) and math.isnan(value)):
            pairs.append((clip, value))
    if not pairs:
        raise UserError(
            f"target {target}: empty for {counted(len(clips), 'clip')}; expected a label or a "
            "number for some; choose another target"
        )
    return pairs


def _positions(
    clips: Sequence[Clip], words: Sequence[str], labels: Sequence[str], target: str
) -> tuple[int, ...]:
    position = {label: place for place, label in enumerate(labels)}
    if len(position) < len(labels):
        raise UserError(
            f"labels {', '.join(labels)}: one stands twice; expected each once; remove one"
        )
    for clip, word in zip(clips, words, strict=True):
        if word not in position:
            raise UserError(
                f"{clip.file}: its {target} is {word!r}; expected one of {', '.join(labels)}; add "
                "it to labels, or leave such clips out"
            )
    return tuple(position[word] for word in words)
