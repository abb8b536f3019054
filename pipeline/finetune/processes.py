"""Several trainings at once: a process for each GPU, which takes the next when it is done."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from ...errors import MachineError

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_devices(
    function: Callable[[Item, str], Result], items: Sequence[Item], devices: Sequence[str]
) -> Generator[tuple[Item, Result]]:
    """Call a function for each item, on as many devices at once as there are.

    Parameters
    ----------
    function : callable
        Of an item and a device, in torch's words. For several devices it must be picklable, and it
        runs in a process of its own, which sees one GPU alone and calls it ``"cuda:0"``.
    items : sequence
        What to call it with.
    devices : sequence of str
        Such as ``("cuda:0", "cuda:1")``; with a single one nothing but a loop is done.

    Yields
    ------
    item, result
        As each is done, in whatever order.

    Raises
    ------
    MachineError
        If a process dies.
    """
    if len(devices) == 1 or len(items) < 2:
        for item in items:
            yield item, function(item, devices[0])
        return
    left = list(items)
    at_work: dict[Connection, tuple[BaseProcess, Item]] = {}
    try:
        for device in devices[: len(items)]:
            connection, process = _start(function, device)
            item = left.pop(0)
            at_work[connection] = (process, item)
            connection.send(item)
        while at_work:
            for ready in wait(list(at_work)):
                assert isinstance(ready, Connection)
                process, item = at_work[ready]
                try:
                    done, told = ready.recv()
                except EOFError:
                    raise MachineError(
                        f"the process of {item} ended before it was done; expected its result; "
                        "look for what the system says of it, such as too little memory; run the "
                        "same command again to go on"
                    ) from None
                if not done:
                    raise told
                if left:
                    following = left.pop(0)
                    at_work[ready] = (process, following)
                    ready.send(following)
                else:
                    del at_work[ready]
                    process.terminate()
                yield item, told
    finally:
        for process, _ in at_work.values():
            process.terminate()


def _start(function: Callable[[Item, str], Result], device: str) -> tuple[Connection, BaseProcess]:
    """Start a process that sees one device alone."""
    context = multiprocessing.get_context("spawn")  # a forked one could not use its GPU
    ours, theirs = context.Pipe()
    kind, _, number = device.partition(":")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if kind == "cuda":
        visible = before.split(",") if before else []
        own = visible[int(number)] if visible else number
        os.environ["CUDA_VISIBLE_DEVICES"] = own  # read when the process begins
        device = "cuda:0"
    # No daemon: it may start processes that read clips. It ends with this one all the same.
    process = context.Process(target=_serve, args=(theirs, function, device))
    try:
        process.start()
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
    theirs.close()
    return ours, process


def _serve(connection: Connection, function: Callable[[Item, str], Result], device: str) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        item = connection.recv()
        try:
            told = True, function(item, device)
        except Exception as error:
            told = False, error  # type: ignore[assignment]
        try:
            connection.send(told)
        except Exception as error:  # what it raised cannot travel
            connection.send((False, MachineError(f"{told[1]!r} ({error}); see it with one GPU")))


def _end_with_parent() -> None:
    """End when the parent was killed: it may be started again, and train the same fold."""
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
