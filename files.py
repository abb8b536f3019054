"""Write files atomically; read only regular files, up to a limit of size."""

import contextlib
import errno
import io
import math
import os
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO, overload

from .errors import MachineError, UserError


def unfinished(path: Path) -> Path:
    """Return the name of a file while it is written."""
    return path.with_name(path.name + ".unfinished")


def put_in_place(written: Path, path: Path) -> None:
    """Give a written file in the same folder its final name.

    A power cut leaves either the old file or the new one.
    """
    with written.open("r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())
    written.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def create_file(path: Path) -> BinaryIO:
    """Create a new, empty file in place of an existing one, for unbuffered reading and writing.

    An existing file is removed and never written to: a symbolic link left at the name of a
    temporary file would otherwise lead to another file and destroy it. Raise OSError if it cannot
    be created, or another process created it at the same time.
    """
    path.unlink(missing_ok=True)
    return path.open("x+b", buffering=0)


def open_file(path: Path, flags: int = os.O_RDWR) -> BinaryIO:
    """Open a partly written file as :func:`create_file` does, to continue it.

    ``flags`` are those of :func:`os.open`; the file is positioned at its start, or at its end if
    they append. Raise OSError if it cannot be opened, or is a symbolic link.
    """
    for name in ("O_NOFOLLOW", "O_BINARY"):  # each on some systems only
        flags |= getattr(os, name, 0)
    appends = flags & os.O_APPEND
    return os.fdopen(os.open(path, flags, 0o666), "ab" if appends else "r+b", buffering=0)


def write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, of which one call may take only a part."""
    left = memoryview(content).cast("B")
    while left:
        left = left[file.write(left) :]


def remove(path: Path) -> None:
    """Remove a file, a folder with its contents, or a link but not its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raise UserError if a file is in the way, or permission is denied.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made a folder ({error.strerror}); choose another --out, where "
            "you may write"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, with the folders that it needs.

    Raise MachineError if the disk is full or the folder is read-only; an existing file is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create_file(unfinished(path)) as file:
            write_all(file, content)
        put_in_place(unfinished(path), path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished(path).unlink(missing_ok=True)
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose a folder "
            "that you may write to, and run the same command again: existing files are kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically, with the folders that it needs."""
    write_bytes(path, text.encode("utf-8"))


def open_regular(path: Path) -> io.BufferedReader:
    """Open an untrusted file for reading if it, or the target of the link, is a regular file.

    A device, pipe or socket could be endless or block for ever. The check is made on the open file,
    so that it cannot be replaced in between. The caller closes the file. Raise OSError if it is
    missing, may not be read, or is not a regular file; ``strerror`` says which.
    """
    # Opening a pipe for reading would wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL character in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


class FileBytes:
    """The bytes of an open file, read where they are needed, with some methods of ``bytes``.

    Parameters
    ----------
    file : BufferedReader
        A regular file; its position changes.
    """

    #: Bytes that :meth:`find` reads at once.
    _BLOCK = 1 << 20

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            return self[key : key + 1][0]
        start, stop, _ = key.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, part: bytes, start: int = 0, end: int | None = None) -> int:
        """Return where a part first begins between two offsets, or -1."""
        end = self._size if end is None else min(end, self._size)
        for at in range(start, end, self._BLOCK):
            found = self[at : min(end, at + self._BLOCK + len(part) - 1)].find(part)
            if found >= 0:
                return at + found
        return -1

    def startswith(self, part: bytes) -> bool:
        """Whether the file begins with a part."""
        return self[: len(part)] == part


def check_regular(path: Path, most: int) -> int:
    """Return the size in bytes of a regular file that another library will open.

    Raise OSError as :func:`open_regular` does, also if it has more than ``most`` bytes.
    """
    with open_regular(path) as file:
        return _check_size(file, path, most)


def read_bytes(path: Path, most: int) -> bytes:
    """Read an untrusted regular file of at most ``most`` bytes.

    Raise OSError as :func:`open_regular` does, also if it has more.
    """
    with open_regular(path) as file:
        _check_size(file, path, most)
        content = file.read(most + 1)  # it may grow, and files in /proc have no size
        if len(content) > most:
            raise too_large(path, most)
        return content


def read_text(path: Path, most: int) -> str:
    """Read a text file in UTF-8, as :func:`read_bytes` does.

    Raise UnicodeDecodeError if it is not UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def _check_size(file: io.BufferedReader, path: Path, most: int) -> int:
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise too_large(path, most)
    return size


def too_large(file: object, most: int) -> OSError:
    """Return the error for a file with more than ``most`` bytes."""
    limit = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most} bytes"
    return OSError(errno.EFBIG, f"it has more than {limit}", str(file))


def json_value(value: Any) -> Any:
    """Return a value for JSON, which has neither NaN nor infinity: None instead."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
