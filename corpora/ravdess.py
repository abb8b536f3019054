"""RAVDESS: 24 actors, 1440 clips of speech in 8 emotions and 1012 of song in 6.

Livingstone & Russo (2018), PLoS ONE 13(5): e0196391. A name such as ``03-01-06-01-02-01-12.wav``
gives modality, vocal channel, emotion, intensity, statement, repetition and actor; actors with
odd numbers are male, with even numbers female.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath

from ..errors import counted
from .corpus import Archive, Corpus, NameFields, NameOutsideSchemeError, check_code
from .emotions import shared_word

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}
SUNG = ("neutral", "calm", "happy", "sad", "angry", "fearful")
_PARTS = {
    "modality": {"01": "audio-video", "02": "video-only", "03": "audio-only"},
    "vocal channel": {"01": "speech", "02": "song"},
    "emotion": EMOTIONS,
    "intensity": {"01": "normal", "02": "strong"},
    "statement": {
        "01": "Kids are talking by the door",
        "02": "Dogs are sitting by the door",
    },
    "repetition": {"01": "1", "02": "2"},
    "actor": {f"{number:02d}": f"{number:02d}" for number in range(1, 25)},
}


def read_any_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a RAVDESS file name gives, for speech and song.

    The stem must be seven known two-digit codes. The folders are free, but the clips in a folder
    ``Actor_NN``, as in the release, must be that actor's. For a recording with video, return that
    it is one.
    """
    codes = path.stem.split("-")
    if len(codes) != len(_PARTS):
        raise NameOutsideSchemeError(f"{counted(len(codes), 'part')} instead of {len(_PARTS)}")
    values = {}
    for (part, known), code in zip(_PARTS.items(), codes, strict=True):
        check_code(part, code, known)
        values[part] = known[code]
    if values["modality"] != "audio-only":
        return f"{values['modality']} recording"  # its audio is that of an audio-only clip
    if values["emotion"] == "neutral" and values["intensity"] == "strong":
        raise NameOutsideSchemeError("neutral has no strong intensity")
    if values["vocal channel"] == "song" and values["emotion"] not in SUNG:
        raise NameOutsideSchemeError(f"{values['emotion']} was not sung")
    folder = re.fullmatch(r"Actor_(\d\d)", path.parent.name)
    if folder and folder[1] != values["actor"]:
        raise NameOutsideSchemeError(f"actor {values['actor']} in the folder {path.parent.name}")
    return {
        "name": path.stem,
        "speaker": values["actor"],
        "sex": "male" if int(values["actor"]) % 2 else "female",
        "emotion": values["emotion"],
        "intensity": values["intensity"],
        "statement": values["statement"],
        "repetition": values["repetition"],
        "vocal_channel": values["vocal channel"],
    }


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return what the name of a speech clip gives; song is not part of this corpus."""
    return _only("speech", path)


def read_song_name(path: PurePosixPath) -> NameFields | str:
    """Return what the name of a sung clip gives; speech is not part of this corpus."""
    return _only("song", path)


def _only(channel: str, path: PurePosixPath) -> NameFields | str:
    fields = read_any_name(path)
    if isinstance(fields, str) or fields["vocal_channel"] == channel:
        return fields
    return fields["vocal_channel"]


_ZENODO = "https://zenodo.org/records/1188976/files"
#: Size and checksum as Zenodo publishes them.
_SPEECH_ARCHIVE = Archive(
    f"{_ZENODO}/Audio_Speech_Actors_01-24.zip?download=1",
    "Audio_Speech_Actors_01-24.zip",
    208_468_073,
    "md5:bc696df654c87fed845eb13823edef8a",
)
_SONG_ARCHIVE = Archive(
    f"{_ZENODO}/Audio_Song_Actors_01-24.zip?download=1",
    "Audio_Song_Actors_01-24.zip",
    225_505_317,
    "md5:5411230427d67a21e18aa4d466e6d1b9",
)
_SPOKEN = {emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS.values()}
_SUNG = {emotion: 92 if emotion == "neutral" else 184 for emotion in SUNG}
RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS speech",
    suffixes=(".wav", ".flac"),
    scheme="a RAVDESS name such as 03-01-06-01-02-01-12.wav",
    read_name=read_name,
    expected=_SPOKEN,
    shared={emotion: shared_word(emotion) for emotion in EMOTIONS.values()},
    language="en",
    speakers=24,
    licence="CC BY-NC-SA 4.0",
    citation="Livingstone & Russo (2018), PLoS ONE 13(5): e0196391, "
    "doi:10.1371/journal.pone.0196391",
    homepage="https://zenodo.org/records/1188976",
    faults=(
        "two clips of actor 07 are byte for byte the same: 03-01-03-01-02-01-07 and "
        "03-01-03-01-02-02-07",
        "five clips are stereo",
        "the audio of the audio-video recordings is that of the audio-only clips",
    ),
    archives=(_SPEECH_ARCHIVE,),
    access="free download from Zenodo: `serpipe corpora download ravdess`",
)
SONG = replace(
    RAVDESS,
    name="ravdess-song",
    title="RAVDESS song",
    scheme="a RAVDESS name such as 03-02-06-01-02-01-12.wav",
    read_name=read_song_name,
    expected=_SUNG,
    speakers=23,
    faults=("actor 18 did not sing",),
    archives=(_SONG_ARCHIVE,),
    access="free download from Zenodo: `serpipe corpora download ravdess-song`",
    corpus=RAVDESS.name,
)
SPEECH_AND_SONG = replace(
    RAVDESS,
    name="ravdess-all",
    title="RAVDESS speech and song",
    scheme=f"{RAVDESS.scheme} or 03-02-06-01-02-01-12.wav",
    read_name=read_any_name,
    expected={emotion: n + _SUNG.get(emotion, 0) for emotion, n in _SPOKEN.items()},
    faults=(*RAVDESS.faults, *SONG.faults),
    archives=(_SPEECH_ARCHIVE, _SONG_ARCHIVE),
    access="free download from Zenodo: `serpipe corpora download ravdess-all`",
    corpus=RAVDESS.name,
)
