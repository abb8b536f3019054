"""Labels that several raters gave: counts, majorities, agreement, and training on all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choices import LABELS, TIES, check_choice
from ..corpora.rater_rows import decode_counts
from ..errors import UserError, counted
from .folds import Fold
from .ratings import Agreement

#: The value of ``--labels`` for training on the majority alone.
MAJORITY = "majority"
#: The value of ``--ties`` for leaving clips without a majority out of all scores.
OMIT = "omit"
#: What a column of ``clips.csv`` with the share of a label begins with.
SHARE = "share_of_raters_"


@dataclass(frozen=True)
class Votes:
    """One column of labels, by one or more raters."""

    path: Path  #: The file, for messages.
    #: What identifies the clips: ``"name"`` or ``"path"``; or ``"row"``, the number of the row, for
    #: votes that are in the clip table itself.
    by: str
    column: str
    #: Name or path of each clip to how many raters gave it each label, in the order of the rows.
    counts: Mapping[str, Mapping[str, int]]
    agreement: Agreement | None  #: From :func:`alpha_of`.
    description: str = ""  #: How the file was read, in one line; empty if that is obvious.

    @property
    def clips(self) -> tuple[str, ...]:
        """Name or path of each clip."""
        return tuple(self.counts)


@dataclass(frozen=True)
class VotesOfClips:
    """The votes for the clips of a cache, over the labels that are predicted."""

    labels: tuple[str, ...]  #: Sorted.
    #: How many raters gave each label, int, shape (n_clips, n_labels).
    counts: NDArray[np.intp]
    #: The label that most raters gave; the first of them where several did; empty without votes.
    majority: NDArray[np.str_]
    #: Whether several labels have the most votes, bool, shape (n_clips,).
    tied: NDArray[np.bool_]
    changes: tuple[str, ...] = ()  #: What was left out, in words.
    agreement: Agreement | None = None  #: On the labels after merging, from :func:`alpha_of`.

    def take(self, rows: NDArray[np.intp]) -> "VotesOfClips":
        """Return those of some clips."""
        return replace(
            self, counts=self.counts[rows], majority=self.majority[rows], tied=self.tied[rows]
        )

    def over(self, labels: Sequence[str]) -> "VotesOfClips":
        """Return the votes for some of the labels only."""
        left = np.isin(self.labels, labels)
        names = tuple(np.array(self.labels)[left].tolist())
        return replace(self, labels=names, counts=self.counts[:, left])

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Return the share of raters who gave each label, by name of a column of the clip table."""
        total = self.counts.sum(axis=1, keepdims=True)
        share = self.counts / np.maximum(total, 1)
        return dict(zip(share_columns(len(self.labels)), share.T, strict=True))


def votes_in(clips: Mapping[str, NDArray[Any]], column: str, source: Path) -> Votes | None:
    """Return the votes that a clip table holds, from a manifest with a row for each rater.

    None if the column does not hold the labels of several raters. ``source`` is the file of the
    table, for messages.
    """
    if column not in clips or clips[column].dtype.kind != "U":
        return None
    counts = {}
    for row, text in enumerate(clips[column].tolist()):
        if text:
            of_clip = decode_counts(text)
            if of_clip is None:
                return None
            counts[str(row)] = of_clip
    return Votes(source, "row", column, counts, alpha_of(list(counts.values()))) if counts else None


def alpha_of(counts: Sequence[Mapping[str, int]]) -> Agreement | None:
    """Return Krippendorff's alpha for nominal labels, from the votes of each clip.

    Return None if fewer than two clips have two votes, or the package krippendorff is not
    installed. It is NaN if all labels are the same.

    References
    ----------
    Krippendorff (2004), *Content Analysis*, chapter 11.
    """
    rated = [each for each in counts if sum(each.values()) >= 2]
    if len(rated) < 2 or find_spec("krippendorff") is None:
        return None
    import krippendorff

    labels = sorted({label for each in rated for label in each})
    table = np.array([[each.get(label, 0) for label in labels] for each in rated])
    alpha = math.nan
    if len(labels) > 1:
        alpha = float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal"))
    raters = float(table.sum() / len(table))
    return Agreement(math.nan, math.nan, "Krippendorff's alpha", raters, len(rated), alpha)


