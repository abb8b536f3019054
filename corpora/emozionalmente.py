"""Emozionalmente: 431 Italian amateur actors, 18 sentences, 7 emotions, 6902 clips.

Catania et al. (2025), IEEE Transactions on Audio, Speech and Language Processing 33: 1142-1155.
The clips are ``audio/1613655062436.wav``; their labels are in ``metadata/samples.csv``, the sex of
the actors in ``users.csv``, and what five raters heard in each clip in ``evaluations.csv``. People
are named by hashes, of which the first twelve characters are unique and used here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Archive, Corpus, NameFields, NameOutsideSchemeError, RaterRow
from .label_files import LabelRow, find_label_file, label_of, read_label_rows

#: Shared emotion by label of the release.
EMOTIONS = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "joy": "happiness",
    "neutrality": "neutral",
    "sadness": "sadness",
    "surprise": "surprise",
}
_WORDS = {word: word for word in EMOTIONS}
_SEX = {"female": "female", "male": "male"}
_ID_CHARACTERS = 12


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the name of a clip, a time of 2021 in ms; everything else is in the label files."""
    if not re.fullmatch(r"16[12]\d{10}", path.stem):
        raise NameOutsideSchemeError("not a time of 2021 in milliseconds")
    return {"name": path.stem}


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the tables of clips and of actors.

    Return, by clip, ``speaker``, ``sex`` (empty for one actor), ``emotion`` (the one that the
    actor was asked to express) and ``statement``. Raise UserError if one of the tables is missing
    or cannot be read.
    """
    sex = {
        cells["username"]: _SEX.get(cells["gender"], "")
        for _, cells in _rows(folder, "users.csv", "username", "gender")
    }
    columns = ("file_name", "sentence", "actor", "emotion_expressed")
    return {
        PurePosixPath(row[1]["file_name"]).stem: {
            "speaker": row[1]["actor"][:_ID_CHARACTERS],
            "sex": sex.get(row[1]["actor"], ""),
            "emotion": label_of(row, "emotion_expressed", _WORDS),
            "statement": row[1]["sentence"],
        }
        for row in _rows(folder, "samples.csv", *columns)
    }


def read_ratings(folder: Location) -> Iterator[RaterRow]:
    """Yield the emotion that each rater recognised; raise UserError if the table is missing."""
    columns = ("file_name", "evaluator", "emotion_recognized")
    for row in _rows(folder, "evaluations.csv", *columns):
        yield {
            "name": PurePosixPath(row[1]["file_name"]).stem,
            "rater": row[1]["evaluator"][:_ID_CHARACTERS],
            "emotion": label_of(row, "emotion_recognized", _WORDS),
        }


def _rows(folder: Location, name: str, *columns: str) -> Iterator[LabelRow]:
    file = find_label_file(folder, name)
    if file is None:
        raise UserError(
            f"{folder}: no metadata/{name}; name the folder of the release, which holds audio and "
            "metadata"
        )
    return read_label_rows(file, columns)


EMOZIONALMENTE = Corpus(
    name="emozionalmente",
    title="Emozionalmente",
    suffixes=(".wav", ".flac"),
    scheme="a name of Emozionalmente such as 1613655062436.wav",
    read_name=read_name,
    read_labels=read_labels,
    read_ratings=read_ratings,
    expected=dict.fromkeys(EMOTIONS, 986),
    shared=EMOTIONS,
    language="it",
    speakers=431,
    licence="CC BY 4.0",
    citation="Catania, Wilke & Garzotto (2025), Emozionalmente: a crowdsourced corpus of simulated "
    "emotional speech in Italian, IEEE Transactions on Audio, Speech and Language Processing 33: "
    "1142-1155, doi:10.1109/TASLPRO.2025.3540662",
    homepage="https://zenodo.org/records/6569824",
    faults=(
        "recorded by its actors at home: microphones and rooms differ between speakers",
        "150 clips are sampled at 44.1 kHz, the rest at the documented 16 kHz",
        "the label is what the actor was asked to express; raters recognised it in 66 % of cases",
        "34 times a rater rated a clip more than once; 322 of the 829 raters are also actors",
        "version 1.1 of 2024 adds a split into train, dev and test, which is not read",
        "some actors recorded few clips (the check SER019)",
    ),
    archives=(
        Archive(
            "https://zenodo.org/records/6569824/files/emozionalmente_dataset.zip?download=1",
            "emozionalmente_dataset.zip",
        ),
    ),
    access="free download from Zenodo: `serpipe corpora download emozionalmente`",
)
