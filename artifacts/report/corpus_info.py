"""Tables on the known corpora, and on the content of their folders."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...corpora import CLIP_COLUMNS, CORPORA, Clip, Corpus, missing
from ...corpora.corpus import RaterRow
from ...corpora.data import Source
from ...corpora.scan import Scan
from ...features.survey import Surveyed
from ...files import json_value, write_text
from .report import Report
from .table import Table, as_csv_file

#: In place of a number that is not published, or differs between releases of a corpus.
_UNKNOWN = "not stated"


def list_corpora() -> Report:
    """Report the supported corpora, and how to get each."""
    notes = tuple(f"{each.title}: {each.access}" for each in CORPORA.values() if not each.archives)
    table = Table(
        "corpora",
        "Corpora",
        ("name", "title", "clips", "speakers", "labels", "language", "licence", "how to get it"),
        tuple(
            (each.name, each.title, str(sum(each.expected.values()) or _UNKNOWN),
             str(each.speakers or _UNKNOWN), str(len(each.expected or each.shared)), each.language,
             each.licence, "download" if each.archives else "ask its home page")
            for each in CORPORA.values()
        ),
        records=tuple(
            {"name": each.name, "title": each.title, "clips": sum(each.expected.values()) or None,
             "speakers": each.speakers or None, "labels": list(each.expected or each.shared),
             "language": each.language,
             "licence": each.licence, "access": each.access, "homepage": each.homepage,
             "citation": each.citation, "faults": list(each.faults)}
            for each in CORPORA.values()
        ),
    )  # fmt: skip
    return Report((), (), (table,), notes)


def describe_source(source: Source, scanned: Scan, surveyed: Sequence[Surveyed]) -> Report:
    """Compare the content of a folder with the release of its corpus.

    The report has facts, a table by emotion and one by speaker; faults are in the notes.
    ``surveyed`` are the decoded clips of ``scanned``.
    """
    corpus = source.corpus
    good = [each for each in surveyed if each.facts]
    bad = [*scanned.bad, *(each.error for each in surveyed if each.error)]
    seconds = np.array([each.facts.seconds for each in good if each.facts])
    copies = _copies(good)
    short = missing(scanned.clips, corpus)
    notes = [f"omitted: {count} x {what}" for what, count in scanned.omitted.items()]
    notes += [
        f"missing against the release: {of - n} of {of} {emotion}"
        for emotion, (n, of) in short.items()
    ]
    notes += [f"the same bytes: {', '.join(paths)}" for paths in copies]
    notes += [f"cannot be used: {error}" for error in bad]
    notes += [f"known fault of the release: {fault}" for fault in corpus.faults]
    length = (
        f"{seconds.sum() / 3600:.2f} hours, {seconds.min():.2f} to {seconds.max():.2f} s"
        if len(seconds)
        else "nothing"
    )
    return Report(
        (
            ("corpus", f"{source.title} ({corpus.name}), {corpus.language}"),
            ("folder", str(source.folder)),
            ("clips", _of_release(len(scanned.clips), corpus)),
            ("audio", length),
            ("rates", _counted(f"{each.facts.sampling_rate} Hz" for each in good if each.facts)),
            ("channels", _counted(str(each.facts.channels) for each in good if each.facts)),
            ("copies", str(sum(map(len, copies)))),
            ("unusable", str(len(bad))),
            ("licence", corpus.licence),
            ("citation", corpus.citation),
            ("home page", corpus.homepage),
        ),
        (),
        (_by_emotion(source, scanned.clips, short), _by_speaker(scanned.clips)),
        tuple(notes),
    )


def _of_release(clips: int, corpus: Corpus) -> str:
    """Compare a number of clips with that of the release, if it is known."""
    expected = sum(corpus.expected.values())
    return f"{clips} of {expected} of the release" if expected else str(clips)


def write_clip_table(surveyed: Sequence[Surveyed], out: Path) -> None:
    """Write the clip table of decoded clips as CSV, in their order.

    Clips that cannot be used have empty audio columns.
    """
    more = sorted({name for each in surveyed for name in each.clip.more})
    records = tuple(_record(each, more) for each in surveyed)
    write_text(out, as_csv_file(Table("clips", "Clips", tuple(records[0]), (), records=records)))


def write_rater_table(ratings: Iterable[RaterRow], out: Path) -> tuple[int, int]:
    """Write the ratings of single raters as CSV, in their order.

    Return the numbers of ratings written and omitted: further ratings of a clip by the same rater.
    """
    first: dict[tuple[str | float, ...], RaterRow] = {}
    total = 0
    for row in ratings:
        first.setdefault((row["name"], row["rater"]), row)
        total += 1
    records = tuple(first.values())
    columns = tuple(records[0]) if records else ()
    write_text(out, as_csv_file(Table("raters", "Ratings", columns, (), records=records)))
    return len(records), total - len(records)


def _record(each: Surveyed, more: Sequence[str]) -> dict[str, Any]:
    facts = each.facts
    return {
        **{name: getattr(each.clip, name) for name in CLIP_COLUMNS},
        **{name: json_value(each.clip.more.get(name, "")) for name in more},
        "seconds": facts.seconds if facts else "",
        "sampling_rate": facts.sampling_rate if facts else "",
        "channels": facts.channels if facts else "",
        "sha256": facts.sha256 if facts else "",
    }


def _by_emotion(source: Source, clips: Sequence[Clip], short: dict[str, Any]) -> Table:
    """Return the counts as in the literature: emotions by sex, with the total."""
    corpus = source.corpus
    counts = Counter((clip.emotion, clip.sex) for clip in clips)
    sexes = sorted({clip.sex for clip in clips})
    emotions = [*(corpus.expected or corpus.shared), "total"]

    def n(emotion: str, sex: str) -> int:
        return sum(
            number
            for (its, whose), number in counts.items()
            if emotion in (its, "total") and sex in (whose, "all")
        )

    expected = (
        {**corpus.expected, "total": sum(corpus.expected.values())} if corpus.expected else {}
    )
    return Table(
        "emotions",
        "Clips by emotion",
        ("emotion", "shared word", *sexes, "all", "in the release"),
        tuple(
            (emotion, corpus.shared.get(emotion, ""),
             *(str(n(emotion, sex)) for sex in [*sexes, "all"]), str(expected.get(emotion, "")))
            for emotion in emotions
        ),
        bold=frozenset((row, 3 + len(sexes) - 1) for row, emotion in enumerate(emotions)
                         if emotion in short),
        records=tuple(
            {"corpus": corpus.name, "emotion": emotion,
             "shared_emotion": corpus.shared.get(emotion, ""),
             **{sex: n(emotion, sex) for sex in sexes}, "all": n(emotion, "all"),
             "release": expected.get(emotion)}
            for emotion in emotions
        ),
    )  # fmt: skip


def _by_speaker(clips: Sequence[Clip]) -> Table:
    counts = Counter(clip.speaker for clip in clips)
    sex = {clip.speaker: clip.sex for clip in clips}
    emotions = Counter((clip.speaker, clip.emotion) for clip in clips)
    names = sorted({clip.emotion for clip in clips})
    return Table(
        "by_speaker",
        "Clips by speaker",
        ("speaker", "sex", "clips", *names),
        tuple(
            (speaker, sex[speaker], str(counts[speaker]),
             *(str(emotions[speaker, name]) for name in names))
            for speaker in sorted(counts)
        ),
        records=tuple(
            {"speaker": speaker, "sex": sex[speaker], "clips": counts[speaker],
             **{name: emotions[speaker, name] for name in names}}
            for speaker in sorted(counts)
        ),
    )  # fmt: skip


def _copies(good: Sequence[Surveyed]) -> list[list[str]]:
    paths = defaultdict(list)
    for each in good:
        if each.facts:
            paths[each.facts.sha256].append(each.clip.path)
    return [sorted(names) for names in paths.values() if len(names) > 1]


def _counted(values: Iterator[str] | Any) -> str:
    return ", ".join(f"{value} ({n})" for value, n in Counter(values).most_common()) or "none"
