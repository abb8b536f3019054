"""Check whether an audio file holds all the audio that its headers declare.

Decoders read a truncated file as a shorter clip. Here the length in the headers is compared with
the length of the file. The headers of streams that were never finished declare no length, 0, or the
maximum; such files cannot be checked and count as complete.
"""

import re
from collections.abc import Callable, Iterator

from ..files import FileBytes

#: The bytes of a file, in memory or not.
Content = bytes | FileBytes

#: Declared sizes from here on are placeholders of programs that write to a pipe: those of SoX,
#: arecord and FFmpeg differ, and all are above the largest file that is read.
_PLACEHOLDER = 0x7F000000
#: Limit on chunks, boxes or elements: hostile files have millions.
_MAX_PARTS = 100_000
#: More pages of Ogg than the longest clip has, at one packet of 2.5 ms to a page.
_MAX_PAGES = 300_000

#: First bytes of a Matroska or WebM file.
EBML = bytes.fromhex("1A45DFA3")
#: Elements of Matroska that may lack a size and hold others: Segment and Cluster.
_EBML_OPEN = (bytes.fromhex("18538067"), bytes.fromhex("1F43B675"))

#: Formats without a length, in which a truncated clip looks complete.
NO_LENGTH = ("IRCAM", "PAF", "PVF", "XI")
#: What libsndfile logs for formats of fixed short headers (AVR, MPC2K, MAT4, MAT5; VOC; WVE).
_LOGGED_FRAMES = re.compile(r"\b(?:Frames|Cols) *: (\d+)")
_LOGGED_TRUNCATED = re.compile(r"truncated|^Data length \d+ should be", re.MULTILINE)


def find_missing(content: Content, audio_format: str, frames: int, log: str) -> str | None:
    """Compare the length that a file declares with its bytes.

    ``audio_format``, ``frames`` (samples per channel) and the ``log`` about the header are those of
    libsndfile, which itself refuses truncated FLAC, HTK and SDS files. Return the part that is
    present, such as ``"9000 of 32000 bytes"``; None if the file is complete or declares no length.
    """
    check = _CHECKS.get(audio_format)
    if check:
        return check(content, _after_id3(content, 0))
    if audio_format in ("AVR", "MPC2K", "MAT4", "MAT5"):
        declared = [int(number) for number in _LOGGED_FRAMES.findall(log)]
        return _compare(frames, declared[-1], "samples") if declared else None
    if audio_format in ("VOC", "WVE") and _LOGGED_TRUNCATED.search(log):
        return f"{frames} samples"
    return None


def find_missing_in_container(content: Content) -> str | None:
    """Compare the sizes in an MP4 or Matroska file with its bytes, as :func:`find_missing` does."""
    is_matroska = content.startswith(EBML)
    at = last = 0
    for _ in range(_MAX_PARTS):
        if at >= len(content):
            break
        end = (_element_end if is_matroska else _box_end)(content, at)
        if end is None:
            return None
        if end > len(content):
            return f"{len(content)} of {end} bytes"
        at, last = end, at
    # A fragment of MP4 is a box that describes audio and a box that holds it.
    lacks_audio = not is_matroska and content[last + 4 : last + 8] == b"moof"
    return f"{at} bytes, where the audio of a fragment is missing" if lacks_audio else None


def count_mpeg_samples(content: Content, most_frames: int) -> tuple[int, str | None]:
    """Count the samples of an MPEG audio stream (MP3 and its older layers).

    Return the samples per channel in all complete frames (0 for frames of free bit rate), and, as
    :func:`find_missing` does, whether the last frame is incomplete or bytes between frames are
    damaged. After ``most_frames``, the rest is not read. Source: ISO/IEC 11172-3, section 2.4.2.3;
    tags as decoders skip them.
    """
    at = _after_id3(content, 0)
    at = at if _mpeg_frame(content, at) else _next_frame(content, at)
    frame = _mpeg_frame(content, at)
    n_samples = 0
    for _ in range(most_frames):
        if not frame:
            break
        end = at + frame[0]
        if end > len(content):
            return n_samples, f"{len(content)} of {end} bytes"
        n_samples += frame[1]
        at = _after_id3(content, end)
        frame = _mpeg_frame(content, at)
        if not frame and _next_frame(content, at) != at:
            return n_samples, f"{end} bytes, where a part is damaged"
    return n_samples, None


