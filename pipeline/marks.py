"""Marks: reasons why a score means something else than that of an ordinary run."""

from dataclasses import dataclass
from enum import StrEnum


class MarkKind(StrEnum):
    """The known marks, as warnings begin with them."""

    INFLATED = "INFLATED"
    TRANSDUCTIVE = "TRANSDUCTIVE"
    PERMUTED_LABELS = "PERMUTED LABELS"
    STREAMED = "STREAMED"
    CONTAMINATED = "CONTAMINATED"
    RESTRICTED = "RESTRICTED"
    TRIAL = "TRIAL"
    CONFIGURATION = "CONFIGURATION"


@dataclass(frozen=True)
class Mark:
    """A mark and its explanation. As text it is the warning that is shown and stored."""

    name: str  #: A :class:`MarkKind`, or the mark of another version of serpipe.
    text: str

    @classmethod
    def parse(cls, warning: str) -> "Mark":
        """Read a stored warning, such as ``"INFLATED: ..."``."""
        name, _, text = warning.partition(":")
        return cls(name, text.lstrip())

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"
