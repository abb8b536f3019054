"""Compare methods over several corpora: by their ranks, or by the scores of all speakers."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .statistics import FEWEST_SPEAKERS, holm

#: With fewer corpora or methods, ranks resolve nothing but the largest differences.
FEWEST_CORPORA, FEWEST_METHODS = 5, 3
#: Level of all tests.
LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Two methods compared."""

    better: str  #: The one that the test ranks higher, resolved or not.
    worse: str
    p: float  #: Not corrected; NaN where only corrected values exist, or nothing was tested.
    p_corrected: float  #: For all pairs: Nemenyi or Holm.
    is_resolved: bool


@dataclass(frozen=True)
class RankTest:
    """The test of Friedman with the post-hoc test of Nemenyi."""

    ranks: Mapping[str, float]  #: Mean rank of each method, 1 for the best.
    statistic: float  #: F of Iman and Davenport.
    p: float
    critical_difference: float
    pairs: tuple[Pair, ...]


def mean_ranks(scores: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Return the mean rank of each method over corpora: 1 is the best, ties share their ranks.

    ``scores`` are by method, shape (n_corpora,); higher is better.
    """
    from scipy.stats import rankdata

    table = np.stack(list(scores.values()))
    ranks = rankdata(-table, axis=0).mean(axis=1)
    return dict(zip(scores, ranks.tolist(), strict=True))


def compare_ranks(scores: Mapping[str, NDArray[np.float64]]) -> RankTest:
    """Test whether methods differ over corpora, and which of them do.

    A pair is resolved if Friedman's test rejects and the mean ranks differ by more than the
    critical difference.

    Parameters
    ----------
    scores : mapping of str to ndarray of float64, shape (n_corpora,)
        A score of each method on each corpus; at least three methods.

    Returns
    -------
    RankTest

    References
    ----------
    Demšar (2006), *Statistical comparisons of classifiers over multiple data sets*, Journal of
    Machine Learning Research 7. Iman & Davenport (1980), *Approximations of the critical region of
    the Friedman statistic*, Communications in Statistics A9(6).
    """
    from scipy.stats import f, friedmanchisquare, studentized_range

    ranks = mean_ranks(scores)
    k, n = len(scores), len(next(iter(scores.values())))
    if all(np.ptp(each) == 0 for each in zip(*scores.values(), strict=True)):
        statistic, p = 0.0, 1.0  # all methods are tied on all corpora
    else:
        chi2 = float(friedmanchisquare(*scores.values()).statistic)
        rest = n * (k - 1) - chi2
        statistic = np.inf if rest <= 1e-9 else (n - 1) * chi2 / rest
        p = float(f.sf(statistic, k - 1, (k - 1) * (n - 1)))
    error = np.sqrt(k * (k + 1) / (6 * n))
    critical = float(studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2) * error)
    pairs = []
    for better, worse in combinations(sorted(ranks, key=lambda name: ranks[name]), 2):
        distance = (ranks[worse] - ranks[better]) / error * np.sqrt(2)
        p_pair = float(studentized_range.sf(distance, k, np.inf))
        pairs.append(Pair(better, worse, np.nan, p_pair, p < LEVEL and p_pair < LEVEL))
    return RankTest(ranks, float(statistic), p, critical, tuple(pairs))


def compare_speakers(scores: Mapping[str, NDArray[np.float64]]) -> tuple[Pair, ...]:
    """Test each pair of methods by Wilcoxon's signed-rank test over speakers.

    Parameters
    ----------
    scores : mapping of str to ndarray of float64, shape (n_speakers,)
        A score of each method for each speaker of all corpora, in one order. Speakers without a
        score of both methods are omitted, and those with equal scores are ranked (Pratt).

    Returns
    -------
    tuple of Pair
        Corrected for all pairs (Holm); NaN with fewer than five speakers.

    References
    ----------
    Wilcoxon (1945), *Individual comparisons by ranking methods*, Biometrics Bulletin 1(6). Pratt
    (1959), *Remarks on zeros and ties in the Wilcoxon signed rank procedures*, JASA 54(287).
    """
    from scipy.stats import rankdata, wilcoxon

    names, p = [], []
    for first, second in combinations(scores, 2):
        differences = scores[first] - scores[second]
        # Equal scores can differ in their last digit, which would count as a difference.
        differences = differences[~np.isnan(differences)].round(12)
        ranks = rankdata(np.abs(differences)) * np.sign(differences)
        names.append((first, second) if ranks.sum() >= 0 else (second, first))
        if len(differences) < FEWEST_SPEAKERS:
            p.append(np.nan)
        elif not differences.any():
            p.append(1.0)
        else:
            p.append(float(wilcoxon(differences, zero_method="pratt").pvalue))
    corrected = holm(np.array(p)).tolist()
    return tuple(
        Pair(better, worse, each, q, q < LEVEL)
        for (better, worse), each, q in zip(names, p, corrected, strict=True)
    )
