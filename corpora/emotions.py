"""One vocabulary for the emotions of all corpora, so that they can be compared."""

SHARED_EMOTIONS = (
    "anger", "boredom", "calm", "disgust", "excitement", "fear", "frustration", "happiness",
    "neutral", "sadness", "surprise",
)  # fmt: skip
#: Other forms of these words, as people write them.
FORMS = {
    "angry": "anger",
    "bored": "boredom",
    "disgusted": "disgust",
    "excited": "excitement",
    "fearful": "fear",
    "frustrated": "frustration",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}


def shared_word(word: str) -> str:
    """Return the shared word for an emotion.

    Parameters
    ----------
    word : str
        Such as ``"angry"`` or ``"anger"``.

    Returns
    -------
    str
        Such as ``"anger"``; the word itself if there is no other form of it.
    """
    return FORMS.get(word, word)
