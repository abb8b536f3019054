"""MSP-IMPROV: 12 actors in 6 sessions of two, 8438 turns, 4 emotions and ratings.

Busso et al. (2017), IEEE Transactions on Affective Computing 8(1): 67-80. The clips are
``session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav``: scenario and its emotion, speaker, kind of turn
and its number. ``Evalution.txt`` (as the release spells it, or ``Evaluation.txt``) has a line for
each clip, under the name ``UTD-IMPROV-...avi``, and then one for each rater. In it ``A``, ``V``,
``D`` and ``N`` are activation, valence, dominance and naturalness.

That the third part of a name is the speaker is how published code reads it; the documents of the
release are not public. The folds keep the two actors of a session together in any case. The number
of clips of each label is not published with the corpus: there are no expectations here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Corpus, NameFields, NameOutsideSchemeError, RaterRow
from .label_files import find_label_file, number_in, read_label_lines, word_of

#: Labels by code. ``X``: no label has a plurality of the raters.
EMOTIONS = {
    "A": "angry",
    "H": "happy",
    "N": "neutral",
    "S": "sad",
    "O": "other",
    "X": "no agreement",
}
STYLES = {
    "P": "natural interaction",
    "R": "read",
    "S": "other improvised",
    "T": "target improvised",
}
_SCALES = {"A": "activation", "V": "valence", "D": "dominance", "N": "naturalness"}
_NAME = re.compile(r"MSP-IMPROV-S(\d{2})([AHNS])-([FM])(0[1-6])-([PRST])-[FM]{2}\d+")
_CLIP_LINE = re.compile(r"UTD-IMPROV-(\S+)\.avi\s*;\s*([A-Z])\s*;(.*)")
_SCALE = re.compile(r"\b([AVDN]):\s*([^\s;]+)")


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that an MSP-IMPROV file name gives; the folders are free."""
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise NameOutsideSchemeError("not scenario, emotion, speaker, kind of turn and number")
    scenario, intended, sex, session, style = match.groups()
    return {
        "name": path.stem,
        "speaker": f"{sex}{session}",
        "sex": "female" if sex == "F" else "male",
        "session": session,
        "scenario": scenario,
        "intended_emotion": EMOTIONS[intended],
        "style": STYLES[style],
    }


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the evaluations.

    Return, by clip, ``emotion`` and the mean ratings ``activation``, ``valence``, ``dominance`` and
    ``naturalness``, each from 1 to 5, NaN without one. Raise UserError if there is no such file, or
    an emotion in it is not known.
    """
    labels: dict[str, Mapping[str, str | float]] = {}
    for where, line in _lines(folder):
        if not (match := _CLIP_LINE.match(line)):
            continue
        name, code, scales = match.groups()
        emotion = word_of(where, "emotion", code, EMOTIONS)
        labels[f"MSP-IMPROV-{name}"] = {"emotion": emotion, **_numbers(scales)}
    return labels


def read_ratings(folder: Location) -> Iterator[RaterRow]:
    """Yield the ratings of single raters, in the order of the release.

    Each has ``name``, ``rater``, ``emotion``, and the four scales, NaN where a rater gave none.
    """
    name = ""
    for _, line in _lines(folder):
        if match := _CLIP_LINE.match(line):
            name = f"MSP-IMPROV-{match[1]}"
        elif name and len(parts := [part.strip() for part in line.split(";")]) > 2:
            emotion = parts[1].lower()
            known = emotion in EMOTIONS.values()
            yield {
                "name": name,
                "rater": parts[0],
                "emotion": emotion if known else "other",
                **_numbers(line),
            }


def _lines(folder: Location) -> Iterator[tuple[str, str]]:
    file = find_label_file(folder, "Evalution.txt", "Evaluation.txt")
    if file is None:
        raise UserError(
            f"{folder}: no Evalution.txt or Evaluation.txt; name the folder of the release, or "
            "copy the file there"
        )
    return ((where, line.strip()) for where, line in read_label_lines(file))


def _numbers(text: str) -> dict[str, float]:
    values = dict(_SCALE.findall(text))
    return {title: number_in(values.get(scale, "")) for scale, title in _SCALES.items()}


MSP_IMPROV = Corpus(
    name="msp-improv",
    title="MSP-IMPROV",
    suffixes=(".wav", ".flac"),
    scheme="an MSP-IMPROV name such as MSP-IMPROV-S01A-F01-P-FM01.wav",
    read_name=read_name,
    read_labels=read_labels,
    read_ratings=read_ratings,
    group="session",
    expected={},
    shared={
        "angry": "anger",
        "happy": "happiness",
        "neutral": "neutral",
        "sad": "sadness",
        "other": "",
        "no agreement": "",
    },
    language="en",
    speakers=12,
    licence="for research only, by form; no redistribution",
    citation="Busso et al. (2017), MSP-IMPROV: an acted corpus of dyadic interactions to study "
    "emotion perception, IEEE Transactions on Affective Computing 8(1): 67-80, "
    "doi:10.1109/TAFFC.2016.2515617",
    homepage="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
    faults=(
        "8438 clips, of which 7798 have one of the four emotions; studies omit the others: "
        "--keep angry,happy,neutral,sad",
        "the label is what the raters perceived; that of the scenario is intended_emotion",
        "some ratings occur twice in the file of the release",
        "some clips have no mean rating (NaN)",
    ),
    access="by a form of the authors' university, see "
    "https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
)
