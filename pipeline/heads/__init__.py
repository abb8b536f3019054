"""The heads, registered by name: one module each, and those of other installed packages."""

from collections.abc import Sequence

from ...errors import UserError
from ...plugins import HEAD_GROUP, Registry
from .fused import FusedHead
from .head import Grid, Head, HeldOutResult, Params, PathFitter, combinations, paths
from .lda import LDA
from .lgbm import LGBM, LGBMRegressor
from .lr import LR
from .ridge import Ridge
from .sgd import SGD
from .svm import SVM, LinearSVM
from .svr import SVR

__all__ = [
    "BEST",
    "DEFAULT_HEADS",
    "FUSE",
    "HEADS",
    "FusedHead",
    "Grid",
    "Head",
    "HeldOutResult",
    "Params",
    "PathFitter",
    "combinations",
    "combined_heads",
    "find_heads",
    "paths",
    "read_grids",
    "saved_head",
]

#: The value of ``--head`` for the head that is chosen among the others inside each fold.
BEST = "best"
#: The value of ``--head`` for the fusion of the others on all layers.
FUSE = FusedHead.name

#: What is fitted, and fused, unless the user says otherwise: two quick heads that differ. By task.
DEFAULT_HEADS = {"classification": ("lda", "svm"), "regression": ("ridge",)}

HEADS: Registry[type[Head]] = Registry(
    HEAD_GROUP,
    Head,
    {head.name: head for head in (LDA, LR, SVM, LinearSVM, LGBM, SGD, Ridge, SVR, LGBMRegressor)},
    reserved=frozenset({BEST, FUSE, "all"}),
)


def find_heads(names: str | None, task: str = "classification") -> tuple[type[Head], ...]:
    """Turn the value of ``--head`` into heads.

    Parameters
    ----------
    names : str or None
        One name, several joined by commas, or ``"all"``: the built-in ones except those that only
        stand in for another, so that it means the same whatever else is installed; ``None`` for
        :data:`DEFAULT_HEADS`. ``"best"`` by itself stands for all, and ``"fuse"`` by itself for
        :data:`DEFAULT_HEADS`; among other names both are ignored, see :func:`combined_heads`.
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
    if requested == {FUSE}:
        requested |= set(DEFAULT_HEADS[task])
    if FUSE in requested and task != "classification":
        raise UserError(f"--head {names}: fuse combines probabilities of labels; name other heads")
    combined = requested & {BEST, FUSE}
    requested -= combined
    best_of_one = BEST in combined and len(requested) == 1 and "all" not in requested
    if requested <= {"all"}:
        requested = {name for name in of_task if not HEADS[name].stands_in_for}
    heads = {name: HEADS[name] for name in HEADS if name in requested}
    unknown = sorted(requested - {name for name, head in heads.items() if head.task == task})
    if unknown:
        targets = "labels" if task == "classification" else "ratings"
        problem = f"is not a head for {targets}" if unknown[0] in heads else "is not a head"
        known = ", ".join([*of_task, *(name for name in HEADS if name not in HEADS.built_in)])
        raise UserError(
            f"--head {names}: {unknown[0]!r} {problem}; choose from {known}, all, best and fuse"
        )
    if best_of_one:
        raise UserError(
            f"--head {names}: there is only one head to choose from; name several, or use best "
            "alone to choose among all heads"
        )
    return tuple(heads.values())


def combined_heads(names: str | None, task: str = "classification") -> tuple[str, ...]:
    """Return which of :data:`BEST` and :data:`FUSE` the value of ``--head`` requests.

    ``None`` requests a fusion of the default heads, where labels are predicted.
    """
    if names is None:
        return (FUSE,) if task == "classification" else ()
    requested = {name.strip() for name in names.split(",")}
    return tuple(name for name in (BEST, FUSE) if name in requested)


def saved_head(name: str) -> type[Head]:
    """Return the class of a head in a bundle, which may be a fusion.

    Raises
    ------
    KeyError
        If there is no such head.
    """
    return FusedHead if name == FUSE else HEADS[name]


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
