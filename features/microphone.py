"""Record from the microphone."""

import numpy as np

from ..errors import MachineError, UserError, first_line
from .audio import Waveform


def record(seconds: float, sampling_rate: int) -> Waveform:
    """Record one channel with full scale 1.

    Raise UserError if sounddevice, which is optional, is not installed, and MachineError if
    recording fails.
    """
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError where it finds no PortAudio
        raise UserError(
            "--mic: sounddevice or its PortAudio is not installed; install them: "
            "pip install 'serpipe[mic]', and on Linux the package libportaudio2"
        ) from None
    try:
        samples = sounddevice.rec(
            round(seconds * sampling_rate),
            sampling_rate,
            channels=1,
            dtype="float32",
            blocking=True,
        )
    except sounddevice.PortAudioError as error:
        raise MachineError(
            f"--mic: no recording ({first_line(error)}); connect a microphone, or allow its use"
        ) from None
    return np.ascontiguousarray(samples[:, 0])
