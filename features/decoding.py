"""Decode each clip once, in processes, for an encoder on a GPU.

A GPU embeds clips faster than threads of one Python process decode them, because the threads wait
for each other's lock. Here processes decode, and what they return is kept until it is embedded, as
far as memory allows. Decoding needs no torch, so that it can begin while torch is being imported
and the encoder is loaded.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..corpora import Clip
from ..errors import BadClipError, MachineError
from ..remote import Place, Remote
from .audio import CHANNEL_POLICY, AudioFacts, Waveform, decode_waveform, read_clip
from .fingerprint import fingerprint
from .in_order import in_order
from .read_ahead import Content, read_ahead
from .trim import trim

#: Rate in Hz of every encoder that is known; clips are decoded again for an encoder with another.
USUAL_RATE = 16_000
#: Fewer clips are not worth the start of processes before the encoder is loaded.
FEWEST_CLIPS = 100
#: Most bytes of waveforms that wait to be embedded, and the share of the free memory.
MOST_KEPT_BYTES = 8 << 30
KEPT_SHARE = 0.25
#: Seconds without work after which a process ends.
_IDLE_SECONDS = 60


@dataclass(frozen=True)
class DecodingOptions:
    """What decoded waveforms depend on, besides the clips.

    Attributes
    ----------
    sampling_rate : int
        In Hz.
    channels : {"mean", "left", "right"}
        How several channels become one.
    trim_decibels : float or None
        Below which the ends of a clip are trimmed.
    """

    sampling_rate: int = USUAL_RATE
    channels: str = CHANNEL_POLICY
    trim_decibels: float | None = None


@dataclass(frozen=True)
class CheckedAudio:
    """What decoding a clip has shown.

    Attributes
    ----------
    facts : AudioFacts
        With the fingerprint.
    n_samples : int
        Length of the waveform after resampling and trimming.
    """

    facts: AudioFacts
    n_samples: int


def decode_clip(
    file: Place, content: bytes | None, options: DecodingOptions
) -> tuple[Waveform, AudioFacts]:
    """Decode, fingerprint and trim one clip.

    Parameters
    ----------
    file : Path or Remote
        The clip.
    content : bytes or None
        Its bytes; ``None`` to read the file.
    options : DecodingOptions
        Rate, channels and trimming.

    Returns
    -------
    waveform : ndarray of float32, shape (n_samples,)
    facts : AudioFacts
        Of the clip before it was trimmed.

    Raises
    ------
    BadClipError
        If it cannot be read or decoded.
    """
    content = read_clip(file) if content is None else content
    rate = options.sampling_rate
    waveform, facts = decode_waveform(content, rate, options.channels, file=file)
    facts = replace(facts, fingerprint=fingerprint(waveform, rate))
    if options.trim_decibels is not None:
        waveform = trim(waveform, options.trim_decibels)
    return waveform, facts


class Decoder:
    """Decodes clips in processes and keeps the waveforms until they are taken.

    Parameters
    ----------
    options : DecodingOptions
        Rate, channels and trimming.
    workers : int
        Processes.
    """

    def __init__(self, options: DecodingOptions, workers: int) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.options, self.workers = options, workers
        self._processes = ProcessPoolExecutor(workers, timeout=_IDLE_SECONDS)
        self._kept: dict[str, Waveform] = {}
        self._room = min(MOST_KEPT_BYTES, int(KEPT_SHARE * _free_memory()))
        self._lock = threading.Lock()
        self._begun: tuple[list[Place], queue.SimpleQueue[Any]] | None = None

    def begin(self, clips: Sequence[Clip]) -> None:
        """Begin to check clips in the background; :meth:`check` then continues with the results."""
        results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._begun = [clip.file for clip in clips], results

        def run() -> None:
            try:
                for result in self._check(clips):
                    results.put(result)
            except BaseException as error:  # raised where the results are taken
                results.put(error)

        threading.Thread(target=run, daemon=True).start()

    def check(self, clips: Sequence[Clip]) -> Iterator[CheckedAudio | BadClipError]:
        """Decode clips, keep their waveforms, and yield what was seen, in the order of the clips.

        Parameters
        ----------
        clips : sequence of Clip
            The clips.

        Yields
        ------
        CheckedAudio or BadClipError

        Raises
        ------
        MachineError
            If a process was ended from outside, such as for want of memory.
        """
        begun, self._begun = self._begun, None
        if begun is None or begun[0] != [clip.file for clip in clips]:
            yield from self._check(clips)
            return
        for _ in clips:
            result = begun[1].get()
            if isinstance(result, BaseException) and not isinstance(result, BadClipError):
                raise result
            yield result

    def load(self, file: Place, facts: AudioFacts, content: Content) -> Waveform | None:
        """Return the waveform of a clip: the one that was kept, or a new one.

        Parameters
        ----------
        file : Path or Remote
            The clip.
        facts : AudioFacts
            What :meth:`check` said of it.
        content : callable
            Reads it.

        Returns
        -------
        ndarray of float32, shape (n_samples,), or None
            ``None`` if the file is not what it was.
        """
        with self._lock:
            waveform = self._kept.pop(facts.sha256, None)
            if waveform is not None:
                self._room += waveform.nbytes
                return waveform
        waveform, now = self._decode(file, content)
        return waveform if now == facts else None

    def close(self) -> None:
        """End the processes."""
        self._processes.shutdown(wait=False)

    def _check(self, clips: Sequence[Clip]) -> Iterator[CheckedAudio | BadClipError]:
        def check(item: tuple[Clip, Content]) -> CheckedAudio | BadClipError:
            try:
                waveform, facts = self._decode(item[0].file, item[1])
            except BadClipError as error:
                return error
            with self._lock:
                if waveform.nbytes <= self._room and facts.sha256 not in self._kept:
                    self._kept[facts.sha256] = waveform
                    self._room -= waveform.nbytes
            return CheckedAudio(facts, len(waveform))

        # Threads that wait for processes: twice as many, so that none of these waits for a thread.
        return in_order(
            check, read_ahead(clips, lambda clip: clip.file), 2 * self.workers, ahead=16
        )

    def _decode(self, file: Place, content: Content) -> tuple[Waveform, AudioFacts]:
        from joblib.externals.loky import BrokenProcessPool

        there = content() if isinstance(file, Remote) else None
        try:
            future: Future[tuple[Waveform, AudioFacts]] = self._processes.submit(
                decode_clip, file, there, self.options
            )
            return future.result()
        except BrokenProcessPool:
            raise MachineError(
                f"{file}: the process that decoded it was ended, perhaps for want of memory; "
                "run the same command again with fewer --jobs"
            ) from None


def decode_ahead(
    clips: Sequence[Clip], devices: str, options: DecodingOptions, workers: int
) -> Decoder | None:
    """Begin to decode clips before an encoder is loaded, where that is worth it.

    Parameters
    ----------
    clips : sequence of Clip
        The clips.
    devices : str
        What the user said of the devices.
    options : DecodingOptions
        Rate, channels and trimming.
    workers : int
        Processes.

    Returns
    -------
    Decoder or None
        ``None`` if there is no GPU, as far as can be seen without torch, or there are few clips.
    """
    if len(clips) < FEWEST_CLIPS or not (devices == "auto" or devices.startswith("cuda")):
        return None
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return None
    decoder = Decoder(options, workers)
    decoder.begin(clips)
    return decoder


def _free_memory() -> int:
    """Return the bytes of memory that are free, or a guess where the system does not say."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30
