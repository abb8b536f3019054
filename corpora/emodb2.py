"""EmoDB 2.0: EMO-DB with the clips that were withheld before, 816 in all, and their ratings.

Burkhardt et al. (2025), Interspeech. It is an audformat database: the clips are in ``wav``, named
as in EMO-DB, and ``db.emotion.csv`` has, for each, the share of the listeners who recognised the
emotion and the share who found it natural. 281 clips, in ``db.emotion.categories.ambiguous.csv``,
were recognised by fewer than 80 % and withheld before. The folder ``laryngo`` holds the signal of a
laryngograph for each clip. How the 816 clips are divided among emotions is not published: there are
no expectations here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Archive, NameFields
from .emodb import AMBIGUOUS, EMODB
from .emodb import read_name as read_emodb_name
from .label_files import find_label_file, number_of, read_label_rows

#: The partition that the release publishes; the other speakers are for training.
TEST_SPEAKERS = frozenset({"12", "14", "15", "16"})


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that its name gives; of a laryngogram, return that it is one."""
    if "laryngo" in path.parent.parts:
        return "laryngogram"
    fields = read_emodb_name(path)
    if isinstance(fields, str):
        return fields
    return {**fields, "split": "test" if fields["speaker"] in TEST_SPEAKERS else "train"}


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the tables of the database.

    Return, by clip, ``agreement`` and ``naturalness``, each from 0 to 1, and ``selection``:
    ``ambiguous`` for the clips that were withheld before, otherwise ``gold``. Raise UserError if a
    table is missing or cannot be read.
    """
    tables = ("db.emotion.csv", AMBIGUOUS)
    emotion, ambiguous = files = [find_label_file(folder, name) for name in tables]
    if emotion is None or ambiguous is None:
        raise UserError(
            f"{folder}: no {tables[files.index(None)]}; name the folder of EmoDB 2.0, which holds "
            "db.yaml, or read the clips of EMO-DB with --data emodb=DIR"
        )
    withheld = {
        PurePosixPath(cells["file"]).stem for _, cells in read_label_rows(ambiguous, ("file",))
    }
    columns = ("file", "emotion.confidence", "emotion.naturalness")
    return {
        (name := PurePosixPath(row[1]["file"]).stem): {
            "agreement": number_of(row, "emotion.confidence"),
            "naturalness": number_of(row, "emotion.naturalness"),
            "selection": "ambiguous" if name in withheld else "gold",
        }
        for row in read_label_rows(emotion, columns)
    }


EMODB2 = replace(
    EMODB,
    name="emodb2",
    title="EmoDB 2.0",
    scheme="a name of EmoDB 2.0 such as wav/03a01Fa.wav",
    read_name=read_name,
    read_labels=read_labels,
    expected={},
    citation="Burkhardt et al. (2025), EmoDB 2.0, Interspeech, "
    "https://www.isca-archive.org/interspeech_2025/burkhardt25_interspeech.html",
    homepage="https://zenodo.org/records/17651657",
    faults=(
        "816 clips, of which 535 (selection gold) are those of EMO-DB: scores on all of them are "
        "not comparable with scores on EMO-DB",
        "281 clips (selection ambiguous) were recognised by fewer than 80 % of the listeners, some "
        "by 10 %; the label is what the actor was asked to express",
        "laryngo holds the signal of a laryngograph for each clip; it is omitted",
    ),
    archives=(
        Archive(
            "https://zenodo.org/records/17651657/files/emodb_2.0.zip?download=1", "emodb_2.0.zip"
        ),
    ),
    access="free download from Zenodo: `serpipe corpora download emodb2`",
    corpus=EMODB.name,
)
