"""Perturbations of audio: their names, values and limits; :mod:`.perturb` applies them.

This module imports nothing heavy: options are checked here before audio is read.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UserError


@dataclass(frozen=True)
class _Kind:
    """The value that a kind of perturbation takes."""

    unit: str = ""  #: What the value is, for messages; empty if the kind takes no value.
    low: float = 0.0
    high: float = 0.0
    default: float | None = None  #: None: a value is required.


#: By name; docs/method.md defines each.
KINDS = {
    "noise": _Kind("the signal-to-noise ratio in dB", -20, 60),
    "telephone": _Kind(),
    "mp3": _Kind("the bit rate in kbit/s", 8, 160),
    "reverb": _Kind("the reverberation time in seconds", 0.1, 5, 0.6),
    "gain": _Kind("the gain in dB", -60, 60),
    "clip": _Kind("the percentage of clipped samples", 0.1, 50, 10),
    "shorter": _Kind("the seconds that are kept", 0.1, 600),
}
#: Increased whenever a perturbation is computed differently: earlier copies are then made again.
REVISION = 1
SPELLING = "noise:DB|telephone|mp3:KBPS|reverb[:S]|gain:DB|clip[:PERCENT]|shorter:S"


@dataclass(frozen=True)
class Perturbation:
    """A change that is made to every clip, such as noise at 10 dB.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`.
    value : float, optional
        What the kind takes; None if it takes nothing.
    seed : int
        Of noise and room responses, which also depend on the content of the clip.
    """

    kind: str
    value: float | None = None
    seed: int = 0

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value:g}"


def read_perturbations(option: str, specs: Iterable[str]) -> tuple[Perturbation, ...]:
    """Read perturbations from texts such as ``"noise:20,10"`` or ``"telephone"``.

    Parameters
    ----------
    option : str
        The option that the texts were given with, for messages.
    specs : iterable of str
        Each is a kind, or a kind, a colon and values that are joined by commas.

    Returns
    -------
    tuple of Perturbation
        One for each value, in the given order.

    Raises
    ------
    UserError
        If a kind or a value is unknown, missing, out of range or given twice.
    """
    found: list[Perturbation] = []
    for spec in specs:
        name, colon, values = spec.partition(":")
        kind = KINDS.get(name)
        if kind is None:
            raise UserError(f"{option} {spec}: no such perturbation; expected {SPELLING}")
        if colon and not kind.unit:
            raise UserError(f"{option} {spec}: {name} takes no value; write {name}")
        texts = values.split(",") if colon else [""]
        for text in texts:
            perturbation = Perturbation(name, _read_value(f"{option} {spec}", kind, text, colon))
            if perturbation in found:
                raise UserError(f"{option} {spec}: {perturbation} is given twice; give it once")
            found.append(perturbation)
    return tuple(found)


def _read_value(what: str, kind: _Kind, text: str, colon: str) -> float | None:
    if not colon and (not kind.unit or kind.default is not None):
        return kind.default
    try:
        value = float(text)
    except ValueError:
        if text.partition(":")[0] in KINDS:
            option = what.partition(" ")[0]
            raise UserError(
                f"{what}: {text} is a perturbation of its own; give it as {option} {text}"
            ) from None
        value = float("nan")
    if not kind.low <= value <= kind.high:
        raise UserError(
            f"{what}: expected {kind.unit} after a colon, from {kind.low:g} to {kind.high:g}"
        )
    return float(f"{value:g}")  # as it is written in names of files and in keys
