"""Assertions on errors: what their message names, not how it is worded."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from .conftest import Finished

E = TypeVar("E", bound=Exception)


def names(message: str, value: object) -> bool:
    """Whether a message names a file, an option, a column, a number or another value.

    The value stands as a whole: 7 is not named by 70 or by 7.5, nor ``--layer`` by ``--layers``.
    """
    text = str(value)
    before = r"(?<![\w.-])" if text.isdigit() else r"(?<!\w)" if text[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if text[-1:].isalnum() else ""
    return re.search(before + re.escape(text) + after, message) is not None


def assert_names(message: str, *values: object) -> None:
    missing = [value for value in values if not names(message, value)]
    assert not missing, f"{missing} not in: {message}"


@contextmanager
def raises_about(
    kind: type[E], *values: object, lines: int = 1
) -> Iterator[pytest.ExceptionInfo[E]]:
    """Expect an exception with a message of this many lines that names all values."""
    with pytest.raises(kind) as caught:
        yield caught
    message = str(caught.value)
    assert len(message.splitlines()) == lines, message
    assert_names(message, *values)


def assert_refused(done: Finished, *values: object, code: int = 2) -> None:
    """The command ended with an exit code; its last line is an error that names all values."""
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    errors = [line for line in lines if line.startswith("serpipe: ")]
    assert errors and lines[-1] == errors[-1], done.err
    assert_names("\n".join(errors), *values)
