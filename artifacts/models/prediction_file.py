"""Predictions of many recordings as lines of JSON in a file that can be continued.

========================= =====================================================================
``NAME.jsonl``            a line for each recording, in the order in which they were predicted:
                          ``source`` and the prediction, or ``source`` and ``error``
``NAME.jsonl.about.json`` the model and the options of the predictions, with a hash of its text
========================= =====================================================================

A line is written as soon as it is known. A process that is killed leaves whole lines and perhaps a
part of one, which is removed when the file is continued. Of the recordings that are done, eight
bytes each are in memory: a hash of the name.
"""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from ...errors import BadClipError, MachineError, UserError, counted
from ...files import create_file, make_folder, open_file, write_all
from ...integrity import parse_json, read_sealed_json, write_sealed_json
from .prediction import Prediction
from .saved_model import Model, printable_path

FORMAT_VERSION = 1
#: Longest line: a day of segments of half a second, with scores of ten labels, has less.
MAX_LINE_BYTES = 256 << 20


@dataclass
class PredictionSummary:
    """What is in a file of predictions.

    Attributes
    ----------
    recordings : int
        Number of lines.
    failed : int
        Recordings that could not be used.
    seconds : float
        Duration of the others.
    labels : Counter of str
        Number of recordings of each label.
    """

    recordings: int = 0
    failed: int = 0
    seconds: float = 0.0
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line; raise KeyError, TypeError or ValueError if it is not a prediction."""
        if not isinstance(line["source"], str):
            raise TypeError("source is not text")
        if "error" in line:
            self.failed += 1
        else:
            self.seconds += float(line["seconds"])
            if line["label"]:
                self.labels[str(line["label"])] += 1
        self.recordings += 1

    def __str__(self) -> str:
        labels = ", ".join(f"{label} {count}" for label, count in sorted(self.labels.items()))
        return (
            f"{counted(self.recordings, 'recording')}, {self.failed} failed, "
            f"{self.seconds / 3600:.2f} hours of audio" + (f"; {labels}" if labels else "")
        )


def about_predictions(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what predictions depend on, besides the recordings, as JSON values."""
    return {
        "model": {
            "name": model.name,
            "sha256": model.predictor.sha256,
            "outputs": list(model.predictor.outputs),
        },
        "options": dict(options),
    }


class PredictionFile:
    """An open file of predictions; made by :func:`open_predictions`.

    Attributes
    ----------
    summary : PredictionSummary
        Of all lines, those of earlier commands included.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.summary = PredictionSummary()
        self._done = _read_lines(path, file, self.summary)

    def contains(self, source: str) -> bool:
        """Whether a recording had a line when the file was opened."""
        name = np.uint64(_hash(source))
        place = int(np.searchsorted(self._done, name))
        return place < len(self._done) and bool(self._done[place] == name)

    def write(self, result: Prediction | BadClipError) -> None:
        """Write the line of a recording; raise MachineError if the disk is full."""
        if isinstance(result, BadClipError):
            source, error = (printable_path(each) for each in (result.parts[0], str(result)))
            line = {"source": source, "error": error}
        else:
            line = asdict(result)
        try:
            write_all(self._file, json.dumps(line, allow_nan=False).encode() + b"\n")
        except OSError as error_:
            raise MachineError(
                f"{self._path}: cannot be written ({error_.strerror}); free some space and run the "
                "same command again: what is written is kept"
            ) from error_
        self.summary.add(line)


@contextmanager
def open_predictions(path: Path, about: Mapping[str, Any]) -> Iterator[PredictionFile]:
    """Create a file of predictions, or open it to continue it.

    Parameters
    ----------
    path : Path
        The file. A part of a line at its end is removed.
    about : mapping
        From :func:`about_predictions`.

    Yields
    ------
    PredictionFile

    Raises
    ------
    UserError
        If the file holds other lines, or predictions of another model or with other options; or if
        another process is writing it.
    MachineError
        If it cannot be written.
    """
    make_folder(path.parent)
    try:
        held = FileLock(path.with_name(f".{path.name}.lock"), timeout=0).acquire()
    except Timeout:
        raise UserError(
            f"{path}: another process is writing it; wait for it, or name another --out"
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another --out, in a folder that "
            "you may write to"
        ) from None
    with held, _open(path, about) as file:
        yield PredictionFile(path, file)
        os.fsync(file.fileno())


def _open(path: Path, about: Mapping[str, Any]) -> BinaryIO:
    record = path.with_name(f"{path.name}.about.json")
    is_begun = path.exists() and path.stat().st_size > 0
    if is_begun:
        _check_about(path, record, about)
    else:
        write_sealed_json(record, {"serpipe_predictions": FORMAT_VERSION, **about})
    try:
        if not is_begun:
            create_file(path).close()
        return open_file(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another --out"
        ) from None


def _check_about(path: Path, record: Path, about: Mapping[str, Any]) -> None:
    """Raise UserError if a file cannot be continued with a model and options."""
    fix = "name another --out, or delete the file to predict everything again"
    try:
        written, is_sealed = read_sealed_json(record)
        if not is_sealed or written.pop("serpipe_predictions", None) != FORMAT_VERSION:
            raise ValueError("it is not of this version of serpipe")
        model, options = dict(written["model"]), dict(written["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: exists, and {record.name}, which says how it was made, cannot be used "
            f"({reason}); {fix}"
        ) from None
    of_now = json.loads(json.dumps(about))
    model.pop("name", None)
    of_now["model"].pop("name", None)
    changed = [f"--{name.replace('_', '-')}" for name, value in of_now["options"].items()
               if options.get(name) != value]  # fmt: skip
    if model != of_now["model"]:
        changed.insert(0, "--model")
    if changed or options.keys() != of_now["options"].keys():
        raise UserError(
            f"{path}: was made with another {', '.join(changed) or 'version'}; give the same as "
            f"before to continue it, or {fix}"
        )


def _read_lines(path: Path, file: BinaryIO, summary: PredictionSummary) -> "np.ndarray[Any, Any]":
    """Count the lines of a file, and remove what follows the last line break.

    Return the sorted hashes of the sources, and leave the file positioned at its end.
    """
    hashes = array("Q")
    whole = number = 0
    with os.fdopen(file.fileno(), "rb", closefd=False) as lines:
        while line := lines.readline(MAX_LINE_BYTES):
            if not line.endswith(b"\n"):
                if len(line) == MAX_LINE_BYTES:
                    raise UserError(f"{path}, line {number + 1}: is too long; name another --out")
                break
            number += 1
            try:
                content = parse_json(line)
                summary.add(content)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}: is not a prediction ({error}); delete the line to "
                    "predict its recording again"
                ) from None
            hashes.append(_hash(content["source"]))
            whole += len(line)
    file.truncate(whole)
    file.seek(whole)
    return np.sort(np.array(hashes, dtype=np.uint64))


def _hash(source: str) -> int:
    return int.from_bytes(hashlib.blake2b(source.encode(), digest_size=8).digest(), "little")
