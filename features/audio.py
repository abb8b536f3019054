"""Decode a clip to mono at the encoder's sampling rate; refuse files that are not usable clips."""

import errno
import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..choices import CHANNELS, check_choice
from ..errors import BadClipError, first_line
from ..files import read_bytes
from ..remote import Location, Remote
from .truncation import (
    EBML,
    NO_LENGTH,
    Content,
    count_mpeg_samples,
    find_missing,
    find_missing_in_container,
)

if TYPE_CHECKING:
    import av

Waveform = NDArray[np.float32]

#: How channels are mixed and rates converted: part of what embeddings depend on.
CHANNEL_POLICY = "mean"
RESAMPLER = f"soxr VHQ {soxr.__version__}"

#: Increased when more files are refused, or more copies are found, than before: clips of older
#: caches are checked and compared again.
AUDIO_CHECKS = 3
#: Limits on what is read from an untrusted file.
MAX_BYTES = 1 << 30
MAX_SECONDS = 600.0
MAX_DECODED_BYTES = 1 << 30
RATES = (1_000, 768_000)
#: A clip whose loudest sample is below this (full scale is 1) is silent: -80 dB.
SILENCE_PEAK = 1e-4

#: Containers that libsndfile does not open, as FFmpeg names them. Playlists are not among them:
#: their text could make FFmpeg open other files or addresses.
_MP4, _MATROSKA = "mp4", "matroska"
#: Types of the first box of an MP4, M4A, 3GP or QuickTime file.
_MP4_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free", b"skip")
#: The decoders that may run on untrusted bytes; none decodes video.
_DECODERS = (
    *("aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac"),
    *("mp2", "mp2float", "mp3", "mp3float", "opus", "vorbis"),
    *("pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be"),
    *("pcm_f32le", "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw"),
)
#: Full scale of FFmpeg's sample formats.
_FULL_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}
#: More packets than this in a second are not audio: a small table can repeat the same bytes.
_MAX_PACKETS_PER_SECOND = 1_000

#: Samples that libsndfile reports for a FLAC stream of unknown length, at whose end it fails.
_ENDLESS = 1 << 48
#: Samples of an MPEG stream that are not part of the clip: four frames.
_MPEG_MARGIN = 4 * 1152
#: Smallest limit on the frames of an MPEG stream that are counted, and the most frames in a second
#: (layer I, 48 kHz).
_MOST_MPEG_FRAMES, _MPEG_FRAMES_PER_SECOND = 100_000, 125

_LFS_POINTER = b"version https://git-lfs.github.com/"
_FETCH = "download it again or remove it"


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What is known of a clip's audio once it has been decoded."""

    #: Hash of the file's bytes, hexadecimal: the clip's identity in a cache.
    sha256: str
    #: Of the file, in Hz.
    sampling_rate: int
    channels: int
    #: Samples per channel of the file, at its own rate.
    frames: int
    #: Of the decoded samples and their rate: the same for a WAV file and a FLAC file made from it.
    audio_sha256: str = ""
    #: Root mean square over all channels, in decibels relative to full scale.
    loudness: float = math.nan
    #: From :func:`serpipe.features.fingerprint.fingerprint`, if clips are searched for copies.
    fingerprint: bytes = field(default=b"", compare=False, repr=False)

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sampling_rate


def read_waveform(
    file: Location, sampling_rate: int | None, channels: str = CHANNEL_POLICY
) -> tuple[Waveform, AudioFacts]:
    """Decode one clip to mono, at the given rate or at its own.

    Channels are mixed at the file's own rate, then soxr resamples at its very high quality. The
    content determines the format, whatever the suffix says: libsndfile decodes WAV, FLAC, Ogg, MP3,
    AIFF and more; PyAV, which is optional, decodes the first audio track of MP4, M4A, QuickTime,
    Matroska and WebM files. An encoder's delay is cut if such a file states it; its padding after
    the end, less than one packet, may stay.

    Parameters
    ----------
    file : Path or Remote
        An audio file, or a video file with an audio track.
    sampling_rate : int or None
        The target rate, in Hz; ``None`` keeps the file's own.
    channels : {"mean", "left", "right"}
        How several channels become one: their mean, the first, or the second. A file with one
        channel keeps it, whatever this says.

    Returns
    -------
    waveform : ndarray of float32, shape (n_samples,)
        Full scale is 1; decoding and resampling may go beyond it.
    facts : AudioFacts
        Of the file.

    Raises
    ------
    BadClipError
        If the file cannot be decoded, is empty, silent, not finite, too long or a git-lfs pointer,
        or if PyAV is needed and not installed.
    UserError
        If ``channels`` is none of the three.
    """
    check_choice("channels", channels, CHANNELS)
    return decode_waveform(
        read_clip(file), sampling_rate, channels, file=file, max_seconds=MAX_SECONDS
    )


