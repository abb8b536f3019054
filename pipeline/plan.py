"""Apply the protocol of a run to a cache: clips, labels, folds and layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choices import check_choice
from ..corpora.emotions import shared_word
from ..corpora.rater_rows import holds_counts
from ..errors import UserError, counted, listed
from ..features.cache import Cache
from ..features.perturbation import read_perturbations
from ..features.perturbed_cache import PerturbedCache
from ..features.recordings import recordings
from .contamination import contamination_mark
from .enrolment import check_clip_numbers
from .fit import Problem
from .folds import (
    INNER_FOLDS,
    Fold,
    Split,
    SplitKind,
    check_folds,
    cross_corpus_split,
    make_split,
    omit_from_tests,
)
from .groups import KEPT_TOGETHER, SPEAKER, crossed_columns, find_groups, recorded_together
from .heads import BEST, FUSE, Grid, combinations
from .hold_out_column import divide_column, hold_out_column, speakers_alone_inside
from .layers import Candidate, choose_layers
from .marks import Mark, MarkKind
from .measures import MEASURES
from .normalise import NORMALISATIONS, by_speaker
from .options import Protocol, TargetOptions
from .partition import in_partition
from .ratings import Agreement, Ratings, join_ratings, rows_of
from .speakers import identify_speakers
from .target import (
    DEFAULT,
    EMOTION,
    Target,
    choose_target,
    default_target,
    permute_within_speakers,
    stratify,
)
from .texts import known_texts
from .votes import (
    MAJORITY,
    OMIT,
    Votes,
    VotesOfClips,
    check_labels,
    join_votes,
    train_on_votes,
    votes_in,
)

#: One vocabulary for the emotions of all corpora.
SHARED = "shared_emotion"


@dataclass(frozen=True)
class Plan:
    """A protocol, applied to a cache.

    Attributes
    ----------
    protocol : Protocol
        What was requested.
    pooling : str
        The poolings that are used.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table of the clips that are used.
    target : Target
        Which clips are used, and their labels.
    split : Split
        The folds.
    candidates : tuple of Candidate
        The layers to choose from.
    problem : Problem
        What the heads are fitted to.
    marks : tuple of Mark
        What must be shown with every score.
    assumptions : tuple of str
        What was assumed without being specified, in words.
    findings : tuple of (str, str)
        Properties of clips and folds: the code of a check, as in docs/checks.md, and a description.
    group : str
        What folds keep together: ``"speaker"``, or a column that groups speakers.
    agreement : Agreement, optional
        That of the raters, if there are several.
    """

    protocol: Protocol
    pooling: str
    clips: Mapping[str, NDArray[Any]]
    target: Target
    split: Split
    candidates: tuple[Candidate, ...]
    problem: Problem
    marks: tuple[Mark, ...]
    assumptions: tuple[str, ...] = ()
    findings: tuple[tuple[str, str], ...] = ()
    group: str = SPEAKER
    agreement: Agreement | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """The marks as text."""
        return tuple(map(str, self.marks))

    @property
    def task(self) -> str:
        """``"classification"`` of labels, or ``"regression"`` of ratings."""
        return "classification" if self.target.labels.dtype.kind == "U" else "regression"

    @property
    def tested_clips(self) -> dict[str, NDArray[Any]]:
        """The clip table of the clips that are tested, shape (n_tested,) each."""
        return {name: column[self.problem.tested] for name, column in self.clips.items()}

    @property
    def tested_groups(self) -> list[str]:
        """The groups of speakers that are tested, if folds keep groups together."""
        groups = self.tested_clips.get(KEPT_TOGETHER, np.array([], str))
        return list(map(str, np.unique(groups).tolist()))

    @property
    def tested_labels(self) -> NDArray[Any]:
        """The labels or ratings of the clips that are tested, shape (n_tested,)."""
        return self.problem.labels[self.problem.tested]


def make_plan(cache: Cache, protocol: Protocol, ratings: Ratings | Votes | None = None) -> Plan:
    """Apply a protocol to a cache.

    Parameters
    ----------
    cache : Cache
        The embeddings and the clip table.
    protocol : Protocol
        The options of the run.
    ratings : Ratings or Votes, optional
        Ratings or labels from a separate file, to be joined to the clips as the target.

    Returns
    -------
    Plan

    Raises
    ------
    UserError
        If the cache does not hold what the protocol needs.
    """
    pooling = protocol.pooling or ",".join(cache.poolings)
    parts = pooling.split(",")
    if not set(parts) <= set(cache.poolings) or len(set(parts)) < len(parts):
        raise UserError(
            f"--pool {pooling}: {cache.path} holds {','.join(cache.poolings)} pooling; choose one "
            "of these, or extract again"
        )
    check_choice("--normalise", protocol.normalise, NORMALISATIONS)
    protocol = replace(
        protocol,
        enrol=check_clip_numbers("--enrol", protocol.enrol),
        augment=tuple(map(str, read_perturbations("--augment", protocol.augment))),
    )
    candidates = choose_layers(protocol.layers, cache.layers)
    table = dict(cache.clips)
    protocol, notes = with_defaults(table, protocol, ratings, str(cache.path))
    ratings = ratings or votes_in(table, protocol.target, cache.path)
    if ratings and protocol.target in table and ratings.by != "row":
        raise UserError(
            f"--target {protocol.target}: is already a column of {cache.path}; rename the "
            "column in the file of ratings"
        )
    votes = None
    agreement = ratings.agreement if ratings else None
    if isinstance(ratings, Votes):
        votes = _join_votes(ratings, table, protocol)
        agreement = votes.agreement
        table[protocol.target] = _majority(votes, protocol)
    elif ratings:
        table[protocol.target] = join_ratings(ratings, table)
    check_labels(protocol.labels, protocol.ties, protocol.target, votes)
    train_on, test_on = _corpora(table, protocol)
    # Votes are merged before the majority is taken, and must not be merged again.
    unmerged = replace(protocol, merge={}) if votes else protocol
    target = _target(table, unmerged, train_on, test_on, votes)
    if votes:
        target, votes = _describe(target, votes, table[protocol.target], protocol)
    if target.labels.dtype.kind == "f" and any(each.how == "weighted" for each in candidates):
        raise UserError(
            f"--layers {protocol.layers}: weights are learnt from labels, and {target.column} is "
            "a number; use single layers, mean or concat"
        )
    clips, assumptions, findings = _used_clips(table, target, protocol)
    groups = find_groups(clips, clips["speaker"], protocol.group)
    labels = target.labels
    compared = dict(clips)
    if holds_counts(cache.clips[EMOTION][target.rows].tolist()):
        del compared[EMOTION]  # raters need not agree, even on copies of a recording
    if train_on == test_on:
        split = make_split(protocol.split, compared, stratify(labels), protocol.seed, groups)
        if split.kind.holds_out:
            _check_tested(split, target)
    else:
        if protocol.hold_out is not None:
            raise UserError(
                f"--hold-out {protocol.hold_out}: omit it, as {', '.join(train_on)} train and "
                f"{', '.join(test_on)} are tested"
            )
        if protocol.split != Protocol.split:
            raise UserError(
                f"--split {protocol.split}: omit it, as {', '.join(train_on)} train and "
                f"{', '.join(test_on)} are tested"
            )
        split = cross_corpus_split(compared, stratify(labels), train_on, test_on, groups)
        if labels.dtype.kind == "f" and len(np.unique(labels[split.folds[0].test])) < 2:
            raise UserError(
                f"--test-on {','.join(test_on)}: every {target.column} is the same; rate more clips"
            )
    value_parts = None
    if (column := protocol.hold_out) is not None:
        if column == target.column:
            raise UserError(f"--hold-out {column}: is what is predicted; name another column")
        divided = divide_column(f"--hold-out {column}", clips, column, stratify(labels))
        split = hold_out_column(split, column, divided)
        respected = groups if groups.chosen or split.kind.keeps_groups else None
        check_folds(split, clips, stratify(labels), None, respected, (column, divided.values))
        value_parts = divided.parts
    marks = []
    if split.kind.shares_speakers:
        text = (
            f"{split.name} puts clips of the same speaker on both sides; these scores say nothing "
            "about a new speaker"
        )
        marks.append(Mark(MarkKind.INFLATED, text))
    if protocol.normalise == "speaker":
        text = (
            "each speaker's clips were standardised separately, test speakers included; these "
            "scores hold only if a whole set of a new speaker's clips is available"
        )
        marks.append(Mark(MarkKind.TRANSDUCTIVE, text))
    if protocol.permute_labels:
        labels = permute_within_speakers(labels, clips["speaker"], protocol.seed)
        if (labels == target.labels).all():
            raise UserError(
                f"--permute-labels: shuffling within speakers changes nothing, as each has one "
                f"{target.column}; choose another --target"
            )
        text = (
            "labels were shuffled within speakers; these scores show what the protocol gives "
            "without any information"
        )
        marks.append(Mark(MarkKind.PERMUTED_LABELS, text))
    findings += _crossed(clips, split, target)
    inner = None
    if groups.name != SPEAKER:
        inner = clips[KEPT_TOGETHER] = groups.ids
    problem = Problem(
        labels, clips["speaker"], split.folds, protocol.seed, inner, value_parts, recordings(clips)
    )
    if votes:
        clips |= votes.shares()
        if not _omits_ties(protocol):
            clips, target, split, problem = _on_votes(
                clips, target, split, problem, votes, protocol
            )
    alone = speakers_alone_inside(split.folds, problem.strata)
    if alone:
        assumptions = (
            *assumptions,
            f"for {alone} of {len(split.folds)} folds layer and hyper-parameters are chosen on "
            f"other speakers, but not on other values of {protocol.hold_out}: too few are left in "
            "their training clips",
        )
    tested = {name: column[problem.tested] for name, column in clips.items()}
    if contaminated := contamination_mark(str(cache.key.get("encoder", "")), tested):
        marks.append(contaminated)
    return Plan(
        protocol,
        pooling,
        clips,
        target,
        split,
        candidates,
        problem,
        tuple(marks),
        (*notes, *target.assumptions, *assumptions, *groups.assumptions, *split.assumptions),
        findings,
        groups.name,
        agreement,
    )


def _join_votes(
    votes: Votes, table: Mapping[str, NDArray[Any]], protocol: Protocol
) -> VotesOfClips:
    """Return the votes of raters for every clip; refuse options that exclude them."""
    if not _omits_ties(protocol):
        cause = f"--labels {protocol.labels}" if protocol.labels != MAJORITY else "--ties score"
        for option, given in (
            ("--enrol", bool(protocol.enrol)),
            ("--normalise", protocol.normalise != Protocol.normalise),
            ("--permute-labels", protocol.permute_labels),
        ):
            if given:
                raise UserError(f"{option}: cannot be combined with {cause}; omit one of the two")
    merge, keep = _words(protocol.target, protocol)
    return join_votes(votes, rows_of(votes, table), len(table["corpus"]), merge, keep)


def _omits_ties(protocol: Protocol) -> bool:
    """Whether clips without a majority are neither trained on nor scored."""
    return protocol.labels == MAJORITY and protocol.ties == OMIT


def _majority(votes: VotesOfClips, protocol: Protocol) -> NDArray[np.str_]:
    """Return the label of each clip by its majority; empty where there is none to use."""
    used = np.isin(votes.majority, votes.labels) & ~votes.tied
    if not _omits_ties(protocol):
        # A tied clip has no label of its own: any that it was given stands for it.
        used |= votes.tied & votes.counts.any(axis=1)
    labels = np.array(votes.labels)[votes.counts.argmax(axis=1)]
    return np.where(used, labels, "")


def _without_label(votes: VotesOfClips, labels: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Return which clips have votes and yet no label, from :func:`_majority`."""
    without: NDArray[np.bool_] = (votes.majority != "") & (labels == "")
    return without


