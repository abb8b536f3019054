"""Open every clip of a corpus, to know what there is before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..corpora import Clip
from ..errors import BadClipError
from ..progress import Track, no_track
from .audio import AudioFacts, decode_waveform
from .in_order import in_order
from .read_ahead import Content, read_ahead


@dataclass(frozen=True)
class Surveyed:
    """A clip and what is in its file.

    Attributes
    ----------
    clip : Clip
        What its name tells.
    facts : AudioFacts or None
        What its audio tells; ``None`` if it cannot be used.
    error : BadClipError or None
        Why not.
    """

    clip: Clip
    facts: AudioFacts | None
    error: BadClipError | None


def survey(
    clips: Sequence[Clip], *, workers: int = 1, track: Track[Any] = no_track
) -> tuple[Surveyed, ...]:
    """Decode every clip, and keep the facts.

    Parameters
    ----------
    clips : sequence of Clip
        What to open.
    workers : int
        Threads.
    track : callable
        Shows progress.

    Returns
    -------
    tuple of Surveyed
        One for each clip, in their order.
    """

    def look(item: tuple[Clip, Content]) -> Surveyed:
        clip, content = item
        try:
            return Surveyed(clip, decode_waveform(content(), None, file=clip.file)[1], None)
        except BadClipError as error:
            return Surveyed(clip, None, error)

    items = read_ahead(clips, lambda clip: clip.file)
    looked = in_order(look, items, workers, ahead=8)
    return tuple(track(looked, "opening clips", len(clips)))
