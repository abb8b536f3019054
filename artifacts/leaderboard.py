"""Entries of the leaderboard: JSON files whose scores are checked against their own counts.

``serpipe report --submit FILE`` writes one from a run. It holds the confusion matrix of each
speaker, so that whoever reads it can compute every score and interval again, as
:func:`check_entry` does. This shows that the numbers follow from the counts, not that the counts
follow from audio: the commands and hashes in the entry are for whoever repeats the experiment.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import CORPORA
from ..corpora.speakers import describe_similar, similar_speakers
from ..errors import UserError, counted
from ..files import read_bytes, write_text
from ..integrity import parse_json
from ..pipeline.groups import KEPT_TOGETHER
from ..pipeline.metrics import scores_of
from ..pipeline.split_kind import SplitKind
from ..pipeline.statistics import FEWEST_SPEAKERS, intervals
from ..pipeline.votes import shares_of
from ..schema import from_json
from .run.encoder_key import encoder_parts
from .run.results import RunResults

FORMAT_VERSION = 1
#: An entry can come from anybody: room for thousands of speakers.
MAX_BYTES = 8 << 20
MAX_LABELS = 100
_MAX_TEXT = 2000
_MAX_CLIPS = 10**9
#: Scores may differ by this much between versions of numpy and scipy: 0.0001 points.
_TOLERANCE = 1e-6
_HASH = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"://|\bwww\.|\S@\S+\.\w", re.IGNORECASE)
#: Splits that keep speakers apart and test every clip.
_SPLIT = re.compile(r"loso|standard|emobox|kfold:[1-9]\d{0,5}|file:.+")


@dataclass(frozen=True)
class Score:
    """A score from 0 to 1 and its 95 % interval, which is None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SpeakerResult:
    """The predictions for the clips of a speaker."""

    uar: float
    #: Counts by true and predicted label, in the order of the entry's labels.
    confusion_matrix: Sequence[Sequence[int]]


@dataclass(frozen=True)
class HeadResult:
    """The predictions of a head."""

    title: str
    scores: Mapping[str, Score]  #: ``uar``, ``accuracy`` and ``macro_f1``.
    speakers: Mapping[str, SpeakerResult]


@dataclass(frozen=True)
class FoldSpeakers:
    """The speakers of a fold."""

    test: Sequence[str]
    train: Sequence[str]


@dataclass(frozen=True)
class EncoderSource:
    """An encoder, as a cache records it."""

    encoder: str
    revision: str
    weights_sha256: str
    precision: str


@dataclass(frozen=True)
class Entry:
    """The content of an entry."""

    name: str  #: The user's name for the run; may be empty.
    corpus: str  #: Title of the data.
    target: str
    changes: Sequence[str]  #: Labels that were merged or dropped.
    labels: Sequence[str]
    clips: int
    clips_sha256: str  #: Hash of the tested clips and their labels.
    encoders: Sequence[EncoderSource]
    pooling: str
    split: str  #: As an option.
    split_title: str
    inner: str  #: How layer and hyper-parameters were chosen, in words.
    seed: int
    warnings: Sequence[str]  #: Marks of the run; an entry must have none.
    folds: Mapping[str, FoldSpeakers]
    #: By speaker, the group that folds keep together; empty where they keep speakers together.
    groups: Mapping[str, str]
    heads: Mapping[str, HeadResult]
    commands: Sequence[str]  #: Those that made the cache and the run.
    versions: Mapping[str, str]  #: Of serpipe and the packages that computed the numbers.
    #: What heads were trained on, in words; empty if that is clips with one label each.
    trained_on: str = ""

    @property
    def tested_speakers(self) -> set[str]:
        """The test speakers of all folds."""
        return {speaker for fold in self.folds.values() for speaker in fold.test}