def decode_waveform(
    content: bytes,
    sampling_rate: int | None,
    channels: str = CHANNEL_POLICY,
    *,
    file: Location = Path("audio"),
    max_seconds: float = MAX_SECONDS,
) -> tuple[Waveform, AudioFacts]:
    """Decode one clip in memory, as :func:`read_waveform` does one in a file.

    ``file`` is its name in messages and is not read. Clips of more than ``max_seconds`` are refused
    by their header, or while they are decoded.
    """
    check_content(file, content)
    samples, facts = _decode(file, content, max_seconds)
    waveform = as_clip(str(file), samples, facts.sampling_rate, sampling_rate, channels)
    facts = replace(
        facts,
        audio_sha256=hash_samples(samples, facts.sampling_rate),
        loudness=_loudness(samples),
    )
    return waveform, facts


def hash_samples(samples: NDArray[np.float32], sampling_rate: int) -> str:
    """Return the SHA-256 of samples, shape (n_samples, n_channels), before mixing and resampling.

    It does not depend on the file format.
    """
    hasher = SampleHasher(sampling_rate, samples.shape[1])
    hasher.update(samples)
    return hasher.hexdigest()


class SampleHasher:
    """Hashes the samples of a recording block by block, as :func:`hash_samples` does at once."""

    def __init__(self, sampling_rate: int, n_channels: int) -> None:
        self._digest = hashlib.sha256(f"{sampling_rate} {n_channels}\n".encode())

    def update(self, samples: NDArray[np.float32]) -> None:
        """Add a block of samples, shape (n_samples, n_channels)."""
        self._digest.update(np.ascontiguousarray(samples, dtype="<f4").data)

    def hexdigest(self) -> str:
        """Return the hash."""
        return self._digest.hexdigest()


def _loudness(samples: NDArray[np.float32]) -> float:
    """Return the root mean square in decibels relative to full scale."""
    return round(float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))), 3)


def as_clip(
    name: str,
    samples: NDArray[np.float32],
    rate: int,
    new_rate: int | None,
    channels: str = CHANNEL_POLICY,
) -> Waveform:
    """Mix decoded samples of shape (n_samples, n_channels) to one channel and resample them.

    ``rate`` and ``new_rate`` are in Hz; None keeps the rate. Raise BadClipError, with ``name`` in
    its message, if they are silent, not finite, or too few to be resampled.
    """
    waveform = one_channel(samples, channels)
    check_sound(name, waveform)
    if new_rate is not None and rate != new_rate:
        waveform = soxr.resample(waveform, rate, new_rate, quality="VHQ")
        if not len(waveform):
            problem = f"holds {len(samples)} samples at {rate} Hz"
            raise BadClipError(name, problem, f"enough for one at {new_rate} Hz", "remove it")
    return np.ascontiguousarray(waveform, dtype=np.float32)


def check_length(
    file: Location, n_samples: int, sampling_rate: int, minimum: int, maximum: int | None
) -> None:
    """Refuse a clip that the encoder cannot take whole: it is never silently padded or cut.

    ``n_samples``, ``minimum`` and ``maximum`` (None is no limit) count samples at
    ``sampling_rate``. Raise BadClipError if the clip is outside the limits.
    """
    if n_samples < minimum:
        raise BadClipError(
            str(file),
            f"is too short ({1000 * n_samples / sampling_rate:.1f} ms)",
            f"at least {1000 * minimum / sampling_rate:.0f} ms, the encoder's minimum",
            "remove it",
        )
    if maximum is not None and n_samples > maximum:
        raise BadClipError(
            str(file),
            f"is too long ({n_samples / sampling_rate:.1f} s)",
            f"at most {maximum / sampling_rate:.0f} s, the encoder's window",
            "split it into utterances",
        )


