"""Make docs/leaderboard.md from the entries in leaderboard/.

python docs/make_leaderboard.py          # checks all entries and writes the page
python docs/make_leaderboard.py --check  # only says whether the page is up to date

An entry whose scores do not follow from its own counts is refused, see
``serpipe.artifacts.leaderboard``.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from serpipe.artifacts.leaderboard import Entry, Score, read_entry
from serpipe.artifacts.report.baselines import BASELINES, Baseline, published_table
from serpipe.artifacts.report.report import markdown_table
from serpipe.artifacts.report.table import Table, escape_markdown
from serpipe.artifacts.score_text import percent_interval
from serpipe.corpora import CORPORA
from serpipe.errors import UserError
from serpipe.pipeline.measures import LABELS
from serpipe.pipeline.statistics import Interval

DOCS = Path(__file__).parent
PAGE = DOCS / "leaderboard.md"
ENTRIES = DOCS.parent / "leaderboard"
INTRODUCTION = """\
# Leaderboard

Results whose scores and intervals were computed again from the confusion matrix of each speaker,
which is in the file of the entry. To add yours:
[how to submit a result](how-to/submit-a-result.md). `make leaderboard` writes this page.

A table has one protocol: the same corpus, labels, number of clips and split. Scores are in %, over
all out-of-fold predictions, with 95 % [intervals](method.md#intervals) for other speakers. Layer,
hyper-parameters and weights of a fusion were chosen on the training speakers of each fold. *Clips*
is the beginning of a hash of the paths and labels of the tested clips: entries with the same hash
were tested on the same clips. Neither the order of the rows nor the overlap of their intervals
shows which of two entries is better: for runs on the same clips, `serpipe report RUN RUN` tests
that.
"""
#: Corpus, split, labels and number of clips: the scores of one protocol can be compared.
Protocol = tuple[str, str, frozenset[str], int]


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    try:
        text = page(ENTRIES)
    except UserError as error:
        sys.exit(str(error))
    if not arguments.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE}: does not show the entries in {ENTRIES}; run `make leaderboard`")


def page(folder: Path) -> str:
    """Return the page of all entries in a folder.

    Raise UserError if one of them is refused.
    """
    entries: dict[Protocol, list[tuple[str, Entry]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        entry = read_entry(path)
        key = (entry.corpus, entry.split, frozenset(entry.labels), entry.clips)
        entries[key].append((path.name, entry))
    published: dict[Protocol, list[Baseline]] = defaultdict(list)
    for each in BASELINES:
        published[CORPORA[each.corpus].title, each.split, each.labels, each.clips].append(each)
    # Protocols with entries come first.
    protocols = sorted(
        {*entries, *published}, key=lambda key: (key not in entries, key[0], key[1], key[3])
    )
    parts = (section(key, entries[key], published[key]) for key in protocols)
    return "\n".join([INTRODUCTION, *(line for part in parts for line in part)])


def section(
    protocol: Protocol, entries: Sequence[tuple[str, Entry]], published: Sequence[Baseline]
) -> Iterator[str]:
    """Yield the part of the page on one protocol."""
    corpus, split, labels, clips = protocol
    yield f"## {escape_markdown(f'{corpus}, {split}')}\n"
    title = escape_markdown(entries[0][1].split_title) if entries else "no entry yet"
    yield f"{clips} clips, {len(labels)} labels, chance {100 / len(labels):.1f}; {title}.\n"
    if entries:
        yield markdown_table(entries_table(entries))
    if published:
        yield "**Not reproduced**: published results for this protocol. Their source, and how they"
        yield "were made, is stated below the table.\n"
        yield markdown_table(published_table(published))


def entries_table(entries: Sequence[tuple[str, Entry]]) -> Table:
    """Return the heads of entries as a table, the highest UAR first."""
    heads = [
        (file, entry, name, head) for file, entry in entries for name, head in entry.heads.items()
    ]
    heads.sort(key=lambda each: (-each[3].scores[LABELS.key].value, each[0], each[2]))
    rows = (
        (
            " + ".join(each.encoder for each in entry.encoders),
            ", ".join(each.weights_sha256[:8] for each in entry.encoders),
            entry.pooling,
            f"{name}, trained on {entry.trained_on}" if entry.trained_on else name,
            *(_score_text(head.scores[key]) for key in LABELS.scores.values()),
            entry.clips_sha256[:8],
            "; ".join(entry.changes) or "none",
            entry.versions.get("serpipe", ""),
            f"`{file}`",
        )
        for file, entry, name, head in heads
    )
    header = ("encoder", "weights", "pooling", "head", *(f"{t} [95 %]" for t in LABELS.scores))
    return Table(
        "entries", "", (*header, "clips", "labels changed", "serpipe", "entry"), tuple(rows)
    )


def _score_text(score: Score) -> str:
    assert score.low is not None and score.high is not None  # read_entry refuses it otherwise
    return percent_interval(Interval(score.value, score.low, score.high))


if __name__ == "__main__":
    main()
