"""The part of a bundle that adapts it to a speaker, and the profile of a speaker.

It is saved beside the head, as ``enrolled_head.skops`` (``.zip`` for a fusion), the head for
embeddings without the shift of their speaker, and ``enrolment.npy``, the statistics of the training
speakers: float64, shape (3, n_features), the mean and the variances between and within speakers.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...files import read_bytes, write_bytes
from ...pipeline.enrolment import SpeakerStatistics
from ...pipeline.heads import Head
from ...pipeline.layers import Candidate
from ...schema import from_json

_STATISTICS = "enrolment.npy"
#: Limit of the file of statistics from elsewhere, in bytes.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class SpeakerProfile:
    """What was learnt of a speaker from enrolled clips.

    Attributes
    ----------
    n_clips : int
        Number of clips, or of the windows of long ones.
    is_adapted : bool
        Whether they are enough: otherwise the head without enrolment predicts.
    shift : ndarray of float32, shape (n_features,)
        Estimated distance of the speaker's embeddings from those of the training speakers.
    """

    n_clips: int
    is_adapted: bool
    shift: NDArray[np.float32]


@dataclass(frozen=True)
class EnrolmentSummary:
    """The entry ``enrolment`` of ``bundle.json``."""

    parameters: Mapping[str, int | float]  #: Hyper-parameters of the second head.
    #: ``name``, ``layers`` and ``how``, as in :class:`~serpipe.pipeline.layers.Candidate`.
    layer: Mapping[str, Any]
    strength: float  #: Factor of the variance between speakers.
    fewest: int  #: With fewer clips the head without enrolment predicts.
    #: Numbers of clips, ascending, and the temperature of the probabilities with each; empty in
    #: bundles of earlier versions, which use the temperature of the bundle.
    numbers: Sequence[int] = ()
    temperatures: Sequence[float] = ()

    def temperature(self, n_clips: int) -> float | None:
        """Return the temperature of the largest number up to ``n_clips``; None if there is none."""
        below = [t for n, t in zip(self.numbers, self.temperatures, strict=True) if n <= n_clips]
        return below[-1] if below else None


@dataclass(frozen=True)
class BundleEnrolment:
    """The second head of a bundle, with what it needs to adapt to a speaker."""

    summary: EnrolmentSummary
    fitted: Head
    statistics: SpeakerStatistics

    @property
    def candidate(self) -> Candidate:
        """The layers that it uses."""
        return Candidate.of(self.summary.layer)

    def join(self, embeddings: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the embeddings of its layers, shape (n_clips, n_features)."""
        return self.candidate.join([embeddings[layer] for layer in self.candidate.layers])

    def profile(self, embeddings: Mapping[str, NDArray[np.float32]]) -> SpeakerProfile:
        """Estimate the shift of a speaker from the embeddings of enrolled clips, by layer."""
        X = self.join(embeddings)
        shift = self.statistics.shift(X, self.summary.strength)
        return SpeakerProfile(len(X), len(X) >= self.summary.fewest, shift)


def save_enrolment(folder: Path, enrolment: BundleEnrolment) -> tuple[str, ...]:
    """Write the files of a second head into a bundle, and return their names."""
    head, statistics = _head_name(type(enrolment.fitted)), enrolment.statistics
    enrolment.fitted.save(folder / head)
    content = io.BytesIO()
    stacked = np.stack([statistics.mean, statistics.between, statistics.within])
    np.lib.format.write_array(content, stacked, allow_pickle=False)
    write_bytes(folder / _STATISTICS, content.getvalue())
    return head, _STATISTICS


def enrolment_files(head: type[Head]) -> tuple[str, ...]:
    """Return the names of the files that :func:`save_enrolment` writes."""
    return _head_name(head), _STATISTICS


def load_enrolment(folder: Path, head: type[Head], entry: Mapping[str, Any]) -> BundleEnrolment:
    """Read what :func:`save_enrolment` wrote; no code in the files is run.

    Raise UserError if the head is damaged, and ValueError if the statistics are.
    """
    summary = from_json(EnrolmentSummary, entry)
    from_json(Candidate, summary.layer)
    if not summary.strength > 0 or summary.fewest < 1:
        raise ValueError("its strength or number of clips is not positive")
    if len(summary.numbers) != len(summary.temperatures):
        raise ValueError("it has not one temperature for each number of clips")
    if list(summary.numbers) != sorted(set(summary.numbers)):
        raise ValueError("its numbers of clips are not in order")
    if not all(0 < temperature < math.inf for temperature in summary.temperatures):
        raise ValueError("a temperature is not a positive number")
    try:
        content = io.BytesIO(read_bytes(folder / _STATISTICS, _MAX_BYTES))
        stacked = np.lib.format.read_array(content, allow_pickle=False)
    except OSError as error:
        raise UserError(
            f"{folder / _STATISTICS}: cannot be read ({error}); get the bundle again, or fit again"
        ) from None
    if stacked.ndim != 2 or len(stacked) != 3 or stacked.dtype != np.float64:
        raise ValueError(f"{_STATISTICS} is {stacked.dtype} of shape {stacked.shape}")
    if not np.isfinite(stacked).all() or (stacked[1:] < 0).any():
        raise ValueError(f"{_STATISTICS} has variances that are negative or not finite")
    fitted = head.load(folder / _head_name(head))
    return BundleEnrolment(summary, fitted, SpeakerStatistics(*stacked))


def _head_name(head: type[Head]) -> str:
    return f"enrolled_head{head.suffix}"
