"""What the server says of a clip: as JSON, as CSV, as a line of the log."""

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

#: Said with every answer.
NOTE = (
    "This tells how speech sounds to a model, not what a person feels. It is no judgement about a "
    "person and must not be used for one."
)
_LONGEST_NAME = 100


def clean_name(name: str | None) -> str:
    """Return what may be said of a name that a client gave a file: never a path.

    Parameters
    ----------
    name : str or None
        As it was sent.

    Returns
    -------
    str
        Its last part, of letters, digits, spaces and ``._()-``; ``"audio"`` if nothing is left.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    kept = re.sub(r"[^\w .()-]+", "_", last).strip(" ._")
    return kept[:_LONGEST_NAME] or "audio"


def model_name(model: Model) -> str:
    """Return what strangers are told that the model is called: not where it lies here."""
    parts = [part for part in re.split(r"[/\\]", model.name) if part not in ("", "bundles")]
    return "/".join(parts[-2:])


def model_facts(model: Model) -> dict[str, Any]:
    """Return what is said of the model: its name, what it tells, its card, and what it is not."""
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

    Parameters
    ----------
    prediction : Prediction
        What the model told.
    model : Model
        Which told it.
    sha256 : str
        Hash of the bytes that were sent.

    Returns
    -------
    dict
        ``source``, ``sha256``, ``seconds`` (its length), ``label``, ``scores``, ``trained_on``
        (whether the model was trained on this very recording, null if that is not known),
        ``timeline``, ``model`` with its name, how it scored and whether its probabilities are
        calibrated, ``note``.
    """
    return {
        "source": prediction.source,
        "sha256": sha256,
        "seconds": round(prediction.seconds, 4),
        "label": prediction.label,
        "scores": plain(prediction.scores),
        "trained_on": prediction.trained_on,
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


def as_csv(told: Mapping[str, Any]) -> str:
    """Return the answer as a table: a row for the whole clip, then one for each window.

    Programs read it: there is no byte order mark, which they would take for a part of a name.
    """
    labels = list(told["scores"])
    trained_on = "" if told["trained_on"] is None else str(told["trained_on"]).lower()
    whole = {"start": 0.0, "end": told["seconds"], **told}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(csv_columns(labels))
    for part, row in [("whole", whole), *(("window", each) for each in told["timeline"])]:
        where = [told["source"], part, row["start"], row["end"]]
        scores = [row["scores"].get(label) for label in labels]
        writer.writerow([*where, row["label"], trained_on, *scores])
    return text.getvalue()


class AnswerLog:
    """A file to which answers are appended, one JSON object a line; neither audio nor names.

    Parameters
    ----------
    path : Path
        The file; made if it is not there, readable by its owner alone.

    Raises
    ------
    UserError
        If it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise UserError(
                f"--log {path}: cannot be written ({error.strerror}); expected a file in a folder "
                "that is there; name another"
            ) from None
        #: Ends a line of which the disk took only a part, so that the next is whole.
        self._ending = b""

    def append(self, told: Mapping[str, Any]) -> None:
        """Append an answer, whole, by one write.

        Raises
        ------
        OSError
            If the disk does not take it.
        """
        kept = ("sha256", "seconds", "label", "scores", "timeline")
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        line |= {key: told[key] for key in kept} | {"model": told["model"]["name"]}
        content = self._ending + as_json(line) + b"\n"
        if os.write(self._file, content) < len(content):
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
    """Return a value as JSON can say it: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return json_value(value)
    if hasattr(value, "item"):  # of numpy
        return plain(value.item())
    return str(value)
