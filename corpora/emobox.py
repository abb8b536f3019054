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
    "emovo": {"1": ("f2",), "2": ("m3",), "3": ("m2",), "4": ("f3",), "5": ("f1",), "6": ("m1",)},
    "jl": {"1": ("male2",), "2": ("female1",), "3": ("male1",), "4": ("female2",)},
    # Both languages together; EmoBox drew the speakers at random.
    "esd": {
        "1": ("0005", "0011", "0016", "0018"),
        "2": ("0012", "0014", "0015", "0019"),
        "3": ("0003", "0004", "0006", "0009"),
        "4": ("0007", "0008", "0013", "0020"),
        "5": ("0001", "0002", "0010", "0017"),
    },
    # The five sessions, each with its woman and its man.
    "iemocap": {str(n): (f"{n:02d}F", f"{n:02d}M") for n in range(1, 6)},
}
