"""The heads, registered by name. A new one is one new module and one more entry here."""

from ...errors import UserError
from .head import Classifier, Head, Parameters
from .lgbm import LGBM
from .lr import LR
from .svm import SVM

__all__ = ["HEADS", "Classifier", "Head", "Parameters", "find_heads", "read_parameters"]

HEADS = {head.name: head for head in (LR, SVM, LGBM)}


def find_heads(names: str) -> tuple[Head, ...]:
    """Turn the value of ``--head`` into heads.

    Parameters
    ----------
    names : str
        One name, several joined by commas, or ``"all"``.

    Returns
    -------
    tuple of Head
        In the order of the registry.

    Raises
    ------
    UserError
        If a name is not known.
    """
    asked = set(HEADS) if names == "all" else {name.strip() for name in names.split(",")}
    unknown = sorted(asked - set(HEADS))
    if unknown:
        raise UserError(
            f"--head {names}: {unknown[0]!r} is no head; expected {', '.join(HEADS)} or all"
        )
    return tuple(head for name, head in HEADS.items() if name in asked)


def read_parameters(heads: tuple[Head, ...], given: list[str]) -> dict[str, Parameters]:
    """Turn the values of ``--param`` into hyper-parameters for each head.

    Parameters
    ----------
    heads : tuple of Head
        The heads that will be fitted.
    given : list of str
        ``"HEAD.NAME=VALUE"``, or ``"NAME=VALUE"`` where there is one head.

    Returns
    -------
    dict of str to dict of str to float
        By head; what is not given has its default.

    Raises
    ------
    UserError
        If a text is not of that form or names what is not there.
    """
    parameters = {head.name: dict(head.defaults) for head in heads}
    known = ", ".join(f"{head}.{name}" for head, names in parameters.items() for name in names)
    for text in given:
        left, _, value = text.partition("=")
        head, _, name = left.rpartition(".")
        if not head and len(heads) == 1:
            head = heads[0].name
        if name not in parameters.get(head, {}):
            raise UserError(f"--param {text}: expected HEAD.NAME=NUMBER with one of {known}")
        allowed = HEADS[head].parameters[name]
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not allowed.allows(number):
            raise UserError(f"--param {text}: expected {head}.{name} to be {allowed}")
        parameters[head][name] = number
    return dict(parameters)
