"""The options of an extraction, and of cutting recordings into segments.

They import nothing heavy: the command line reads its options, their defaults and their help here.
"""

from dataclasses import dataclass
from pathlib import Path

from .. import choices
from ..choices import check_choice
from ..errors import UserError
from .names import DEFAULT_ENCODER
from .perturbation import Perturbation


@dataclass(frozen=True)
class ExtractOptions:
    """How clips are decoded, embedded and stored.

    Attributes
    ----------
    encoder : str or Path
        Hub id or local folder of a speech encoder (wav2vec 2.0, XLS-R, HuBERT, WavLM,
        data2vec-audio, Whisper, ...); ``whisper-tiny.en``, which ships with serpipe and needs no
        network; or the acoustic features ``opensmile:eGeMAPSv02`` or ``opensmile:ComParE_2016``.
    revision : str, optional
        Commit, tag or branch of a hub id. The default encoder is pinned; of others ``main``.
    pooling : {"mean", "std", "mean,std"}
        How each layer is pooled over time.
    devices : str
        Where the encoder runs: ``auto`` and ``cuda`` use all GPUs, with a copy of the encoder on
        each; ``auto`` falls back to the CPU.
    precision : {"float32", "tf32", "bf16", "fp16", "auto"}
        Precision of weights and hidden states. Only float32 is exact; ``auto`` is bf16 where the
        machine supports it natively.
    dtype : {"float32", "float16"}
        Data type of the stored embeddings.
    trim : float, optional
        Trim silence at both ends: everything that is more than so many decibels, such as 30,
        below the loudest part.
    channels : {"mean", "left", "right"}
        How several channels are reduced to one.
    max_seconds : float, optional
        Split longer clips into equal chunks and pool over the frames of all chunks. Without it
        Whisper refuses clips longer than 30 s.
    compile_blocks : bool
        Compile the blocks of the encoder with ``torch.compile``.
    engine : {"torch", "openvino"}
        What runs the encoder: OpenVINO is faster than torch on a CPU, in float32 and bf16, for
        encoders that can be exported to ONNX. Its error relative to torch in float32 is recorded.
    batch_seconds : float
        Seconds of audio per batch on a GPU. On a CPU each clip is computed alone, one per core.
    """

    encoder: str | Path = DEFAULT_ENCODER
    revision: str | None = None
    pooling: str = "mean"
    devices: str = "auto"
    precision: str = "float32"
    dtype: str = "float32"
    trim: float | None = None
    channels: str = "mean"
    max_seconds: float | None = None
    compile_blocks: bool = False
    engine: str = "torch"
    batch_seconds: float = 600.0
    #: What is done to every clip first; set by the functions that make perturbed copies.
    perturbation: Perturbation | None = None

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings, one by one."""
        return tuple(self.pooling.split(","))

    def check(self) -> None:
        """Raise a UserError that names an option with an unknown value."""
        check_choice("--pool", self.pooling, choices.POOLINGS)
        check_choice("--dtype", self.dtype, choices.DTYPES)
        check_choice("--precision", self.precision, choices.EXTRACTION_PRECISIONS)
        check_choice("--channels", self.channels, choices.CHANNELS)
        check_choice("--engine", self.engine, choices.ENGINES)


@dataclass(frozen=True)
class SegmentOptions:
    """How long recordings are cut into segments: at pauses, or by who speaks when.

    Attributes
    ----------
    vad : {"silero", "energy", "auto"}, optional
        Find speech first, and cut recordings of any length (at most 24 hours) at their pauses, by
        the Silero model, which needs ``serpipe[vad]``, or by energy; ``auto`` is silero if it is
        installed. The prediction gets a timeline of segments.
    pause : float
        Shortest pause in seconds at which ``vad`` cuts.
    longest_segment : float
        Longest segment in seconds that ``vad`` makes; a longer one is cut where it is quietest.
        Longer turns of ``speakers`` are cut into equal parts, whose scores are averaged.
    speakers : str or Path, optional
        Turns of the speakers of the recording, from any program for diarisation: RTTM, or CSV with
        the columns start, end (in seconds) and speaker. Each turn and each speaker is predicted.
    """

    vad: str | None = None
    pause: float = 0.3
    longest_segment: float = 10.0
    speakers: str | Path | None = None

    @property
    def is_given(self) -> bool:
        """Whether recordings are cut into segments."""
        return self.vad is not None or self.speakers is not None

    def check(self) -> None:
        """Raise a UserError that names an option with an invalid value."""
        if self.vad is not None:
            check_choice("--vad", self.vad, choices.DETECTORS)
        if self.vad is not None and self.speakers is not None:
            raise UserError(
                "--vad --speakers: the turns of --speakers are the segments; give one of the two"
            )
        defaults = SegmentOptions()
        if self.pause != defaults.pause and self.vad is None:
            raise UserError(f"--pause {self.pause:g}: is only for --vad; add it, or omit --pause")
        if self.longest_segment != defaults.longest_segment and not self.is_given:
            raise UserError(
                f"--longest-segment {self.longest_segment:g}: is only for --vad and --speakers; "
                "add one of them, or omit it"
            )
        for flag, value, limits in (
            ("--pause", self.pause, (0.05, 60.0)),
            ("--longest-segment", self.longest_segment, (1.0, 600.0)),
        ):
            if not limits[0] <= value <= limits[1]:
                raise UserError(
                    f"{flag} {value:g}: expected {limits[0]:g} to {limits[1]:g} seconds"
                )
