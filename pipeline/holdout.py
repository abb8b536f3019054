"""One division into clips to train on, to choose by and to test: by shares, drawn by a seed."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: Shares in per cent of what trains, what is chosen by, and what is tested.
Shares = tuple[int, int, int]
Indices = NDArray[np.intp]


def holds_out(split: str) -> bool:
    """Say whether a split, as on the command line, is one division by shares."""
    kind, _, argument = split.partition(":")
    return kind == "holdout" or (kind == "random" and "/" in argument)


def read_shares(split: str) -> Shares:
    """Read the shares of a split.

    Parameters
    ----------
    split : str
        As on the command line, such as ``"holdout:70/10/20"``.

    Returns
    -------
    tuple of int
        In per cent, to train on, to choose by, and to test.

    Raises
    ------
    UserError
        If these are not three whole numbers from 1 that add up to 100.
    """
    kind, _, argument = split.partition(":")
    found = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{1,2})", argument)
    shares = [int(share) for share in found.groups()] if found else []
    if sum(shares) != 100 or min(shares) < 1:
        raise UserError(
            f"--split {split}: expected three whole numbers, each at least 1, that add up to 100 "
            f"(to train on, to choose by, to test), such as {kind}:70/10/20"
        )
    return shares[0], shares[1], shares[2]


def divide(
    groups: NDArray[np.str_], strata: NDArray[Any], shares: Shares, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Draw groups of clips for each of three parts.

    Parameters
    ----------
    groups : ndarray of str, shape (n_clips,)
        What stays together, such as the speaker; at least three of them.
    strata : ndarray, shape (n_clips,)
        What each part should hold in the same proportions, as far as groups allow.
    shares : tuple of int
        In per cent of the groups: to train on, to choose by, to test.
    seed : int
        Of the draw.

    Returns
    -------
    tuple of ndarray of int
        Positions of the clips to train on, to choose by, and to test.
    """
    names, first = np.unique(groups, return_index=True)
    _, n_validation, n_test = part_sizes(len(names), shares)
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(names))
    # Those of each stratum stand evenly from 0 to 1: however this is cut, each has its share.
    place = np.empty(len(names))
    for stratum in np.unique(strata):
        rows = shuffled[strata[first[shuffled]] == stratum]
        place[rows] = (np.arange(len(rows)) + draw.random(len(rows))) / max(len(rows), 1)
    test, validation, train = np.split(np.argsort(place), [n_test, n_test + n_validation])
    return (
        np.flatnonzero(np.isin(groups, names[train])),
        np.flatnonzero(np.isin(groups, names[validation])),
        np.flatnonzero(np.isin(groups, names[test])),
    )


def part_sizes(n: int, shares: Shares) -> Shares:
    """Divide a number by shares, rounding by largest remainders, and leave no part empty.

    Parameters
    ----------
    n : int
        At least 3.
    shares : tuple of int
        In per cent.

    Returns
    -------
    tuple of int
        Of sum ``n``; each at least 1.
    """
    sizes = [n * share // 100 for share in shares]
    by_remainder = sorted(range(3), key=lambda part: -(n * shares[part] % 100))
    for part in by_remainder[: n - sum(sizes)]:
        sizes[part] += 1
    while not min(sizes):
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes[0], sizes[1], sizes[2]
