"""What serpipe raises on purpose. The command line prints the one line and exits with the code."""

from collections.abc import Sequence


class SerpipeError(Exception):
    """Base of all errors that serpipe raises on purpose; its text is one line for the user."""

    exit_code = 1


class UserError(SerpipeError):
    """Something the user gave cannot be used: a path, an option, a checkpoint, a cache."""

    exit_code = 2


class OtherCacheError(UserError):
    """A cache is whole, and holds something else than what is asked for: another may be made."""


class MachineError(SerpipeError):
    """The machine failed: no disk space, no network, no memory."""

    exit_code = 1


class BadClipError(UserError):
    """One clip cannot be used.

    Parameters
    ----------
    path : str
        The clip, as the user knows it.
    found : str
        What was found there.
    expected : str
        What was expected.
    fix : str
        What to do about it.
    """

    def __init__(self, path: str, found: str, expected: str, fix: str) -> None:
        self.parts = path, found, expected, fix
        super().__init__(f"{path}: {found}; expected {expected}; {fix}")

    def __reduce__(self) -> tuple[type["BadClipError"], tuple[str, str, str, str]]:
        """Travel between processes."""
        return type(self), self.parts


class BadClipsError(UserError):
    """At least one clip of a corpus cannot be used; one line for each of the first ten.

    Parameters
    ----------
    errors : sequence of BadClipError
        What is wrong.
    others : str
        What is known of the other clips.
    """

    SHOWN = 10

    def __init__(self, errors: Sequence[BadClipError], others: str) -> None:
        lines = [str(error) for error in errors[: self.SHOWN]]
        if len(errors) > self.SHOWN:
            lines.append(f"... and {len(errors) - self.SHOWN} more")
        lines.append(
            f"{counted(len(errors), 'clip')} cannot be used, {others}. Mend or remove them, "
            "or go on without them: --skip-bad"
        )
        super().__init__("\n".join(lines))


def disk_error(error: OSError) -> MachineError:
    """Return the one line for an error of the disk that nothing closer to its cause has named."""
    where = f"{error.filename}: " if error.filename else ""
    return MachineError(f"{where}{error.strerror}; check the disk and try again")


def counted(n: int, noun: str) -> str:
    """Return a number with a noun, such as ``"1 test"`` or ``"2 tests"``."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
