"""A file in memory, of which unwritten parts take no memory."""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_PAGE = 1 << 16


class MemoryFile(io.RawIOBase):
    """A file that HDF5 lays out, with space for embeddings that are never written to it.

    Unwritten pages read as zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pages: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(_PAGE))
        self._size = self._position = 0

    @property
    def size(self) -> int:
        """The length of the file in bytes, unwritten parts included."""
        return self._size

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the length; content beyond it is not removed, as HDF5 never reads it."""
        self._size = self._position if size is None else size
        return self._size

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read from the current position until the buffer is full or the file ends."""
        into = memoryview(buffer).cast("B")
        into = into[: max(self._size - self._position, 0)]
        for number, start, stop, done in self._spans(len(into)):
            page = self._pages.get(number)
            into[done : done + stop - start] = page[start:stop] if page else bytes(stop - start)
        return len(into)

    def write(self, content: "ReadableBuffer") -> int:
        """Write at the current position."""
        source = memoryview(content).cast("B")
        for number, start, stop, done in self._spans(len(source)):
            self._pages[number][start:stop] = source[done : done + stop - start]
        self._size = max(self._size, self._position)
        return len(source)

    def pieces(self, gaps: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of pieces of at most a page, except for some gaps.

        A gap has an offset and a length in bytes.
        """
        begin = 0
        for offset, length in [*sorted(gaps), (self._size, 0)]:
            for start in range(begin, offset, _PAGE):
                self.seek(start)
                yield start, self.read(min(_PAGE, offset - start)) or b""
            begin = offset + length

    def _spans(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield page, start and stop in it, and the bytes done; advance the position."""
        done = 0
        while done < length:
            number, start = divmod(self._position, _PAGE)
            stop = min(_PAGE, start + length - done)
            yield number, start, stop, done
            done += stop - start
            self._position += stop - start
