"""The bytes that requests may take at once, and giving them back to the system."""

import asyncio
import contextlib
import ctypes
import gc
from collections import deque
from collections.abc import AsyncIterator, Callable

from .refused import Refused


class Lease:
    """Bytes that a request holds. From :meth:`ByteBudget.lease`."""

    def __init__(self, budget: "ByteBudget", size: int) -> None:
        self._budget, self.size = budget, size

    def resize(self, size: int) -> None:
        """Hold another number of bytes from now on; more are taken without waiting."""
        self._budget.used += size - self.size
        self.size = size
        self._budget.admit()


class ByteBudget:
    """A limit on the bytes of all uploads and decoded audio in work; for one event loop.

    Requests that do not fit wait in the order in which they came, so that small ones cannot keep a
    large one waiting for ever.

    Parameters
    ----------
    total : int
        Bytes, all requests together. One that needs more by itself gets its turn alone.
    """

    def __init__(self, total: int) -> None:
        self._total, self.used = total, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def lease(
        self, size: int, seconds: float, make_room: Callable[[], object]
    ) -> AsyncIterator[Lease]:
        """Hold bytes, and release them in the end.

        Parameters
        ----------
        size : int
            Bytes.
        seconds : float
            How long to wait for them at most.
        make_room : callable
            Called while there is no room: it may end requests that are not worth theirs.

        Yields
        ------
        Lease

        Raises
        ------
        Refused
            503 if there is no room in time.
        """
        size = min(size, self._total)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = size, turn
        self._waiting.append(entry)
        try:
            self.admit()
            async with asyncio.timeout(seconds):
                while not turn.done():
                    make_room()
                    await asyncio.wait([turn], timeout=0.5)
        except BaseException as error:
            if turn.done():
                self.used -= size
            else:
                self._waiting.remove(entry)
            self.admit()
            if isinstance(error, TimeoutError):
                raise Refused(
                    503, "The server's memory is taken by other requests; come back later."
                ) from None
            raise
        lease = Lease(self, size)
        try:
            yield lease
        finally:
            lease.resize(0)

    def admit(self) -> None:
        """Let those whose turn it is have their bytes."""
        while self._waiting and self.used + self._waiting[0][0] <= self._total:
            size, turn = self._waiting.popleft()
            self.used += size
            turn.set_result(None)


def release_memory() -> None:
    """Give memory that is free back to the system, where the C library is glibc.

    glibc keeps what large uploads leave free, in one heap for each thread, until it is asked.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library or system
        ctypes.CDLL(None).malloc_trim(0)
