"""Any labelled audio: a CSV table with a row for each clip."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError, counted
from ..remote import Location
from .clip import CLIP_COLUMNS, FILLED_COLUMNS, Clip
from .clip_paths import ClipFolder, ClipPath
from .csv_table import nfc, read_column, read_table, refuse_lines
from .emotions import SHARED_EMOTIONS, shared_word
from .rater_rows import RATER, merge_raters
from .table_formats import is_dataset, read_dataset

#: Columns of a cache that a manifest cannot give.
RESERVED = ("label", "fold", *FILLED_COLUMNS)
_COLUMN = re.compile(r"[^\W\d_]\w*")


@dataclass(frozen=True)
class Manifest:
    """The clips of a table, in the order of its rows."""

    clips: tuple[Clip, ...]
    #: The name of the table.
    name: str
    #: How the table was read, in one line; empty if there is nothing to say.
    description: str = ""


def read_manifest(path: Path, root: Location | None = None) -> Manifest:
    """Read the clips that a manifest lists.

    It is a table as :func:`~serpipe.corpora.csv_table.read_table` reads it, or a dataset as
    :func:`~serpipe.corpora.table_formats.read_dataset` does, with the columns
    ``path`` and ``speaker``, and one or more targets. A column of numbers holds ratings; any other
    holds labels. ``name``, ``corpus``, ``sex``, ``emotion``, ``language``, ``intensity``,
    ``statement`` and ``repetition`` have the meaning of the fields of :class:`Clip`. With a column
    ``rater``, a clip may have a row for each of its raters, see
    :func:`~serpipe.corpora.rater_rows.merge_raters`.

    ``root`` is the folder that paths are relative to, by default that of the manifest. No path may
    lead out of it. On a web server, missing clips are noticed only when they are read. The
    UserError names each line that cannot be used, at most ten.
    """
    if is_dataset(path):
        table, own_root = read_dataset(path)
    else:
        table, own_root = read_table(path, (*CLIP_COLUMNS, *RESERVED, RATER)), path.parent
    columns = table.columns
    for needed in ("path", "speaker"):
        if needed not in columns:
            raise UserError(
                f"{path}: columns {', '.join(columns)}; expected path, speaker and a target; add "
                f"{needed}"
            )
    table = merge_raters(table)
    columns = table.columns
    more = [column for column in columns if column not in CLIP_COLUMNS]
    for column in columns:
        if column in RESERVED or not _COLUMN.fullmatch(column):
            raise UserError(
                f"{path}: column {column!r} cannot be used; rename it, with letters, digits and _ "
                f"only, to none of {', '.join(RESERVED)}"
            )
    if not more and "emotion" not in columns:
        raise UserError(
            f"{path}: columns {', '.join(columns)}; there is no target; add a column such as "
            "emotion or fatigue"
        )
    wrong: list[str] = []
    values = {column: read_column(table, column, wrong) for column in more}
    folder = ClipFolder((root or own_root).resolve())
    files = [folder.find(row.cells["path"]) for row in table.rows]
    dropped = Counter(each.dropped for each in files if each.dropped)
    usual = max(dropped, key=lambda each: dropped[each], default=None)
    first: dict[tuple[str, str], tuple[int, str]] = {}
    clips = []
    for number, (row, each) in enumerate(zip(table.rows, files, strict=True)):
        cells = row.cells
        where = f"{path}, line {row.line}"
        name = cells.get("name") or nfc(Path(each.relative).stem)
        corpus = cells.get("corpus") or nfc(table.name)
        if not cells["path"] or not cells["speaker"]:
            wrong.append(f"{where}: path or speaker is empty; fill it")
        elif each.leads_out:
            wrong.append(
                f"{where}: {cells['path']} leads out of {folder.folder}; give the folder above all "
                "clips with --data DIR"
            )
        elif not each.is_file:
            wrong.append(f"{where}: {folder.file(each.relative)}: no such file; correct the path")
        elif each.dropped != usual and each.dropped:
            wrong.append(
                f"{where}: {cells['path']}: no such file below {folder.folder}, which replaces "
                f"{usual} in other lines; copy it there, or correct the path"
            )
        elif (corpus, name) in first:
            line, earlier = first[corpus, name]
            remedy = "give each clip a name of its own in a column name"
            if earlier == each.relative:
                remedy = f"remove one, or add a column {RATER} if several people labelled it"
            wrong.append(f"{where}: clip {name} is already in line {line}; {remedy}")
        else:
            first[corpus, name] = row.line, each.relative
            known = {field: cells[field] for field in _FIELDS if cells.get(field)}
            emotion = shared_word(known.get("emotion", "").lower())
            clips.append(
                Clip(
                    file=folder.file(each.relative),
                    path=each.relative,
                    name=name,
                    corpus=corpus,
                    shared_emotion=emotion if emotion in SHARED_EMOTIONS else "",
                    speaker_id=cells["speaker"],
                    more={column: values[column][number] for column in more},
                    **known,
                )
            )
    refuse_lines(wrong)
    return Manifest(
        tuple(clips),
        table.name,
        table.description(numbers=more, more=_path_notes(files, folder.folder)),
    )


def _path_notes(files: Sequence[ClipPath], folder: Location) -> list[str]:
    """Return remarks on the paths of a table."""
    notes = []
    if any(each.changed == "backslashes" for each in files):
        notes.append("backslashes in paths")
    alike = sum(each.changed == "Unicode form" for each in files)
    if alike:
        notes.append(f"{counted(alike, 'file name')} in another Unicode form")
    dropped = dict.fromkeys(each.dropped for each in files if each.dropped)
    if dropped:
        notes.append(f"{' and '.join(map(str, dropped))} replaced by {folder}")
    return notes


_FIELDS = tuple(
    field.name
    for field in fields(Clip)
    if field.name not in ("file", "path", "name", "corpus", "shared_emotion", "speaker_id", "more")
)
