"""Perturbed copies of clips among the embeddings: trained on with their clips, never tested.

All tables, folds and scores are of the clips alone. Their embeddings are rows 0 to n_clips - 1; for
each perturbation, n_clips rows of copies in the same order follow. Whoever fits takes the copies of
the training clips as well, so that a copy cannot be on another side than its clip.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Matrix


def count_copies(X: Matrix, labels: NDArray[Any]) -> int:
    """Return how many copies of each clip are among the embeddings.

    ``X`` has the shape (n_clips * (1 + n_copies), n_features), or one such matrix for each layer;
    ``labels``, shape (n_clips,), are those of the clips.
    """
    return int(X.shape[-2] // len(labels)) - 1


def with_copies(rows: NDArray[np.intp], n_clips: int, copies: int) -> NDArray[np.intp]:
    """Return the row numbers of some clips, followed by those of each of their copies.

    A row number modulo ``n_clips`` is that of the clip itself.
    """
    return np.concatenate([rows + number * n_clips for number in range(copies + 1)])
