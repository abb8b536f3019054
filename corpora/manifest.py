"""Any labelled audio: a CSV table with a row for each clip."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError, counted
from ..remote import Place
from .clip import CLIP_COLUMNS, FILLED_COLUMNS, Clip
from .clip_paths import ClipFolder, ClipPath
from .csv_table import nfc, read_column, read_table, refuse_lines
from .emotions import SHARED_EMOTIONS, shared_word

#: Columns of a cache that only opening the audio can fill.
RESERVED = ("label", "fold", *FILLED_COLUMNS)
_COLUMN = re.compile(r"[^\W\d_]\w*")


@dataclass(frozen=True)
class Manifest:
    """The clips of a table.

    Attributes
    ----------
    clips : tuple of Clip
        In the order of the rows.
    description : str
        How the table was read, in one line; empty if there is nothing to say.
    """

    clips: tuple[Clip, ...]
    description: str = ""


def read_manifest(path: Path, root: Place | None = None) -> Manifest:
    """Read the clips that a manifest lists.

    Parameters
    ----------
    path : Path
        A table as :func:`~serpipe.corpora.csv_table.read_table` reads it, with the columns ``path``
        and ``speaker``, and one or more of what is to be predicted. A column of numbers is one of
        ratings; any other is one of labels. ``name``, ``corpus``, ``sex``, ``emotion``,
        ``language``, ``intensity``, ``statement`` and ``repetition`` mean what they mean in
        :class:`Clip`.
    root : Path or Remote, optional
        The folder that paths are relative to; that of the manifest by default. No path may lead
        out of it. On a web server, whether a clip is there is found when it is opened.

    Returns
    -------
    Manifest

    Raises
    ------
    UserError
        Names each line that cannot be used, at most ten.
    """
    table = read_table(path, (*CLIP_COLUMNS, *RESERVED))
    columns = table.columns
    for needed in ("path", "speaker"):
        if needed not in columns:
            raise UserError(
                f"{path}: columns {', '.join(columns)}; expected path, speaker and what is to be "
                f"predicted; add {needed}"
            )
    more = [column for column in columns if column not in CLIP_COLUMNS]
    for column in columns:
        if column in RESERVED or not _COLUMN.fullmatch(column):
            raise UserError(
                f"{path}: column {column!r} cannot be used; expected a name of letters, digits and "
                f"_ that is none of {', '.join(RESERVED)}; rename it"
            )
    if not more and "emotion" not in columns:
        raise UserError(
            f"{path}: columns {', '.join(columns)}; expected something to predict besides; add a "
            "column such as emotion or fatigue"
        )
    wrong: list[str] = []
    values = {column: read_column(table, column, wrong) for column in more}
    folder = ClipFolder((root or path.parent).resolve())
    found = [folder.find(row.cells["path"]) for row in table.rows]
    dropped = Counter(each.dropped for each in found if each.dropped)
    stands_for = max(dropped, key=lambda each: dropped[each], default=None)
    first: dict[tuple[str, str], int] = {}
    clips = []
    for number, (row, each) in enumerate(zip(table.rows, found, strict=True)):
        cells = row.cells
        where = f"{path}, line {row.line}"
        name = cells.get("name") or nfc(Path(each.relative).stem)
        corpus = cells.get("corpus") or nfc(path.stem)
        if not cells["path"] or not cells["speaker"]:
            wrong.append(f"{where}: path or speaker is empty; expected both")
        elif each.leads_out:
            wrong.append(
                f"{where}: {cells['path']} leads out of {folder.folder}; expected a path inside "
                "it; give the folder above all clips with --data DIR"
            )
        elif not each.is_file:
            wrong.append(f"{where}: {folder.file(each.relative)}: no such file; expected a clip")
        elif each.dropped != stands_for and each.dropped:
            wrong.append(
                f"{where}: {cells['path']}: no such file below {folder.folder}, which stands for "
                f"{stands_for} in other lines; expected a clip; copy it there, or correct the path"
            )
        elif (earlier := first.setdefault((corpus, name), row.line)) != row.line:
            wrong.append(
                f"{where}: clip {name} is already in line {earlier}; expected each once; "
                "give them names in a column name"
            )
        else:
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
        tuple(clips), table.description(numbers=more, more=_path_notes(found, folder.folder))
    )


def _path_notes(found: Sequence[ClipPath], folder: Place) -> list[str]:
    """Return what was unusual about the paths of a table."""
    notes = []
    if any(each.changed == "backslashes" for each in found):
        notes.append("backslashes in paths")
    alike = sum(each.changed == "Unicode form" for each in found)
    if alike:
        notes.append(f"{counted(alike, 'file name')} in another Unicode form")
    dropped = dict.fromkeys(each.dropped for each in found if each.dropped)
    if dropped:
        notes.append(f"{' and '.join(map(str, dropped))} taken for {folder}")
    return notes


_FIELDS = tuple(
    field.name
    for field in fields(Clip)
    if field.name not in ("file", "path", "name", "corpus", "shared_emotion", "speaker_id", "more")
)
