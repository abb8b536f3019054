"""Answers of the server about a clip: as JSON, as CSV, as a line of the log."""

import csv
import io
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..artifacts.models.prediction import Prediction, csv_columns
from ..artifacts.models.saved_model import Model
from ..errors import UserError
from ..files import json_value

#: Part of every answer.
NOTE = (
    "This tells how speech sounds to a model, not what a person feels. It is no judgement about a "
    "person and must not be used for one."
)
_LONGEST_NAME = 100


def clean_name(name: str | None) -> str:
    """Return the last part of a file name sent by a client, never a path.

    It has only letters, digits, spaces and ``._()-``; ``"audio"`` if none of these are left.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    kept = re.sub(r"[^\w .()-]+", "_", last).strip(" ._")
    return kept[:_LONGEST_NAME] or "audio"


def model_name(model: Model) -> str:
    """Return the public name of the model, which does not reveal where it is stored."""
    parts = [part for part in re.split(r"[/\\]", model.name) if part not in ("", "bundles")]
    return "/".join(parts[-2:])


def model_facts(model: Model) -> dict[str, Any]:
    """Return public facts about the model: its name, what it predicts, its card and a caveat."""
    return {
        "name": model_name(model),
        "target": model.target,
        "labels": list(model.labels),
        "sampling_rate": model.sampling_rate,
        "card": plain({**model.card, "name": model_name(model)}),
        "note": NOTE,
    }


def answer(prediction: Prediction, model: Model, sha256: str) -> dict[str, Any]:
    """Return the answer as JSON values.

    These are ``source``, ``sha256`` (of the uploaded bytes), ``seconds`` (duration), ``label``,
    ``scores``, ``trained_on`` (whether the model was trained on this very recording, null if
    unknown), ``unlike_training`` (whether the recording is unlike all training clips, null if
    unknown), ``distance`` (from the training clips; above 1 it is unlike them), ``timeline``,
    ``model`` (name, scores, whether its probabilities are calibrated), ``note``.
    """
    return {
        "source": prediction.source,
        "sha256": sha256,
        "seconds": round(prediction.seconds, 4),
        "label": prediction.label,
        "scores": plain(prediction.scores),
        "trained_on": prediction.trained_on,
        "unlike_training": prediction.unlike_training,
        "distance": None if prediction.distance is None else round(prediction.distance, 4),
        "timeline": [
            {
                "start": round(window.start, 4),
                "end": round(window.end, 4),
                "label": window.label,
                "scores": plain(window.scores),
            }
            for window in prediction.timeline
        ],
        "model": {
            "name": model_name(model),
            "target": model.target,
            "score": str(model.card.get("score", "not known")),
            "probabilities": str(model.card.get("probabilities", "")),
            "result": plain(model.card.get("result", {})),
            "warnings": plain(model.card.get("warnings", [])),
        },
        "note": NOTE,
    }


def as_csv(content: Mapping[str, Any]) -> str:
    """Return the answer as a table: a row for the whole clip, then one for each window.

    There is no byte order mark, which programs would read as part of the first column name.
    """
    labels = list(content["scores"])
    flags = [
        "" if content[name] is None else str(content[name]).lower()
        for name in ("trained_on", "unlike_training")
    ]
    whole = {"start": 0.0, "end": content["seconds"], **content}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(csv_columns(labels))
    for part, row in [("whole", whole), *(("window", each) for each in content["timeline"])]:
        first = [content["source"], part, row["start"], row["end"]]
        scores = [row["scores"].get(label) for label in labels]
        writer.writerow([*first, row["label"], *flags, *scores])
    return text.getvalue()


class AnswerLog:
    """A file to which answers are appended as JSON lines, without audio or file names.

    It is created if missing, readable only by its owner. Raise UserError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            # Without O_BINARY, Windows would change the line ends, and so the number of bytes.
            self._file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        except OSError as error:
            raise UserError(
                f"--log {path}: cannot be written ({error.strerror}); name a file in an existing "
                "folder"
            ) from None
        #: Ends a line that was only partly written, so that the next one is complete.
        self._ending = b""

    def append(self, content: Mapping[str, Any]) -> None:
        """Append an answer in a single write; raise OSError if the disk is full."""
        kept = ("sha256", "seconds", "label", "scores", "timeline")
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line |= {key: content[key] for key in kept} | {"model": content["model"]["name"]}
        written = self._ending + as_json(line) + b"\n"
        if os.write(self._file, written) < len(written):
            self._ending = b"\n"
            raise OSError("the disk is full")
        self._ending = b""

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def as_json(value: Any) -> bytes:
    """Return JSON, as UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()


def plain(value: Any) -> Any:
    """Return a value as JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return json_value(value)
    if hasattr(value, "item"):  # of numpy
        return plain(value.item())
    return str(value)