def join_votes(
    votes: Votes,
    rows: Mapping[str, int],
    n_clips: int,
    merge: Mapping[str, str],
    keep: Sequence[str],
) -> VotesOfClips:
    """Return the votes for every clip of a cache.

    Parameters
    ----------
    votes : Votes
        The votes.
    rows : mapping of str to int
        The row in the cache of each clip of ``votes``.
    n_clips : int
        Number of clips of the cache.
    merge, keep
        As for :func:`~serpipe.pipeline.target.choose_target`. Votes are merged before the majority
        is taken. Votes for a label that is not kept, or is the majority of no clip, are left out
        after that, so that they do not make another label the majority.

    Raises
    ------
    UserError
        If no rater gave a label that is to be merged, or no label to keep is the majority of a
        clip.
    """
    given = sorted({label for counts in votes.counts.values() for label in counts})
    for old in merge:
        if old not in given:
            raise UserError(
                f"--map {old}={merge[old]}: no rater gave {old!r}; choose from {', '.join(given)}"
            )
    labels = sorted({merge.get(label, label) for label in given})
    counts = np.zeros((n_clips, len(labels)), np.intp)
    for clip, of_clip in votes.counts.items():
        for label, number in of_clip.items():
            counts[rows[clip], labels.index(merge.get(label, label))] += number
    voted = counts.sum(axis=1) > 0
    best = counts.max(axis=1, keepdims=True)
    tied = voted & ((counts == best).sum(axis=1) > 1)
    majority = np.where(voted, np.array(labels)[counts.argmax(axis=1)], "")
    predicted = set(majority[voted & ~tied].tolist()) & set(keep or labels)
    if not predicted:
        kept = f" for a label of --keep {','.join(keep)}" if keep else ""
        raise UserError(
            f"{votes.path}: no clip has a majority of raters{kept}; add raters, or change --keep "
            "or --map"
        )
    left = np.isin(labels, sorted(predicted))
    omitted = counts[:, ~left].sum()
    changes = [f"{old} counted as {new}" for old, new in merge.items()]
    if omitted:
        names = ", ".join(np.array(labels)[~left].tolist())
        changes.append(f"{counted(int(omitted), 'vote')} for {names} left out")
    agreement = votes.agreement
    if merge:
        agreement = alpha_of([dict(zip(labels, row, strict=True)) for row in counts.tolist()])
    joined = VotesOfClips(tuple(labels), counts, majority, tied, tuple(changes), agreement)
    return joined.over(sorted(predicted))


def weights_of(counts: NDArray[np.intp], labels: str) -> NDArray[np.float64]:
    """Return the weight of each label of each clip, float64, shape as ``counts``.

    Parameters
    ----------
    counts : ndarray of int, shape (n_clips, n_labels)
        Votes; at least one for each clip.
    labels : {"soft", "all"}
        ``soft``: the share of raters who gave the label; the weights of a clip sum to 1. ``all``:
        in proportion to the number of raters who gave it; the weights of a clip sum to 1 on
        average, and to more if more raters labelled it.
    """
    totals = counts.sum(axis=1, keepdims=True)
    weights: NDArray[np.float64] = counts / (totals if labels == "soft" else totals.mean())
    return weights


def train_on_votes(
    folds: Sequence[Fold], votes: VotesOfClips, labels: str
) -> tuple[NDArray[np.intp], NDArray[np.str_], NDArray[np.float64] | None, tuple[Fold, ...]]:
    """Give clips a row for each label that raters gave, with a weight.

    The first rows are the clips, with the majority as their label. The rows after them are only
    trained on, in the folds that train on their clip.

    Parameters
    ----------
    folds : sequence of Fold
        The folds of the clips.
    votes : VotesOfClips
        Their votes.
    labels : {"majority", "soft", "all"}
        As for :func:`weights_of`; or the majority alone, where clips without one are not trained
        on.

    Returns
    -------
    clips : ndarray of int, shape (n_rows,)
        The clip of each row.
    labels : ndarray of str, shape (n_rows,)
        The label of each row.
    weights : ndarray of float64, shape (n_rows,)
        The weight of each row; None for the majority.
    folds : tuple of Fold
        The folds of the rows.
    """
    n, names = len(votes.majority), np.array(votes.labels)
    own = np.searchsorted(names, votes.majority)
    others = (votes.counts > 0) & (labels != MAJORITY)
    others[np.arange(n), own] = False
    clip, label = np.nonzero(others)
    rows, codes = np.concatenate([np.arange(n), clip]), np.concatenate([own, label])
    weights = None if labels == MAJORITY else weights_of(votes.counts, labels)[rows, codes]

    def extend(of_fold: NDArray[np.intp]) -> NDArray[np.intp]:
        if labels == MAJORITY:
            return of_fold[~votes.tied[of_fold]]
        return np.concatenate([of_fold, n + np.flatnonzero(np.isin(clip, of_fold))])

    extended = []
    for fold in folds:
        train, held_out = extend(fold.train), fold.held_out
        if held_out is not None:
            part = np.zeros(n, held_out.dtype)
            part[fold.train] = held_out
            held_out = part[rows[train]]
        validation = None if fold.validation is None else extend(fold.validation)
        extended.append(Fold(fold.name, train, fold.test, validation, held_out))
    return rows, names[codes], weights, tuple(extended)


def check_labels(labels: str, ties: str, target: str, votes: object) -> None:
    """Raise UserError if ``--labels`` or ``--ties`` needs votes that are not there."""
    check_choice("--labels", labels, LABELS)
    check_choice("--ties", ties, TIES)
    for option, value, default in (("--labels", labels, MAJORITY), ("--ties", ties, OMIT)):
        if value != default and votes is None:
            raise UserError(
                f"{option} {value}: {target} does not hold the labels of several raters, in "
                "words; give them with --ratings or in the manifest, a row for each clip and rater"
            )


def share_columns(n_labels: int) -> list[str]:
    """Return the names of the columns with the shares of raters, in the order of the labels."""
    return [f"{SHARE}{n}" for n in range(n_labels)]


def shares_of(clips: Mapping[str, NDArray[Any]], n_labels: int) -> NDArray[np.float64] | None:
    """Return the shares of raters in a clip table, shape (n_clips, n_labels); None without any."""
    columns = share_columns(n_labels)
    if not columns or not set(columns) <= set(clips):
        return None
    return np.stack([clips[column].astype(np.float64) for column in columns], axis=1)
