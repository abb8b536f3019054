"""Decode clips, in threads or, for an encoder on a GPU, in processes that decode each clip once.

A GPU embeds clips faster than the threads of one Python process decode them, because the threads
wait for each other's lock. So processes decode, and their waveforms are kept until they are
embedded, as far as memory allows. Decoding needs no torch: it can begin while torch is imported and
the encoder is loaded.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..corpora import Clip
from ..errors import BadClipError, MachineError
from ..remote import Location, Remote
from .audio import CHANNEL_POLICY, AudioFacts, Waveform, decode_waveform, read_clip
from .fingerprint import fingerprint
from .in_order import in_order
from .perturb import perturb
from .perturbation import Perturbation
from .read_ahead import Content, read_ahead
from .trim import trim

#: Rate in Hz of every known encoder; clips are decoded again for an encoder with another.
USUAL_RATE = 16_000
#: With fewer clips, processes are not started before the encoder is loaded.
FEWEST_CLIPS = 100
#: Limits on the waveforms that wait to be embedded: bytes, and the share of the free memory.
MOST_KEPT_BYTES = 8 << 30
KEPT_SHARE = 0.25
#: Clips that threads decode ahead of those that are taken.
_AHEAD = 16
#: Seconds without work after which a process ends.
_IDLE_SECONDS = 60

Result = TypeVar("Result")


@dataclass(frozen=True)
class DecodingOptions:
    """What decoded waveforms depend on, besides the clips."""

    sampling_rate: int = USUAL_RATE
    #: How several channels become one, see :func:`serpipe.features.audio.read_waveform`.
    channels: str = CHANNEL_POLICY
    #: Threshold of silence at the ends of a clip, see :func:`serpipe.features.trim.trim`.
    trim_decibels: float | None = None
    #: What is done to the whole clip before it is trimmed.
    perturbation: Perturbation | None = None

    def change(self, waveform: Waveform, facts: AudioFacts) -> Waveform:
        """Return a decoded waveform perturbed, and without silence at its ends, as requested."""
        if self.perturbation is not None:
            waveform = perturb(waveform, self.sampling_rate, self.perturbation, facts.sha256)
        return waveform if self.trim_decibels is None else trim(waveform, self.trim_decibels)


@dataclass(frozen=True, slots=True)
class DecodedClip:
    """A clip whose audio was decoded and is usable."""

    clip: Clip
    facts: AudioFacts
    #: Equal for copies; empty before :func:`serpipe.features.copies.mark_recordings`.
    recording: str = ""
    #: Path of a clip that may hold the same recording and could not be compared with it.
    unconfirmed_copy_of: str = ""


@dataclass(frozen=True)
class CheckedAudio:
    """The facts of a decoded clip, and the samples that are left after resampling and trimming."""

    facts: AudioFacts
    n_samples: int


def decode_clip(
    file: Location, content: bytes | None, options: DecodingOptions
) -> tuple[Waveform, AudioFacts]:
    """Decode, fingerprint, perturb and trim one clip, from its bytes or else from its file.

    Return the waveform, and the facts of the clip before it was perturbed and trimmed. Raise
    BadClipError if it cannot be read or decoded.
    """
    content = read_clip(file) if content is None else content
    rate = options.sampling_rate
    waveform, facts = decode_waveform(content, rate, options.channels, file=file)
    facts = replace(facts, fingerprint=fingerprint(waveform, rate))
    return options.change(waveform, facts), facts


def decode_in_threads(
    clips: Sequence[Clip], options: DecodingOptions, workers: int
) -> Iterator[CheckedAudio | BadClipError]:
    """Yield the facts of each clip, in order, or why it cannot be used; ``workers`` threads."""

    def decode(file: Location, content: Content) -> tuple[Waveform, AudioFacts]:
        return decode_clip(file, content(), options)

    return _check_clips(clips, decode, workers)


def _check_clips(
    clips: Sequence[Clip],
    decode: Callable[[Location, Content], tuple[Waveform, AudioFacts]],
    threads: int,
) -> Iterator[CheckedAudio | BadClipError]:
    def check(item: tuple[Clip, Content]) -> CheckedAudio | BadClipError:
        clip, content = item
        try:
            waveform, facts = decode(clip.file, content)
        except BadClipError as error:
            return error
        return CheckedAudio(facts, len(waveform))

    return in_order(check, read_ahead(clips, lambda clip: clip.file), threads, ahead=_AHEAD)


def load_clip(
    decoded: DecodedClip, options: DecodingOptions, content: bytes | None = None
) -> Waveform:
    """Decode a clip again, from its bytes or else from its file.

    Raise BadClipError if it has changed since it was checked.
    """
    file = decoded.clip.file
    content = read_clip(file) if content is None else content
    waveform, facts = decode_waveform(content, options.sampling_rate, options.channels, file=file)
    if facts != decoded.facts:
        raise BadClipError(
            str(file),
            "has changed since it was checked",
            "files that stay as they are",
            "run the same command again",
        )
    return options.change(waveform, facts)


class Decoder:
    """Decodes clips in ``workers`` processes and keeps the waveforms until they are taken."""

    def __init__(self, options: DecodingOptions, workers: int) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.options, self.workers = options, workers
        self._processes = ProcessPoolExecutor(workers, timeout=_IDLE_SECONDS)
        self._kept: dict[str, Waveform] = {}
        self._room = min(MOST_KEPT_BYTES, int(KEPT_SHARE * _free_memory()))
        self._lock = threading.Lock()
        self._begun: tuple[list[Location], queue.SimpleQueue[Any]] | None = None

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
        """Decode clips, keep their waveforms, and yield the facts in the order of the clips.

        Raise MachineError if a process was killed, for example because memory ran out.
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

    def load(self, decoded: DecodedClip, content: Content) -> Waveform:
        """Return the waveform of a checked clip: the one that was kept, or decoded again.

        Raise BadClipError if the file has changed since it was checked.
        """
        with self._lock:
            waveform = self._kept.pop(decoded.facts.sha256, None)
            if waveform is not None:
                self._room += waveform.nbytes
                return waveform
        file = decoded.clip.file
        return self._run(load_clip, file, decoded, self.options, _if_remote(file, content))

    def close(self) -> None:
        """End the processes."""
        self._processes.shutdown(wait=False)

    def _check(self, clips: Sequence[Clip]) -> Iterator[CheckedAudio | BadClipError]:
        def decode(file: Location, content: Content) -> tuple[Waveform, AudioFacts]:
            waveform, facts = self._run(
                decode_clip, file, file, _if_remote(file, content), self.options
            )
            with self._lock:
                if waveform.nbytes <= self._room and facts.sha256 not in self._kept:
                    self._kept[facts.sha256] = waveform
                    self._room -= waveform.nbytes
            return waveform, facts

        # Threads that wait for processes: twice as many, so that none of these waits for a thread.
        return _check_clips(clips, decode, 2 * self.workers)

    def _run(self, function: Callable[..., Result], file: Location, *arguments: object) -> Result:
        """Call a function in a process; ``file`` is what it decodes, for messages."""
        from joblib.externals.loky import BrokenProcessPool

        try:
            future: Future[Result] = self._processes.submit(function, *arguments)
            return future.result()
        except BrokenProcessPool:
            raise MachineError(
                f"{file}: the process that decoded it was killed, perhaps because memory ran out; "
                "run the same command again with fewer --jobs"
            ) from None


def _if_remote(file: Location, content: Content) -> bytes | None:
    """Return the bytes of a remote clip; a process reads a local file itself."""
    return content() if isinstance(file, Remote) else None


def decode_ahead(
    clips: Sequence[Clip], devices: str, options: DecodingOptions, workers: int
) -> Decoder | None:
    """Begin to decode clips in ``workers`` processes before the encoder is loaded.

    Return ``None`` if that saves no time: for few clips, or if ``devices``, the value of
    ``--devices``, includes no GPU that is visible without torch.
    """
    if len(clips) < FEWEST_CLIPS or not (devices == "auto" or devices.startswith("cuda")):
        return None
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return None
    decoder = Decoder(options, workers)
    decoder.begin(clips)
    return decoder


def _free_memory() -> int:
    """Return the bytes of free memory, or a guess where the system does not report them."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30
