"""The exceptions of serpipe. The command line prints their line and exits with their code."""

from collections.abc import Sequence


class SerpipeError(Exception):
    """Base of all exceptions that serpipe raises on purpose; its text is one line for the user."""

    exit_code = 1


class UserError(SerpipeError):
    """Input of the user cannot be used: a path, an option, a checkpoint, a cache."""

    exit_code = 2


class OtherCacheError(UserError):
    """An intact cache has other contents than requested: another one may be made."""


class MachineError(SerpipeError):
    """The machine failed: no disk space, no network, no memory."""

    exit_code = 1


class BadClipError(UserError):
    """One clip cannot be used: its path, what is wrong, and what the user can do.

    ``expected`` is what a usable clip has; empty where the problem says it.
    """

    def __init__(self, path: str, problem: str, expected: str, fix: str) -> None:
        self.parts = path, problem, expected, fix
        wanted = f"; expected {expected}" if expected else ""
        super().__init__(f"{path}: {problem}{wanted}; {fix}")

    def __reduce__(self) -> tuple[type["BadClipError"], tuple[str, str, str, str]]:
        """Let the exception be pickled, to travel between processes."""
        return type(self), self.parts


class BadClipsError(UserError):
    """Clips of a corpus cannot be used; one line for each of the first ten.

    ``others`` is the state of the other clips, for the last line.
    """

    SHOWN = 10

    def __init__(self, errors: Sequence[BadClipError], others: str) -> None:
        lines = [str(error) for error in errors[: self.SHOWN]]
        if len(errors) > self.SHOWN:
            lines.append(f"... and {len(errors) - self.SHOWN} more")
        lines.append(
            f"{counted(len(errors), 'clip')} cannot be used, {others}. Repair or remove them, "
            "or skip them with --skip-bad"
        )
        super().__init__("\n".join(lines))


def disk_error(error: OSError) -> MachineError:
    """Return the error for a failure of the disk that was not handled where it occurred."""
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror}; check the disk and try again")


def counted(n: int, noun: str) -> str:
    """Return a number with a noun, such as ``"1 test"`` or ``"2 tests"``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(words: Sequence[str]) -> str:
    """Return words joined by commas, the last by ``and``, such as ``"a, b and c"``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, or else the error's type."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)
