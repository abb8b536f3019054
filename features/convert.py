"""Convert recordings of any rate, channels and format to 16-bit mono WAV or FLAC files."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ..choices import AUDIO_FORMATS, CHANNELS, check_choice
from ..corpora.scan import audio_files
from ..errors import BadClipError, UserError
from ..files import make_folder, open_regular, write_bytes
from ..integrity import hash_file
from ..progress import Track, no_track
from .audio import CHANNEL_POLICY, RATES, RESAMPLER, Waveform, read_waveform

#: Suffixes of recordings in a folder. A file given by name may have any suffix.
SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf"),
    *(".m4a", ".mp4", ".m4v", ".mov", ".3gp", ".webm", ".mkv", ".mka"),
)
_FULL_SCALE = 2**15
_MARK = "serpipe convert: "


@dataclass(frozen=True)
class Converted:
    """What a conversion did, in the order of the inputs; the files of a folder by name."""

    #: Files that were written now.
    written: tuple[Path, ...]
    #: Existing files that were made from the same bytes in the same way.
    skipped: tuple[Path, ...]
    #: Written files in which samples beyond full scale were clipped.
    clipped: tuple[Path, ...]
    #: Inputs that could not be converted; the output of an earlier conversion stays.
    bad: tuple[BadClipError, ...]


@dataclass(frozen=True)
class _Format:
    """How every file is converted."""

    sampling_rate: int
    format: str
    channels: str
    overwrite: bool

    def mark(self, source: str) -> str:
        """Return the comment in a file, from which it can be seen whether it is up to date.

        It names the source by hash, because names and dates differ between machines.
        """
        description = f"{self.sampling_rate} Hz, channels {self.channels}, {RESAMPLER}"
        return f"{_MARK}{description}, source sha256 {source}"


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
    """Convert recordings, or whole folders of them, to 16-bit mono files of one rate in ``out``.

    A file keeps its name, and the files of a folder their path in it; the suffix becomes that of
    the format. Hidden files are omitted. The same inputs give the same bytes, for any number of
    workers. Inputs that could not be converted do not stop the rest.

    The scale is never changed. Samples are rounded to 16 bits without dither. Samples beyond full
    scale, which resampling and lossy formats may give, are clipped, and these files are listed. A
    mono 16-bit recording at the target rate keeps every sample.

    Each file holds a comment: how it was made, and the hash of its source. An existing file with
    the same comment is skipped, unless ``overwrite``; other converted files are rewritten.

    Raises
    ------
    UserError
        Before anything is written: if an input does not exist or holds no recordings, if two inputs
        would become one file, if an output would replace an input or, without ``overwrite``, a file
        that was not converted by serpipe, if ``out`` is inside an input folder, or if the rate,
        format or channels are invalid.
    MachineError
        If a file cannot be written; those written before stay.
    """
    settings = _Format(sampling_rate, format, channels, overwrite)
    _check_format(settings)
    pairs = _pairs(inputs, out, f".{format}")
    if not overwrite:
        _check_ours([target for _, target in pairs])
    make_folder(out)
    written, skipped, clipped, bad = [], [], [], []
    executor = ThreadPoolExecutor(workers)
    try:
        results = executor.map(lambda pair: _convert_one(pair[0], pair[1], settings), pairs)
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
        executor.shutdown(cancel_futures=True)  # after a full disk or Ctrl-C, start no more files
    return Converted(tuple(written), tuple(skipped), tuple(clipped), tuple(bad))


def _check_format(settings: _Format) -> None:
    check_choice("channels", settings.channels, CHANNELS)
    check_choice("format", settings.format, AUDIO_FORMATS)
    try:
        if not RATES[0] <= settings.sampling_rate <= RATES[1]:
            raise ValueError
        _encode(np.zeros(1, dtype=np.int16), settings, _MARK)
    except (ValueError, soundfile.LibsndfileError):
        raise UserError(
            f"{settings.sampling_rate} Hz: cannot be the rate of a {settings.format} file; choose "
            f"one from {RATES[0]} to {RATES[1]} Hz that the format supports, such as 16000"
        ) from None


def _pairs(inputs: Sequence[Path], out: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Return each source with its target, after checking for conflicts."""
    pairs = []
    for path in inputs:
        if path.is_dir():
            names = sorted(Path(name) for name in audio_files(path, SUFFIXES))
            _check_apart(path, names, out)
            if not names:
                raise UserError(
                    f"{path}: holds no recordings ({'/'.join(SUFFIXES)}) at any depth; choose the "
                    "folder that holds them"
                )
            pairs += [(path / name, (out / name).with_suffix(suffix)) for name in names]
        elif path.is_file():
            pairs.append((path, (out / path.name).with_suffix(suffix)))
        else:
            raise UserError(f"{path}: is neither a file nor a folder; check its name")
    sources = {source.resolve() for source, _ in pairs}
    firsts: dict[str, Path] = {}
    for source, target in pairs:
        if target.resolve() in sources:
            raise UserError(
                f"{target}: is one of the inputs and would be overwritten; choose another --out"
            )
        # Case is ignored, as some file systems do.
        name = str(target).casefold()
        if name in firsts:
            raise UserError(
                f"{source}: would become {target}, as would {firsts[name]}; rename one, or convert "
                "them to different folders"
            )
        firsts[name] = source
    return pairs