def entry_of(results: RunResults) -> Entry:
    """Return the entry of a run.

    Raise UserError if the leaderboard does not take the run: see :func:`check_entry`.
    """
    summary = results.summary
    kind = summary.split_kind
    if not summary.labels or not kind.can_hold_out_column or summary.hold_out:
        what = summary.split_title if summary.labels else "a regression"
        raise UserError(
            f"{results.run}: is {what}; the leaderboard takes classification in folds that keep "
            "speakers apart and test every clip: loso, kfold:N, standard, emobox or file:FOLDS.csv"
        )
    if shares_of(results.clips, len(summary.labels)) is not None:
        raise UserError(
            f"{results.run}: predicts labels of --ratings; the leaderboard takes the labels of the "
            "corpus: fit without --ratings"
        )
    speaker, fold = results.clips["speaker"], results.clips["fold"]
    groups = results.clips.get(KEPT_TOGETHER)
    cache = summary.provenance.get("cache", {})
    commands = (each.get("command") for each in (cache, summary.provenance))
    entry = Entry(
        name=summary.given_name,
        corpus=summary.corpus,
        target=summary.target,
        changes=summary.changes,
        labels=summary.labels,
        clips=summary.clips,
        clips_sha256=summary.tested,
        encoders=[
            EncoderSource(*(str(key.get(field.name, "")) for field in fields(EncoderSource)))
            for key, _ in encoder_parts(summary.encoder)
        ],
        pooling=summary.pooling,
        split=summary.split,
        split_title=summary.split_title,
        inner=summary.inner,
        seed=summary.seed,
        warnings=summary.warnings,
        folds={
            name: FoldSpeakers(
                test=np.unique(speaker[fold == name]).tolist(),
                train=np.unique(speaker[fold != name]).tolist(),
            )
            for name in np.unique(fold).tolist()
        },
        groups={} if groups is None else dict(zip(speaker.tolist(), groups.tolist(), strict=True)),
        heads={name: _head_result(results, name) for name in results.heads},
        commands=[str(command) for command in commands if command],
        versions=dict(summary.provenance.get("versions", {})),
        trained_on=summary.trained_on,
    )
    check_entry(entry, str(results.run))
    try:
        _check_texts(asdict(entry))
    except ValueError as error:
        raise UserError(
            f"{results.run}: {error}, and the leaderboard refuses such text; correct it in the "
            "data, and make the run again"
        ) from None
    return entry


def _head_result(results: RunResults, head: str) -> HeadResult:
    return HeadResult(
        title=results.summary.heads[head].title,
        scores=_scores(results.by_speaker(head)),
        speakers={
            speaker: SpeakerResult(float(scores_of(counts).uar), counts.tolist())
            for speaker, counts in results.counts(head).items()
        },
    )


def _scores(by_cluster: NDArray[Any]) -> dict[str, Score]:
    """Score the counts of speakers, or of groups of them."""

    def end(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        key: Score(interval.value, end(interval.low), end(interval.high))
        for key, interval in intervals(by_cluster).items()
    }


def write_entry(path: Path, entry: Entry) -> None:
    """Write an entry as JSON, each row of a confusion matrix on one line.

    Raise UserError if it is larger than :func:`read_entry` accepts; nothing is written then.
    """
    content = {"serpipe_result": FORMAT_VERSION, **asdict(entry)}
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    flat = r"\[\n *([^\[\]{}]*?)\n *\]"  # a list without lists or objects inside
    text = re.sub(flat, lambda match: "[" + re.sub(r"\n *", " ", match[1]) + "]", text)
    if len(text.encode()) >= MAX_BYTES:
        raise UserError(
            f"{path}: would have {len(text.encode())} bytes; the leaderboard takes less than "
            f"{MAX_BYTES}; submit a run of fewer heads"
        )
    write_text(path, text + "\n")


