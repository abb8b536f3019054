"""Find speaker ids that look like two spellings of one id."""

import re
import unicodedata
from collections.abc import Iterable, Sequence


def canonical_speaker(speaker: str) -> str:
    """Return a speaker id without the differences between spellings.

    Case, Unicode form, accents, zero padding, spaces and punctuation are dropped, so that ``"Actor
    1"``, ``"actor01"`` and ``"ACTOR_1"`` give the same result. Punctuation between two digits is
    kept as a hyphen: ``"1-12"`` and ``"11-2"`` are different ids. ``+`` and ``:`` are kept, too. An
    id with neither letters nor digits stays as it is.

    Examples
    --------
    >>> canonical_speaker("Actor_01")
    'actor1'
    """
    text = unicodedata.normalize("NFKD", speaker).casefold()
    # Marks, and invisible characters such as zero-width spaces.
    text = "".join(c for c in text if unicodedata.category(c) not in ("Mn", "Cf"))
    text = re.sub(r"^(\d+)\.0+$", r"\1", text.strip())  # a number that a spreadsheet wrote
    text = re.sub(r"(?<=\d)(?:(?![:+])[\W_])+(?=\d)", "-", text)
    text = re.sub(r"[^\w:+-]+|_", "", text)
    text = re.sub(r"(?<!\d)-|-(?!\d)", "", text)
    text = re.sub(r"(?<!\d)0+(?=\d)", "", text)
    return text or speaker


def similar_speakers(speakers: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of ids that :func:`canonical_speaker` does not distinguish, each sorted."""
    groups: dict[str, list[str]] = {}
    for speaker in sorted(set(speakers)):
        groups.setdefault(canonical_speaker(speaker), []).append(speaker)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def describe_similar(groups: Sequence[tuple[str, ...]]) -> str:
    """Return groups of similar ids as text, such as ``"'Actor1' and 'actor01'"``."""
    shown = ", ".join(" and ".join(map(repr, group)) for group in groups[:5])
    return shown + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
