"""RAVDESS, the speech part: 24 actors x 60 clips, 8 emotions.

Livingstone & Russo (2018), PLoS ONE 13(5): e0196391. A name such as ``03-01-06-01-02-01-12.wav``
gives modality, vocal channel, emotion, intensity, statement, repetition and actor; actors with
odd numbers are male, with even numbers female.
"""

from pathlib import PurePosixPath

from .corpus import Corpus, NameOutsideSchemeError

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


def read_name(path: PurePosixPath) -> dict[str, str] | str:
    """Read what a RAVDESS file name tells.

    Parameters
    ----------
    path : PurePosixPath
        The file, relative to the corpus' folder. The folders are free, but in one that is named
        ``Actor_NN``, as in the release, the clips must be that actor's.

    Returns
    -------
    dict of str to str, or str
        The fields of a clip; or, for a well-named file that is not a speech clip, what it is.

    Raises
    ------
    NameOutsideSchemeError
        If the stem is not seven known two-digit codes, or the folder contradicts them.
    """
    codes = path.stem.split("-")
    if len(codes) != len(_PARTS):
        raise NameOutsideSchemeError(f"{len(codes)} part(s) instead of {len(_PARTS)}")
    told = {}
    for (part, known), code in zip(_PARTS.items(), codes, strict=True):
        if code not in known:
            raise NameOutsideSchemeError(f"{part} code {code!r} is not known")
        told[part] = known[code]
    if told["modality"] != "audio-only":
        return f"{told['modality']} recording"  # its sound is that of an audio-only clip
    if told["vocal channel"] != "speech":
        return told["vocal channel"]
    if told["emotion"] == "neutral" and told["intensity"] == "strong":
        raise NameOutsideSchemeError("neutral has no strong intensity")
    folder = path.parent.name
    if folder.startswith("Actor_") and folder != f"Actor_{told['actor']}":
        raise NameOutsideSchemeError(f"actor {told['actor']} in the folder {folder}")
    return {
        "name": path.stem,
        "speaker": told["actor"],
        "sex": "male" if int(told["actor"]) % 2 else "female",
        "emotion": told["emotion"],
        "intensity": told["intensity"],
        "statement": told["statement"],
        "repetition": told["repetition"],
    }


RAVDESS = Corpus(
    name="ravdess",
    title="RAVDESS speech",
    suffixes=(".wav", ".flac"),
    scheme="a RAVDESS name such as 03-01-06-01-02-01-12.wav",
    read_name=read_name,
    expected={emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS.values()},
    licence="CC BY-NC-SA 4.0",
    citation="Livingstone & Russo (2018), PLoS ONE 13(5): e0196391, "
    "doi:10.1371/journal.pone.0196391",
    homepage="https://zenodo.org/records/1188976",
)