def read_entry(path: Path) -> Entry:
    """Read and check an entry, which may come from anybody.

    Raise UserError if the file is too large, is no entry, or :func:`check_entry` refuses it.
    """
    try:
        content = parse_json(read_bytes(path, MAX_BYTES))
        if not isinstance(content, dict) or content.pop("serpipe_result", None) != FORMAT_VERSION:
            raise ValueError(f"it has no entry serpipe_result with the value {FORMAT_VERSION}")
        _check_texts(content)
        entry = from_json(Entry, content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path}: is not a result for the leaderboard ({reason}); write it with "
            "`serpipe report RUN --submit FILE`"
        ) from None
    check_entry(entry, str(path))
    return entry


def _check_texts(value: object) -> None:
    """Raise ValueError if a text in a JSON value is too long or cannot be printed."""
    for text in _texts(value):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise ValueError(f"{text[:40]!r} is too long or cannot be printed")


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in a JSON value, names of entries included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def check_entry(entry: Entry, source: str) -> None:
    """Check that the leaderboard can show an entry.

    Parameters
    ----------
    entry : Entry
        The entry.
    source : str
        Its file or run, for messages.

    Raises
    ------
    UserError
        If the run bears a mark; if a speaker, or a group of speakers, is on both sides of a fold;
        if the folds are not those of the split, or do not divide the speakers; if speaker ids
        differ only in spelling, or a known corpus has fewer speakers; if a label has no clips; if a
        score has no interval; or if a score does not follow from the confusion matrices.
    """
    problem = next(_problems(entry), None)
    if problem:
        raise UserError(
            f"{source}: {problem}; the leaderboard takes unmarked runs of at least "
            f"{FEWEST_SPEAKERS} speakers, as `serpipe report RUN --submit FILE` writes them"
        )


def _problems(entry: Entry) -> Iterator[str]:
    """Yield what is wrong with an entry; each check relies on those before it."""
    if entry.warnings:
        yield f"is marked {entry.warnings[0].partition(':')[0]}"
    if not _SPLIT.fullmatch(entry.split):
        yield f"its split {entry.split!r} does not keep speakers apart"
    n_labels = len(entry.labels)
    if not 2 <= n_labels <= MAX_LABELS or len(set(entry.labels)) < n_labels:
        yield f"has {n_labels} labels, or one twice; expected 2 to {MAX_LABELS}"
    if not entry.heads or not entry.encoders or not entry.commands or not entry.versions:
        yield "lacks heads, encoders, commands or versions"
    hashes = (entry.clips_sha256, *(each.weights_sha256 for each in entry.encoders))
    if not all(_HASH.fullmatch(each) for each in hashes):
        yield "has no SHA-256 hash of its clips or of the weights of an encoder"
    shown = (entry.corpus, entry.split_title, entry.pooling, *entry.heads, *entry.changes)
    shown += (*entry.versions.values(), *(each.encoder for each in entry.encoders))
    shown += (entry.trained_on,)
    if linked := next(filter(_ADDRESS.search, shown), None):  # Markdown would make it a link
        yield f"has the address of a page in {linked[:40]!r}"
    yield from _fold_problems(entry)
    yield from _speaker_problems(entry)
    for name, head in entry.heads.items():
        yield from (f"head {name}: {problem}" for problem in _head_problems(entry, head))
    clips = [_clips_by_label(head) for head in entry.heads.values()]
    if any(each != clips[0] for each in clips):
        yield "its heads were tested on different clips"
    for label, number in zip(entry.labels, np.sum(list(clips[0].values()), axis=0), strict=True):
        if not number:  # which would make chance look lower than it is
            yield f"has no clip of the label {label!r}"


