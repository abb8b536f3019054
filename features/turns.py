"""Read who speaks when: turns of speakers, as programs for diarisation write them.

RTTM is the format of NIST's evaluations (Rich Transcription 2009, appendix A): a line for each
turn, ``SPEAKER FILE CHANNEL START DURATION <NA> <NA> NAME <NA> <NA>``. No text of such a file is
used as a path.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..corpora.csv_table import nfc, read_number, read_numbers, read_table
from ..errors import UserError, counted
from ..files import check_regular, read_text

#: Limits on a file of turns, and on the name of a speaker.
MAX_BYTES = 16 << 20
MAX_TURNS = 100_000
MAX_NAME = 64
#: Seconds by which the last turns may exceed the recording: diarisers round to their frames.
TOLERANCE = 0.5

_COLUMNS = ("start", "end", "speaker")


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A turn of a speaker, in seconds, and the line of its file, for messages."""

    start: float
    end: float
    speaker: str
    line: int
    recording: str = ""  #: Its name in an RTTM file.


def read_turns(path: Path, recording: str) -> list[SpeakerTurn]:
    """Read the turns of a recording from RTTM or CSV, ordered by their start.

    Parameters
    ----------
    path : Path
        Its suffix, ``.rttm`` or ``.csv``, says the format.
    recording : str
        Name of the recording without its suffix. If an RTTM file holds several recordings, the
        turns of this one are returned.

    Returns
    -------
    list of SpeakerTurn
        At least one.

    Raises
    ------
    UserError
        If the file cannot be read, a line is wrong, or there are no turns of the recording.
    """
    suffix = path.suffix.lower()
    if suffix not in (".rttm", ".csv"):
        raise UserError(f"--speakers {path}: expected a file that ends in .rttm or .csv")
    try:
        check_regular(path, MAX_BYTES)
        turns = _read_csv(path) if suffix == ".csv" else _read_rttm(path, recording)
    except OSError as error:
        raise UserError(
            f"--speakers {path}: cannot be read ({error.strerror}); name another file"
        ) from None
    if not turns:
        raise UserError(f"--speakers {path}: holds no turns; check that it is complete")
    return sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker))


def check_turns(path: Path, turns: Sequence[SpeakerTurn], seconds: float) -> None:
    """Raise UserError if turns are not within a recording of the given duration in seconds."""
    for turn in turns:
        if turn.start >= seconds or turn.end > seconds + TOLERANCE:
            raise UserError(
                f"{path}, line {turn.line}: the turn from {turn.start:g} to {turn.end:g} s is "
                f"beyond the end of the recording, which lasts {seconds:.2f} s; check that the "
                "turns are of this recording and in seconds"
            )


def _read_csv(path: Path) -> list[SpeakerTurn]:
    table = read_table(path, _COLUMNS)
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise UserError(
            f"{path}: has no column {', '.join(missing)}; expected the columns start, end and "
            "speaker"
        )
    _check_number(path, len(table.rows))
    starts, ends = read_numbers(table, "start"), read_numbers(table, "end")
    return [
        _turn(path, row.line, start, end, row.cells["speaker"])
        for row, start, end in zip(table.rows, starts, ends, strict=True)
    ]


def _read_rttm(path: Path, recording: str) -> list[SpeakerTurn]:
    turns: dict[str, list[SpeakerTurn]] = {}
    for number, (line, fields) in enumerate(_rttm_fields(path), 1):
        _check_number(path, number)
        start, duration = (read_number(field) for field in fields[3:5])
        end = None if start is None or duration is None else start + duration
        turn = replace(_turn(path, line, start, end, fields[7]), recording=fields[1])
        turns.setdefault(turn.recording, []).append(turn)
    if recording in turns:
        return turns[recording]
    if len(turns) > 1:
        raise UserError(
            f"--speakers {path}: holds the turns of {len(turns)} recordings, and none is named "
            f"{recording}; rename the recording or the entries"
        )
    return next(iter(turns.values()), [])


def _rttm_fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line about a turn, and its fields, of which there are 8 to 10."""
    try:
        text = read_text(path, MAX_BYTES)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not in UTF-8 ({error.reason}); save it in UTF-8") from None
    for line, content in enumerate(text.splitlines(), 1):
        fields = content.split()
        if not fields or fields[0] != "SPEAKER":  # a comment, or another kind of entry
            continue
        if not 8 <= len(fields) <= 10:
            raise UserError(
                f"{path}, line {line}: {counted(len(fields), 'field')}; expected SPEAKER FILE "
                "CHANNEL START DURATION <NA> <NA> NAME <NA> <NA>"
            )
        yield line, fields


def _turn(
    path: Path, line: int, start: float | None, end: float | None, speaker: str
) -> SpeakerTurn:
    if start is None or end is None or math.isnan(start + end) or not 0 <= start < end:
        raise UserError(
            f"{path}, line {line}: start and end are not two numbers of seconds, the second after "
            "the first; correct the line"
        )
    name = nfc(speaker)
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise UserError(
            f"{path}, line {line}: the speaker has no name of 1 to {MAX_NAME} printable "
            "characters; rename the speaker"
        )
    return SpeakerTurn(start, end, name, line)


def _check_number(path: Path, number: int) -> None:
    if number > MAX_TURNS:
        raise UserError(f"{path}: has more than {MAX_TURNS} turns; split the recording")
