"""The heads, registered by name: one module each, and those of other installed packages."""

from collections.abc import Sequence

from ...errors import UserError
from ...plugins import HEAD_GROUP, Registry
from .head import Grid, Head, HeldOutResult, Params, PathFitter, combinations, paths
from .lgbm import LGBM, LGBMRegressor
from .lr import LR
from .ridge import Ridge
from .sgd import SGD
from .svm import SVM, LinearSVM
from .svr import SVR

__all__ = [
    "BEST",
    "DEFAULT_HEADS",
    "HEADS",
    "Grid",
    "Head",
    "HeldOutResult",
    "Params",
    "PathFitter",
    "combinations",
    "find_heads",
    "paths",
    "read_grids",
]

#: The value of ``--head`` for the head that is chosen among the others inside each fold.
BEST = "best"

#: What is fitted unless the user says otherwise: quick, and two to compare. By task.
DEFAULT_HEADS = {"classification": ("lr", "svm"), "regression": ("ridge",)}

HEADS: Registry[type[Head]] = Registry(
    HEAD_GROUP,
    Head,
    {head.name: head for head in (LR, SVM, LinearSVM, LGBM, SGD, Ridge, SVR, LGBMRegressor)},
    reserved=frozenset({BEST, "all"}),
)


def find_heads(names: str | None, task: str = "classification") -> tuple[type[Head], ...]:
    """Turn the value of ``--head`` into heads.

    Parameters
    ----------
    names : str or None
        One name, several joined by commas, or ``"all"``: the built-in ones except those that only
        stand in for another, so that it means the same whatever else is installed; ``None`` for
        :data:`DEFAULT_HEADS`. ``"best"`` by itself stands for all, and is ignored among other
        names, see :func:`chooses_head`.
    task : str
        ``"classification"`` or ``"regression"``.

    Returns
    -------
    tuple of subclasses of Head
        In the order of the registry.

    Raises
    ------
    UserError
        If a name is not known, or is that of a head for another task, or if a package that
        registers it cannot be loaded.
    """
    of_task = [name for name, head in HEADS.built_in.items() if head.task == task]
    if names is None:
        return tuple(HEADS[name] for name in DEFAULT_HEADS[task])
    requested = {name.strip() for name in names.split(",")}
    best_of_one = BEST in requested and len(requested) == 2 and "all" not in requested
    requested -= {BEST}
    if requested <= {"all"}:
        requested = {name for name in of_task if not HEADS[name].stands_in_for}
    heads = {name: HEADS[name] for name in HEADS if name in requested}
    unknown = sorted(requested - {name for name, head in heads.items() if head.task == task})
    if unknown:
        targets = "labels" if task == "classification" else "ratings"
        problem = f"is not a head for {targets}" if unknown[0] in heads else "is not a head"
        known = ", ".join([*of_task, *(name for name in HEADS if name not in HEADS.built_in)])
        raise UserError(
            f"--head {names}: {unknown[0]!r} {problem}; choose from {known}, all and best"
        )
    if best_of_one:
        raise UserError(
            f"--head {names}: there is only one head to choose from; name several, or use best "
            "alone to choose among all heads"
        )
    return tuple(heads.values())


def chooses_head(names: str | None) -> bool:
    """Whether the value of ``--head`` requests a choice among heads inside each fold."""
    return names is not None and BEST in (name.strip() for name in names.split(","))


def read_grids(heads: Sequence[type[Head]], options: Sequence[str]) -> dict[str, Grid]:
    """Turn the values of ``--grid`` into the values to try for each head.

    Parameters
    ----------
    heads : sequence of subclasses of Head
        The heads that will be fitted.
    options : sequence of str
        ``"HEAD.NAME=VALUE,VALUE"``, or ``"NAME=VALUE,VALUE"`` for all heads that have it. One value
        fixes the hyper-parameter.

    Returns
    -------
    dict of str to Grid
        By head; a hyper-parameter that is not named keeps the head's own values.

    Raises
    ------
    UserError
        If a text is not of that form, or names an unknown head or hyper-parameter.
    """
    by_name = {head.name: head for head in heads}
    grids = {head.name: dict(head.grid) for head in heads}
    seen: set[tuple[str, str]] = set()
    for text in options:
        left, _, values = text.partition("=")
        name, _, parameter = left.rpartition(".")
        targets = [each for each in ([name] if name else grids) if parameter in grids.get(each, {})]
        if not targets:
            known = ", ".join(f"{head}.{each}" for head, grid in grids.items() for each in grid)
            raise UserError(f"--grid {text}: expected HEAD.NAME=NUMBER,... with one of {known}")
        try:
            numbers = tuple(sorted({float(value) for value in values.split(",")}))
        except ValueError:
            numbers = ()
        for head in targets:
            if (head, parameter) in seen:
                raise UserError(f"--grid {text}: {head}.{parameter} is given twice")
            seen.add((head, parameter))
            limits = by_name[head].parameters[parameter]
            if not numbers or not all(map(limits.allows, numbers)):
                raise UserError(f"--grid {text}: each {head}.{parameter} must be {limits}")
            grids[head][parameter] = numbers
    return {**grids}
