"""Names of the columns of scores in CSV files."""

import re
import unicodedata
from collections.abc import Sequence


def score_columns(outputs: Sequence[str]) -> list[str]:
    """Return the names of the columns that hold the scores of labels or ratings.

    Returns
    -------
    list of str
        In the same order; all different, of ASCII letters, digits and ``_``.

    Examples
    --------
    >>> score_columns(["angry", "Müde", "very tired", "怒"])
    ['score_angry', 'score_Mude', 'score_very_tired', 'score_4']
    """
    names: list[str] = []
    for number, output in enumerate(outputs, 1):
        letters = unicodedata.normalize("NFKD", output).encode("ascii", "ignore").decode()
        name = "score_" + (re.sub(r"\W+", "_", letters).strip("_") or str(number))
        while name in names:
            name += f"_{number}"
        names.append(name)
    return names
