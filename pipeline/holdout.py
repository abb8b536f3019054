"""One random division into training, validation and test clips, by shares."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: Percentages for training, validation and test.
Shares = tuple[int, int, int]
Indices = NDArray[np.intp]


def read_shares(split: str) -> Shares:
    """Read the shares of a split.

    Parameters
    ----------
    split : str
        As on the command line, such as ``"holdout:70/10/20"``.

    Returns
    -------
    tuple of int
        Percentages for training, validation and test.

    Raises
    ------
    UserError
        If these are not three whole numbers from 1 that add up to 100.
    """
    kind, _, argument = split.partition(":")
    match = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{1,2})", argument)
    shares = [int(share) for share in match.groups()] if match else []
    if sum(shares) != 100 or min(shares) < 1:
        raise UserError(
            f"--split {split}: give three whole numbers, each at least 1, that add up to 100 "
            f"(training, validation, test), such as {kind}:70/10/20"
        )
    return shares[0], shares[1], shares[2]


def divide(
    groups: NDArray[np.str_], strata: NDArray[Any], shares: Shares, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Draw groups of clips for training, validation and test.

    Parameters
    ----------
    groups : ndarray of str, shape (n_clips,)
        What stays together, such as the speaker; at least three of them.
    strata : ndarray, shape (n_clips,)
        What each part should contain in the same proportions, as far as groups allow.
    shares : tuple of int
        Percentages of the groups.
    seed : int
        Seed of the draw.

    Returns
    -------
    tuple of ndarray of int
        Row numbers of the training, validation and test clips.
    """
    names, first = np.unique(groups, return_index=True)
    _, n_validation, n_test = part_sizes(len(names), shares)
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(names))
    # The groups of each stratum are spread evenly from 0 to 1: any cut gives each its share.
    position = np.empty(len(names))
    for stratum in np.unique(strata):
        rows = shuffled[strata[first[shuffled]] == stratum]
        position[rows] = (np.arange(len(rows)) + draw.random(len(rows))) / max(len(rows), 1)
    test, validation, train = np.split(np.argsort(position), [n_test, n_test + n_validation])
    return (
        np.flatnonzero(np.isin(groups, names[train])),
        np.flatnonzero(np.isin(groups, names[validation])),
        np.flatnonzero(np.isin(groups, names[test])),
    )


def part_sizes(n: int, shares: Shares) -> Shares:
    """Divide ``n`` >= 3 by percentages, rounding by largest remainders; no part is empty."""
    sizes = [n * share // 100 for share in shares]
    by_remainder = sorted(range(3), key=lambda part: -(n * shares[part] % 100))
    for part in by_remainder[: n - sum(sizes)]:
        sizes[part] += 1
    while not min(sizes):
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes[0], sizes[1], sizes[2]
