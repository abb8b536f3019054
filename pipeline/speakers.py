"""Who speaks in each clip, across corpora and spellings."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choices import SIMILAR_SPEAKERS as SIMILAR_SPEAKERS
from ..choices import check_choice
from ..corpora import CORPORA
from ..corpora.speakers import canonical_speaker, describe_similar, similar_speakers
from ..errors import UserError, counted

#: Ids, as :func:`canonical_speaker` returns them, that name no particular person.
_PLACEHOLDERS = frozenset(
    {"unknown", "unk", "na", "n-a", "nan", "none", "null", "anonymous", "anon", "various", "mixed",
     "multiple", "other", "notavailable"}
)  # fmt: skip


#: The last part of an id, after a separator.
_LAST_PART = re.compile(r"[\W_]+[^\W_]+$")


@dataclass(frozen=True)
class Speakers:
    """The speaker of each clip."""

    #: Shape (n_clips,). Two clips have the same id if and only if they are assumed to be of one
    #: person.
    ids: NDArray[np.str_]
    assumptions: tuple[str, ...] = ()  #: What was assumed about the ids, in words.
    #: Code of a check, as in docs/checks.md, and a description.
    findings: tuple[tuple[str, str], ...] = ()


def identify_speakers(
    clips: Mapping[str, NDArray[Any]],
    *,
    several_corpora: bool,
    per_corpus: bool = False,
    similar: str = "refuse",
) -> Speakers:
    """Decide which clips are of the same person.

    A speaker id that occurs in several corpora is one person, unless the corpora are known to use
    it for different people, as for those with built-in readers.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table: ``corpus``, ``speaker`` and, except in old caches, ``speaker_id``.
    several_corpora : bool
        Whether the cache holds several corpora: ids that belong to one corpus then include its
        name.
    per_corpus : bool
        Whether the user states that each corpus has its own speakers.
    similar : {"refuse", "merge", "separate"}
        What to do with ids that differ only in spelling.

    Raises
    ------
    UserError
        If ids differ only in spelling, and ``similar`` is ``"refuse"``.
    """
    check_choice("--similar-speakers", similar, SIMILAR_SPEAKERS)
    corpora, raw = clips["corpus"], clips["speaker"]
    qualified = np.char.add(np.char.add(corpora, ":"), raw)
    assumptions: list[str] = []
    findings: list[tuple[str, str]] = []
    if not several_corpora:
        ids = raw
    elif per_corpus:
        ids = qualified
        shared = _in_several_corpora(speaker_ids(clips), corpora)
        if shared:
            findings.append((
                "SER023",
                f"{_in_several(shared)}, such as {_where(shared)}: a different person in each "
                "(--speakers-per-corpus)",
            ))  # fmt: skip
    else:
        ids = speaker_ids(clips)
        shared = _in_several_corpora(ids, corpora)
        if shared:
            assumptions.append(
                f"{_in_several(shared)}, such as {_where(shared)}; "
                "each is assumed to be one person (if they are different people: "
                "--speakers-per-corpus)"
            )
    groups = similar_speakers(ids.tolist())
    if groups and similar == "refuse":
        raise UserError(
            f"speaker ids differ only in spelling: {describe_similar(groups)}; if each group is "
            "one person, merge them with --similar-speakers merge or correct the table; if not, "
            "keep them with --similar-speakers separate"
        )
    if groups and similar == "merge":
        first = {canonical_speaker(group[0]): group[0] for group in groups}
        names, code = np.unique(ids, return_inverse=True)
        merged = [first.get(canonical_speaker(each), each) for each in names.tolist()]
        ids = np.array(merged)[code]
        assumptions.append(f"speaker ids merged: {describe_similar(groups)}")
    elif groups:
        findings.append((
            "SER026",
            f"{counted(len(groups), 'group')} of speaker ids with no difference but the spelling, "
            f"assumed to be different people (--similar-speakers separate): "
            f"{describe_similar(groups)}",
        ))  # fmt: skip
    findings += _suspicious_ids(ids)
    return Speakers(ids, tuple(assumptions), tuple(findings))


def _in_several(shared: Mapping[str, object]) -> str:
    return (
        f"{counted(len(shared), 'speaker id')} {'occurs' if len(shared) == 1 else 'occur'} in "
        "several corpora"
    )


def _suspicious_ids(ids: NDArray[np.str_]) -> list[tuple[str, str]]:
    """Find signs that ids name clips, sessions or no particular person."""
    findings = []
    unique, counts = np.unique(ids, return_counts=True)
    names = unique.tolist()
    nobody = [name for name in names if canonical_speaker(_own(name)) in _PLACEHOLDERS]
    if nobody:
        clips = int(np.isin(ids, nobody).sum())
        findings.append(
            ("SER028", f"the speaker of {counted(clips, 'clip')} is {', '.join(nobody)}")
        )
    stems = {name: _LAST_PART.sub("", _own(name)) for name in names}
    sizes = Counter(stem for name, stem in stems.items() if stem != _own(name))
    several = [stem for stem, size in sizes.items() if size > 2]
    if len(several) > 2 and 2 * sum(sizes[stem] for stem in several) >= len(names):
        alike = ", ".join([name for name in names if stems[name] == several[0]][:3])
        text = f"many speaker ids differ in their last part only, such as {alike}"
        findings.append(("SER029", text))
    few = int(np.sum(counts <= 2))
    if 2 * few >= len(counts):
        text = f"{few} of {len(counts)} speakers have no more than two clips"
        findings.append(("SER019", text))
    return findings


def _own(speaker: str) -> str:
    """Return an id without the name of its corpus."""
    return speaker.rpartition(":")[2]


def speaker_ids(clips: Mapping[str, NDArray[Any]]) -> NDArray[np.str_]:
    """Return the speaker id of each clip, shape (n_clips,), with the corpus if ids are its own.

    The clip table of an old cache has no column ``speaker_id``.
    """
    if "speaker_id" in clips:
        return clips["speaker_id"]
    # A cache of an earlier version does not record which reader it used.
    known = np.isin(clips["corpus"], list(CORPORA))
    qualified = np.char.add(np.char.add(clips["corpus"], ":"), clips["speaker"])
    return np.where(known, qualified, clips["speaker"])


def _in_several_corpora(
    ids: NDArray[np.str_], corpora: NDArray[np.str_]
) -> dict[str, tuple[str, ...]]:
    """Return the ids that occur in several corpora, each with the names of the corpora."""
    corpora_of: dict[str, set[str]] = {}
    for speaker, corpus in set(zip(ids.tolist(), corpora.tolist(), strict=True)):
        corpora_of.setdefault(speaker, set()).add(corpus)
    return {
        speaker: tuple(sorted(corpora_of[speaker])) for speaker in sorted(corpora_of)
        if len(corpora_of[speaker]) > 1
    }  # fmt: skip


def _where(shared: Mapping[str, tuple[str, ...]]) -> str:
    speaker, corpora = next(iter(shared.items()))
    return f"{speaker!r} in {' and '.join(corpora)}"
