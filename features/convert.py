"""Convert recordings of any rate, channels and format to 16-bit mono WAV or FLAC files."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..corpora.scan import audio_files
from ..errors import BadClipError, UserError
from ..files import make_folder, open_regular, write_bytes
from ..progress import Track, no_track
from .audio import CHANNEL_POLICY, RATES, RESAMPLER, Waveform, check_channels, read_waveform

FORMATS = ("wav", "flac")
#: What is taken for a recording in a folder. A file that is named itself may have any suffix.
SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"),
    *(".m4a", ".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".mka"),
)
_FULL_SCALE = 2**15
_MARK = "serpipe convert: "


@dataclass(frozen=True)
class Converted:
    """What a conversion did. All are in the order of the inputs, those of a folder by name.

    Attributes
    ----------
    written : tuple of Path
        Files that were written now.
    skipped : tuple of Path
        Files that were there already, made from the same bytes in the same way.
    clipped : tuple of Path
        Those of ``written`` in which samples beyond full scale were set to it.
    bad : tuple of BadClipError
        Inputs that could not be converted; nothing was written for them, and what an earlier
        conversion wrote for them stays.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    clipped: tuple[Path, ...]
    bad: tuple[BadClipError, ...]


@dataclass(frozen=True)
class _Way:
    """How every file is converted."""

    sampling_rate: int
    format: str
    channels: str
    overwrite: bool

    def mark(self, source: str) -> str:
        """Return what a file says of its making, so that it can be told whether it is up to date.

        It tells of the source by hash: neither names nor dates, which differ between machines.
        """
        how = f"{self.sampling_rate} Hz, channels {self.channels}, {RESAMPLER}"
        return f"{_MARK}{how}, source sha256 {source}"


def convert(
    inputs: Sequence[Path],
    out: Path,
    *,
    sampling_rate: int = 16000,
    format: str = "wav",
    channels: str = CHANNEL_POLICY,
    workers: int = 1,
    overwrite: bool = False,
    track: Track[Any] = no_track,
) -> Converted:
    """Convert recordings, or whole folders of them, to 16-bit mono files of one rate.

    A file goes to ``out`` under its own name, the files of a folder under their place in it; the
    suffix becomes that of the format. Hidden files are left out. The same inputs give the same
    bytes, for any number of workers.

    The scale is never changed. Samples are rounded to the nearest of the 65,536 steps, with no
    dither. Those beyond full scale, which resampling and lossy formats may give, are set to it, and
    the files in which that happened are told. A mono 16-bit recording at the rate wanted keeps
    every sample.

    Each file holds a comment: how it was made, and the hash of its source. A file that is there and
    says the same is skipped; one of another making is written anew.

    Parameters
    ----------
    inputs : sequence of Path
        Files and folders.
    out : Path
        A folder; made if it is not there.
    sampling_rate : int
        The rate wanted, in Hz.
    format : {"wav", "flac"}
        Of the files written.
    channels : {"mean", "left", "right"}
        How several channels become one, see :func:`serpipe.features.audio.read_waveform`.
    workers : int
        Threads.
    overwrite : bool
        Write every file anew, even over one that no conversion made.
    track : callable
        Shows progress.

    Returns
    -------
    Converted
        What was written, and which inputs could not be: they do not stop the rest.

    Raises
    ------
    UserError
        Before anything is written: if an input is not there or holds no recordings, if two inputs
        would become one file, if a file would be written over an input or, without ``overwrite``,
        over one that no conversion made, if ``out`` is inside an input folder, or if there is no
        such rate, format or choice of channels.
    MachineError
        If the disk does not take a file; those written before stay.
    """
    way = _Way(sampling_rate, format, channels, overwrite)
    _check_way(way)
    pairs = _pairs(inputs, out, f".{format}")
    if not overwrite:
        _check_ours([target for _, target in pairs])
    make_folder(out)
    written, skipped, clipped, bad = [], [], [], []
    executor = ThreadPoolExecutor(workers)
    try:
        results = executor.map(lambda pair: _convert_one(pair[0], pair[1], way), pairs)
        for (_, target), result in zip(
            pairs, track(results, "converting files", len(pairs)), strict=True
        ):
            if isinstance(result, BadClipError):
                bad.append(result)
            elif result is None:
                skipped.append(target)
            else:
                written.append(target)
                if result:
                    clipped.append(target)
    finally:
        executor.shutdown(cancel_futures=True)  # after a full disk or Ctrl-C, begin no more files
    return Converted(tuple(written), tuple(skipped), tuple(clipped), tuple(bad))


