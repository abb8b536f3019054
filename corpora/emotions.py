"""A shared vocabulary for the emotions of all corpora."""

SHARED_EMOTIONS = (
    "anger", "boredom", "calm", "disgust", "excitement", "fear", "frustration", "happiness",
    "neutral", "sadness", "surprise",
)  # fmt: skip
#: Other common forms of these words.
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
    """Return the shared word, such as ``"anger"`` for ``"angry"``, or the word if unknown."""
    return FORMS.get(word, word)
