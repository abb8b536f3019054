"""Read a clip: bytes, samples, mono, the encoder's sampling rate. Refuse what is no clip."""

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ..errors import BadClipError

Waveform = NDArray[np.float32]

#: How channels become one and rates become one: part of what embeddings depend on.
CHANNEL_POLICY = "mean"
RESAMPLER = f"soxr VHQ {soxr.__version__}"

#: Limits on what is read from an untrusted file.
MAX_BYTES = 1 << 30
MAX_SECONDS = 600.0
MAX_DECODED_BYTES = 1 << 30
RATES = (1_000, 768_000)
#: A clip whose loudest sample is below this (full scale is 1) has nothing to hear: -80 dB.
SILENCE_PEAK = 1e-4

_LFS_POINTER = b"version https://git-lfs.github.com/"


@dataclass(frozen=True)
class AudioFacts:
    """What is known of a clip's audio once it has been opened.

    Attributes
    ----------
    sha256 : str
        Hash of the file's bytes, hexadecimal: the clip's identity in a cache.
    sampling_rate : int
        Of the file, in Hz.
    channels : int
        Of the file.
    frames : int
        Samples per channel of the file, at its own rate.
    """

    sha256: str
    sampling_rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sampling_rate


def read_waveform(file: Path, sampling_rate: int) -> tuple[Waveform, AudioFacts]:
    """Decode one clip to mono at the given rate.

    Channels are averaged at the file's own rate, then resampled by soxr at its very high quality.

    Parameters
    ----------
    file : Path
        An audio file of any format that libsndfile knows, whatever its suffix says.
    sampling_rate : int
        The rate wanted, in Hz.

    Returns
    -------
    waveform : ndarray of float32, shape (n_samples,)
        Full scale is 1.
    facts : AudioFacts
        What was found in the file.

    Raises
    ------
    BadClipError
        If the file cannot be decoded, is empty, silent, not finite, too long or a git-lfs pointer.
    """
    content = _read_bytes(file)
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as audio:
            facts = AudioFacts(
                sha256=hashlib.sha256(content).hexdigest(),
                sampling_rate=audio.samplerate,
                channels=audio.channels,
                frames=audio.frames,
            )
            _check_size(file, facts)
            _check_whole(file, audio.extra_info)
            samples = audio.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).rstrip(".")
        raise BadClipError(
            str(file),
            f"cannot be decoded ({reason})",
            "audio such as WAV or FLAC",
            "fetch it again or remove it",
        ) from None
    if len(samples) != facts.frames:
        raise _broken_off(file, f"{len(samples)} of {facts.frames} samples")
    waveform = samples.mean(axis=1, dtype=np.float32)
    _check_sound(file, waveform)
    if facts.sampling_rate != sampling_rate:
        waveform = soxr.resample(waveform, facts.sampling_rate, sampling_rate, quality="VHQ")
    return np.ascontiguousarray(waveform, dtype=np.float32), facts


def check_length(
    file: Path, n_samples: int, sampling_rate: int, minimum: int, maximum: int | None
) -> None:
    """Refuse a clip that the encoder cannot take whole.

    Parameters
    ----------
    file : Path
        The clip, for the message.
    n_samples : int
        Its length at ``sampling_rate``.
    sampling_rate : int
        In Hz.
    minimum, maximum : int, int or None
        Shortest and longest clip of the encoder, in samples; ``None`` is no limit.

    Raises
    ------
    BadClipError
        If the clip is outside the limits. It is never padded or cut in silence.
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


def _read_bytes(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise BadClipError(
            str(file),
            f"cannot be read ({error.strerror})",
            "a readable file",
            "check its permissions and the disk",
        ) from None
    if size > MAX_BYTES:
        raise BadClipError(
            str(file),
            f"has {size / 2**20:.0f} MiB",
            f"at most {MAX_BYTES / 2**20:.0f} MiB",
            "split it into utterances",
        )
    if not content:
        raise BadClipError(
            str(file), "is an empty file", "an audio file", "fetch it again or remove it"
        )
    if content.startswith(_LFS_POINTER):
        raise BadClipError(
            str(file),
            "is a git-lfs pointer, not audio",
            "the audio it stands for",
            "run `git lfs pull` in its repository",
        )
    return content


def _check_size(file: Path, facts: AudioFacts) -> None:
    """Refuse before decoding what would decode to too much: a small file can hold hours."""
    if facts.frames == 0:
        raise BadClipError(
            str(file), "holds no samples", "an utterance", "fetch it again or remove it"
        )
    if not RATES[0] <= facts.sampling_rate <= RATES[1]:
        raise BadClipError(
            str(file),
            f"claims a sampling rate of {facts.sampling_rate} Hz",
            f"{RATES[0]} to {RATES[1]} Hz",
            "fetch it again or remove it",
        )
    if facts.seconds > MAX_SECONDS:
        raise BadClipError(
            str(file),
            f"lasts {facts.seconds:.0f} s",
            f"at most {MAX_SECONDS:.0f} s",
            "split it into utterances",
        )
    decoded = 4 * facts.frames * facts.channels
    if decoded > MAX_DECODED_BYTES:
        raise BadClipError(
            str(file),
            f"decodes to {decoded / 2**20:.0f} MiB ({facts.channels} channels)",
            f"at most {MAX_DECODED_BYTES / 2**20:.0f} MiB",
            "convert it to one channel at 16 kHz",
        )


def _check_whole(file: Path, told: str) -> None:
    """Refuse a WAV or AIFF file whose header tells of more than there is.

    libsndfile reads such a file as a shorter clip and only notes it in its log. Headers of streams
    that were never finished tell of 0 or of the most there can be; those are whole.
    """
    found = re.search(r"^ *(?:data|SSND) : (\d+) \(should be (\d+)\)", told, re.MULTILINE)
    if found:
        declared, there = int(found[1]), int(found[2])
        if there < declared < 0x7FFF0000:
            raise _broken_off(file, f"{there} of {declared} bytes")


def _broken_off(file: Path, where: str) -> BadClipError:
    return BadClipError(
        str(file), f"breaks off after {where}", "the whole clip", "fetch it again or remove it"
    )


def _check_sound(file: Path, waveform: Waveform) -> None:
    if not np.isfinite(waveform).all():
        raise BadClipError(
            str(file), "holds samples that are not numbers", "finite samples", "remove it"
        )
    peak = float(np.abs(waveform).max())
    if peak < SILENCE_PEAK:
        level = "all zeros" if peak == 0 else f"peak {20 * np.log10(peak):.0f} dB"
        raise BadClipError(
            str(file),
            f"is silent ({level})",
            f"a peak above {20 * np.log10(SILENCE_PEAK):.0f} dB",
            "remove it",
        )
