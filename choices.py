"""Options that take one of a few values: the values, and the check of them.

The command line checks them where it parses, and the functions of Python where they begin. They
stand apart from the code that uses them, so that neither has to import torch to refuse a typo.
"""

from collections.abc import Sequence

from .errors import UserError

CHANNELS = ("mean", "left", "right")
POOLINGS = ("mean", "std", "mean,std")
DTYPES = ("float32", "float16")
#: Of extraction; training and evaluation know fewer.
EXTRACTION_PRECISIONS = ("float32", "tf32", "bf16", "fp16", "auto")
TRAINING_PRECISIONS = ("float32", "bf16", "fp16")
DEVICES = ("auto", "cpu", "cuda")
TASKS = ("auto", "labels", "ratings")
SIMILAR_SPEAKERS = ("refuse", "merge", "separate")
NORMALISATIONS = ("none", "speaker")
AUDIO_FORMATS = ("wav", "flac")
NETWORKS = ("cnn", "s4")
EXPORT_FORMATS = ("onnx",)


def check_choice(option: str, value: str, allowed: Sequence[str]) -> str:
    """Return a value if it is one of those allowed.

    Parameters
    ----------
    option : str
        Name of the option, for the message.
    value : str
        The value given.
    allowed : sequence of str
        The values that the option takes.

    Returns
    -------
    str
        The value.

    Raises
    ------
    UserError
        If it is none of them.
    """
    if value in allowed:
        return value
    *others, last = allowed
    expected = f"{', '.join(others)} or {last}" if others else last
    raise UserError(f"{option} {value}: expected {expected}")
