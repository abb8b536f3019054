"""Make dataclasses from JSON values of files, checked against their annotations."""

import functools
import json
from typing import Any, TypeVar

T = TypeVar("T")


def from_json(kind: type[T], content: Any, *, ignore_unknown: bool = False) -> T:
    """Make a dataclass of type ``kind`` from a JSON object.

    Each entry must have the annotated type of its field; an integer is also a valid float. Raise
    ValueError if an entry is missing, has another type, or, unless ``ignore_unknown``, has no
    field.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Point:
    ...     x: float
    ...     label: str = ""
    >>> from_json(Point, {"x": 1})
    Point(x=1.0, label='')
    """
    from pydantic import ValidationError

    extra = "ignore" if ignore_unknown else "forbid"
    try:
        adapter = _adapter(kind)  # type: ignore[arg-type]  # a class is hashable
        made: T = adapter.validate_json(json.dumps(content), strict=True, extra=extra)
        return made
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise ValueError(f"{where}: {first['msg']}"[:200]) from None


@functools.cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter  # takes a tenth of a second to import

    return TypeAdapter(kind)
