"""EMOVO: 6 Italian actors, 14 sentences, 7 emotions, 588 clips.

Costantini et al. (2014), LREC: 3501-3504. A name such as ``f1/gio-f1-b1.wav`` gives emotion,
speaker and sentence (b: short, l: long, n: without meaning, d: question).
"""

import re
from pathlib import PurePosixPath

from .corpus import Corpus, NameFields, NameOutsideSchemeError, check_code

EMOTIONS = {
    "dis": "disgusto",
    "gio": "gioia",
    "neu": "neutro",
    "pau": "paura",
    "rab": "rabbia",
    "sor": "sorpresa",
    "tri": "tristezza",
}
SPEAKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
SENTENCES = {
    "b1": "Gli operai si alzano presto.",
    "b2": "I vigili sono muniti di pistola.",
    "b3": "La cascata fa molto rumore.",
    "l1": "L'autunno prossimo Tony partirà per la Spagna: nella prima metà di ottobre.",
    "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
    "l3": "Un attimo dopo s'è incamminato ... ed è inciampato.",
    "l4": "Vorrei il numero telefonico del Signor Piatti.",
    "n1": "La casa forte vuole col pane.",
    "n2": "La forza trova il passo e l'aglio rosso.",
    "n3": "Il gatto sta scorrendo nella pera.",
    "n4": "Insalata pastasciutta coscia d'agnello limoncello.",
    "n5": "Uno quarantatré dieci mille cinquantasette venti.",
    "d1": "Sabato sera cosa farà?",
    "d2": "Porti con te quella cosa?",
}


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that an EMOVO file name gives; the folders are free.

    The stem must be a known emotion, speaker and sentence.
    """
    match = re.fullmatch(r"([a-z]{3})-([fm]\d)-([a-z]\d)", path.stem)
    if not match:
        raise NameOutsideSchemeError("not emotion, speaker and sentence")
    emotion, speaker, sentence = match.groups()
    check_code("emotion", emotion, EMOTIONS)
    check_code("speaker", speaker, SPEAKERS)
    check_code("sentence", sentence, SENTENCES)
    return {
        "name": path.stem,
        "speaker": speaker,
        "sex": "female" if speaker.startswith("f") else "male",
        "emotion": EMOTIONS[emotion],
        "statement": SENTENCES[sentence],
    }


EMOVO = Corpus(
    name="emovo",
    title="EMOVO",
    suffixes=(".wav", ".flac"),
    scheme="an EMOVO name such as gio-f1-b1.wav",
    read_name=read_name,
    expected=dict.fromkeys(EMOTIONS.values(), len(SPEAKERS) * len(SENTENCES)),
    shared={
        "disgusto": "disgust",
        "gioia": "happiness",
        "neutro": "neutral",
        "paura": "fear",
        "rabbia": "anger",
        "sorpresa": "surprise",
        "tristezza": "sadness",
    },
    language="it",
    speakers=len(SPEAKERS),
    licence="not stated; for research",
    citation="Costantini et al. (2014), EMOVO corpus: an Italian emotional speech database, LREC: "
    "3501-3504, https://aclanthology.org/L14-1478/",
    homepage="http://voice.fub.it/activities/corpora/emovo/index.html",
    faults=("clips are sampled at 48 kHz and last up to 14 s",),
    access="from http://voice.fub.it/activities/corpora/emovo/index.html",
)