def _fold_problems(entry: Entry) -> Iterator[str]:
    tests = [speaker for fold in entry.folds.values() for speaker in fold.test]
    tested = entry.tested_speakers
    if len(tests) > len(tested):
        yield f"tests speaker {max(tests, key=tests.count)!r} in several folds"
    if entry.groups and tested != entry.groups.keys():
        yield "groups other speakers than it tests"
    for name, fold in entry.folds.items():
        if not fold.test or not fold.train:
            yield f"fold {name!r} has no training or no test speakers"
        train, test = (
            {*side, *(entry.groups.get(each, each) for each in side)}
            for side in (fold.train, fold.test)
        )
        if shared := sorted(train & test):
            yield f"fold {name!r} has {shared[0]!r} in training and test"
        if {*fold.train, *fold.test} != tested:
            yield f"fold {name!r} is not trained on all speakers that it does not test"
    units = len(set(entry.groups.values()) or tested)
    kind, _, number = entry.split.partition(":")
    expected = {SplitKind.LOSO: units, SplitKind.KFOLD: int(number) if number.isdigit() else 0}
    n_folds = expected.get(SplitKind(kind), len(entry.folds))
    if len(entry.folds) != n_folds:
        yield f"has {counted(len(entry.folds), 'fold')}, but {entry.split} makes {n_folds}"


def _speaker_problems(entry: Entry) -> Iterator[str]:
    """Yield signs that one person is counted as several, which would narrow the intervals."""
    tested = entry.tested_speakers
    if similar := similar_speakers(tested):
        yield f"has speaker ids that differ only in spelling: {describe_similar(similar)}"
    for corpus in CORPORA.built_in.values():
        if entry.corpus == corpus.title and 0 < corpus.speakers < len(tested):
            yield f"tests {len(tested)} speakers; {corpus.title} has {corpus.speakers}"


def _head_problems(entry: Entry, head: HeadResult) -> Iterator[str]:
    if head.speakers.keys() != entry.tested_speakers:
        yield "has other speakers than the folds test"
    n = len(entry.labels)
    for speaker, result in head.speakers.items():
        rows = result.confusion_matrix
        cells = [cell for row in rows for cell in row]
        if len(rows) != n or any(len(row) != n for row in rows):
            yield f"the confusion matrix of speaker {speaker!r} is not {n} x {n}"
        if min(cells, default=0) < 0 or not 0 < sum(cells) <= _MAX_CLIPS:
            yield f"the counts of speaker {speaker!r} are negative, too large, or all zero"
        uar = float(scores_of(np.array(rows)).uar)
        if not math.isclose(result.uar, uar, abs_tol=_TOLERANCE):
            yield f"the UAR of speaker {speaker!r} is {result.uar}, its counts give {uar:.6f}"
    matrices: dict[str, Any] = {}
    for speaker in sorted(head.speakers):  # the sums of each speaker, or group of speakers
        unit = entry.groups.get(speaker, speaker)
        counts = np.array(head.speakers[speaker].confusion_matrix)
        matrices[unit] = matrices.get(unit, 0) + counts
    by_cluster = np.stack(list(matrices.values()))
    if by_cluster.sum() != entry.clips:
        yield f"counts {by_cluster.sum()} clips of {entry.clips}"
    expected_scores = _scores(by_cluster)
    if unknown := sorted(head.scores.keys() - expected_scores.keys()):
        yield f"has the score {unknown[0]!r}, which cannot be checked"
    for key, expected in expected_scores.items():
        stated = head.scores.get(key)
        if stated is None or stated.low is None or stated.high is None:
            yield f"{key} has no interval"
        elif not _same(stated, expected):
            yield f"{key} is {_text(stated)}, its counts give {_text(expected)}"


def _same(stated: Score, expected: Score) -> bool:
    ends = zip(asdict(stated).values(), asdict(expected).values(), strict=True)
    return all(b is not None and math.isclose(a, b, abs_tol=_TOLERANCE) for a, b in ends)


def _text(score: Score) -> str:
    low, high = ("none" if each is None else f"{each:.6f}" for each in (score.low, score.high))
    return f"{score.value:.6f} [{low}, {high}]"


def _clips_by_label(head: HeadResult) -> dict[str, list[int]]:
    """Return the number of clips of each label, by speaker."""
    return {
        speaker: [sum(row) for row in result.confusion_matrix]
        for speaker, result in head.speakers.items()
    }
