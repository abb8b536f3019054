"""Decode long recordings block by block, in memory that does not depend on their length."""

import contextlib
import errno
import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import soxr

from ..errors import BadClipError
from ..files import FileBytes, open_regular, too_large
from ..remote import Location, Remote
from .audio import (
    CHANNEL_POLICY,
    MemoryFile,
    SampleHasher,
    Waveform,
    check_content,
    check_peak,
    decode_blocks,
    finite_peak,
    one_channel,
    read_clip,
)
from .truncation import Content

#: Limits of a recording that is decoded block by block.
MAX_STREAM_BYTES = 32 << 30
MAX_STREAM_SECONDS = 24 * 3600.0
#: Bytes of a decoded block, before channels are mixed.
BLOCK_BYTES = 1 << 20


class AudioStream:
    """A recording as blocks of mono float32 samples, checked as :mod:`.audio` checks clips.

    Iterate over it to decode it from the beginning. The samples are those of
    :func:`serpipe.features.audio.read_waveform`. A file on this machine may have
    :data:`MAX_STREAM_BYTES`; a remote one is read into memory and has the limits of a clip.

    Parameters
    ----------
    file : Path or Remote
        An audio file, or a video file with an audio track.
    sampling_rate : int
        The rate of the blocks, in Hz.
    channels : {"mean", "left", "right"}
        How several channels become one.

    Attributes
    ----------
    n_samples : int
        Samples of the blocks so far.
    audio_sha256 : str
        Hash of the decoded samples, as in ``AudioFacts``; empty before the end.
    """

    def __init__(self, file: Location, sampling_rate: int, channels: str = CHANNEL_POLICY) -> None:
        self.file, self.sampling_rate, self.channels = file, sampling_rate, channels
        self.n_samples = 0
        self.audio_sha256 = ""

    def __iter__(self) -> Iterator[Waveform]:
        """Yield blocks, which may be empty; raise BadClipError if the recording is not usable."""
        self.n_samples, self.audio_sha256 = 0, ""
        name, peak = str(self.file), 0.0
        hasher: SampleHasher | None = None
        resampler: soxr.ResampleStream | None = None
        with _opened(self.file) as (content, source):
            check_content(self.file, content)
            for samples, facts in decode_blocks(
                self.file, content, source, MAX_STREAM_SECONDS, BLOCK_BYTES
            ):
                if hasher is None:
                    hasher = SampleHasher(facts.sampling_rate, facts.channels)
                    if facts.sampling_rate != self.sampling_rate:
                        resampler = soxr.ResampleStream(
                            facts.sampling_rate, self.sampling_rate, 1, "float32", "VHQ"
                        )
                hasher.update(samples)
                block = np.ascontiguousarray(one_channel(samples, self.channels))
                peak = max(peak, finite_peak(name, block))
                yield self._counted(block if resampler is None else resampler.resample_chunk(block))
        if resampler is not None:
            yield self._counted(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        check_peak(name, peak)
        self.audio_sha256 = hasher.hexdigest() if hasher else ""

    def _counted(self, block: Waveform) -> Waveform:
        self.n_samples += len(block)
        return block


class _LocalFile(io.BufferedReader):
    """An open file for libsndfile, which follows damaged headers to impossible offsets."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset, if it exists. An error here would be printed, not raised."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self.tell()


@contextlib.contextmanager
def _opened(file: Location) -> Iterator[tuple[Content, BinaryIO]]:
    """Open a recording twice: for the checks of its bytes, and for the decoder."""
    if isinstance(file, Remote):
        downloaded = read_clip(file)
        yield downloaded, MemoryFile(downloaded)
        return
    with contextlib.ExitStack() as stack:
        try:
            content = FileBytes(stack.enter_context(open_regular(file)))
            if len(content) > MAX_STREAM_BYTES:
                raise too_large(file, MAX_STREAM_BYTES)
            source = stack.enter_context(_LocalFile(open_regular(file).detach()))
        except OSError as error:
            fix = "check its permissions and the disk"
            if error.errno == errno.EFBIG:
                fix = "split it"
            raise BadClipError(str(file), f"cannot be read ({error.strerror})", "", fix) from None
        yield content, source


def cut_out(blocks: Iterator[Waveform], spans: list[tuple[int, int]]) -> Iterator[Waveform]:
    """Yield the samples of spans of a recording, holding no more than a span and a block.

    Parameters
    ----------
    blocks : iterator of ndarray of float32, shape (n_samples,)
        The recording, see :class:`AudioStream`.
    spans : list of (int, int)
        First sample of each span and the one after its last, ordered by the first; spans may
        overlap. A span that goes beyond the end of the recording is cut there.
    """
    kept, offset = np.zeros(0, np.float32), 0  # the samples from ``offset`` on
    for start, end in spans:
        parts = [kept]
        while (available := offset + sum(map(len, parts))) < end:
            block = next(blocks, None)
            if block is None:
                break
            if available <= start:  # nothing of what came before is needed
                parts, offset = [], available
            parts.append(block)
        kept = np.concatenate(parts) if parts else kept[:0]
        kept, offset = kept[max(0, start - offset) :], max(start, offset)
        yield kept[: end - start].copy()