def read_clip(file: Location) -> bytes:
    """Return the bytes of a clip, at most :data:`MAX_BYTES`.

    Raise BadClipError if it does not exist, cannot be read, or is larger; for a remote clip
    UserError if access is denied, and MachineError if the store cannot be reached.
    """
    try:
        if isinstance(file, Remote):
            return file.read_bytes(MAX_BYTES)
        return read_bytes(file, MAX_BYTES)
    except OSError as error:
        if error.errno == errno.EFBIG:
            problem = f"has more than {MAX_BYTES / 2**20:.0f} MiB"
            fix = "split it into utterances"
            raise BadClipError(str(file), problem, "", fix) from None
        reason = error.strerror or "it does not exist"
        fix = "check its permissions and the disk"
        raise BadClipError(str(file), f"cannot be read ({reason})", "", fix) from None


def check_content(file: Location, content: Content) -> None:
    """Refuse an empty file, and a pointer of git-lfs in place of audio."""
    if not len(content):
        raise BadClipError(str(file), "is an empty file", "", _FETCH)
    if content.startswith(_LFS_POINTER):
        fix = "run `git lfs pull` in its repository"
        raise BadClipError(str(file), "is a git-lfs pointer, not audio", "", fix)


class MemoryFile(io.BytesIO):
    """The bytes of a file for libsndfile, which follows damaged headers to impossible offsets."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset, if it exists. An error here would be printed, not raised."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _decode(
    file: Location, content: bytes, max_seconds: float
) -> tuple[NDArray[np.float32], AudioFacts]:
    """Return the samples, shape (frames, channels), and their facts."""
    decoded = list(decode_blocks(file, content, MemoryFile(content), max_seconds))
    blocks = [samples for samples, _ in decoded]
    facts = replace(decoded[-1][1], sha256=hashlib.sha256(content).hexdigest())
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), facts


def decode_blocks(
    file: Location,
    content: Content,
    source: BinaryIO,
    max_seconds: float,
    block_bytes: int | None = None,
) -> Iterator[tuple[NDArray[np.float32], AudioFacts]]:
    """Decode an audio file block by block.

    Parameters
    ----------
    file : Path or Remote
        Its name, for messages.
    content : bytes or FileBytes
        Its bytes, for the checks.
    source : binary file
        The same bytes, for the decoder.
    max_seconds : float
        Longer recordings are refused by their header, or while they are decoded.
    block_bytes : int, optional
        Most bytes of a block of samples. By default, all samples are one block of at most
        :data:`MAX_DECODED_BYTES`, except those of MP4 and Matroska files.

    Yields
    ------
    samples : ndarray of float32, shape (n_samples, n_channels)
        Never empty; at least one block.
    facts : AudioFacts
        Facts of what has been decoded so far, without hashes.

    Raises
    ------
    BadClipError
        If the file is not a usable recording, perhaps only after its last block.
    """
    n_read, is_whole = 0, block_bytes is None
    try:
        with soundfile.SoundFile(source) as audio:
            facts = AudioFacts("", audio.samplerate, audio.channels, audio.frames)
            if audio.format in NO_LENGTH or audio.frames >= _ENDLESS:
                raise _without_length(file, audio.format)
            _check_size(file, facts, max_seconds, is_whole=is_whole)
            missing = find_missing(content, audio.format, audio.frames, audio.extra_info)
            if missing:
                raise _broken_off(file, missing)
            size = audio.frames if block_bytes is None else block_bytes // (4 * audio.channels)
            # By number: some codecs, such as GSM 6.10, cannot seek or state how much is left.
            while n_read < audio.frames:
                count = min(max(1, size), audio.frames - n_read)
                samples = audio.read(count, dtype="float32", always_2d=True)
                if not len(samples):
                    break
                n_read += len(samples)
                yield samples, replace(facts, frames=n_read)
            is_mpeg = audio.format == "MP3"
    except soundfile.LibsndfileError as error:
        container = None if n_read else _container(content)
        if container:
            source.seek(0)
            yield from _container_blocks(file, content, source, container, max_seconds, is_whole)
            return
        raise _not_decoded(file, str(error.error_string)) from None
    if is_mpeg:
        _check_mpeg(file, content, n_read, facts.frames, max_seconds)
        _check_size(file, replace(facts, frames=n_read), max_seconds, is_whole=is_whole)
    elif n_read != facts.frames:
        raise _broken_off(file, f"{n_read} of {facts.frames} samples")


def _check_mpeg(
    file: Location, content: Content, decoded: int, declared: int, max_seconds: float
) -> None:
    """Refuse an MPEG stream that was not decoded completely.

    Its header may declare a number of samples. If it does not, libsndfile estimates the number from
    the size of the file, and only the frames themselves show how many there are.
    """
    most_frames = max(_MOST_MPEG_FRAMES, round(max_seconds * _MPEG_FRAMES_PER_SECOND))
    counted, missing = count_mpeg_samples(content, most_frames)
    if missing:
        raise _broken_off(file, missing)
    if decoded != declared and decoded != counted:
        raise _broken_off(file, f"{decoded} of {max(declared, counted)} samples")
    # The header's own frame, the encoder's delay and its padding are not part of the clip.
    if counted - decoded > _MPEG_MARGIN:
        raise _not_decoded(file, f"its header declares {declared} samples, its frames {counted}")


def _container(content: Content) -> str | None:
    """Return FFmpeg's name for the container, or None."""
    if content.startswith(EBML):
        return _MATROSKA
    return _MP4 if content[4:8] in _MP4_BOXES else None