def _describe(
    target: Target, votes: VotesOfClips, labels: NDArray[np.str_], protocol: Protocol
) -> tuple[Target, VotesOfClips]:
    """Add to a target what became of clips with votes but no label; return it and the votes."""
    of_clips = replace(votes.take(target.rows), majority=target.labels)
    of_clips = of_clips.over(np.unique(target.labels).tolist())
    omitted = _omits_ties(protocol)  # the target then counts those left out
    tied = int(votes.tied.sum()) if omitted else int(of_clips.tied.sum())
    trained = "not trained on" if protocol.labels == MAJORITY else "trained on"
    scored = "not tested" if protocol.ties == OMIT else "scored against all raters only"
    fate = "" if omitted else f" ({trained}, {scored})"
    notes = [f"{counted(tied, 'clip')} without a majority of raters{fate}"] if tied else []
    without = _without_label(votes, labels)
    dropped = int((without & ~votes.tied).sum() if omitted else without.sum())
    if dropped:
        notes.append(f"{counted(dropped, 'clip')} that most raters gave these labels left out")
    return replace(target, changes=(*votes.changes, *notes, *target.changes)), of_clips


def _on_votes(
    clips: Mapping[str, NDArray[Any]],
    target: Target,
    split: Split,
    problem: Problem,
    votes: VotesOfClips,
    protocol: Protocol,
) -> tuple[dict[str, NDArray[Any]], Target, Split, Problem]:
    """Give clips a row for each label that heads train on; test those with a majority."""
    rows, labels, weights, folds = train_on_votes(split.folds, votes, protocol.labels)
    tested = omit_from_tests(folds, votes.tied)
    n_clips = len(clips["speaker"])
    ties = np.concatenate([votes.tied, np.zeros(len(rows) - n_clips, bool)])

    def take(column: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if column is None else column[rows]

    problem = replace(
        problem,
        labels=labels,
        speakers=problem.speakers[rows],
        folds=tested if protocol.ties == OMIT else folds,
        groups=take(problem.groups),
        held_out=take(problem.held_out),
        recordings=take(problem.recordings),
        weights=weights,
        once=None if weights is None else np.arange(len(rows)) < n_clips,
        ties=None if protocol.ties == OMIT else ties,
    )
    target = replace(target, rows=target.rows[rows], labels=labels)
    split = replace(split, folds=tested)
    if not tested:
        raise UserError(
            f"--labels {protocol.labels}: no clip that is tested has a majority of raters; add "
            "raters"
        )
    if split.kind.holds_out:
        _check_tested(split, target)
    return {name: column[rows] for name, column in clips.items()}, target, split, problem


def plan_evaluation(table: Mapping[str, NDArray[Any]], options: TargetOptions) -> Plan:
    """Plan a run in which nothing is trained: every clip is tested, in one fold.

    Parameters
    ----------
    table : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    options : TargetOptions
        What is predicted.

    Returns
    -------
    Plan
        Without candidates.

    Raises
    ------
    UserError
        If the table does not hold what the protocol needs.
    """
    nothing_trained = Protocol(**vars(options), split=SplitKind.NOTHING_TRAINED.value)
    protocol, notes = with_defaults(table, nothing_trained)
    if protocol.target not in table:
        raise UserError(
            f"--target {protocol.target}: no such column; name one of labels or ratings among "
            f"{', '.join(table)}"
        )
    corpora = sorted(set(table["corpus"].tolist()))
    joined = None
    if votes := votes_in(table, protocol.target, Path("the clips")):
        joined = _join_votes(votes, table, protocol)
        table = {**table, protocol.target: _majority(joined, protocol)}
        protocol = replace(protocol, merge={})
    target = _target(table, protocol, corpora, corpora, joined)
    if joined:
        target, _ = _describe(target, joined, table[protocol.target], protocol)
    clips, assumptions, findings = _used_clips(table, target, protocol)
    fold = Fold("all", np.arange(0), np.arange(len(target.rows)))
    split = Split(protocol.split, "nothing trained, every clip tested", (fold,))
    problem = Problem(target.labels, clips["speaker"], split.folds, protocol.seed)
    assumed = (*notes, *target.assumptions, *assumptions)
    return Plan(protocol, "mean", clips, target, split, (), problem, (), assumed, findings)


def cross_corpus_protocols(
    cache: Cache, protocol: Protocol, ratings: Ratings | Votes | None = None
) -> tuple[Protocol, ...]:
    """Return a protocol for every pair of corpora, including each with itself, by the split.

    Parameters
    ----------
    cache : Cache
        A cache of several corpora.
    protocol : Protocol
        Their common options. Without ``keep``, all predict the labels that every corpus has, so
        that their scores can be compared.
    ratings : Ratings, optional
        Ratings of the target from a separate file.

    Returns
    -------
    tuple of Protocol

    Raises
    ------
    UserError
        If there is one corpus, or the corpora have fewer than two labels in common.
    """
    protocol, _ = with_defaults(cache.clips, protocol, ratings, str(cache.path))
    corpora = sorted(set(cache.clips["corpus"].tolist()))
    if len(corpora) < 2 or protocol.train_on or protocol.test_on:
        raise UserError(
            f"--cross-corpus: needs several corpora, and neither --train-on nor --test-on; "
            f"{cache.path} holds {', '.join(corpora)}; extract with --data DIR --data DIR2"
        )
    ratings = ratings or votes_in(cache.clips, protocol.target, cache.path)
    column = _column(cache.clips, protocol.target, corpora)
    keep, table = tuple(protocol.keep), dict(cache.clips)
    if is_votes := isinstance(ratings, Votes):
        table[column] = _majority(_join_votes(ratings, table, protocol), protocol)
    kind = table.get(column, table["path"]).dtype.kind
    if (is_votes or not ratings) and (kind == "U" or protocol.task == "labels"):
        merge, keep = _words(column, protocol)
        target = choose_target(table, column, {} if is_votes else merge, task=protocol.task)
        of_clip = cache.clips["corpus"][target.rows]
        by_corpus = [set(target.labels[of_clip == corpus].tolist()) for corpus in corpora]
        common = sorted(set.intersection(*by_corpus))
        if len(common) < 2 or not set(keep) <= set(common):
            raise UserError(
                f"--cross-corpus: {', '.join(corpora)} have {', '.join(common) or 'nothing'} in "
                "common; at least two labels are needed, which include those of --keep"
            )
        keep = keep or tuple(common)
    return tuple(
        replace(
            protocol,
            target=column,
            keep=keep,
            train_on=(a,),
            test_on=(b,),
            split=protocol.split if a == b else Protocol.split,
        )
        for a in corpora
        for b in corpora
    )


def _used_clips(
    table: Mapping[str, NDArray[Any]], target: Target, protocol: Protocol
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the clip table of the clips that are used, with one id per person.

    Returns
    -------
    clips : dict of str to ndarray, shape (n_used,)
    assumptions : tuple of str
    findings : tuple of (str, str)
    """
    clips = {name: column[target.rows] for name, column in table.items()}
    speakers = identify_speakers(
        clips,
        several_corpora=len(set(table["corpus"].tolist())) > 1,
        per_corpus=protocol.speakers_per_corpus,
        similar=protocol.similar_speakers,
    )
    clips["speaker"] = speakers.ids
    return clips, speakers.assumptions, speakers.findings


def _crossed(
    clips: Mapping[str, NDArray[Any]], split: Split, target: Target
) -> tuple[tuple[str, str], ...]:
    """Find columns with groups of speakers, or with texts, that are on both sides of a fold."""
    if split.kind.shares_speakers:
        return ()
    crossed = crossed_columns(clips, clips["speaker"], split.folds, (target.column,))
    findings = []
    for column, number in crossed.items():
        code = "SER020" if recorded_together(column) else "SER027"
        text = f"{column}: {number} of its groups of speakers are on both sides of a fold"
        findings.append((code, text))
    column, number = known_texts(clips, split.folds)
    if column and column != target.column:
        text = f"{column}: all {number} texts of the test clips are in the training clips as well"
        findings.append(("SER030", text))
    return tuple(findings)


def _check_tested(split: Split, target: Target) -> None:
    """Refuse test clips that lack a label, as their score would be over fewer labels."""
    tested = np.unique(target.labels[split.folds[0].test])
    remedy = "test on another partition"
    if split.kind.draws_by_seed:
        remedy = "draw others with --seed, give the test a larger share"
    if target.labels.dtype.kind == "f":
        if len(tested) < 2:
            raise UserError(
                f"--split {split.name}: every {target.column} that is tested is the same; "
                f"{remedy}, or rate more clips"
            )
        return
    missing = np.setdiff1d(target.labels, tested)
    if len(missing):
        raise UserError(
            f"--split {split.name}: no clip that is tested is {str(missing[0])!r}; {remedy}, or "
            "omit the label with --keep"
        )


def with_defaults(
    table: Mapping[str, NDArray[Any]],
    protocol: Protocol,
    ratings: Ratings | Votes | None = None,
    source: str = "the clips",
) -> tuple[Protocol, tuple[str, ...]]:
    """Return a protocol that names the target, and corpora as the clip table spells them.

    If the table holds several corpora, the default emotion is the shared one, even if a single
    corpus is used; ``emotion`` then means the words of that corpus.

    Parameters
    ----------
    table : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    protocol : Protocol
        The options of the run.
    ratings : Ratings, optional
        Ratings of the target from a separate file.
    source : str
        Where the table comes from, for messages.

    Returns
    -------
    protocol : Protocol
    notes : tuple of str
        What was chosen, if not the emotion.

    Raises
    ------
    UserError
        If a corpus is not in the table, or it has several columns to predict and no emotion.
    """
    corpora = sorted(set(table["corpus"].tolist()))
    train_on = _spelled("--train-on", protocol.train_on, corpora, source)
    test_on = _spelled("--test-on", protocol.test_on, corpora, source)
    protocol = replace(protocol, train_on=train_on, test_on=test_on)
    if protocol.target != DEFAULT:
        return protocol, ()
    if ratings:
        return replace(protocol, target=ratings.column), ()
    target, notes = default_target(table)
    one_of_several = len(corpora) > 1 == len({*train_on, *test_on})
    if target == EMOTION and one_of_several and (table.get(SHARED, np.array([""])) != "").any():
        target = SHARED
    return replace(protocol, target=target), notes


def is_regression(
    table: Mapping[str, NDArray[Any]], protocol: Protocol, ratings: Ratings | Votes | None = None
) -> bool:
    """Return whether the target is a column of ratings, and heads for ratings are needed."""
    target = with_defaults(table, protocol, ratings)[0].target
    if isinstance(ratings, Votes):
        return False
    number = ratings or table.get(target, table["path"]).dtype.kind == "f"
    return bool(number) and protocol.task != "labels"


def _spelled(
    option: str, corpora: Sequence[str], known: Sequence[str], source: str
) -> tuple[str, ...]:
    """Return names of corpora as the clip table spells them: ``EMO-DB`` is ``emodb``."""
    names = []
    for corpus in corpora:
        alike = [name for name in known if _letters(name) == _letters(corpus)]
        if corpus not in known and len(alike) != 1:
            raise UserError(
                f"{option} {corpus}: no such corpus in {source}; choose from {', '.join(known)}, "
                "or extract it with --data DIR --data DIR2"
            )
        names.append(corpus if corpus in known else alike[0])
    return tuple(names)


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _words(column: str, protocol: Protocol) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return ``merge`` and ``keep`` in the words of a column, such as anger for angry."""
    if column != SHARED:
        return dict(protocol.merge), tuple(protocol.keep)
    merge = {shared_word(old): shared_word(new) for old, new in protocol.merge.items()}
    return merge, tuple(map(shared_word, protocol.keep))


def _column(table: Mapping[str, NDArray[Any]], target: str, corpora: Sequence[str]) -> str:
    """Return the column that is predicted; several corpora only have the shared words in common."""
    return SHARED if target == EMOTION and len(corpora) > 1 and SHARED in table else target


def _corpora(
    table: Mapping[str, NDArray[Any]], protocol: Protocol
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the corpora to train on and to test on."""
    corpora = set(table["corpus"].tolist())
    train_on = tuple(sorted(set(protocol.train_on or protocol.test_on or corpora)))
    test_on = tuple(sorted(set(protocol.test_on))) or train_on
    both = sorted(set(train_on) & set(test_on))
    if both and set(train_on) != set(test_on):
        raise UserError(
            f"--train-on {','.join(train_on)} --test-on {','.join(test_on)}: {both[0]} is in both; "
            "name the same corpora, to be divided by --split, or different ones"
        )
    return (train_on, train_on) if both else (train_on, test_on)


def _target(
    table: Mapping[str, NDArray[Any]],
    protocol: Protocol,
    train_on: Sequence[str],
    test_on: Sequence[str],
    votes: VotesOfClips | None,
) -> Target:
    corpora = tuple(dict.fromkeys([*train_on, *test_on]))
    column = _column(table, protocol.target, corpora)
    used = np.isin(table["corpus"], corpora) & in_partition(protocol.split, table)
    if votes:
        used &= ~_without_label(votes, table[protocol.target])
    merge, keep = _words(column, protocol)
    target = choose_target(table, column, merge, keep, used, protocol.task)
    if set(train_on) == set(test_on):
        return target
    of_clip = table["corpus"][target.rows]
    by_side = [target.labels[np.isin(of_clip, side)] for side in (train_on, test_on)]
    for side, labels in zip((train_on, test_on), by_side, strict=True):
        if not len(labels):
            raise UserError(
                f"--target {protocol.target}: no clip of {', '.join(side)} has one; choose another "
                "target or corpus"
            )
    if target.labels.dtype.kind == "f":
        return target
    common = sorted(set(by_side[0]) & set(by_side[1]))
    unshared = sorted(set(by_side[0]) ^ set(by_side[1]))
    both = f"both {', '.join(train_on)} and {', '.join(test_on)}"
    if keep and unshared:
        raise UserError(
            f"--keep {','.join(keep)}: {unshared[0]} is not in {both}; their common labels are "
            f"{', '.join(common) or 'none'}"
        )
    if len(common) < 2:
        raise UserError(
            f"--target {protocol.target}: {both} have {', '.join(common) or 'no label'} in common; "
            "at least two are needed; choose another target or corpus"
        )
    return choose_target(table, column, merge, common, used, protocol.task) if unshared else target


def anything_to_choose(plan: Plan, grids: Sequence[Grid], combined: Sequence[str] = ()) -> bool:
    """Return whether a head, a layer, a weight or a hyper-parameter is chosen inside the folds."""
    most = max(len(combinations(grid)) for grid in grids)
    return bool(combined) or most * len(plan.candidates) > 1


def inner_title(plan: Plan, grids: Sequence[Grid], combined: Sequence[str] = ()) -> str:
    """Describe how head, layer, weights and hyper-parameters were chosen."""
    chosen = [f"head (for {BEST})"] if BEST in combined else []
    chosen += [f"weights (for {FUSE})"] if FUSE in combined else []
    if len(plan.candidates) > 1:
        chosen.append("layer")
    if any(len(combinations(grid)) > 1 for grid in grids):
        chosen.append("hyper-parameters")
    if not chosen:
        return "layer and hyper-parameters fixed beforehand"
    if (validation := plan.split.folds[0].validation) is not None:
        speakers = len(np.unique(plan.problem.speakers[validation]))
        return (
            f"{listed(chosen)} chosen by the {MEASURES[plan.task].title} of a validation "
            f"part, {counted(len(validation), 'clip')} of {counted(speakers, 'speaker')}; "
            "fitted again on that part, too"
        )
    folds, column = plan.split.folds, plan.protocol.hold_out
    is_held_out = column and speakers_alone_inside(folds, plan.problem.strata) < len(folds)
    also = f" and the values of {column} among them" if is_held_out else ""
    return (
        f"{listed(chosen)} chosen by inner cross-validation (up to {INNER_FOLDS} folds) on the "
        f"training speakers of each fold{also}, by {MEASURES[plan.task].title}"
    )


def read_candidate(
    candidate: Candidate,
    plan: Plan,
    cache: Cache,
    rows: NDArray[np.intp],
    copies: Sequence[PerturbedCache] = (),
) -> NDArray[np.float32]:
    """Read the embeddings of a candidate for the clips that are used, and for their copies.

    ``rows`` are those of the clips in the cache. Return what :meth:`Candidate.join` returns, with
    the rows of the copies after those of the clips, see :mod:`.augmentation`.
    """
    sources = [(cache, rows)]
    sources += [(each.cache, each.rows[plan.target.rows]) for each in copies]
    parts = [
        candidate.join([read_layer(source, layer, plan, rows) for layer in candidate.layers])
        for source, rows in sources
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)


def read_layer(cache: Cache, layer: str, plan: Plan, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Read a layer of the clips that are used, which are ``rows`` of the cache.

    Raise UserError if values are not finite.
    """
    X = cache.embeddings(layer, plan.pooling)[rows]
    _check_finite(X, cache, layer)
    return by_speaker(X, plan.problem.speakers) if plan.protocol.normalise == "speaker" else X


def read_rows(cache: Cache, layer: str, plan: Plan, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Read only some rows of a layer, by their row numbers in the cache."""
    poolings = cache.poolings_of(layer, plan.pooling)
    parts = [cache.read_rows(pooling, layer, rows) for pooling in poolings]
    X = np.concatenate(parts, axis=1).astype(np.float32, copy=False)
    _check_finite(X, cache, layer)
    return X


def _check_finite(X: NDArray[np.float32], cache: Cache, layer: str) -> None:
    if not np.isfinite(X).all():
        raise UserError(
            f"{cache.path}: layer {layer} holds values that are not finite numbers; extract again "
            "with --overwrite, in float32"
        )
