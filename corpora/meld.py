"""MELD: dialogues of the television series Friends, 7 emotions, 13 708 utterances.

Poria et al. (2019), ACL: 527-536. The clips are videos, ``train_splits/dia0_utt0.mp4``, also in
``dev_splits_complete`` and ``output_repeated_splits_test``; each part numbers its dialogues from 0.
Speaker, emotion and text are in ``train_sent_emo.csv``, ``dev_sent_emo.csv`` and
``test_sent_emo.csv`` of https://github.com/declare-lab/MELD, from which the counts are.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Corpus, NameFields, NameOutsideSchemeError
from .emotions import shared_word
from .label_files import find_label_file, label_of, read_label_rows

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
#: Parts by the folders of the release, and those of copies that were converted to audio.
_PARTS = {
    "train_splits": "train",
    "train": "train",
    "dev_splits_complete": "dev",
    "dev": "dev",
    "output_repeated_splits_test": "test",
    "test": "test",
}
#: Two spellings of a name.
_SPEAKERS = {"Phoebe Sr": "Phoebe Sr.", "Dr. Leedbetter": "Dr. Ledbetter"}
_COLUMNS = (
    "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season",
    "Episode",
)  # fmt: skip


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the dialogue of a clip, and the part of the corpus that its folder names.

    For the second recording of a test clip, return words that say so: it is not a clip.
    """
    if re.fullmatch(r"final_videos_testdia\d+_utt\d+", path.stem):
        return "second recording of a test clip"
    match = re.fullmatch(r"dia(\d+)_utt\d+", path.stem)
    if not match:
        raise NameOutsideSchemeError("not dialogue and utterance")
    part = next((_PARTS[name] for name in reversed(path.parent.parts) if name in _PARTS), None)
    if part is None:
        raise NameOutsideSchemeError(f"in none of the folders {', '.join(_PARTS)}")
    return {"name": f"{part}_{path.stem}", "split": part, "dialogue": f"{part}_dia{match[1]}"}


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the tables of the three parts; the folder may hold some of them.

    Return, by clip, ``speaker``, ``emotion``, ``sentiment``, ``statement`` and ``episode``. Raise
    UserError if there is no table, or one of them cannot be read.
    """
    labels: dict[str, Mapping[str, str | float]] = {}
    for part in ("train", "dev", "test"):
        file = find_label_file(folder, f"{part}_sent_emo.csv")
        for row in read_label_rows(file, _COLUMNS) if file else ():
            cells = row[1]
            labels[f"{part}_dia{cells['Dialogue_ID']}_utt{cells['Utterance_ID']}"] = {
                "speaker": _SPEAKERS.get(cells["Speaker"], cells["Speaker"]),
                "emotion": label_of(row, "Emotion", {word: word for word in EMOTIONS}),
                "sentiment": cells["Sentiment"],
                "statement": cells["Utterance"],
                "episode": f"{cells['Season']}x{cells['Episode']}",
            }
    if not labels:
        raise UserError(
            f"{folder}: no train_sent_emo.csv, dev_sent_emo.csv or test_sent_emo.csv; copy them "
            "there from https://github.com/declare-lab/MELD/tree/master/data/MELD"
        )
    return labels


MELD = Corpus(
    name="meld",
    title="MELD",
    suffixes=(".mp4", ".wav", ".flac"),
    scheme="a MELD name such as train_splits/dia0_utt0.mp4",
    read_name=read_name,
    read_labels=read_labels,
    unlabelled="clip without a row in the tables",
    expected={
        "anger": 1607,
        "disgust": 361,
        "fear": 358,
        "joy": 2308,
        "neutral": 6436,
        "sadness": 1002,
        "surprise": 1636,
    },
    shared={emotion: shared_word(emotion) for emotion in EMOTIONS},
    language="en",
    speakers=302,
    licence="GPL-3.0 (annotations)",
    citation="Poria et al. (2019), MELD: a multimodal multi-party dataset for emotion recognition "
    "in conversations, ACL: 527-536, doi:10.18653/v1/P19-1050",
    homepage="https://affective-meld.github.io/",
    faults=(
        "its train, dev and test parts share speakers: the six friends have 83 % of the "
        "utterances; --split partition:test is refused, loso and kfold:N keep speakers apart",
        "the clips are from a television series, whose rights are not the authors'",
        "some speakers are several people: All, Man, Woman, Guy, Waiter, Nurse",
        "the clips have laughter of the audience, music and other voices",
        "dev dia110_utt7.mp4 is missing, and train dia125_utt3.mp4 is broken "
        "(https://github.com/declare-lab/MELD/issues/27 and 39)",
        "some clips are cut at wrong times: test dia38_utt4 lasts 305 s, test dia220_utt0 235 s, "
        "some others 0.06 s (https://github.com/declare-lab/MELD/issues/9 and 20)",
        "dev and test hold clips without annotation, and the test folder second recordings "
        "(final_videos_test...) of some clips: they are omitted, as the authors advise "
        "(https://github.com/declare-lab/MELD/issues/22)",
        "the numbers of dialogues begin at 0 in each part: names here begin with the part",
    ),
    access="free download of MELD.Raw.tar.gz and the archives in it, see "
    "https://github.com/declare-lab/MELD; the videos need `pip install 'serpipe[formats]'`",
)
