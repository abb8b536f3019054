"""Progress of long operations: lines of text, and bars on standard error."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Wraps an iterable of known length: ``track(items, what, total)``. ``what`` is a text that names
#: what is counted, such as "embedding clips", or an object whose ``str`` changes meanwhile.
Track = Callable[[Iterable[T], Any, int], Iterable[T]]
#: Takes a line of text that reports progress.
Say = Callable[[str], None]

#: Seconds between two lines of progress where standard error is no terminal.
SECONDS_BETWEEN_LINES = 30.0


def no_track(items: Iterable[T], what: object, total: int) -> Iterable[T]:
    """Show nothing: the default for callers from Python."""
    return items


def say_nothing(text: str) -> None:
    """Ignore a line of text: the default for callers from Python."""


def track(items: Iterable[T], what: object, total: int) -> Iterator[T]:
    """Show progress over items: a bar on a terminal, otherwise a line every half minute.

    The ``str`` of ``what``, which ends in what is counted, is shown again after each item.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not total:
        yield from items
    elif console.is_terminal:
        yield from _track_by_bar(items, what, total, console)
    else:
        yield from _track_by_lines(items, what, total)


def _track_by_bar(items: Iterable[T], what: object, total: int, console: Any) -> Iterator[T]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    # Results printed meanwhile appear above the bar, unless they go to a file.
    redirect = sys.stdout.isatty()
    with Progress(*columns, console=console, redirect_stdout=redirect) as progress:
        task = progress.add_task(str(what), total=total)
        for item in items:
            yield item
            progress.update(task, advance=1, description=str(what))


def _track_by_lines(items: Iterable[T], what: object, total: int) -> Iterator[T]:
    began = time.monotonic()
    done, any_printed = 0, False
    ended = threading.Event()

    def print_status() -> None:
        elapsed = time.monotonic() - began
        left = f", about {_clock(elapsed / done * (total - done))} left" if done else ""
        print(
            f"{what}: {done} of {total}, {_clock(elapsed)} elapsed{left if done < total else ''}",
            file=sys.stderr,
            flush=True,
        )

    def print_regularly() -> None:
        nonlocal any_printed
        while not ended.wait(SECONDS_BETWEEN_LINES):
            any_printed = True
            print_status()

    # A thread, because a single item may take longer than the interval.
    thread = threading.Thread(target=print_regularly, daemon=True)
    thread.start()
    try:
        for item in items:
            yield item
            done += 1
    finally:
        ended.set()
        thread.join()
        if any_printed:
            print_status()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
