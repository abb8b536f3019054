"""JL corpus: 4 speakers of New Zealand English, 10 emotions, 2400 clips.

James, Tian & Watson (2018), Interspeech: 2768-2772. The clips are
``Raw JL corpus (unchecked and unannotated)/JL(wav+txt)/female1_angry_10a_1.wav``, each with its
text in a ``.txt`` file beside it. A name gives speaker, emotion, sentence (1 to 15, a or b) and
repetition; every combination occurs.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from ..remote import Location
from .corpus import Corpus, NameFields, NameOutsideSchemeError, check_code
from .label_files import read_label_text
from .scan import audio_files

#: Shared emotion by label; the last five are what the corpus calls secondary emotions.
EMOTIONS = {
    "angry": "anger",
    "excited": "excitement",
    "happy": "happiness",
    "neutral": "neutral",
    "sad": "sadness",
    "anxious": "",
    "apologetic": "",
    "assertive": "",
    "concerned": "",
    "encouraging": "",
}
SPEAKERS = ("female1", "female2", "male1", "male2")
_SUFFIXES = (".wav", ".flac")
_NAME = re.compile(r"([a-z]+\d)_([a-z]+)_((?:[1-9]|1[0-5])[ab])_([12])")


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a name of the JL corpus gives; the folders are free.

    The stem must be a known speaker and emotion, a sentence and a repetition.
    """
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise NameOutsideSchemeError("not speaker, emotion, sentence and repetition")
    speaker, emotion, sentence, repetition = match.groups()
    check_code("speaker", speaker, SPEAKERS)
    check_code("emotion", emotion, EMOTIONS)
    return {
        "name": path.stem,
        "speaker": speaker,
        "sex": speaker[:-1],
        "emotion": emotion,
        "statement": sentence,
        "repetition": repetition,
    }


def read_texts(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Return the text of each clip that has one in a file beside it, by name of the clip."""
    texts = {
        path.stem: {"statement": " ".join(read_label_text(folder / path).split())}
        for path in audio_files(folder, (".txt",))
        if _NAME.fullmatch(path.stem)
    }
    return {path.stem: texts.get(path.stem, {}) for path in audio_files(folder, _SUFFIXES)}


JL = Corpus(
    name="jl",
    title="JL corpus",
    suffixes=_SUFFIXES,
    scheme="a name of the JL corpus such as female1_angry_10a_1.wav",
    read_name=read_name,
    read_labels=read_texts,
    expected=dict.fromkeys(EMOTIONS, 240),
    shared=EMOTIONS,
    language="en",
    speakers=len(SPEAKERS),
    licence="public, see its home page",
    citation="James, Tian & Watson (2018), An open source emotional speech corpus for human robot "
    "interaction applications, Interspeech: 2768-2772, doi:10.21437/Interspeech.2018-1349",
    homepage="https://www.kaggle.com/datasets/tli725/jl-corpus",
    faults=(
        "four speakers: too few for an interval",
        "half of its emotions (anxious, apologetic, assertive, concerned, encouraging) have no "
        "counterpart in other corpora",
        "the labels are what the speakers intended, not what raters perceived",
    ),
    access="from Kaggle: https://www.kaggle.com/datasets/tli725/jl-corpus",
)
