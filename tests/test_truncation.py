"""A file that breaks off is never a shorter clip, in any format that declares a length."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from serpipe.errors import BadClipError
from serpipe.features.audio import decode_waveform, read_waveform
from serpipe.features.truncation import NO_LENGTH, find_missing

from .messages import raises_about
from .test_audio import contain

PARTS = (0.99, 0.9, 0.5, 0.1)
#: libsndfile writes these with a second file or without any header.
UNREADABLE = ("SD2", "RAW")


def clip_at(sample: Path, rate: int) -> np.ndarray:
    """Two loud seconds of a real clip."""
    path = next((sample / "Actor_01").glob("03-01-05-*.flac"))
    waveform, _ = read_waveform(path, 16000)
    return np.asarray(soxr.resample(waveform[16000:48000], 16000, rate, quality="VHQ"))


def encode(samples: np.ndarray, rate: int, container: str, subtype: str | None = None) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format=container, subtype=subtype)
    return content.getvalue()


def written(sample: Path, container: str, subtype: str) -> bytes | None:
    """The clip in a format, at the first rate that it can have; None if there is no such rate."""
    for rate in (16000, 44100, 8000):
        try:
            return encode(clip_at(sample, rate).clip(-0.9, 0.9), rate, container, subtype)
        except (soundfile.LibsndfileError, ValueError):
            continue
    return None


def n_frames(content: bytes) -> int | None:
    """The number of samples that are read; None if the file is refused."""
    try:
        return decode_waveform(content, None)[1].frames
    except BadClipError as error:
        assert "\n" not in str(error)
        return None


@pytest.mark.parametrize(
    "container", sorted(set(soundfile.available_formats()) - set(UNREADABLE) - set(NO_LENGTH))
)
def test_a_truncated_file_is_refused_in_every_format_and_coding(
    sample: Path, container: str
) -> None:
    n_read = 0
    for subtype in soundfile.available_subtypes(container):
        whole = written(sample, container, subtype)
        if whole is None or n_frames(whole) is None:
            continue  # not written, or (DWVW) not decoded, by this libsndfile
        n_read += 1
        for part in PARTS:
            assert n_frames(whole[: int(part * len(whole))]) is None, (subtype, part)
    assert n_read


@pytest.mark.parametrize("container", NO_LENGTH)
def test_a_format_that_declares_no_length_is_refused(sample: Path, container: str) -> None:
    whole = encode(clip_at(sample, 16000), 16000, container)
    with raises_about(BadClipError, container):
        decode_waveform(whole, None)


def with_number(content: bytes, at: int, layout: str, number: int) -> bytes:
    return content[:at] + struct.pack(layout, number) + content[at + struct.calcsize(layout) :]


STREAMS = [
    ("WAV", b"data", 4, "<I", 0xFFFFFFFF),
    ("WAV", b"data", 4, "<I", 0x7FFFF000),  # SoX
    ("WAV", b"data", 4, "<I", 0x80000000),  # arecord
    ("WAVEX", b"data", 4, "<I", 0xFFFFFFFF),
    ("AIFF", b"SSND", 4, ">I", 0x7F000008),  # SoX
    ("AU", b".snd", 8, ">I", 0xFFFFFFFF),
    ("W64", b"data", 16, "<q", -1),
]


@pytest.mark.parametrize(("container", "name", "offset", "layout", "number"), STREAMS)
def test_a_stream_of_undeclared_length_is_decoded_completely(
    sample: Path, container: str, name: bytes, offset: int, layout: str, number: int
) -> None:
    whole = encode(clip_at(sample, 16000), 16000, container)
    stream = with_number(whole, whole.index(name) + offset, layout, number)
    assert n_frames(stream) == n_frames(whole) == 32000


def test_a_wav_file_that_was_never_closed_is_decoded_completely(sample: Path) -> None:
    whole = encode(clip_at(sample, 16000), 16000, "WAV")
    unclosed = with_number(with_number(whole, 4, "<I", 8), 40, "<I", 0)
    assert n_frames(unclosed) == 32000


def test_a_long_header_does_not_hide_a_missing_end(sample: Path) -> None:
    """libsndfile's own log has room for some 2000 characters: the data chunk comes after them."""
    whole = encode(clip_at(sample, 16000), 16000, "WAV")
    notes = b"".join(b"note" + struct.pack("<I", 4) + b"text" for _ in range(300))
    at = whole.index(b"data")
    whole = with_number(whole[:at] + notes + whole[at:], 4, "<I", len(whole) + len(notes) - 8)
    assert n_frames(whole) == 32000
    assert n_frames(whole[: len(whole) // 2]) is None


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_that_ends_between_two_pages_is_refused(sample: Path, subtype: str) -> None:
    clip = np.tile(clip_at(sample, 48000), 2)
    whole = encode(clip, 48000, "OGG", subtype)
    assert n_frames(whole) == len(clip)
    pages = [at for at in range(len(whole)) if whole[at : at + 4] == b"OggS"]
    assert len(pages) > 4
    for at in pages[1:]:
        assert n_frames(whole[:at]) is None
    lacking = find_missing(whole[: pages[3]] + whole[pages[4] :], "OGG", len(clip), "")
    assert lacking
    assert n_frames(whole + whole) is None  # a second stream, which libsndfile does not read


def test_mp3_is_checked_by_its_frames(sample: Path) -> None:
    clip = clip_at(sample, 48000)
    tagged = contain(clip, 48000, "mp3", "libmp3lame")
    plain = contain(clip, 48000, "mp3", "libmp3lame", write_xing="0")
    assert n_frames(tagged) == len(clip)
    # With no header of its own there is nothing to tell delay and padding by.
    assert n_frames(plain) == pytest.approx(len(clip), abs=3 * 1152)
    assert n_frames(plain + b"TAG" + bytes(125)) == n_frames(plain)
    for content in (tagged, plain):
        for part in PARTS:
            assert n_frames(content[: int(part * len(content))]) is None
    assert n_frames(plain[:4000] + plain[6000:]) is None
    assert n_frames(tagged + tagged) is None  # only the first would be read


def test_unfinished_webm_may_not_end_inside_a_cluster(sample: Path) -> None:
    clip = clip_at(sample, 48000)
    whole = contain(clip, 48000, "webm", "libopus", live="1", cluster_time_limit="300")
    assert n_frames(whole) == len(clip)
    for part in PARTS:
        assert n_frames(whole[: int(part * len(whole))]) is None


def test_mp4_may_not_end_before_the_audio_of_a_fragment(sample: Path) -> None:
    flags = {"movflags": "frag_keyframe+empty_moov", "frag_duration": "300000"}
    whole = contain(clip_at(sample, 48000), 48000, "mp4", "aac", **flags)
    fragments = [at for at in range(len(whole)) if whole[at : at + 4] == b"mdat"]
    assert len(fragments) > 3
    for at in fragments[1:]:
        assert n_frames(whole[: at - 4]) is None


@pytest.mark.filterwarnings("error")  # what a callback of the decoder raises is only warned of
def test_damaged_headers_give_audio_or_one_line(sample: Path) -> None:
    draw = np.random.default_rng(0)
    clip = clip_at(sample, 16000)[:4000]
    for container in ("WAV", "RF64", "W64", "AIFF", "SVX", "CAF", "AU", "NIST", "OGG", "MP3"):
        whole = encode(clip, 16000, container)
        for _ in range(40):
            content = np.frombuffer(whole, np.uint8).copy()
            places = draw.integers(0, min(300, len(content)), 6)
            content[places] = draw.choice([0, 1, 127, 128, 255, 10], 6)
            n_frames(content.tobytes())
