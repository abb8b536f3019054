"""Run several trainings at once: one process per GPU, which takes one after another."""

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

    The function takes an item and a torch device. For several devices, such as ``("cuda:0",
    "cuda:1")``, it must be picklable, and it runs in processes that each see a single GPU, as
    ``"cuda:0"``; with a single device this is a plain loop. Yield item and result in the order in
    which they finish. Raise MachineError if a process dies.
    """
    if len(devices) == 1 or len(items) < 2:
        for item in items:
            yield item, function(item, devices[0])
        return
    waiting = list(items)
    running: dict[Connection, tuple[BaseProcess, Item]] = {}
    try:
        for device in devices[: len(items)]:
            connection, process = _start(function, device)
            item = waiting.pop(0)
            running[connection] = (process, item)
            connection.send(item)
        while running:
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, item = running[ready]
                try:
                    succeeded, answer = ready.recv()
                except EOFError:
                    raise MachineError(
                        f"the process of {item} ended unexpectedly; check the system's log, for "
                        "example for too little memory, and run the same command again to resume"
                    ) from None
                if not succeeded:
                    raise answer
                if waiting:
                    following = waiting.pop(0)
                    running[ready] = (process, following)
                    ready.send(following)
                else:
                    del running[ready]
                    process.terminate()
                yield item, answer
    finally:
        for process, _ in running.values():
            process.terminate()


def _start(function: Callable[[Item, str], Result], device: str) -> tuple[Connection, BaseProcess]:
    """Start a process that sees a single device."""
    context = multiprocessing.get_context("spawn")  # a forked one could not use its GPU
    ours, theirs = context.Pipe()
    kind, _, number = device.partition(":")
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if kind == "cuda":
        visible = before.split(",") if before else []
        own = visible[int(number)] if visible else number
        os.environ["CUDA_VISIBLE_DEVICES"] = own  # read when the process starts
        device = "cuda:0"
    # Not a daemon, so that it may start processes that read clips. It ends with this one anyway.
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
            answer = True, function(item, device)
        except Exception as error:
            answer = False, error  # type: ignore[assignment]
        try:
            connection.send(answer)
        except Exception as error:  # it cannot be pickled
            connection.send((False, MachineError(f"{answer[1]!r} ({error}); try with one GPU")))


def _end_with_parent() -> None:
    """End when the parent was killed, as it may be started again and train the same fold."""
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
