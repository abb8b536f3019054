"""The heads, registered by name: one module each, and those of other installed packages."""

from collections.abc import Sequence

from ...errors import UserError
from ...plugins import HEAD_GROUP, Registry
from .head import Classifier, Grid, Head, Point, Tested, Tester, paths
from .lgbm import LGBM
from .lgbm_regressor import LGBM_REGRESSOR
from .lr import LR
from .ridge import RIDGE
from .sgd import SGD
from .svm import SVM, SVM_LINEAR
from .svr import SVR

__all__ = [
    "BEST",
    "DEFAULT_HEADS",
    "HEADS",
    "Classifier",
    "Grid",
    "Head",
    "Point",
    "Tested",
    "Tester",
    "find_heads",
    "paths",
    "read_grids",
]

#: What ``--head`` says for the head that is chosen among the others inside each fold.
BEST = "best"

#: What is fitted unless the user says otherwise: quick, and two to compare. By task.
DEFAULT_HEADS = {"classification": ("lr", "svm"), "regression": ("ridge",)}

HEADS = Registry(
    HEAD_GROUP,
    Head,
    {head.name: head for head in (LR, SVM, SVM_LINEAR, LGBM, SGD, RIDGE, SVR, LGBM_REGRESSOR)},
    reserved=frozenset({BEST, "all"}),
)


def find_heads(names: str | None, task: str = "classification") -> tuple[Head, ...]:
    """Turn the value of ``--head`` into heads.

    Parameters
    ----------
    names : str or None
        One name, several joined by commas, or ``"all"``: the built-in ones but for those that only
        stand in for another, so that it means the same whatever else is installed; ``None`` for
        :data:`DEFAULT_HEADS`. ``"best"`` is no head of its own: by itself it stands for all, and
        among other names it is passed over, see :func:`chooses_head`.
    task : str
        ``"classification"`` or ``"regression"``.

    Returns
    -------
    tuple of Head
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
    asked = {name.strip() for name in names.split(",")}
    one_alone = BEST in asked and len(asked) == 2 and "all" not in asked
    asked -= {BEST}
    if asked <= {"all"}:
        asked = {name for name in of_task if not HEADS[name].stands_in_for}
    found = {name: HEADS[name] for name in HEADS if name in asked}
    unknown = sorted(asked - {name for name, head in found.items() if head.task == task})
    if unknown:
        what = "labels" if task == "classification" else "ratings"
        problem = f"is no head for {what}" if unknown[0] in found else "is no head"
        known = ", ".join([*of_task, *(name for name in HEADS if name not in HEADS.built_in)])
        raise UserError(f"--head {names}: {unknown[0]!r} {problem}; expected {known}, all or best")
    if one_alone:
        raise UserError(
            f"--head {names}: there is one head, and nothing to choose from; name several, or best "
            "alone to choose from all"
        )
    return tuple(found.values())


def chooses_head(names: str | None) -> bool:
    """Whether the value of ``--head`` asks for a choice among heads inside each fold."""
    return names is not None and BEST in (name.strip() for name in names.split(","))


def read_grids(heads: tuple[Head, ...], given: Sequence[str]) -> dict[str, Grid]:
    """Turn the values of ``--grid`` into the values to try for each head.

    Parameters
    ----------
    heads : tuple of Head
        The heads that will be fitted.
    given : sequence of str
        ``"HEAD.NAME=VALUE,VALUE"``, or ``"NAME=VALUE,VALUE"`` for all heads that have it. One value
        fixes the hyper-parameter.

    Returns
    -------
    dict of str to Grid
        By head; what is not given has the head's own values.

    Raises
    ------
    UserError
        If a text is not of that form or names what is not there.
    """
    grids = {head.name: head.grid for head in heads}
    seen: set[tuple[str, str]] = set()
    known = ", ".join(f"{head}.{name}" for head, names in grids.items() for name in names)
    for text in given:
        left, _, values = text.partition("=")
        head, _, name = left.rpartition(".")
        of_heads = [each for each in ([head] if head else grids) if name in grids.get(each, {})]
        if not of_heads:
            raise UserError(f"--grid {text}: expected HEAD.NAME=NUMBER,... with one of {known}")
        try:
            numbers = tuple(sorted({float(value) for value in values.split(",")}))
        except ValueError:
            numbers = ()
        for each in of_heads:
            if (each, name) in seen:
                raise UserError(f"--grid {text}: {each}.{name} is given twice; expected it once")
            seen.add((each, name))
            allowed = HEADS[each].parameters[name]
            if not numbers or not all(allowed.allows(number) for number in numbers):
                raise UserError(f"--grid {text}: expected each {each}.{name} to be {allowed}")
            grids[each][name] = numbers
    return {**grids}
