"""Write files whole or not at all; read only regular files, and only so much of them."""

import contextlib
import errno
import io
import math
import os
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO

from .errors import MachineError, UserError


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a written file its final name so that a power cut leaves the old file or the new one.

    Parameters
    ----------
    unfinished : Path
        The written file, in the folder of ``path``.
    path : Path
        Its final name.
    """
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def create_file(path: Path) -> BinaryIO:
    """Create a new, empty file, in place of whatever has its name.

    What stands there is removed and never written to: a symbolic link that somebody left at the
    name of a temporary file would otherwise lead to another file, and destroy it.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    BinaryIO
        The open file, for reading and writing, without a buffer.

    Raises
    ------
    OSError
        If it cannot be created, or something else created it at the same moment.
    """
    path.unlink(missing_ok=True)
    return path.open("x+b", buffering=0)


def open_file(path: Path, flags: int = os.O_RDWR) -> BinaryIO:
    """Open a file that is being written, as :func:`create_file` does, but go on with it.

    Parameters
    ----------
    path : Path
        The file; never one that a symbolic link leads to.
    flags : int
        As of :func:`os.open`.

    Raises
    ------
    OSError
        If it cannot be opened, or is a link.
    """
    for name in ("O_NOFOLLOW", "O_BINARY"):  # each on some systems only
        flags |= getattr(os, name, 0)
    appends = flags & os.O_APPEND
    return os.fdopen(os.open(path, flags, 0o666), "ab" if appends else "r+b", buffering=0)


def write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write to a file without a buffer until all is written: one call may take only a part."""
    left = memoryview(content).cast("B")
    while left:
        left = left[file.write(left) :]


def remove(path: Path) -> None:
    """Remove whatever has a name: a file, a folder with all in it, or a link but not what it names.

    Raises
    ------
    OSError
        If it cannot be removed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    UserError
        If something that is no folder stands in the way, or it may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made a folder ({error.strerror}); expected a place that you may "
            "write to; choose another --out"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, with the folders it needs.

    Raises
    ------
    MachineError
        If the disk does not take it; what stood there before stays.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_file(unfinished) as file:
            write_all(file, content)
        put_in_place(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); expected a folder with room that you "
            "may write to; make room and run the same command again: what is there is kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8, with the folders it needs."""
    write_bytes(path, text.encode("utf-8"))


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file that comes from elsewhere for reading, if it is a regular one.

    A device, pipe or socket, or a link to one, could be read without end or wait for ever. Whether
    it is one is asked of what was opened, so that nothing can be put in its place in between.

    Parameters
    ----------
    path : Path
        The file; links are followed.

    Returns
    -------
    BufferedReader
        To be closed by the caller.

    Raises
    ------
    OSError
        If it is not there, may not be read, or is no regular file; ``strerror`` says which.
    """
    # Opening a pipe for reading would wait for somebody to write into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL character in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path, most: int) -> int:
    """Return the size of a regular file that others will open.

    Parameters
    ----------
    path : Path
        The file; links are followed.
    most : int
        Bytes that it may have.

    Returns
    -------
    int
        In bytes.

    Raises
    ------
    OSError
        As :func:`open_regular`; also if it has more.
    """
    with open_regular(path) as file:
        return _check_size(file, path, most)


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file that comes from elsewhere, if it has no more than ``most`` bytes.

    Raises
    ------
    OSError
        As :func:`open_regular`; also if it has more.
    """
    with open_regular(path) as file:
        _check_size(file, path, most)
        content = file.read(most + 1)  # it may grow, and those of /proc have no size
        if len(content) > most:
            raise _too_large(path, most)
        return content


def read_text(path: Path, most: int) -> str:
    """Read a text file in UTF-8, as :func:`read_bytes` does.

    Raises
    ------
    OSError
        As :func:`read_bytes`.
    UnicodeDecodeError
        If it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def _check_size(file: io.BufferedReader, path: Path, most: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise _too_large(path, most)
    return size


def _too_large(path: Path, most: int) -> OSError:
    limit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
    return OSError(errno.EFBIG, f"it has more than {limit}", str(path))


def json_value(value: Any) -> Any:
    """Return what JSON can say: it has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
