"""Real processes that start at once: forked from one that has imported torch and the like."""

import os
import signal
from multiprocessing import forkserver, get_context
from pathlib import Path

#: What a process would take seconds to import.
_PRELOAD = ["serpipe.features.encoder", "serpipe.features.engine", "sklearn.linear_model"]
#: What a process runs: a module, as ``python -m`` runs it. Executed by name, since the process
#: cannot import the modules of the tests.
_RUN = """
import atexit, os, resource, runpy, signal, sys
os.setsid()
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
os.chdir(cwd)
os.environ.clear()
os.environ.update(environment)
for path, descriptor in ((out, 1), (err, 2)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
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
    out, err : Path, optional
        Files that receive its standard output and error, or named pipes.
    files : int, optional
        How many files it may have open; by default as many as this process.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        cwd: Path | None = None,
        out: Path = Path(os.devnull),
        err: Path = Path(os.devnull),
        files: int | None = None,
    ) -> None:
        start_fork_server()
        names = {
            "module": module,
            "arguments": [module, *map(str, arguments)],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ),
            "out": str(out.absolute()),
            "err": str(err.absolute()),
            "files": files,
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
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self.send_signal(signal.SIGKILL)
