"""A limit on the memory of all requests, and the release of free memory to the system."""

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
        """Change the number of bytes held; a larger one is granted without waiting."""
        self._budget.used += size - self.size
        self.size = size
        self._budget.admit()


class ByteBudget:
    """A limit on the bytes of all uploads and decoded audio in progress; for one event loop.

    Requests that do not fit wait in order of arrival, so that small ones cannot starve a large one.
    A request that alone needs more than the total is served by itself.
    """

    def __init__(self, total: int) -> None:
        self._total, self.used = total, 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def lease(
        self, size: int, seconds: float, make_room: Callable[[], object]
    ) -> AsyncIterator[Lease]:
        """Hold bytes, for which to wait some seconds at most, and release them at the end.

        ``make_room`` is called while there is no room; it may end requests that make no progress.
        Raise Refused (503) if there is no room in time.
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
                    503, "The server's memory is in use by other requests; try again later."
                ) from None
            raise
        lease = Lease(self, size)
        try:
            yield lease
        finally:
            lease.resize(0)

    def admit(self) -> None:
        """Grant bytes to the requests whose turn it is."""
        while self._waiting and self.used + self._waiting[0][0] <= self._total:
            size, turn = self._waiting.popleft()
            self.used += size
            turn.set_result(None)


def release_memory() -> None:
    """Release free memory to the system if the C library is glibc.

    glibc keeps the memory of large uploads in one heap per thread until it is told to trim them.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library or system
        ctypes.CDLL(None).malloc_trim(0)
