"""Splits that keep every speaker, and every recording, on one side; and one that does not."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from ..corpora.csv_table import nfc, read_table
from ..corpora.emobox import EMOBOX_FOLDS
from ..corpora.standard_folds import STANDARD_FOLDS
from ..errors import UserError, counted
from ..features.recordings import check_recordings, recordings
from .groups import SPEAKER, Groups
from .hold_out_column import cross, divide_column, inner_parts
from .holdout import Indices, divide, read_shares
from .partition import partition_masks
from .split_kind import SplitKind as SplitKind

Table = Mapping[str, NDArray[Any]]

#: Folds among the training speakers, in which layer and hyper-parameters are chosen.
INNER_FOLDS = 5
SPLITS = (
    "loso|kfold:N|standard|emobox|file:FOLDS.csv|holdout:70/10/20|random:N|random:70/10/20|"
    "column:NAME|partition:TEST"
)
#: What to do where inner folds cannot be made.
_FIX = (
    "fix layer and hyper-parameters beforehand (--layers 3 --grid C=0.01), or extract clips of "
    "more speakers"
)


@dataclass(frozen=True)
class Fold:
    """One division of the clips.

    Attributes
    ----------
    name : str
        For leave-one-speaker-out, the speaker left out.
    train, test : ndarray of int
        Row numbers in the clip table.
    validation : ndarray of int, optional
        Those of ``train`` by which layer and hyper-parameters are chosen, where the split names
        them; the final fit includes them. None: inner folds of all training clips.
    held_out : ndarray of int, shape (n_train,), optional
        The part of a column that each training clip belongs to, where the fold holds out another
        part, as inner folds then should. None: inner folds hold out speakers only.
    """

    name: str
    train: Indices
    test: Indices
    validation: Indices | None = None
    held_out: Indices | None = None


def omit_from_tests(folds: Sequence[Fold], omitted: NDArray[np.bool_]) -> tuple[Fold, ...]:
    """Return folds that do not test some clips, without the folds that then test none.

    ``omitted``, shape (n_clips,), is whether each clip is one of them.
    """
    tested = (replace(fold, test=fold.test[~omitted[fold.test]]) for fold in folds)
    return tuple(fold for fold in tested if len(fold.test))


@dataclass(frozen=True)
class Split:
    """All folds of a protocol.

    Attributes
    ----------
    name : str
        As on the command line, such as ``"loso"``.
    title : str
        In words.
    folds : tuple of Fold
        Each clip is tested in exactly one, or only trained on.
    assumptions : tuple of str
        What was assumed or omitted, in words.
    """

    name: str
    title: str
    folds: tuple[Fold, ...]
    assumptions: tuple[str, ...] = ()

    @property
    def kind(self) -> SplitKind:
        """The kind of split."""
        return SplitKind.of(self.name)


def make_split(
    name: str,
    clips: Table,
    labels: NDArray[np.str_],
    seed: int = 0,
    groups: Groups | None = None,
) -> Split:
    """Divide clips into folds, and check them.

    Parameters
    ----------
    name : str
        ``"loso"`` leaves one speaker out at a time; ``"kfold:N"`` makes N folds grouped by speaker,
        stratified by label as far as the speakers allow; ``"standard"`` takes the folds of
        :mod:`serpipe.corpora.standard_folds`; ``"emobox"`` the folds published by EmoBox;
        ``"file:FOLDS.csv"`` those of a table with the columns ``fold`` and ``speaker`` or ``path``;
        ``"holdout:70/10/20"`` draws percentages of the speakers once, for training, validation and
        test; ``"random:N"`` and ``"random:70/10/20"`` divide clips, not speakers, to show by how
        much that inflates the scores; ``"column:NAME"`` divides the values of a column, such as
        the sentence, and shares speakers as well; ``"partition:TEST"`` takes the partitions that
        the corpus publishes, in the column ``split``.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table: ``speaker``, ``sha256``, ``path`` and ``corpus``.
    labels : ndarray of str, shape (n_clips,)
        What will be predicted.
    seed : int
        For ``kfold``, ``holdout`` and ``random``.
    groups : Groups, optional
        What ``loso``, ``kfold`` and ``holdout`` keep together; single speakers by default. Folds of
        the other splits are refused if they divide a group of a column that the user named.

    Returns
    -------
    Split

    Raises
    ------
    UserError
        If the name is not one of those, or :func:`check_folds` refuses.
    """
    kind, argument = SplitKind.of(name), name.partition(":")[2]
    if kind in (SplitKind.LOSO, SplitKind.STANDARD, SplitKind.EMOBOX) and name != kind:
        kind = SplitKind.OTHER
    groups = groups or Groups(clips["speaker"])
    n_groups = len(np.unique(groups.ids))
    if n_groups < 2:
        raise UserError(
            f"{n_groups} speaker in the cache; keeping speakers apart needs at least 2; "
            "extract clips of more speakers"
        )
    check_recordings(clips)
    tested = None
    if kind == SplitKind.LOSO:
        folds = tuple(
            Fold(str(groups.ids[test[0]]), train, test)
            for train, test in LeaveOneGroupOut().split(groups.ids, groups=groups.ids)
        )
        split = Split(name, f"leave one {groups.name} out, {len(folds)} folds", folds)
    elif kind == SplitKind.KFOLD:
        number = _number(name, argument, n_groups, f"{groups.name}s")
        folds = _grouped(labels, groups.ids, number, seed)
        split = Split(name, f"{number} folds grouped by {groups.name}, seed {seed}", folds)
    elif kind == SplitKind.EMOBOX:
        folds = _by_fold(_emobox(clips))
        split = Split(name, f"the {len(folds)} folds published by EmoBox", folds)
    elif kind == SplitKind.STANDARD:
        folds = _by_fold(_standard(clips))
        split = Split(name, f"the {len(folds)} standard folds of serpipe", folds)
    elif kind == SplitKind.FILE and argument:
        fold_of_clip, assumptions = _from_file(Path(argument), clips)
        folds = _by_fold(fold_of_clip)
        title = f"{len(folds)} folds of {Path(argument).name}"
        split = Split(name, title, folds, assumptions)
    elif kind == SplitKind.PARTITION:
        split = _of_partitions(name, clips)
        tested = split.folds[0].test
    elif kind.holds_out:
        split = _once(name, clips, labels, seed, groups)
        tested = split.folds[0].test
    elif kind == SplitKind.RANDOM_FOLDS:
        number = _number(name, argument, len(np.unique(recordings(clips))), "clips")
        folds = _grouped(labels, recordings(clips), number, seed)
        split = Split(name, f"{number} random folds that SHARE SPEAKERS, seed {seed}", folds)
    elif kind == SplitKind.COLUMN and argument:
        divided = divide_column(f"--split {name}", clips, argument, labels)
        folds = _by_fold(np.char.add(f"{argument} ", divided.parts.astype(str)))
        title = f"{len(folds)} folds by {argument} that SHARE SPEAKERS"
        split = Split(name, title, folds, divided.assumptions)
    else:
        raise UserError(f"--split {name}: expected {SPLITS}")
    respected = groups.chosen or kind.keeps_groups
    check_folds(split, clips, labels, tested, groups if respected else None)
    return split


def cross_corpus_split(
    clips: Table,
    labels: NDArray[np.str_],
    train_on: Sequence[str],
    test_on: Sequence[str],
    groups: Groups | None = None,
) -> Split:
    """Make a split that trains on some corpora and tests on others.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    labels : ndarray of str, shape (n_clips,)
        What will be predicted.
    train_on, test_on : sequence of str
        Names of corpora; none in both.
    groups : Groups, optional
        Must not be on both sides, if the user named the column.

    Returns
    -------
    Split
        One fold, in which only the clips of ``test_on`` are tested.

    Raises
    ------
    UserError
        If a recording or a speaker is on both sides.
    """
    check_recordings(clips)
    train = np.flatnonzero(np.isin(clips["corpus"], list(train_on)))
    test = np.flatnonzero(np.isin(clips["corpus"], list(test_on)))
    name = f"{'+'.join(train_on)}>{'+'.join(test_on)}"
    speakers = counted(len(np.unique(clips["speaker"][train])), "speaker")
    split = Split(
        f"cross:{name}",
        f"trained on {', '.join(train_on)} ({counted(len(train), 'clip')} of "
        f"{speakers}), tested on {', '.join(test_on)}",
        (Fold(name, train, test),),
    )
    check_folds(split, clips, labels, test, groups if groups and groups.chosen else None)
    return split


def check_inner_folds(
    folds: Sequence[Fold], labels: NDArray[np.str_], speakers: NDArray[np.str_]
) -> None:
    """Refuse folds in which no choice is possible, before any is fitted.

    Parameters
    ----------
    folds : sequence of Fold
        Of a split.
    labels, speakers : ndarray of str, shape (n_clips,)
        Of all clips.

    Raises
    ------
    UserError
        As :func:`selection_folds`, with the name of the fold.
    """
    for fold in folds:
        try:
            selection_folds(fold, labels[fold.train], speakers[fold.train])
        except UserError as error:
            raise UserError(f"fold {fold.name or 'of all speakers'}: {error}") from None


def selection_folds(
    fold: Fold, labels: NDArray[np.str_], speakers: NDArray[np.str_]
) -> tuple[Fold, ...]:
    """Return the divisions of a fold's training clips in which layer and parameters are chosen.

    Parameters
    ----------
    fold : Fold
        The fold.
    labels, speakers : ndarray of str, shape (n_train,)
        Of its training clips.

    Returns
    -------
    tuple of Fold
        The one that the split names, or else :func:`inner_folds`, which hold out a column where the
        fold does. Row numbers are among the training clips.

    Raises
    ------
    UserError
        If there would be one label to train on, or only one speaker to make inner folds of.
    """
    if fold.validation is None:
        folds = inner_folds(labels, speakers)
        parts = None if fold.held_out is None else inner_parts(fold.held_out, labels)
        if parts is None:
            return folds
        folds = cross(folds, "part", parts)
        _check_labels_inside(folds, labels)
        return folds
    chosen_by = np.isin(fold.train, fold.validation)
    inner = Fold("validation", np.flatnonzero(~chosen_by), np.flatnonzero(chosen_by))
    if len(np.unique(labels[inner.train])) < 2:
        raise UserError(
            "without its validation clips only one label is left to train on; "
            "draw others with --seed"
        )
    return (inner,)


def inner_folds(labels: NDArray[np.str_], speakers: NDArray[np.str_]) -> tuple[Fold, ...]:
    """Divide training clips again, by speaker, to choose layer and hyper-parameters.

    Parameters
    ----------
    labels, speakers : ndarray of str, shape (n_clips,)
        Of the training clips of one fold.

    Returns
    -------
    tuple of Fold
        Five, or one per speaker if there are fewer; stratified by label as far as the speakers
        allow. Row numbers are among the given clips.

    Raises
    ------
    UserError
        If there is only one speaker, or a fold would have one label to train on.
    """
    most = int(np.unique(labels, return_counts=True)[1].max())  # more folds than that are empty
    number = min(INNER_FOLDS, len(np.unique(speakers)), max(most, 2))
    if number < 2:
        raise UserError(
            f"one training speaker, {speakers[0]} (or one group of them); choosing layer and "
            f"hyper-parameters by inner folds needs at least 2; {_FIX}"
        )
    folds = _grouped(labels, speakers, number, seed=None)
    _check_labels_inside(folds, labels)
    return folds


def _check_labels_inside(folds: Sequence[Fold], labels: NDArray[np.str_]) -> None:
    if any(len(np.unique(labels[fold.train])) < 2 for fold in folds):
        raise UserError(
            f"an inner fold has one label to train on, as labels come from too few speakers; {_FIX}"
        )


def check_folds(
    split: Split,
    clips: Table,
    labels: NDArray[np.str_],
    tested: Indices | None = None,
    groups: Groups | None = None,
    held_out: tuple[str, NDArray[np.str_]] | None = None,
) -> None:
    """Refuse folds in which a recording, or unintentionally a speaker, is on both sides.

    Parameters
    ----------
    split : Split
        What to check.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table: ``speaker``, ``sha256`` and ``path``.
    labels : ndarray of str, shape (n_clips,)
        What will be predicted.
    tested : ndarray of int, optional
        Row numbers of the clips that must be tested; all by default.
    groups : Groups, optional
        What else must stay on one side.
    held_out : tuple of str and ndarray of str, shape (n_clips,), optional
        Name and values of a column that must also stay on one side.

    Raises
    ------
    UserError
        Names the fold and what two of its parts share. Also if the training, validation or test
        clips have only one label, or if a clip is not tested exactly once.
    """
    apart = {"recording": recordings(clips)}
    if held_out:
        apart = {held_out[0]: held_out[1], **apart}
    if groups and groups.name != SPEAKER and not split.kind.shares_speakers:
        apart = {groups.name: groups.ids, **apart}
    if not split.kind.shares_speakers:
        apart = {"speaker": clips["speaker"], **apart}
    for fold in split.folds:
        parts, fix = {"training": fold.train}, "extract clips of more speakers"
        sides = [(fold.train, fold.test)]
        if fold.validation is not None:
            rest = np.setdiff1d(fold.train, fold.validation)
            parts = {"training": rest, "validation": fold.validation, "test": fold.test}
            sides += [(rest, fold.validation), (fold.validation, fold.test)]
            fix += ", or draw others with --seed" if split.kind.draws_by_seed else ""
        for (one, other), (what, values) in product(sides, apart.items()):
            shared = np.intersect1d(values[one], values[other])
            if len(shared):
                pair = [clips["path"][rows][values[rows] == shared[0]][0] for rows in (one, other)]
                advice = "give its clips one fold, or remove them from one side"
                if what == "speaker" and split.kind == SplitKind.CROSS_CORPUS:
                    advice = (
                        "if its clips are of different people in each corpus, add "
                        "--speakers-per-corpus; otherwise omit the speaker from one"
                    )
                elif split.kind == SplitKind.PARTITION:
                    advice = (
                        "use --split loso or kfold:N, or omit its clips from one side (`serpipe "
                        "corpora table` writes a table for --manifest)"
                    )
                value = "" if what == "recording" else f"{shared[0]}: "
                raise UserError(
                    f"fold {fold.name}: the same {what} is on both sides ({value}{pair[0]} and "
                    f"{pair[1]}); {advice}"
                )
        for part, rows in parts.items():
            names = np.unique(labels[rows])
            if len(names) < 2:
                few = (
                    f"its {part} clips have only one label, {names[0]}"
                    if len(names)
                    else (f"it has no {part} clips")
                )
                raise UserError(f"fold {fold.name}: {few}; {fix}")
    in_folds = np.sort(np.concatenate([fold.test for fold in split.folds]))
    if not np.array_equal(in_folds, np.arange(len(labels)) if tested is None else tested):
        raise UserError("folds do not test every clip exactly once; correct them")


def _number(name: str, text: str, most: int, of: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= most:
        raise UserError(f"--split {name}: expected a number of folds from 2 to the {most} {of}")
    return int(text)


def _grouped(
    labels: NDArray[np.str_], groups: NDArray[np.str_], number: int, seed: int | None
) -> tuple[Fold, ...]:
    splitter = StratifiedGroupKFold(number, shuffle=seed is not None, random_state=seed)
    with warnings.catch_warnings():
        # That a label has fewer clips than there are folds: not every fold can test it.
        warnings.simplefilter("ignore", UserWarning)
        try:
            divided = list(splitter.split(labels, labels, groups))
        except ValueError as error:
            raise UserError(
                f"{number} folds cannot be made: {error}; use fewer folds or more clips"
            ) from None
    return tuple(
        Fold(str(n), train, test) for n, (train, test) in enumerate(divided, 1) if len(test)
    )


def _once(name: str, clips: Table, labels: NDArray[np.str_], seed: int, groups: Groups) -> Split:
    """Divide once by shares: groups of speakers, or, for ``random``, recordings."""
    shares = read_shares(name)
    by_speaker = SplitKind.of(name) == SplitKind.HOLDOUT
    ids = groups.ids if by_speaker else recordings(clips)
    strata = np.zeros(len(ids)) if by_speaker else labels
    number = len(np.unique(ids))
    if number < 3:
        raise UserError(
            f"--split {name}: {number} {f'{groups.name}s' if by_speaker else 'recordings'}; "
            "expected at least 3, one for each part; extract clips of more speakers"
        )
    train, validation, test = divide(ids, strata, shares, seed)
    units = ids if by_speaker else clips["path"]
    counts = [len(np.unique(units[part])) for part in (train, validation, test)]
    kind = (
        f"one split by {groups.name}"
        if by_speaker
        else "one random split that SHARES SPEAKERS, clips"
    )
    title = f"{kind}: {counts[0]} to train, {counts[1]} to choose, {counts[2]} to test, seed {seed}"
    fold = Fold("test", np.union1d(train, validation), test, validation)
    return Split(name, title, (fold,))


def _of_partitions(name: str, clips: Table) -> Split:
    """Train, choose and test by the partitions of the corpus."""
    train, validation, test = map(np.flatnonzero, partition_masks(name, clips))
    title = (
        f"the partitions of the corpus, clips: {len(train)} to train, {len(validation)} to choose, "
        f"{len(test)} to test ({name.partition(':')[2]})"
    )
    chosen_by = validation if len(validation) else None
    return Split(name, title, (Fold("test", np.union1d(train, validation), test, chosen_by),))


def _by_fold(fold_of_clip: NDArray[np.str_]) -> tuple[Fold, ...]:
    names = np.unique(fold_of_clip)
    if len(names) < 2:
        raise UserError("there is only one fold; at least 2 are needed to train and to test")
    return tuple(
        Fold(str(name), np.flatnonzero(fold_of_clip != name), np.flatnonzero(fold_of_clip == name))
        for name in names
    )


def _emobox(clips: Table) -> NDArray[np.str_]:
    fix = "use --split loso or kfold:N"
    corpora = np.unique(clips["corpus"]).tolist()
    if len(corpora) != 1 or corpora[0] not in EMOBOX_FOLDS:
        raise UserError(
            f"--split emobox: EmoBox has no speaker-independent folds for {', '.join(corpora)}, "
            f"only for {', '.join(EMOBOX_FOLDS)}; {fix}"
        )
    fold_of = {
        speaker: fold for fold, those in EMOBOX_FOLDS[corpora[0]].items() for speaker in those
    }
    ids = [speaker.removeprefix(f"{corpora[0]}:") for speaker in clips["speaker"].tolist()]
    speakers = set(ids)
    unmatched = sorted(speakers ^ set(fold_of))
    if unmatched:
        where = "not in the folds" if unmatched[0] in speakers else "not among the clips"
        raise UserError(
            f"--split emobox: speaker {unmatched[0]} is {where}; it needs "
            f"all {len(fold_of)} of {corpora[0]} and no others; {fix}"
        )
    return np.array([fold_of[speaker] for speaker in ids])


def _standard(clips: Table) -> NDArray[np.str_]:
    """Return the fold of each clip; several corpora each keep their own."""
    corpora = clips["corpus"].tolist()
    several = len(set(corpora)) > 1
    folds = []
    for corpus, speaker in zip(corpora, clips["speaker"].tolist(), strict=True):
        speaker_id = speaker.removeprefix(f"{corpus}:")
        try:
            fold = STANDARD_FOLDS[corpus](speaker_id)
        except (KeyError, ValueError):
            raise UserError(
                f"--split standard: no fold for speaker {speaker_id} of {corpus}; there are folds "
                f"for {', '.join(STANDARD_FOLDS)}; use --split loso or kfold:N"
            ) from None
        folds.append(f"{corpus}:{fold}" if several else fold)
    return np.array(folds)


def _from_file(path: Path, clips: Table) -> tuple[NDArray[np.str_], tuple[str, ...]]:
    """Read a table that gives the fold of each speaker or of each clip.

    Returns
    -------
    fold_of_clip : ndarray of str, shape (n_clips,)
    assumptions : tuple of str
        How the table was read, and how many of its rows were ignored.
    """
    table = read_table(path, ("path", "speaker", "fold"))
    columns = table.columns
    keys = [column for column in ("path", "speaker") if column in columns]
    if "fold" not in columns or not keys:
        raise UserError(
            f"{path}: has the columns {', '.join(columns)}; it needs fold and speaker, or fold "
            "and path"
        )
    key = keys[0]
    fold_of: dict[str, str] = {}
    for row in table.rows:
        value, fold = nfc(row.cells[key]), row.cells["fold"]
        if not fold or not value:
            raise UserError(f"{path}, line {row.line}: {key} or fold is empty; fill in both")
        if fold_of.setdefault(value, fold) != fold:
            raise UserError(f"{path}, line {row.line}: {value} is in two folds; give it one")
    values: Sequence[str] = [nfc(value) for value in clips[key].tolist()]
    missing = sorted(set(values) - set(fold_of))
    unknown = sorted(set(fold_of) - set(values))
    if missing:
        raise UserError(
            f"{path}: {key} {missing[0]} has no fold"
            + (f" (nor have {len(missing) - 1} others)" if missing[1:] else "")
            + (f"; the table has {unknown[0]!r}, which no clip has" if unknown else "")
            + f"; give every {key} of the cache one"
        )
    assumptions = [read_as] if (read_as := table.description()) else []
    if unknown:
        assumptions.append(
            f"{len(unknown)} of the {len(fold_of)} rows of {path.name} were not used: no clip has "
            f"the {key} {unknown[0]!r}" + (" and so on" if unknown[1:] else "")
        )
    return np.array([fold_of[value] for value in values]), tuple(assumptions)