def _check_way(way: _Way) -> None:
    check_channels(way.channels)
    if way.format not in FORMATS:
        raise UserError(
            f"format {way.format!r}: cannot be written; expected one of {', '.join(FORMATS)}; "
            "choose one of them"
        )
    try:
        if not RATES[0] <= way.sampling_rate <= RATES[1]:
            raise ValueError
        _encode(np.zeros(1, dtype=np.int16), way, _MARK)
    except (ValueError, soundfile.LibsndfileError):
        raise UserError(
            f"{way.sampling_rate} Hz: cannot be the rate of a {way.format} file; expected "
            f"{RATES[0]} to {RATES[1]} Hz, one that the format can have; choose 16000"
        ) from None


def _pairs(inputs: Sequence[Path], out: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Return what is converted and what it becomes, having found that no two get in the way."""
    pairs = []
    for given in inputs:
        if given.is_dir():
            names = sorted(Path(name) for name in audio_files(given, SUFFIXES))
            _check_apart(given, names, out)
            if not names:
                raise UserError(
                    f"{given}: holds no recordings at any depth; expected files such as "
                    f"{'/'.join(SUFFIXES)}; choose the folder they are in"
                )
            pairs += [(given / name, (out / name).with_suffix(suffix)) for name in names]
        elif given.is_file():
            pairs.append((given, (out / given.name).with_suffix(suffix)))
        else:
            raise UserError(
                f"{given}: is neither a file nor a folder; expected one of them; check its name"
            )
    sources = {source.resolve() for source, _ in pairs}
    firsts: dict[str, Path] = {}
    for source, target in pairs:
        if target.resolve() in sources:
            raise UserError(
                f"{target}: is one of the inputs and would be written over; expected a folder "
                "apart from them; choose another --out"
            )
        # Without regard to case: some systems take such names for one.
        name = str(target).casefold()
        if name in firsts:
            raise UserError(
                f"{source}: would become {target}, as would {firsts[name]}; expected a name for "
                "each; rename one, or convert them to different folders"
            )
        firsts[name] = source
    return pairs


def _check_apart(folder: Path, names: Sequence[Path], out: Path) -> None:
    """Refuse folders of which one is in the other: outputs would be taken for inputs."""
    real = out.resolve()
    inside = (folder / name for name in names if (folder / name).resolve().is_relative_to(real))
    within = folder if real.is_relative_to(folder.resolve()) else next(inside, None)
    if within:
        raise UserError(
            f"{out}: is not apart from the input {within}; expected a folder outside of it and not "
            "above it, so that no output is taken for an input; choose another --out"
        )


def _check_ours(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.exists() and not _mark_of(target).startswith(_MARK):
            raise UserError(
                f"{target}: is there and was made otherwise; expected nothing there, or what "
                "serpipe converted; choose another --out, or write over it with --overwrite"
            )


def _convert_one(source: Path, target: Path, way: _Way) -> bool | BadClipError | None:
    """Return whether samples were clipped, what is wrong, or None if there is nothing to do."""
    try:
        if not way.overwrite and target.exists() and _mark_of(target) == way.mark(_hash(source)):
            return None
        waveform, facts = read_waveform(source, way.sampling_rate, way.channels)
    except BadClipError as error:
        return error
    write_bytes(target, _encode(_in_steps(waveform), way, way.mark(facts.sha256)))
    return bool(np.abs(waveform).max() > 1)


def _hash(source: Path) -> str:
    """Return the hash of a file's bytes; nothing if it cannot be read, which reading it tells."""
    try:
        with open_regular(source) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _in_steps(waveform: Waveform) -> NDArray[np.int16]:
    """Round to 16 bits; what is beyond full scale becomes full scale."""
    steps = np.rint(waveform * np.float32(_FULL_SCALE))  # exact: a power of two
    limited: NDArray[np.int16] = steps.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return limited


def _encode(samples: NDArray[np.int16], way: _Way, mark: str) -> bytes:
    content = io.BytesIO()
    with soundfile.SoundFile(
        content, "w", way.sampling_rate, 1, subtype="PCM_16", format=way.format.upper()
    ) as file:
        if way.format == "flac":
            file.comment = mark
        file.write(samples)
        if way.format == "wav":  # after the samples, so that they are where simple readers look
            file.comment = mark
    return content.getvalue()


def _mark_of(target: Path) -> str:
    """Return what a file says of its making; nothing, if it says nothing."""
    try:
        with open_regular(target) as content, soundfile.SoundFile(content) as file:
            return str(file.comment)
    except (soundfile.LibsndfileError, OSError):
        return ""