def _check_apart(folder: Path, names: Sequence[Path], out: Path) -> None:
    """Refuse folders of which one contains the other: outputs would become inputs."""
    real = out.resolve()
    inside = (folder / name for name in names if (folder / name).resolve().is_relative_to(real))
    within = folder if real.is_relative_to(folder.resolve()) else next(inside, None)
    if within:
        raise UserError(
            f"{out}: overlaps the input {within}, so that outputs would become inputs; choose "
            "another --out"
        )


def _check_ours(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.exists() and not _mark_of(target).startswith(_MARK):
            raise UserError(
                f"{target}: exists and was not converted by serpipe; choose another --out, or "
                "overwrite it with --overwrite"
            )


def _convert_one(source: Path, target: Path, settings: _Format) -> bool | BadClipError | None:
    """Return whether samples were clipped, an error, or None if there is nothing to do."""
    try:
        if (
            not settings.overwrite
            and target.exists()
            and _mark_of(target) == settings.mark(_hash(source))
        ):
            return None
        waveform, facts = read_waveform(source, settings.sampling_rate, settings.channels)
    except BadClipError as error:
        return error
    write_bytes(target, _encode(_in_steps(waveform), settings, settings.mark(facts.sha256)))
    return bool(np.abs(waveform).max() > 1)


def _hash(source: Path) -> str:
    """Return the hash of a file's bytes; empty if it cannot be read."""
    try:
        return hash_file(source)
    except OSError:
        return ""


def _in_steps(waveform: Waveform) -> NDArray[np.int16]:
    """Round to 16 bits and clip at full scale."""
    steps = np.rint(waveform * np.float32(_FULL_SCALE))  # exact: a power of two
    limited: NDArray[np.int16] = steps.clip(-_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return limited


def _encode(samples: NDArray[np.int16], settings: _Format, mark: str) -> bytes:
    content = io.BytesIO()
    with soundfile.SoundFile(
        content, "w", settings.sampling_rate, 1, subtype="PCM_16", format=settings.format.upper()
    ) as file:
        if settings.format == "flac":
            file.comment = mark
        file.write(samples)
        if settings.format == "wav":  # after the samples, so that simple readers find these
            file.comment = mark
    return content.getvalue()


def _mark_of(target: Path) -> str:
    """Return the comment in a file; empty if it has none."""
    try:
        with open_regular(target) as content, soundfile.SoundFile(content) as file:
            return str(file.comment)
    except (soundfile.LibsndfileError, OSError):
        return ""
