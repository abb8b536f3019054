"""MSP-Podcast: spontaneous speech from podcasts, in 8 emotions, with ratings and partitions.

Lotfian & Busso (2019), IEEE Transactions on Affective Computing 10(4): 471-483. The clips are
``Audios/MSP-PODCAST_PODCAST_SEGMENT.wav`` (until release 1.9 ``Audio``), sometimes with a third
number. ``Labels/labels_consensus.csv`` (until 1.9 ``labels_concensus.csv``) has the emotion by
plurality, the means of valence, arousal and dominance from 1 to 7, speaker, sex and partition.
``labels_detailed.csv`` has the ratings of each rater: in columns in releases 1.6 and 2.0, in one
cell ``EmoDetail`` in those between; ``labels.txt`` has them in every release.

The numbers of clips and speakers differ between releases: there are no expectations here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Corpus, NameFields, NameOutsideSchemeError, RaterRow
from .label_files import (
    find_label_file,
    label_of,
    number_in,
    number_of,
    read_label_lines,
    read_label_rows,
)

#: Labels by code of ``EmoClass``. ``X``: no label has a plurality of the raters.
EMOTIONS = {
    "A": "angry",
    "S": "sad",
    "H": "happy",
    "U": "surprise",
    "F": "fear",
    "D": "disgust",
    "C": "contempt",
    "N": "neutral",
    "O": "other",
    "X": "no agreement",
}
#: Another name of a partition in releases until 1.9.
_PARTITIONS = {"Validation": "Development"}
_NAME = re.compile(r"MSP-PODCAST_(\d{4,})_\d+(?:_\d+)?")
_TEST3 = re.compile(r"MSP-PODCAST_test3_\d+", re.IGNORECASE)
#: Folder of files that earlier releases had.
_EARLIER = "Previous_releases_information"
#: Emotions that a rater chooses from; any other is written as ``Other-...``.
_CHOICES = frozenset(EMOTIONS.values()) - {"other", "no agreement"}
_SCALES = {"V": "valence", "A": "arousal", "D": "dominance"}
_SEX = {"Female": "female", "Male": "male"}
_COLUMNS = (
    "FileName", "EmoClass", "EmoVal", "EmoAct", "EmoDom", "SpkrID", "Gender", "Split_Set",
)  # fmt: skip


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the podcast of a clip; everything else is in the label files.

    For a clip of Test3, whose labels are withheld, or of an earlier release, return that it is one.
    """
    if _EARLIER in path.parts:
        return "clip of an earlier release"
    if _TEST3.fullmatch(path.stem):
        return "clip of Test3, whose labels are not published"
    match = _NAME.fullmatch(path.stem)
    if not match:
        raise NameOutsideSchemeError("not MSP-PODCAST, a podcast and a segment")
    return {"name": path.stem, "podcast": match[1]}


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the table of consensus labels.

    Return, by clip, ``emotion``, ``speaker`` (``Unknown`` if the release does not identify it),
    ``sex``, ``split`` (``Train``, ``Development``, ``Test1``, ``Test2``), and the mean ratings
    ``valence``, ``arousal`` and ``dominance``, each from 1 to 7. Raise UserError if there is no
    such table, or it cannot be read.
    """
    file = find_label_file(folder, "labels_consensus.csv", "labels_concensus.csv")
    if file is None:
        raise UserError(
            f"{folder}: no Labels/labels_consensus.csv; name the folder of the release, which "
            "holds Audios and Labels"
        )
    return {
        PurePosixPath(row[1]["FileName"]).stem: {
            "speaker": row[1]["SpkrID"] or "Unknown",
            "sex": _SEX.get(row[1]["Gender"], ""),
            "emotion": label_of(row, "EmoClass", EMOTIONS),
            "split": _PARTITIONS.get(row[1]["Split_Set"], row[1]["Split_Set"]),
            "valence": number_of(row, "EmoVal"),
            "arousal": number_of(row, "EmoAct"),
            "dominance": number_of(row, "EmoDom"),
        }
        for row in read_label_rows(file, _COLUMNS)
    }


def read_ratings(folder: Location) -> Iterator[RaterRow]:
    """Yield the ratings of single raters, in the order of the release.

    Each has ``name``, ``rater``, ``emotion`` (the primary emotion, in the words of
    :data:`EMOTIONS`; what a rater wrote besides is ``other``), ``valence``, ``arousal`` and
    ``dominance``, which are NaN if a rater gave none. Raise UserError if there is neither
    ``labels_detailed.csv`` nor ``labels.txt``.
    """
    # Those of the release are nearest: an earlier one, further below, may have other clips.
    file = find_label_file(folder, "labels_detailed.csv", "labels.txt")
    if file is None:
        raise UserError(
            f"{folder}: no Labels/labels_detailed.csv and no Labels/labels.txt; name the folder of "
            "the release"
        )
    if file.name.lower() == "labels.txt":
        yield from _ratings_of_text(file)
        return
    for where, cells in read_label_rows(file, ("FileName",)):
        name = PurePosixPath(cells["FileName"]).stem
        if "EmoDetail" in cells:
            yield _rating_of_line(name, cells["EmoDetail"], where)
            continue
        rater = next((key for key in ("WorkerID", "Workers") if key in cells), None)
        if rater is None or not cells.keys() >= {"EmoClass_Major", "EmoVal", "EmoAct", "EmoDom"}:
            raise UserError(
                f"{where}: has the columns {', '.join(cells)}; expected WorkerID, "
                "EmoClass_Major, EmoVal, EmoAct and EmoDom, or EmoDetail; get the file again"
            )
        values = {"V": cells["EmoVal"], "A": cells["EmoAct"], "D": cells["EmoDom"]}
        yield _rating(name, cells[rater], cells["EmoClass_Major"], values)


def _ratings_of_text(file: Location) -> Iterator[RaterRow]:
    """Yield the ratings in ``labels.txt``: the line of a clip, then one of each of its raters."""
    name = ""
    for where, line in read_label_lines(file):
        if line.startswith("MSP-PODCAST"):
            name = PurePosixPath(line.partition(";")[0]).stem
        elif line.startswith("WORKER"):
            yield _rating_of_line(name, line, where)


def _rating_of_line(name: str, line: str, where: str) -> RaterRow:
    """Read a line such as ``WORKER1; Sad; Sad,Concerned; A:3.0; V:2.0; D:4.0;``."""
    rater, *rest = [part.strip() for part in line.split(";")]
    if not name or not rater or not rest:
        raise UserError(f"{where}: no rating ({line[:60]!r}); get the file of the release again")
    scales = (re.fullmatch(r"([VAD]):\s*(\S+)", part) for part in rest)
    return _rating(name, rater, rest[0], {match[1]: match[2] for match in scales if match})


def _rating(name: str, rater: str, emotion: str, values: Mapping[str, str]) -> RaterRow:
    word = emotion.lower()
    return {
        "name": name,
        "rater": rater,
        "emotion": word if word in _CHOICES else "other",
        **{title: number_in(values.get(scale, "")) for scale, title in _SCALES.items()},
    }


MSP_PODCAST = Corpus(
    name="msp-podcast",
    title="MSP-Podcast",
    suffixes=(".wav", ".flac"),
    scheme="an MSP-Podcast name such as MSP-PODCAST_0001_0008.wav",
    read_name=read_name,
    read_labels=read_labels,
    read_ratings=read_ratings,
    expected={},
    shared={
        "angry": "anger",
        "sad": "sadness",
        "happy": "happiness",
        "surprise": "surprise",
        "fear": "fear",
        "disgust": "disgust",
        "contempt": "",
        "neutral": "neutral",
        "other": "",
        "no agreement": "",
    },
    language="en",
    speakers=0,
    licence="for research only, by form; no redistribution",
    citation="Lotfian & Busso (2019), Building naturalistic emotionally balanced speech corpus by "
    "retrieving emotional speech from existing podcast recordings, IEEE Transactions on Affective "
    "Computing 10(4): 471-483, doi:10.1109/TAFFC.2017.2736999",
    homepage="https://www.lab-msp.com/MSP/MSP-Podcast.html",
    faults=(
        "releases differ in clips, labels and partitions: state which one was used",
        "the published protocol trains on Train, chooses by Development and tests on Test1 or "
        "Test2: --split partition:Test1",
        "some speakers are in several of the test sets: never train on one of them",
        "clips of Train whose speaker was not identified have the speaker Unknown, who counts as "
        "one speaker; some of them may be of speakers that other clips name",
        "the labels and speakers of Test3 are withheld: its clips are omitted",
        "for some clips no emotion has a plurality of the raters (no agreement); studies of eight "
        "emotions omit them, and other",
        "release 2.0 lists MSP-PODCAST_1909_1017.wav without its audio",
    ),
    access="by a form of the authors' university, see https://www.lab-msp.com/MSP/MSP-Podcast.html",
)
