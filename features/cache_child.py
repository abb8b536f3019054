"""Read the structure of a cache in a child process, which may hang, crash or exhaust memory.

The child gets a path, and answers on its standard output: for each array a line of JSON with name,
dtype and length, followed by its bytes; at the end a line with the rest. If it dies instead, the
file is damaged, and only the child is lost. The parent never parses HDF5 from elsewhere.
"""

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..child_python import module_path
from ..errors import MachineError, UserError, first_line
from ..process_limits import limit_process

#: After this time without a sign of life, HDF5 is assumed never to finish with the file.
SILENCE_SECONDS = 30.0
#: Memory for the child itself, in addition to that for columns.
_SPARE_BYTES = 1 << 30


def read_contents(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Run :func:`serpipe.features.cache_read.read_cache` in a child process.

    Return what it returns, and the arrays that it sends. Raise UserError as it does, or if reading
    hangs, crashes, or takes too much memory; MachineError if no process can be started.
    """
    return _run_child("cache", path)


def read_numbers(path: Path) -> set[int]:
    """Return the numbers of the shards that an index names, even if it is not whole."""
    if not path.is_file():
        return set()
    try:
        return set(_run_child("numbers", path)[0]["numbers"])
    except UserError:
        return set()


def _run_child(what: str, path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    command = [sys.executable, "-P", "-m", __name__, what, str(path), str(SILENCE_SECONDS)]
    environment = {
        **os.environ,
        "PYTHONPATH": module_path(),
        "OPENBLAS_NUM_THREADS": "1",  # or it reserves memory for each core
    }
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    except OSError as error:
        raise MachineError(
            f"{path}: no process can be started to read it ({error.strerror}): check memory and "
            f"limits, whether {sys.executable} starts, and run the same command again"
        ) from None
    assert child.stdout
    with child:
        try:
            answers = _receive(child.stdout)
        except BaseException:
            child.kill()  # or leaving this block would wait for it
            raise
    if answers is None:
        raise MachineError(
            f"{path}: the process that reads it did not start; check memory, and whether "
            f"{sys.executable} can import h5py"
        )
    content, arrays = answers
    if content is None:
        limit = f"did not finish within {SILENCE_SECONDS:g} s"
        kind = "crashed" if child.returncode != 1 else limit
        content = {
            "error": f"{path}: not a whole cache of embeddings (reading it {kind}); make one with "
            "`serpipe extract`, or name another"
        }
    if "error" in content:
        raise UserError(content["error"])
    return content, arrays


def _receive(answers: IO[bytes]) -> tuple[dict[str, Any] | None, dict[str, NDArray[Any]]] | None:
    """Return the last answer, if there is one, and the arrays before it; ``None`` without any."""
    if not answers.readline():
        return None
    arrays: dict[str, NDArray[Any]] = {}
    while line := answers.readline():
        answer: dict[str, Any] = json.loads(line)
        if "array" not in answer:
            return answer, arrays
        array = np.empty(answer["length"], answer["dtype"])
        if answers.readinto(_bytes(array)) != array.nbytes:  # type: ignore[attr-defined]
            break
        arrays[answer["array"]] = array
    return None, arrays


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data


def _answer(what: str, path: Path, seconds: float) -> None:
    """Read a cache and answer on standard output: what the child of :func:`_run_child` runs."""
    from .cache_read import column_limit, read_cache, read_numbers

    out = sys.stdout.buffer

    def answer(content: dict[str, Any]) -> None:
        out.write(json.dumps(content).encode() + b"\n")
        out.flush()

    def send(name: str, array: NDArray[Any]) -> None:
        faulthandler.cancel_dump_traceback_later()  # the parent may take its time
        array = np.ascontiguousarray(array)
        answer({"array": name, "dtype": array.dtype.str, "length": len(array)})
        out.write(_bytes(array))
        out.flush()
        still_busy()

    def still_busy() -> None:
        # Ends the process even while C code runs: it needs no Python.
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.stderr)

    answer({"ready": True})
    still_busy()
    try:
        limit_process(_SPARE_BYTES + 2 * column_limit(path), writes_files=True)
        content = (
            {"numbers": read_numbers(path)}
            if what == "numbers"
            else read_cache(path, send, still_busy)
        )
    except UserError as error:
        content = {"error": str(error)}
    except (OSError, MemoryError) as error:  # it vanished, or is larger than memory
        content = {
            "error": f"{path}: cannot be read ({first_line(error)}); try again, or name another"
        }
    faulthandler.cancel_dump_traceback_later()
    answer(content)


if __name__ == "__main__":
    _answer(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
