"""Read clips that are elsewhere before they are needed: many at once, for each takes its time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..remote import Place, Remote
from .audio import read_clip

#: Clips that are asked for at once.
AHEAD = 32

#: Returns the bytes of a clip, or raises what reading it raised.
Content = Callable[[], bytes]


def read_ahead(files: Iterable[Place]) -> Iterator[Content]:
    """Ask for clips that are elsewhere some time before they are used.

    Parameters
    ----------
    files : iterable of Path or Remote
        In the order in which they are used.

    Yields
    ------
    callable
        One for each: what :func:`serpipe.features.audio.read_clip` returns or raises. A file of
        this machine is not read before it is called.
    """
    readers = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")
    asked: deque[Content] = deque()
    try:
        for file in files:
            if isinstance(file, Remote):
                asked.append(readers.submit(read_clip, file).result)
            else:
                asked.append(partial(read_clip, file))
            if len(asked) > AHEAD:
                yield asked.popleft()
        while asked:
            yield asked.popleft()
    except BaseException:  # nobody will ask for the rest
        readers.shutdown(wait=False, cancel_futures=True)
        raise
    readers.shutdown(wait=False)  # what was asked for last is on its way
