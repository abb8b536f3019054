"""What a long work says meanwhile: lines, and progress bars where standard error is a terminal."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Wraps an iterable of known length: ``track(items, what, total)``. What is being done is a text,
#: or an object whose text changes meanwhile.
Track = Callable[[Iterable[T], Any, int], Iterable[T]]
#: Takes a line that tells what is done.
Say = Callable[[str], None]


def no_track(items: Iterable[T], what: object, total: int) -> Iterable[T]:
    """Show nothing: the default for callers from Python."""
    return items


def say_nothing(text: str) -> None:
    """Take what would be told: the default for callers from Python."""


def track(items: Iterable[T], what: object, total: int) -> Iterator[T]:
    """Show a progress bar with the rate and the time left.

    Parameters
    ----------
    items : iterable
        What to go through.
    what : str or object
        What is being done; of an object, its text is shown anew after each item.
    total : int
        How many items there are.

    Yields
    ------
    object
        The items.
    """
    if not total:
        yield from items
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(str(what), total=total)
        for item in items:
            yield item
            progress.update(task, advance=1, description=str(what))
