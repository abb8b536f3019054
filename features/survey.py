"""Decode every clip of a corpus, to describe it before anything is computed."""

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
    """A clip and what its file holds: the facts of its audio, or why it cannot be used."""

    clip: Clip
    facts: AudioFacts | None
    error: BadClipError | None


def survey(
    clips: Sequence[Clip], *, workers: int = 1, track: Track[Any] = no_track
) -> tuple[Surveyed, ...]:
    """Return the facts of every clip's audio, in order, decoded by ``workers`` threads."""

    def decode(item: tuple[Clip, Content]) -> Surveyed:
        clip, content = item
        try:
            return Surveyed(clip, decode_waveform(content(), None, file=clip.file)[1], None)
        except BadClipError as error:
            return Surveyed(clip, None, error)

    items = read_ahead(clips, lambda clip: clip.file)
    surveyed = in_order(decode, items, workers, ahead=8)
    return tuple(track(surveyed, "decoding clips", len(clips)))
