"""The speaker-independent folds of EmoBox.

Ma et al. (2024), *EmoBox: Multilingual Multi-corpus Speech Emotion Recognition Toolkit and
Benchmark*, Interspeech; computed from its manifests (commit 39c306b). Its folds of EMO-DB, CREMA-D,
TESS and ShEMO share speakers between training and test, and are not here.
"""

from collections.abc import Mapping

#: By corpus and fold: the test speakers.
EMOBOX_FOLDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # EmoBox drew them at random: the second fold has only women.
    "ravdess": {
        "1": ("01", "11", "20", "21"),
        "2": ("04", "10", "12", "14"),
        "3": ("08", "09", "19", "23"),
        "4": ("03", "05", "07", "24"),
        "5": ("02", "15", "16", "18"),
        "6": ("06", "13", "17", "22"),
    },
    "savee": {"1": ("JE",), "2": ("KL",), "3": ("DC",), "4": ("JK",)},
    # The five sessions, each with its woman and its man.
    "iemocap": {str(n): (f"{n:02d}F", f"{n:02d}M") for n in range(1, 6)},
}