def _compare(present: int, declared: int, unit: str) -> str | None:
    return f"{present} of {declared} {unit}" if present < declared else None


def _after_id3(content: Content, at: int) -> int:
    """Return the end of the ID3v2 tags, which may precede any format."""
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        size = 0
        for byte in content[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size
    return at


def _find_chunk(
    content: Content, at: int, name: bytes, size_bytes: int, order: str, align: int
) -> tuple[int, int]:
    """Return where the content of the first chunk of a name begins, and its size; 0 if none."""
    head = len(name) + size_bytes
    for _ in range(_MAX_PARTS):
        size = _number(content, at + len(name), size_bytes, order)
        if len(name) == 16:  # Wave64 counts the head as part of the chunk
            size -= head
        if content[at : at + len(name)] == name:
            return at + head, size
        at += head + -(-size // align) * align
        if size < 0 or at + head > len(content):
            break
    return at, 0


def _size_missing(content: Content, start: int, declared: int) -> str | None:
    known = 0 < declared < _PLACEHOLDER
    return _compare(len(content) - start, declared, "bytes") if known else None


def _number(content: Content, at: int, size: int, order: str) -> int:
    return int.from_bytes(content[at : at + size], "big" if order == "big" else "little")


def _wav_missing(content: Content, at: int) -> str | None:
    order = "big" if content[at : at + 4] == b"RIFX" else "little"
    return _size_missing(content, *_find_chunk(content, at + 12, b"data", 4, order, 2))


def _rf64_missing(content: Content, at: int) -> str | None:
    """Take the size from ``ds64``: that of ``data`` has only 32 bits and is a placeholder."""
    sizes, _ = _find_chunk(content, at + 12, b"ds64", 4, "little", 2)
    start, _ = _find_chunk(content, at + 12, b"data", 4, "little", 2)
    return _size_missing(content, start, _number(content, sizes + 8, 8, "little"))


def _chunk_check(
    head: int, name: bytes, size_bytes: int, order: str, align: int
) -> Callable[[Content, int], str | None]:
    """Return the check of a format whose first chunk follows ``head`` bytes."""

    def missing(content: Content, at: int) -> str | None:
        chunk = _find_chunk(content, at + head, name, size_bytes, order, align)
        return _size_missing(content, *chunk)

    return missing


def _au_missing(content: Content, at: int) -> str | None:
    order = "big" if content[at : at + 4] == b".snd" else "little"
    start = at + _number(content, at + 4, 4, order)
    return _size_missing(content, start, _number(content, at + 8, 4, order))


def _nist_missing(content: Content, at: int) -> str | None:
    """Take the size from the text header of a SPHERE file, whose second line is its own length."""
    lines = content[at : at + 16].split(b"\n")
    head = int(lines[1]) if len(lines) > 1 and lines[1].strip().isdigit() else 1024
    text = content[at : at + min(head, 1 << 16)]
    fields = dict(re.findall(rb"^(\w+) -i (\d{1,18})\b", text, re.MULTILINE))
    declared = int(fields.get(b"sample_count", 0))
    for factor in (b"sample_n_bytes", b"channel_count"):
        declared *= int(fields.get(factor, 1))
    return _size_missing(content, at + head, declared)


def _ogg_missing(content: Content, at: int) -> str | None:
    """Check that each page is complete, none is missing, and the last is marked as the last.

    libsndfile reads the pages before a gap or the end, and the first of several streams.
    """
    sequence: dict[int, int] = {}
    is_last = has_data = False
    for n_pages, (page, end) in enumerate(_ogg_pages(content, at), start=1):
        if n_pages > _MAX_PAGES:
            return f"{_MAX_PAGES} pages"
        if end > len(content):
            return f"{len(content)} of {end} bytes"
        flags = content[page + 5]
        serial, number = (_number(content, page + start, 4, "little") for start in (14, 18))
        if flags & 2 and has_data:
            return f"{page} bytes, where another stream begins"
        if number != sequence.get(serial, number - 1) + 1:
            return f"{page} bytes, where pages are missing"
        sequence[serial] = number
        has_data, is_last = has_data or not flags & 2, bool(flags & 4)
    return None if is_last else f"{len(content)} bytes without a last page"


def _ogg_pages(content: Content, at: int) -> Iterator[tuple[int, int]]:
    """Yield where each page begins and ends; other bytes are skipped."""
    while (at := content.find(b"OggS", at)) >= 0:
        count = content[at + 26] if at + 26 < len(content) else 0
        end = at + 27 + count + sum(content[at + 27 : at + 27 + count])
        yield at, end
        at = end


_W64_DATA = b"data" + bytes.fromhex("F3ACD3118CD100C04F8EDB8A")
_CHECKS: dict[str, Callable[[Content, int], str | None]] = {
    "WAV": _wav_missing,
    "WAVEX": _wav_missing,
    "RF64": _rf64_missing,
    "W64": _chunk_check(40, _W64_DATA, 8, "little", 8),
    "AIFF": _chunk_check(12, b"SSND", 4, "big", 2),
    "SVX": _chunk_check(12, b"BODY", 4, "big", 2),
    "CAF": _chunk_check(8, b"data", 8, "big", 1),
    "AU": _au_missing,
    "NIST": _nist_missing,
    "OGG": _ogg_missing,
}

#: Bit rates in kbit/s by (MPEG-1, layer), from index 1 on.
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = (44100, 48000, 32000)
#: Bytes in which decoders search for the next frame after a damaged one.
_RESYNC_BYTES = 4096


def _mpeg_frame(content: Content, at: int) -> tuple[int, int] | None:
    """Return the size in bytes and the samples of the frame at an offset; None if there is none."""
    head = _number(content, at, 4, "big")
    version, layer = head >> 19 & 3, 4 - (head >> 17 & 3)
    bit_rate, rate_index = head >> 12 & 15, head >> 10 & 3
    if head >> 21 != 0x7FF or version == 1 or layer == 4 or rate_index == 3 or bit_rate in (0, 15):
        return None
    first = version == 3  # MPEG-1; else 2 or 2.5, with a half or a quarter of its rates
    rate = _MPEG_RATES[rate_index] >> (3 - version if version else 2)
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    bits = 1000 * _BIT_RATES[first, layer][bit_rate - 1]
    slot = 4 if layer == 1 else 1
    return (samples // 8 * bits // rate // slot + (head >> 9 & 1)) * slot, samples


def _next_frame(content: Content, at: int) -> int:
    """Return where the next two consecutive frames begin; ``at`` if none are within reach."""
    start, reach = at, at + _RESYNC_BYTES
    while (start := content.find(b"\xff", start, reach)) >= 0:
        frame = _mpeg_frame(content, start)
        if frame and _mpeg_frame(content, start + frame[0]):
            return start
        start += 1
    return at


def _box_end(content: Content, at: int) -> int | None:
    """Return the end of a box of an MP4 file; None if it has none or is no box."""
    size = _number(content, at, 4, "big")
    if size == 1:
        size = _number(content, at + 8, 8, "big")
    return at + size if size >= 8 else None


def _element_end(content: Content, at: int) -> int | None:
    """Return the end of an element of a Matroska file; None if it is no element.

    Segments and Clusters without a size end where their first child begins.
    """
    if at + 1 >= len(content) or not content[at]:
        return None
    length = 9 - content[at].bit_length()
    name, at = content[at : at + length], at + length
    if at >= len(content) or not content[at]:
        return None
    length = 9 - content[at].bit_length()
    most = (1 << 7 * length) - 1
    size = _number(content, at, length, "big") & most
    if size == most:
        return at + length if name in _EBML_OPEN else None
    return at + length + size
