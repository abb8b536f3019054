"""Options with a fixed set of values, and their check.

They are apart from the code that uses them, so that a typo is refused without importing torch.
"""

from collections.abc import Sequence

from .errors import UserError

CHANNELS = ("mean", "left", "right")
POOLINGS = ("mean", "std", "mean,std")
DTYPES = ("float32", "float16")
#: Of extraction; training and evaluation support fewer.
EXTRACTION_PRECISIONS = ("float32", "tf32", "bf16", "fp16", "auto")
TRAINING_PRECISIONS = ("float32", "bf16", "fp16")
ENGINES = ("torch", "openvino")
DEVICES = ("auto", "cpu", "cuda")
TASKS = ("auto", "labels", "ratings")
#: How heads train on the labels of several raters.
LABELS = ("majority", "soft", "all")
#: What to do with clips whose most frequent labels were given equally often.
TIES = ("omit", "score")
SIMILAR_SPEAKERS = ("refuse", "merge", "separate")
NORMALISATIONS = ("none", "speaker")
AUDIO_FORMATS = ("wav", "flac")
NETWORKS = ("cnn", "s4")
EXPORT_FORMATS = ("onnx",)
#: How speech is found.
DETECTORS = ("silero", "energy", "auto")


def check_choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return the value of an option; raise UserError if it is not one of the allowed values."""
    if value in allowed:
        return value
    *others, last = allowed
    expected = f"{', '.join(others)} or {last}" if others else last
    raise UserError(f"{option} {value}: expected {expected}")
