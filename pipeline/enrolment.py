"""Enrolment: a head for speakers of whom some clips are known, without their labels.

The head is fitted on embeddings from which the mean of each training speaker was subtracted. The
mean of a new speaker is estimated from the enrolled clips. Few clips say little, above all if they
are of one emotion, so the estimate is shrunk towards the mean of the training clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import UserError
from .fit import Problem
from .heads import HEADS, FusedHead, Head, Params
from .heads.fused import FusedMember

#: The most clips that enrolment is measured with.
MOST_CLIPS = 1000


def check_clip_numbers(option: str, given: Sequence[int]) -> tuple[int, ...]:
    """Return numbers of enrolled clips, each once and sorted.

    Raise UserError if one is not a whole number up to :data:`MOST_CLIPS`, or all are 0.
    """
    numbers = tuple(sorted(set(given)))
    text = ",".join(map(str, given))
    for number in numbers:
        if not 0 <= number <= MOST_CLIPS:
            raise UserError(
                f"{option} {text}: {number} is not a number of clips from 0 to {MOST_CLIPS}; give "
                "numbers joined by commas, such as 0,4,16"
            )
    if numbers and not any(numbers):
        raise UserError(f"{option} {text}: add a number above 0, such as 0,4,16")
    return numbers


@dataclass(frozen=True)
class SpeakerStatistics:
    """How embeddings vary between and within the training speakers.

    Attributes
    ----------
    mean : ndarray of float64, shape (n_features,)
        The mean of the training clips.
    between : ndarray of float64, shape (n_features,)
        The variance of the speakers' means, without what clips that vary contribute to it.
    within : ndarray of float64, shape (n_features,)
        The variance of the clips of a speaker.
    """

    mean: NDArray[np.float64]
    between: NDArray[np.float64]
    within: NDArray[np.float64]

    @classmethod
    def of(cls, X: NDArray[np.float32], speakers: NDArray[np.str_]) -> Self:
        """Estimate the statistics from training clips, by the method of moments.

        Parameters
        ----------
        X : ndarray of float32, shape (n_clips, n_features)
            Embeddings.
        speakers : ndarray of str, shape (n_clips,)
            Speakers of the clips.

        References
        ----------
        Searle, Casella & McCulloch (1992), *Variance components*, section 3.6: the analysis of
        variance of unbalanced data.
        """
        means, speaker_of_clip, clips = _speaker_means(X, speakers)
        n_clips, n_speakers = len(X), len(clips)
        mean: NDArray[np.float64] = X.mean(axis=0, dtype=np.float64)
        residuals = np.square(X - means[speaker_of_clip])
        within = residuals.sum(axis=0) / max(n_clips - n_speakers, 1)
        if n_speakers < 2:
            return cls(mean, np.zeros_like(within), within)
        of_means = (clips[:, None] * np.square(means - mean)).sum(axis=0) / (n_speakers - 1)
        clips_per_speaker = (n_clips - np.square(clips).sum() / n_clips) / (n_speakers - 1)
        between = np.maximum((of_means - within) / clips_per_speaker, 0)
        return cls(mean, between, within)

    def shift(self, clips: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
        """Estimate how far a speaker's mean is from that of the training clips.

        For ``strength`` 1 this is the posterior mean of each feature, with a normal distribution of
        speakers and of the clips of a speaker.

        Parameters
        ----------
        clips : ndarray of float32, shape (n_clips, n_features)
            Embeddings of the speaker's enrolled clips.
        strength : float
            Factor of the variance between speakers: above 1, the estimate is shrunk less.

        Returns
        -------
        ndarray of float32, shape (n_features,)

        References
        ----------
        Efron & Morris (1975), *Data analysis using Stein's estimator and its generalizations*,
        Journal of the American Statistical Association 70.
        """
        prior = strength * self.between
        total = prior + self.within / len(clips)
        share = np.divide(prior, total, out=np.zeros_like(prior), where=total > 0)
        distance = clips.mean(axis=0, dtype=np.float64) - self.mean
        return np.asarray(share * distance, np.float32)


def centre_speakers(
    X: NDArray[np.float32], speakers: NDArray[np.str_], mean: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return embeddings of training clips, moved so that each speaker's mean becomes ``mean``."""
    means, speaker_of_clip, _ = _speaker_means(X, speakers)
    return X - (means - mean).astype(np.float32)[speaker_of_clip]


