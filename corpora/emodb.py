"""EMO-DB, the Berlin database of emotional speech: 10 actors, 10 sentences, 7 emotions, 535 clips.

Burkhardt et al. (2005), Interspeech. A name such as ``03a01Fa.wav`` gives speaker, sentence,
emotion (the first letter of the German word) and version.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Archive, Corpus, NameFields, NameOutsideSchemeError, check_code
from .label_files import find_label_file

#: The German labels of the release.
EMOTIONS = {
    "W": "Wut",
    "L": "Langeweile",
    "E": "Ekel",
    "A": "Angst",
    "F": "Freude",
    "T": "Trauer",
    "N": "neutral",
}
SHARED = {
    "Wut": "anger",
    "Langeweile": "boredom",
    "Ekel": "disgust",
    "Angst": "fear",
    "Freude": "happiness",
    "Trauer": "sadness",
    "neutral": "neutral",
}
SEX = {
    "03": "male",
    "08": "female",
    "09": "female",
    "10": "male",
    "11": "male",
    "12": "male",
    "13": "female",
    "14": "female",
    "15": "male",
    "16": "female",
}
SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that an EMO-DB file name gives; the folders are free.

    The stem must be a known speaker, sentence and emotion, and a version.
    """
    match = re.fullmatch(r"(\d\d)([ab]\d\d)([A-Z])([a-z])", path.stem)
    if not match:
        raise NameOutsideSchemeError("not speaker, sentence, emotion and version")
    speaker, sentence, emotion, version = match.groups()
    check_code("speaker", speaker, SEX)
    check_code("sentence", sentence, SENTENCES)
    check_code("emotion", emotion, EMOTIONS)
    return {
        "name": path.stem,
        "speaker": speaker,
        "sex": SEX[speaker],
        "emotion": EMOTIONS[emotion],
        "statement": SENTENCES[sentence],
        "repetition": version,
    }


#: The table of the clips that only EmoDB 2.0 has.
AMBIGUOUS = "db.emotion.categories.ambiguous.csv"


def refuse_emodb2(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Return no labels, because names give them; raise UserError if this is EmoDB 2.0."""
    if find_label_file(folder, AMBIGUOUS):
        raise UserError(
            f"{folder}: holds EmoDB 2.0, which has 281 more clips than EMO-DB; read it with --data "
            f"emodb2={folder}"
        )
    return {}


EMODB = Corpus(
    name="emodb",
    title="EMO-DB",
    suffixes=(".wav", ".flac"),
    scheme="an EMO-DB name such as 03a01Fa.wav",
    read_name=read_name,
    read_labels=refuse_emodb2,
    expected={
        "Wut": 127,
        "Langeweile": 81,
        "Ekel": 46,
        "Angst": 69,
        "Freude": 71,
        "Trauer": 62,
        "neutral": 79,
    },
    shared=SHARED,
    language="de",
    speakers=len(SEX),
    licence="CC BY 4.0",
    citation="Burkhardt et al. (2005), A database of German emotional speech, Interspeech",
    homepage="http://emodb.bilderbar.info",
    faults=(
        "no speaker has every sentence in every emotion: clips that raters found unconvincing "
        "were omitted",
    ),
    archives=(
        Archive(
            "https://zenodo.org/records/7447302/files/emodb.zip?download=1",
            "emodb.zip",
            39_981_818,
            "md5:9d21362dbc5676ef3ab4745d83ced0db",
        ),
    ),
    access="free download: `serpipe corpora download emodb`",
)
