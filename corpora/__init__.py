"""Readers of data sets. Each corpus is one module; here they are registered by name."""

from dataclasses import dataclass
from pathlib import Path

from .clip import CLIP_COLUMNS, Clip
from .corpus import Corpus
from .ravdess import RAVDESS
from .scan import Scan, missing, scan

__all__ = [
    "CLIP_COLUMNS",
    "CORPORA",
    "SAMPLE",
    "Clip",
    "Corpus",
    "Data",
    "Scan",
    "find_data",
    "missing",
    "scan",
]

CORPORA = {corpus.name: corpus for corpus in (RAVDESS,)}

#: What ``--data`` says for the sample that ships with the package.
SAMPLE = "sample"


@dataclass(frozen=True)
class Data:
    """A folder of clips, the corpus to read it as, and names for files and for titles."""

    folder: Path
    corpus: Corpus
    name: str
    title: str


def find_data(data: str) -> Data:
    """Turn the value of ``--data`` into a folder and a corpus.

    Parameters
    ----------
    data : str
        ``"sample"`` for the built-in sample, or a folder.

    Returns
    -------
    Data
        What to scan, and as which corpus.
    """
    if data == SAMPLE:
        folder = Path(__file__).parent / SAMPLE
        return Data(folder, RAVDESS, SAMPLE, f"{RAVDESS.title} (built-in sample)")
    return Data(Path(data), RAVDESS, RAVDESS.name, RAVDESS.title)