@dataclass(frozen=True)
class MemberSpec:
    """A head, by name, that is to be fitted on one layer, and its weight in a fusion."""

    head: str
    layer: str
    params: Params
    weight: float = 1.0


@dataclass(frozen=True)
class HeadSpec:
    """What is to be fitted: a head on one layer, or a fusion of heads on several layers.

    Attributes
    ----------
    members : tuple of MemberSpec
        The members of the fusion, ordered by layer; otherwise the only head.
    is_fusion : bool
        Whether they are fused, by their weights.
    """

    members: tuple[MemberSpec, ...]
    is_fusion: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose embeddings are joined, in this order."""
        return tuple(dict.fromkeys(member.layer for member in self.members))

    def join(
        self, embeddings: Mapping[str, NDArray[np.float32]], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Return the joined embeddings of some clips, shape (len(rows), n_features)."""
        return np.concatenate([embeddings[layer][rows] for layer in self.layers], axis=1)

    def head(self, widths: Mapping[str, int], seed: int, *, for_many_clips: bool = False) -> Head:
        """Return the unfitted head for joined embeddings.

        Parameters
        ----------
        widths : mapping of str to int
            Number of features of each layer.
        seed : int
            For heads that draw random numbers.
        for_many_clips : bool
            Whether to use :meth:`Head.for_many_clips`.
        """
        starts, start = {}, 0
        for layer in self.layers:
            starts[layer] = start
            start += widths[layer]
        heads = []
        for each in self.members:
            of_name = HEADS[each.head]
            make = of_name.for_many_clips if for_many_clips else of_name
            heads.append(make(each.params, seed))
        if not self.is_fusion:
            return heads[0]
        members = [
            FusedMember(
                head, starts[each.layer], starts[each.layer] + widths[each.layer], each.weight
            )
            for head, each in zip(heads, self.members, strict=True)
        ]
        return FusedHead({}, seed, members)


def fit_enrolled(
    head: Head, X: NDArray[np.float32], problem: Problem, rows: NDArray[np.intp]
) -> SpeakerStatistics:
    """Fit a head, in place, on embeddings without the means of the speakers.

    It then predicts the clips of a speaker after :meth:`SpeakerStatistics.shift` was subtracted.
    Of joined layers each has its own shift, as every feature has.

    Parameters
    ----------
    head : Head
        What to fit.
    X : ndarray of float32, shape (n_train, n_features)
        Embeddings of the training clips.
    problem : Problem
        Labels, speakers and groups of all clips.
    rows : ndarray of int, shape (n_train,)
        Row numbers of the training clips among all clips.

    Returns
    -------
    SpeakerStatistics
        Of the training speakers.
    """
    speakers = problem.speakers[rows]
    statistics = SpeakerStatistics.of(X, speakers)
    centred = centre_speakers(X, speakers, statistics.mean)
    with threadpool_limits(1):  # the last digits depend on it
        head.fit(centred, problem.labels[rows], problem.kept_together[rows])
    return statistics


def _speaker_means(
    X: NDArray[np.float32], speakers: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Return the mean of each speaker, the speaker of each clip, and the number of their clips."""
    names, speaker_of_clip, clips = np.unique(speakers, return_inverse=True, return_counts=True)
    means = [
        X[speaker_of_clip == number].mean(axis=0, dtype=np.float64) for number in range(len(names))
    ]
    return np.stack(means), speaker_of_clip, clips
