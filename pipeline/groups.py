"""Groups of speakers that stay together: recording sessions, dialogues, rooms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..corpora import CLIP_COLUMNS, CORPORA, FILLED_COLUMNS
from ..errors import UserError

if TYPE_CHECKING:
    from .folds import Fold

#: Column of the clip table of a run: the group of each clip, where folds keep groups together.
KEPT_TOGETHER = "kept_together"
#: The value of ``--group`` for folds that keep only speakers together.
SPEAKER = "speaker"
#: Words in names of columns that describe when, where or with whom a clip was recorded.
_RECORDED_TOGETHER = frozenset({
    "session", "dialog", "dialogue", "conversation", "room", "studio", "recording", "day", "date",
    "mic", "microphone", "device", "site", "household", "family", "couple", "pair", "dyad", "group",
    "scene", "show", "episode", "film", "movie", "video", "podcast", "program", "programme", "call",
    "source",
})  # fmt: skip
#: Words in names of columns that describe people.
_PEOPLE = frozenset({
    "age", "sex", "gender", "accent", "dialect", "language", "ethnicity", "nationality", "country",
})  # fmt: skip
#: Columns that serpipe fills, and those that identify a clip: none describes recordings.
OF_ONE_CLIP = {"path", "name", *FILLED_COLUMNS} - {"shared_emotion", "sampling_rate", "channels"}
#: Columns that describe a clip or a file, and not who was recorded with whom.
_DESCRIPTIONS = OF_ONE_CLIP | {
    *CLIP_COLUMNS, "sampling_rate", "channels", "vocal_channel", "style", "text", "transcript",
}  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """What folds keep together."""

    #: Shape (n_clips,). Clips with the same id are on one side of every fold; a speaker is never
    #: divided.
    ids: NDArray[np.str_]
    name: str = SPEAKER  #: The column that was used, such as ``"session"``; ``"speaker"`` if none.
    #: Whether the user named the column: folds from elsewhere must then respect it.
    chosen: bool = False
    assumptions: tuple[str, ...] = ()  #: What was assumed, in words.


def find_groups(
    clips: Mapping[str, NDArray[Any]], speakers: NDArray[np.str_], column: str | None = None
) -> Groups:
    """Determine what folds keep together; groups that share a speaker are joined.

    ``clips`` is the clip table, ``speakers`` has the speaker of each clip, and ``column`` is a
    column whose values group speakers, or ``"speaker"``. By default it is the session if the corpus
    was recorded in dialogues (IEMOCAP), otherwise the speaker. Raise UserError if there is no such
    column, or its groups cannot be kept apart.
    """
    if column == SPEAKER:
        return Groups(speakers, chosen=True)
    corpora = clips["corpus"]
    if column is None:
        defaults = {name: CORPORA[name].group for name in np.unique(corpora).tolist()
                    if name in CORPORA and CORPORA[name].group in clips}  # fmt: skip
        if not defaults:
            return Groups(speakers)
        values = np.full(len(corpora), "", dtype=object)
        for name, each in defaults.items():
            values[corpora == name] = as_text(clips[each])[corpora == name]
        name, chosen = next(iter(defaults.values())), False
        where = ", ".join(CORPORA[corpus].title for corpus in defaults)
        assumptions: tuple[str, ...] = (
            f"the speakers of a {name} of {where} stay on the same side of every fold "
            "(--group speaker keeps single speakers apart, and nothing else)",
        )
    else:
        if column not in clips or column in OF_ONE_CLIP:
            possible = [each for each in clips if each not in _DESCRIPTIONS]
            raise UserError(
                f"--group {column}: no such column of the clips; name one of "
                f"{', '.join([SPEAKER, *possible])}"
            )
        values, name, assumptions, chosen = as_text(clips[column]), column, (), True
    own = np.isin(corpora, list(CORPORA))  # session 1 of one corpus is not session 1 of another
    keys = [
        (corpus if of_corpus else "", value) if value else ("", "", speaker)
        for corpus, of_corpus, value, speaker in zip(
            corpora.tolist(), own.tolist(), values.tolist(), speakers.tolist(), strict=True
        )
    ]
    ids = _components(keys, speakers.tolist(), name)
    if len(set(ids)) < 2 <= len(np.unique(speakers)):
        raise UserError(
            f"--group {name}: all {len(np.unique(speakers))} speakers are in one group, directly "
            "or through each other; name a column with several groups, or --group speaker"
        )
    return Groups(np.array(ids), name, chosen, assumptions)


def crossed_columns(
    clips: Mapping[str, NDArray[Any]],
    speakers: NDArray[np.str_],
    folds: "Sequence[Fold]",
    ignored: Sequence[str] = (),
) -> dict[str, int]:
    """Find columns that group several speakers and are on both sides of a fold.

    A column counts if its name suggests that clips were recorded together (session, dialogue, room
    and the like), or if it divides the speakers into three or more groups. Those in ``ignored``,
    such as the target, do not. Return, by column, the number of its groups that are on both sides
    of a fold.
    """
    crossing = {}
    people, person = np.unique(speakers, return_inverse=True)
    n_speakers = len(people)
    for column, stored in clips.items():
        if column in _DESCRIPTIONS or column in ignored:
            continue
        names, code = np.unique(as_text(stored).astype(str), return_inverse=True)
        measured = stored.dtype.kind not in "US" and len(names) > len(code) / 4
        if measured and not recorded_together(column):
            continue
        pairs = np.unique(np.stack([code, person]), axis=1)
        per_value = np.bincount(pairs[0], minlength=len(names))
        groups = (names != "") & (per_value > 1)
        divides = (names != "").sum() > 2 and 3 * per_value[names != ""].max() <= n_speakers
        if not groups.any() or not (recorded_together(column) or divides):
            continue
        crossed = np.zeros(len(names), bool)
        for fold in folds:
            sides = (np.bincount(code[rows], minlength=len(names)) for rows in
                     (fold.train, fold.test))  # fmt: skip
            crossed |= np.logical_and(*sides)
        if (crossed & groups).any():
            crossing[column] = int((crossed & groups).sum())
    return crossing


def recorded_together(column: str) -> bool:
    """Whether the name of a column suggests that its clips were recorded together."""
    if column in _DESCRIPTIONS:  # the column "recording" marks copies
        return False
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()
    words = set(re.findall(r"[a-z]+", spaced))
    singular = {word.removesuffix("s") for word in words}
    return bool((words | singular) & _RECORDED_TOGETHER) and not words & _PEOPLE


def as_text(values: NDArray[Any]) -> NDArray[Any]:
    """Return a column as text, empty where it has no value."""
    if values.dtype.kind in "US":
        return values.astype(object)
    return np.array(["" if value != value else f"{value:g}" for value in values.tolist()], object)


def _components(keys: Sequence[tuple[str, ...]], speakers: Sequence[str], name: str) -> list[str]:
    """Join groups that share a speaker, and name each after the first of its groups."""
    number_of = {key: n for n, key in enumerate(sorted(set(keys)))}
    people = {speaker: len(number_of) + n for n, speaker in enumerate(sorted(set(speakers)))}
    nodes = len(number_of) + len(people)
    rows, columns = [number_of[key] for key in keys], [people[speaker] for speaker in speakers]
    edges = coo_array((np.ones(len(keys)), (rows, columns)), shape=(nodes, nodes))
    component = connected_components(edges, directed=False)[1]
    titles: dict[int, str] = {}
    taken: set[str] = set()
    for key, number in number_of.items():
        corpus, value, *speaker = key
        shown = speaker[0] if speaker else f"{name} {value}"
        title = f"{corpus}:{shown}" if corpus else shown
        if component[number] not in titles:
            if title in taken:  # a speaker may be called "session 1"
                title = f"{title} ({len(titles) + 1})"
            titles[component[number]] = title
            taken.add(title)
    return [titles[component[row]] for row in rows]
