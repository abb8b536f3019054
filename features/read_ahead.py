"""Read remote clips before they are needed, many at once."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ..remote import WAITING_THREADS, Location, Remote
from .audio import read_clip

Item = TypeVar("Item")
#: Clips that are requested at once.
AHEAD = 32

#: Returns the bytes of a clip, or raises the error of reading it.
Content = Callable[[], bytes]


def read_ahead(
    items: Iterable[Item], file_of: Callable[[Item], Location]
) -> Generator[tuple[Item, Content]]:
    """Request remote clips some time before they are used.

    ``items`` are clips, or objects with one, in the order in which they are used; ``file_of``
    returns the path or address of one. Yield each item, and a function that returns its bytes. A
    local file is read only when that is called.
    """
    readers = ThreadPoolExecutor(AHEAD, thread_name_prefix=WAITING_THREADS)
    requested: deque[tuple[Item, Content]] = deque()
    stopped = threading.Event()

    def content(reading: Future[bytes]) -> bytes:
        while not stopped.is_set():
            try:
                return reading.result(timeout=1)
            except TimeoutError:
                if reading.done():  # then it is the error of the store
                    raise
        raise CancelledError

    try:
        for item in items:
            file = file_of(item)
            if isinstance(file, Remote):
                requested.append((item, partial(content, readers.submit(read_clip, file))))
            else:
                requested.append((item, partial(read_clip, file)))
            if len(requested) > AHEAD:
                yield requested.popleft()
        while requested:
            yield requested.popleft()
    except BaseException:  # the rest is not needed, nor the answer of a silent store
        stopped.set()
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    readers.shutdown(wait=False)  # the last requests are under way
