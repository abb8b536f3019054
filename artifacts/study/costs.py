"""The costs of encoders on this machine, measured once and kept beside the report of a study."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...features.encoder_cost import EncoderCost
from ...features.options import ExtractOptions
from ...files import read_text, write_text
from ...schema import from_json
from .study_file import StudyEncoder

#: File in the folder of the report. Times differ from run to run: they are stored so that the same
#: report has the same bytes. Remove the file to measure again.
COSTS = "costs.json"
_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class MeasuredCost:
    """The cost of an encoder on a corpus of a study."""

    encoder: str
    corpus: str
    options: dict[str, Any]  #: Options of the extraction that differ from the defaults.
    cost: EncoderCost

    def is_of(self, encoder: StudyEncoder) -> bool:
        """Return whether it was measured for this encoder with the same options."""
        return self.encoder == encoder.name and self.options == options_of(encoder.options)


def options_of(options: ExtractOptions) -> dict[str, Any]:
    """Return the encoder and the options that differ from the defaults, as JSON values."""
    default = ExtractOptions()
    given = {each.name: getattr(options, each.name) for each in fields(options)}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value != getattr(default, name) or name == "encoder"
    }


def read_costs(folder: Path) -> tuple[MeasuredCost, ...]:
    """Return the costs that were measured for a study; none if there is no file.

    Raise UserError if the file is damaged.
    """
    path = folder / COSTS
    if not path.exists():
        return ()
    try:
        content = json.loads(read_text(path, _MAX_BYTES))
        return tuple(from_json(list[MeasuredCost], content))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); remove it, and the costs are measured again"
        ) from None


def write_costs(folder: Path, costs: Sequence[MeasuredCost]) -> None:
    """Write the costs that were measured for a study."""
    text = json.dumps([asdict(each) for each in costs], indent=1, sort_keys=True)
    write_text(folder / COSTS, text + "\n")