def _container_blocks(
    file: Location,
    content: Content,
    source: BinaryIO,
    container: str,
    max_seconds: float,
    is_whole: bool,
) -> Iterator[tuple[NDArray[np.float32], AudioFacts]]:
    """Decode the first audio track with PyAV, as :func:`decode_blocks` does.

    Durations in headers are ignored: samples are counted as they are decoded, and decoding stops
    at the first that exceeds a limit.
    """
    try:
        import av
    except ImportError:
        problem = "is an MP4 or Matroska file, which PyAV decodes, and PyAV is not installed"
        fix = "install it: pip install 'serpipe[formats]'"
        raise BadClipError(str(file), problem, "", fix) from None
    missing = find_missing_in_container(content)
    if missing:
        raise _broken_off(file, missing)
    facts = AudioFacts("", sampling_rate=RATES[0], channels=1, frames=0)
    try:
        with av.open(
            source,
            mode="r",
            format=container,
            options={"codec_whitelist": ",".join(_DECODERS)},
            metadata_errors="replace",
            io_open=_open_nothing_else,
        ) as opened:
            if not opened.streams.audio:
                raise BadClipError(str(file), "has no audio track", "", "remove it")
            stream = opened.streams.audio[0]
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            if codec not in _DECODERS:
                raise _not_decoded(file, f"codec {codec} is not supported")
            for n, packet in enumerate(opened.demux(stream)):
                if n > max_seconds * _MAX_PACKETS_PER_SECOND:
                    raise _not_decoded(file, f"more than {n - 1} packets")
                if packet.is_corrupt:
                    raise _broken_off(file, f"{facts.frames} samples")
                for frame in packet.decode():
                    form = (frame.sample_rate, frame.layout.nb_channels)
                    if facts.frames and form != (facts.sampling_rate, facts.channels):
                        raise _not_decoded(file, "its rate or number of channels changes")
                    facts = AudioFacts("", *form, frames=facts.frames + frame.samples)
                    _check_size(file, facts, max_seconds, so_far=True, is_whole=is_whole)
                    yield _as_float(frame), facts
    except (av.FFmpegError, OSError, KeyError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise _not_decoded(file, reason) from None
    _check_size(file, facts, max_seconds, is_whole=is_whole)


def _open_nothing_else(url: str, flags: int, options: object) -> NoReturn:
    """Refuse: a clip is one file, and a name inside it may be the name of any other."""
    raise PermissionError("a clip may not refer to other files")


def _as_float(frame: "av.AudioFrame") -> NDArray[np.float32]:
    """Return a frame's samples, shape (samples, channels), full scale 1."""
    kind = frame.format.name.removesuffix("p")  # planar
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if kind == "u8":
        values = values - 128.0
    return (values / _FULL_SCALE[kind]).astype(np.float32)


def one_channel(samples: NDArray[np.float32], channels: str) -> Waveform:
    """Mix samples of shape (n_samples, n_channels) to one channel."""
    if channels == "mean":
        mean: Waveform = samples.mean(axis=1, dtype=np.float32)
        return mean
    return samples[:, 0] if channels == "left" else samples[:, :2][:, -1]


def _check_size(
    file: Location,
    facts: AudioFacts,
    max_seconds: float,
    *,
    so_far: bool = False,
    is_whole: bool = True,
) -> None:
    """Refuse clips that would decode to too much: a small file can hold hours."""
    if facts.frames == 0:
        raise BadClipError(str(file), "holds no samples", "", _FETCH)
    if not RATES[0] <= facts.sampling_rate <= RATES[1]:
        problem = f"claims a sampling rate of {facts.sampling_rate} Hz"
        raise BadClipError(str(file), problem, f"{RATES[0]} to {RATES[1]} Hz", _FETCH)
    if facts.seconds > max_seconds:
        seconds = f"more than {max_seconds:.0f}" if so_far else f"{math.ceil(facts.seconds)}"
        limit = f"at most {max_seconds:.0f} s"
        fix = "split it into utterances"
        fix += " (`serpipe predict --vad` does that)" if is_whole else ""
        raise BadClipError(str(file), f"lasts {seconds} s", limit, fix)
    decoded = 4 * facts.frames * facts.channels
    if is_whole and decoded > MAX_DECODED_BYTES:
        raise BadClipError(
            str(file),
            f"decodes to {decoded / 2**20:.0f} MiB ({facts.channels} channels)",
            f"at most {MAX_DECODED_BYTES / 2**20:.0f} MiB",
            "convert it to one channel at 16 kHz",
        )


def _not_decoded(file: Location, reason: str) -> BadClipError:
    problem = f"cannot be decoded ({reason.rstrip('.')})"
    return BadClipError(str(file), problem, "audio such as WAV or FLAC", _FETCH)


def _without_length(file: Location, audio_format: str) -> BadClipError:
    return BadClipError(
        str(file),
        f"declares no length in its header ({audio_format}), so that a missing end goes unnoticed",
        "",
        "convert it to WAV or FLAC if you know that it is complete",
    )


def _broken_off(file: Location, where: str) -> BadClipError:
    fix = "download it again, or convert it to WAV or FLAC if you know that it is complete"
    return BadClipError(str(file), f"breaks off after {where}", "", fix)


def check_sound(name: str, waveform: Waveform) -> None:
    """Raise BadClipError if samples are not finite, or none is louder than -80 dB of full scale."""
    check_peak(name, finite_peak(name, waveform))


def finite_peak(name: str, waveform: Waveform) -> float:
    """Return the largest magnitude of samples; raise BadClipError if one is not finite."""
    if not np.isfinite(waveform).all():
        raise BadClipError(name, "holds samples that are not finite numbers", "", "remove it")
    return float(np.abs(waveform).max(initial=0.0))


def check_peak(name: str, peak: float) -> None:
    """Raise BadClipError if the largest magnitude of a recording is that of silence."""
    if peak < SILENCE_PEAK:
        level = "all zeros" if peak == 0 else f"peak {20 * np.log10(peak):.0f} dB"
        least = f"a peak above {20 * np.log10(SILENCE_PEAK):.0f} dB"
        raise BadClipError(name, f"is silent ({level})", least, "remove it")
