"""Map a function over items in threads, in order, with a limit on the results in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    ahead: int,
    on_end: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Map in ``workers`` threads, in order, with at most ``workers + ahead`` items in memory.

    What the function raises is raised here. ``on_end`` is called at the end, also that by an
    exception, before running threads are waited for: it can tell them to stop.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= workers + ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            if on_end is not None:
                on_end()
            for future in pending:
                future.cancel()
            if isinstance(items, Generator):
                items.close()  # running threads may wait for it
