"""Decode uploads in separate processes with limits on memory and time.

A decoder is C code that reads untrusted bytes. If it crashes, hangs or takes too much memory, only
the request with these bytes is refused: the process is ended and another one is started. A clip
whose decoder dies is tried once more in a new process before it is refused.
"""

import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from ..child_python import module_path
from ..errors import BadClipError, UserError
from ..features.audio import Waveform, decode_waveform
from ..process_limits import limit_process
from .memory import release_memory
from .options import ServeOptions
from .refused import Refused, unusable

_LENGTH = struct.Struct("<Q")
#: The only environment variables that a decoder gets: no token, no credentials.
_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")
#: After a larger clip, a decoder releases its memory.
_LARGE_BYTES = 4 << 20
#: Signals that a process causes itself; any other signal came from outside.
_CRASHES = frozenset(
    getattr(signal, name)
    for name in ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")
    if hasattr(signal, name)
)


class _DecoderDiedError(Exception):
    """A decoder ended before it answered."""

    def __init__(self, *, is_crash: bool) -> None:
        self.is_crash = is_crash
        super().__init__()


@dataclass(frozen=True)
class _Decoder:
    process: subprocess.Popen[bytes]
    to: IO[bytes]
    back: IO[bytes]

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.to, self.back):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class Decoders:
    """Processes that decode one clip at a time each, to ``sampling_rate`` in Hz and one channel."""

    def __init__(self, sampling_rate: int, channels: str, options: ServeOptions) -> None:
        self._sampling_rate, self._channels, self._options = sampling_rate, channels, options
        self._idle: queue.LifoQueue[_Decoder | None] = queue.LifoQueue()
        for _ in range(options.decoders):
            self._idle.put(None)  # started when first needed

    def decode(self, content: bytes) -> tuple[Waveform, str]:
        """Decode one clip, and return the hash of its samples as well.

        May be called by several threads. Raise Refused: 422 if it is not usable audio, or decoding
        takes too much time or memory; 503 if a decoder cannot be started, or is killed from outside
        twice.
        """
        decoder = self._idle.get()
        try:
            for is_last in (False, True):
                try:
                    if decoder is None or decoder.process.poll() is not None:
                        decoder = self._replace(decoder)
                    problem, samples, audio_sha256 = self._request(decoder, content)
                    break
                except _DecoderDiedError as error:
                    # The kernel or the operator may have ended it, so once does not prove that the
                    # clip is at fault; and only the decoder of this clip has crashed.
                    if not is_last:
                        continue
                    if not error.is_crash:
                        raise _no_decoder() from None
                    raise Refused(422, "The audio makes its decoder fail; send it in another "
                                  "format, such as WAV.") from None  # fmt: skip
        finally:
            self._idle.put(decoder)
        if problem:
            raise unusable(BadClipError(*json.loads(problem)))
        return np.frombuffer(samples, dtype=np.float32), audio_sha256.decode(errors="replace")

    def close(self) -> None:
        """End all processes; to be called when none is in use."""
        with contextlib.suppress(queue.Empty):
            while True:
                decoder = self._idle.get_nowait()
                if decoder:
                    decoder.close()

    def _request(self, decoder: _Decoder, content: bytes) -> tuple[bytes, bytes, bytes]:
        """Send a clip to a decoder; close the decoder if it dies or takes too long."""
        answer: tuple[bytes, bytes, bytes] | None = None
        with self._time_limit(decoder) as is_late, contextlib.suppress(EOFError, OSError):
            _send(decoder.to, content)
            back = decoder.back
            answer = _receive(back), _receive(back), _receive(back)
        if answer is None or is_late.is_set():
            decoder.close()
        if answer is None and is_late.is_set():
            limit = self._options.decode_timeout
            raise Refused(422, f"The audio takes more than {limit:g} s to decode.")
        if answer is None:
            code = decoder.process.returncode
            raise _DecoderDiedError(is_crash=code >= 0 or -code in _CRASHES)
        return answer

    def _replace(self, decoder: _Decoder | None) -> _Decoder:
        if decoder:
            decoder.close()
        options = self._options
        limits = (self._sampling_rate, self._channels, options.max_seconds, options.decode_bytes)
        kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, *map(str, limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=kept | {"PYTHONPATH": module_path()} | one_thread,
                # Ctrl-C is for the server, which finishes requests first.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows
            )
        except OSError:  # out of memory, processes or files
            raise _no_decoder() from None
        assert process.stdin and process.stdout
        decoder = _Decoder(process, process.stdin, process.stdout)
        try:
            _receive(decoder.back)  # the message that it is ready
        except (EOFError, OSError):
            decoder.close()
            raise _DecoderDiedError(is_crash=False) from None
        return decoder

    @contextlib.contextmanager
    def _time_limit(self, decoder: _Decoder) -> Iterator[threading.Event]:
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            decoder.process.kill()

        timer = threading.Timer(self._options.decode_timeout, end)
        timer.daemon = True
        timer.start()
        try:
            yield is_late
        finally:
            timer.cancel()
            timer.join()


def _no_decoder() -> Refused:
    return Refused(503, "The server cannot start a decoder; try again later.", {"Retry-After": "5"})


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _decode_for_ever(
    sampling_rate: int, channels: str, max_seconds: float, spare_bytes: int
) -> None:
    """Be a decoder: read clips, write samples, until there are no more."""
    source = sys.stdin.buffer
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(ImportError):
        import av  # noqa: F401  # before the limits, which would not allow it
    limit_process(spare_bytes, writes_files=False)
    _send(answers, b"ready")
    while True:
        try:
            content = _receive(source)
        except EOFError:
            return
        answer = _decode(content, sampling_rate, channels, max_seconds, spare_bytes)
        for part in answer:
            _send(answers, part)
        is_large = len(content) > _LARGE_BYTES
        del content, answer
        if is_large:
            release_memory()


def _decode(
    content: bytes, sampling_rate: int, channels: str, max_seconds: float, spare_bytes: int
) -> tuple[bytes, bytes, bytes]:
    """Return what is wrong with a clip (empty if nothing), its samples, and their hash."""
    try:
        waveform, facts = decode_waveform(content, sampling_rate, channels, max_seconds=max_seconds)
        return b"", waveform.tobytes(), facts.audio_sha256.encode()
    except BadClipError as error:
        problem = json.dumps(error.parts).encode()
    except MemoryError:
        problem = _problem(f"needs more than {spare_bytes >> 20} MiB to decode", "less", "")
    except UserError as error:
        problem = _problem(f"cannot be used ({error})", "audio such as WAV or FLAC", "")
    except Exception as error:  # whatever the libraries raise on such bytes
        problem = _problem(
            f"cannot be decoded ({type(error).__name__})", "audio such as WAV or FLAC", ""
        )
    return problem, b"", b""


def _problem(text: str, expected: str, fix: str) -> bytes:
    return json.dumps(["audio", text, expected, fix]).encode()


if __name__ == "__main__":
    _decode_for_ever(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
