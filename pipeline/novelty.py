"""Tell recordings that are unlike all training clips, by the distance of their embeddings.

The distance is that of Mahalanobis under probabilistic PCA: along the 16 directions in which
training clips vary most it is relative to the variance of each, and in all other directions to
their mean variance.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from ..errors import UserError
from .blocks import Matrix, read
from .folds import INNER_FOLDS
from .heads import sklearn_file

#: Directions with a variance of their own.
DIRECTIONS = 16
#: The share of clips of left-out speakers that is nearer than the threshold, in percent.
PERCENTILE = 99
#: With more training clips, as many are taken at equal steps.
MOST_CLIPS = 20_000
#: The most numbers that are read: 400 MB.
MOST_VALUES = 100_000_000


@dataclass(frozen=True)
class NoveltyDetector:
    """Measures how far embeddings are from those of the training clips."""

    mean: NDArray[np.float32]  #: Shape (n_features,).
    directions: NDArray[np.float32]  #: Orthonormal, shape (n_directions, n_features).
    variances: NDArray[np.float32]  #: Of the training clips along these, shape (n_directions,).
    other_variance: float  #: The mean variance along all other directions.
    threshold: float  #: Distance beyond which a clip is unlike the training clips.
    start: int = 0  #: The first feature that is used: a fusion has others before it.

    def distances(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return distances in units of the threshold, shape (n_clips,)."""
        stop = self.start + len(self.mean)
        centred = X[:, self.start : stop].astype(np.float64) - self.mean
        along = centred @ self.directions.T.astype(np.float64)
        others = np.square(centred).sum(axis=1) - np.square(along).sum(axis=1)
        squares = (np.square(along) / self.variances).sum(axis=1)
        squares += np.maximum(others, 0) / self.other_variance
        return np.asarray(np.sqrt(squares) / self.threshold)

    def save(self, path: Path) -> None:
        """Write it; equal detectors give equal bytes."""
        sklearn_file.save(asdict(self), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a detector that :meth:`save` wrote; no code in the file is run.

        Raise UserError if the file is damaged or holds something else.
        """
        content = sklearn_file.load(path)
        try:
            detector = cls(**_checked(content))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path}: is not a description of training clips ({error}); fit again"
            ) from None
        return detector


def _checked(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise TypeError("no dictionary")
    arrays = {
        name: np.asarray(content[name], np.float32)
        for name in ("mean", "directions", "variances")
        if name in content
    }
    numbers = {name: float(content.get(name, np.nan)) for name in ("other_variance", "threshold")}
    if len(arrays) < 3 or arrays["directions"].shape != (
        len(arrays["variances"]),
        len(arrays["mean"]),
    ):
        raise ValueError("its arrays do not fit each other")
    if not all(np.isfinite(each).all() for each in arrays.values()) or not all(
        0 < each < np.inf for each in (*numbers.values(), *arrays["variances"].tolist())
    ):
        raise ValueError("a number in it is not finite or not positive")
    start = int(content.get("start", 0))
    if start < 0:
        raise ValueError("start is negative")
    return {**arrays, **numbers, "start": start}


def fit_novelty_detector(
    X: Matrix, speakers: NDArray[np.str_], start: int = 0
) -> NoveltyDetector | None:
    """Fit a detector to the training clips, with a threshold from speakers that are left out.

    Parameters
    ----------
    X : ndarray of float32 or FileMatrix, shape (n_clips, n_features)
        Embeddings of the training clips.
    speakers : ndarray of str, shape (n_clips,)
        Who speaks in them: speakers, or groups of them, are left out together.
    start : int
        The column of the first feature, in the embeddings that will be measured.

    Returns
    -------
    NoveltyDetector or None
        None if there are fewer than two speakers or the embeddings do not vary.

    References
    ----------
    Tipping & Bishop (1999), *Probabilistic principal component analysis*, Journal of the Royal
    Statistical Society B 61. Lee et al. (2018), *A simple unified framework for detecting
    out-of-distribution samples and adversarial attacks*, NeurIPS, on Mahalanobis distances of
    hidden states.
    """
    n_clips = min(X.shape[0], MOST_CLIPS, max(2, MOST_VALUES // X.shape[1]))
    steps = np.linspace(0, X.shape[0] - 1, n_clips).astype(np.intp)
    clips, speakers = np.asarray(read(X, steps), np.float32), speakers[steps]
    n_folds = min(INNER_FOLDS, len(np.unique(speakers)))
    most = int(np.unique(speakers, return_counts=True)[1].max()) if len(clips) else 0
    if n_folds < 2 or len(clips) - most < 2 or not clips.var(axis=0).any():
        return None
    distances = np.empty(len(clips))
    with threadpool_limits(1):  # the last digits depend on it
        for train, test in GroupKFold(n_folds).split(clips, groups=speakers):
            detector = _fit(clips[train])
            distances[test] = detector.distances(clips[test])
        fitted = _fit(clips)
    threshold = float(np.percentile(distances, PERCENTILE))
    detector = replace(fitted, threshold=threshold, start=start)
    try:
        _checked(asdict(detector))
    except ValueError:  # embeddings that hardly vary
        return None
    return detector


def _fit(clips: NDArray[np.float32]) -> NoveltyDetector:
    """Fit all but the threshold."""
    n_directions = max(1, min(DIRECTIONS, min(clips.shape) // 2))
    pca = PCA(n_directions, random_state=0).fit(clips.astype(np.float64))
    least = 1e-9 * float(pca.explained_variance_[0]) or 1.0
    return NoveltyDetector(
        pca.mean_.astype(np.float32),
        pca.components_.astype(np.float32),
        np.maximum(pca.explained_variance_, least).astype(np.float32),
        max(float(pca.noise_variance_), least),
        threshold=1.0,
    )
