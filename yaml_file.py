"""Read YAML files that may come from anybody."""

from pathlib import Path
from typing import Any

from .errors import UserError, first_line
from .files import read_text

#: Largest file that is read.
MAX_YAML_BYTES = 1 << 20


def read_yaml(
    path: Path, most: int = MAX_YAML_BYTES, remedy: str = "get it again"
) -> dict[str, Any]:
    """Read a YAML file of plain values with names, of at most ``most`` bytes.

    Tags, which can stand for code, are refused, and so are aliases: a few lines of them can stand
    for more values than memory holds. The UserError ends in ``remedy``.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has aliases")
            return super().compose_node(parent, index)

    try:
        content = yaml.load(read_text(path, most), Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path}: cannot be read as YAML ({reason}); {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no values with names; {remedy}")
    return content
