"""Read clips that are elsewhere before they are needed: many at once, for each takes its time."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from ..remote import WAITING_THREADS, Place, Remote
from .audio import read_clip

Item = TypeVar("Item")
#: Clips that are asked for at once.
AHEAD = 32

#: Returns the bytes of a clip, or raises what reading it raised.
Content = Callable[[], bytes]


def read_ahead(
    items: Iterable[Item], file_of: Callable[[Item], Place]
) -> Generator[tuple[Item, Content]]:
    """Ask for clips that are elsewhere some time before they are used.

    Parameters
    ----------
    items : iterable
        Clips, or what has one, in the order in which they are used.
    file_of : callable
        From an item to where its clip is.

    Yields
    ------
    item : object
        As given.
    content : callable
        Returns or raises what :func:`serpipe.features.audio.read_clip` does. A file of this machine
        is not read before it is called.
    """
    readers = ThreadPoolExecutor(AHEAD, thread_name_prefix=WAITING_THREADS)
    asked: deque[tuple[Item, Content]] = deque()
    stopped = threading.Event()

    def content(reading: Future[bytes]) -> bytes:
        while not stopped.is_set():
            try:
                return reading.result(timeout=1)
            except TimeoutError:
                if reading.done():  # then it is the store's own
                    raise
        raise CancelledError

    try:
        for item in items:
            file = file_of(item)
            if isinstance(file, Remote):
                asked.append((item, partial(content, readers.submit(read_clip, file))))
            else:
                asked.append((item, partial(read_clip, file)))
            if len(asked) > AHEAD:
                yield asked.popleft()
        while asked:
            yield asked.popleft()
    except BaseException:  # nobody will ask for the rest, nor wait for a store that says nothing
        stopped.set()
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    readers.shutdown(wait=False)  # what was asked for last is on its way
