"""Real processes that start at once: forked from one that has imported torch and the like."""

import contextlib
import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

#: What a process would take seconds to import.
_PRELOAD = [
    "serpipe.features.encoder", "serpipe.features.engine", "serpipe.features.cache_read",
    "sklearn.linear_model",
]  # fmt: skip
#: What a process runs: a module, as ``python -m`` runs it. Executed by name, since the process
#: cannot import the modules of the tests.
_RUN = """
import atexit, os, resource, runpy, signal, sys
os.setsid()
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
if bare:
    atexit._clear()
os.chdir(cwd)
os.environ.clear()
os.environ.update(environment)
for path, descriptor in ((out, 1), (err, 2)):
    is_path = isinstance(path, str)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT) if is_path else path.fileno(), descriptor)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = arguments
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    atexit._run_exitfuncs()
"""


def start_fork_server() -> None:
    """Start the process that others are forked from, unless it runs already."""
    get_context("forkserver").set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


class Forked:
    """A process that runs a module, in a session of its own; with the methods of ``Popen``.

    Parameters
    ----------
    module : str
        As after ``python -m``.
    *arguments
        Of the module.
    cwd : Path, optional
        Its working directory; by default that of this process.
    out, err : Path or Connection, optional
        Files that receive its standard output and error, or pipes.
    files : int, optional
        How many files it may have open; by default as many as this process.
    bare : bool
        Whether to omit what imported packages do at the exit of a process.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        out: Path | Connection = Path(os.devnull),
        err: Path | Connection = Path(os.devnull),
        files: int | None = None,
        bare: bool = False,
    ) -> None:
        start_fork_server()
        names = {
            "module": module,
            "arguments": [module, *map(str, arguments)],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ),
            "out": str(out.absolute()) if isinstance(out, Path) else out,
            "err": str(err.absolute()) if isinstance(err, Path) else err,
            "files": files,
            "bare": bare,
        }
        self._process = get_context("forkserver").Process(target=exec, args=(_RUN, names))
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, negative after a signal; or None while the process runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 120.0) -> int:
        """Wait until the process has ended and return its exit code."""
        self._process.join(seconds)
        code = self._process.exitcode
        assert code is not None, f"the process did not end within {seconds} s"
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.send_signal(signal.SIGKILL)


class ForkedReader(Forked):
    """The process in which serpipe reads a cache, forked: in place of ``subprocess.Popen``.

    It runs the same code on the same file, without the imports, which take most of its time.

    Parameters
    ----------
    command : sequence of str
        ``[python, ..., "-m", module, *arguments]``.
    **_
        The other parameters of ``Popen``: a pipe for the standard output and nothing else.
    """

    def __init__(self, command: Sequence[str], **_: object) -> None:
        module, *arguments = command[command.index("-m") + 1 :]
        reader, writer = get_context("forkserver").Pipe(duplex=False)
        super().__init__(module, *arguments, out=writer, bare=True)
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), "rb")
        reader.close()

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stdout.close()
        self.wait()
