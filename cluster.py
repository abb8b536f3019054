"""A Dask cluster: connect to one or start one, check its workers, and run tasks on it.

The workers run the same code that runs in this process without a cluster.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, get_worker, wait
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.scheduler import KilledWorker

from .errors import MachineError, SerpipeError, UserError, counted, first_line
from .files import read_text
from .progress import Say, say_nothing
from .provenance import versions

#: Attempts per task, on other workers if a worker dies.
TRIES = 3
#: Seconds in which a cluster must respond; in which a lost scheduler or worker must return.
CONNECT_SECONDS = 30.0
COME_BACK_SECONDS = 300.0
#: Seconds without a result after which the workers are checked.
_CHECK_SECONDS = 5.0
#: Maximum size of a file that describes jobs.
_MAX_YAML_BYTES = 1 << 20
#: How often a cluster that seems healthy may lose its tasks.
_LOSSES = 10
#: Schedulers of batch systems, by the name of their class in dask-jobqueue.
_JOB_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",  # jobs as local processes, to test a file
}


@dataclass
class Cluster:
    """A connection, which is renewed when a lost scheduler returns."""

    client: Client
    #: Of the scheduler, unless this process started it.
    address: str | None
    say: Say = say_nothing

    @property
    def threads(self) -> int:
        """Number of tasks that can run at once."""
        return sum(self.client.ncores().values())

    @property
    def resources(self) -> dict[str, float]:
        """Resources of a task that needs a GPU: one, if any worker declares GPUs."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return {"GPU": 1} if any("GPU" in worker["resources"] for worker in workers) else {}

    def can_run(self, resources: Mapping[str, float]) -> bool:
        """Whether any worker has the resources of a task."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(set(resources) <= set(worker["resources"]) for worker in workers)

    def reconnect(self) -> None:
        """Reconnect to a lost scheduler as soon as it is back and has a worker.

        Raise MachineError if it does not return.
        """
        with suppress(OSError, TimeoutError):  # the scheduler is gone
            self.client.close(timeout=2)
        if self.address is None:
            raise MachineError(
                "--cluster: its scheduler has ended; run the same command again: what is done is "
                "kept"
            )
        self.say(f"cluster  {self.address}: lost; waiting for it to return ...")
        ends = time.monotonic() + COME_BACK_SECONDS
        while time.monotonic() < ends:
            try:
                self.client = Client(self.address, timeout=5, set_as_default=False)
                self.client.wait_for_workers(1, timeout=max(1.0, ends - time.monotonic()))
            except (OSError, TimeoutError):
                continue
            _check_workers(self.client, self.address)
            self.say(f"cluster  {self.address}: is back")
            return
        raise MachineError(
            f"--cluster {self.address}: has been unreachable for {COME_BACK_SECONDS:.0f} s; start "
            "it and run the same command again: what is done is kept"
        )


@dataclass(frozen=True)
class Failed:
    """A task that failed in all attempts; ``error`` is that of the last one."""

    error: Exception


@contextmanager
def connect(where: str, say: Say = say_nothing) -> Iterator[Cluster]:
    """Connect to a cluster, or start one for the duration of the context.

    ``where`` is ``"local:N"``: N single-threaded processes on this machine; ``"tcp://HOST:PORT"``
    (or ``tls://``): a scheduler; or a YAML file with ``scheduler`` (slurm, pbs, lsf, ...), ``jobs``
    and ``options`` for the cluster of that name in dask-jobqueue.

    Raise UserError if it is none of these, or a worker has other versions than this process, and
    MachineError if the cluster does not respond.
    """
    with ExitStack() as stack:
        # For a local scheduler: run_all decides about tasks whose worker died.
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
        logger = logging.getLogger("distributed")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)  # problems are reported as one line
        kind, _, rest = where.partition(":")
        address = None
        if kind == "local":
            if not rest.isdecimal() or not int(rest):
                raise UserError(
                    f"--cluster {where}: expected local:N with N workers, such as local:2"
                )
            cluster: Any
            try:
                cluster = LocalCluster(
                    n_workers=int(rest),
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,  # decoding and encoders have their own limits
                )
            except RuntimeError as error:
                raise MachineError(
                    f"--cluster {where}: its workers do not start ({first_line(error)}); in a "
                    "script, call it below: if __name__ == '__main__':"
                ) from None
            stack.enter_context(cluster)
        elif rest.startswith("//"):
            cluster = address = where
        elif where.endswith((".yaml", ".yml")):
            cluster = _job_cluster(Path(where))
            stack.enter_context(cluster)
        else:
            raise UserError(
                f"--cluster {where}: expected local:N, tcp://HOST:PORT or a file jobqueue.yaml"
            )
        try:
            client = Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
            client.wait_for_workers(1, timeout=CONNECT_SECONDS if address else COME_BACK_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise MachineError(
                f"--cluster {where}: no worker responds ({first_line(error)}); start a scheduler "
                "with workers, or correct the address"
            ) from None
        connection = Cluster(client, address, say)
        stack.callback(lambda: connection.client.close())
        _check_workers(client, where)
        n_workers = len(client.ncores())
        say(
            f"cluster  {counted(n_workers, 'worker')}, {counted(connection.threads, 'thread')}; "
            f"{client.dashboard_link}"
        )
        yield connection


def as_it_is(task: Any) -> Any:
    """Return a task that needs no preparation."""
    return task


def run_all(
    cluster: Cluster,
    function: Callable[..., Any],
    tasks: Sequence[Any],
    *arguments: Any,
    prepare: Callable[[Any], Any] = as_it_is,
    large: Any = None,
    resources: Mapping[str, float] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Run a function on every task and yield the results as they are completed.

    Tasks of a dead worker are run again by another one, failed tasks are retried, and tasks of a
    lost scheduler are run again when it is back. Few more tasks than threads are submitted at once.

    Parameters
    ----------
    cluster : Cluster
        The cluster.
    function : callable
        Called with a task, ``arguments``, and ``large`` if there is one. Must be a module-level
        function, so that it can be pickled, like the tasks.
    tasks : sequence
        The tasks.
    *arguments : object
        The same for all tasks; small, since they are sent with each.
    prepare : callable
        Prepares a task when its turn comes: preparing all at once would fill the memory.
    large : object, optional
        Sent to each worker once.
    resources : mapping, optional
        Resources that a task needs.

    Yields
    ------
    index : int
        Index of the task.
    result : object
        The result, or :class:`Failed` after :data:`TRIES` attempts.

    Raises
    ------
    UserError
        If the function raises one, which is not retried, or a worker has other versions than this
        process.
    MachineError
        If the scheduler or all workers stay away.
    """
    work = _Work(cluster, function, tasks, prepare, arguments, large, dict(resources or {}))
    work.left.extend(range(len(tasks)))
    losses = 0
    while work.left:
        try:
            yield from work.run()
        except (FutureCancelledError, OSError) as error:
            losses += 1
            if cluster.client.status != "running":
                cluster.reconnect()
            elif not cluster.can_run(work.resources):
                work.wait_for_workers()
            elif losses > _LOSSES:
                raise MachineError(
                    f"--cluster: was lost {losses} times, last by {first_line(error)}; run the "
                    "same command again: what is done is kept"
                ) from None


@dataclass
class _Work:
    """Remaining tasks, and how often each was tried."""

    cluster: Cluster
    function: Callable[..., Any]
    tasks: Sequence[Any]
    prepare: Callable[[Any], Any]
    arguments: tuple[Any, ...]
    large: Any
    resources: dict[str, float]
    left: deque[int] = field(default_factory=deque)
    tries: Counter[int] = field(default_factory=Counter)

    def run(self) -> Iterator[tuple[int, Any]]:
        """Run the remaining tasks; those of a lost scheduler remain."""
        client, cluster = self.cluster.client, self.cluster
        arguments, local_versions = self._send(), versions()
        indices: dict[Any, int] = {}
        suspects: deque[int] = deque()  # they ran when a worker died and may have killed it

        def submit(index: int) -> None:
            future = client.submit(
                _attempt,
                self.function,
                self.prepare(self.tasks[index]),
                arguments,
                local_versions,
                pure=False,
                resources=self.resources,
            )
            indices[future] = index

        try:
            while self.left or suspects or indices:
                # A few tasks wait at the workers; more workers may join meanwhile.
                while self.left and len(indices) < 2 * cluster.threads + 2:
                    submit(self.left.popleft())
                if not indices:  # alone, so that it kills no other task
                    submit(suspects.popleft())
                for future in self._done(indices):
                    result = _outcome(client, future)
                    index = indices.pop(future)
                    self.tries[index] += 1
                    if not isinstance(result, Failed):
                        yield index, result
                    elif isinstance(result.error, UserError):
                        raise result.error
                    elif self.tries[index] >= TRIES:
                        yield index, result
                    elif isinstance(result.error, KilledWorker):
                        suspects.append(index)
                    else:
                        self.left.append(index)
                    if isinstance(result, Failed) and isinstance(result.error, _LostError):
                        arguments = self._send()  # the last worker that held them may be gone
        finally:
            self.left.extendleft(sorted((*indices.values(), *suspects), reverse=True))

    def _send(self) -> tuple[Any, ...]:
        """Send the large argument to every worker; return all arguments, with a reference to it."""
        if self.large is None:
            return self.arguments
        (reference,) = self.cluster.client.scatter([self.large], broadcast=True, hash=False)
        return (*self.arguments, reference)

    def _done(self, futures: Iterable[Any]) -> list[Any]:
        """Wait for futures, but not if there are no workers for them."""
        while True:
            try:
                with self.cluster.client.as_current():
                    wait(list(futures), timeout=_CHECK_SECONDS, return_when="FIRST_COMPLETED")
            except FuturesCancelledError:
                pass  # each future holds its own error
            except TimeoutError:
                if not self.cluster.can_run(self.resources):
                    self.wait_for_workers()
                continue
            done = [future for future in futures if future.status != "pending"]
            if done:
                return done

    def wait_for_workers(self) -> None:
        """Wait until a worker can run the tasks; raise MachineError if none appears."""
        what = "".join(f" with {name}" for name in self.resources)
        self.cluster.say(f"cluster  no worker{what} is left; waiting for one ...")
        ends = time.monotonic() + COME_BACK_SECONDS
        while time.monotonic() < ends and self.cluster.client.status == "running":
            if self.cluster.can_run(self.resources):
                return
            time.sleep(1)
        if self.cluster.client.status == "running":
            raise MachineError(
                f"--cluster: no worker{what} for {COME_BACK_SECONDS:.0f} s; start workers and run "
                "the same command again: what is done is kept"
            )


class _LostError(MachineError):
    """A worker died that held a result or an argument."""


def _outcome(client: Client, future: Any) -> Any:
    """Return the result of a task; raise if the scheduler was lost."""
    try:
        while True:
            try:
                error = future.exception(timeout=_CHECK_SECONDS)
                return Failed(error) if error else future.result(timeout=_CHECK_SECONDS)
            except TimeoutError:  # a large result may take longer
                if future.status not in ("finished", "error"):
                    return Failed(_LostError("its worker died after it had finished"))
    except (FutureCancelledError, OSError) as lost:
        time.sleep(0.5)  # until the client has noticed as well
        if client.status != "running":
            raise
        return Failed(_LostError(f"its worker was lost: {first_line(lost)}"))


def _attempt(
    function: Callable[..., Any], task: Any, arguments: Sequence[Any], expected: dict[str, str]
) -> Any:
    """Call a function on a worker; return exceptions, as not all of them can be pickled."""
    worker = get_worker()
    try:
        # Workers may join at any time, so each checks itself, once.
        if "serpipe_versions" not in worker.__dict__:
            worker.__dict__["serpipe_versions"] = versions()
        own = worker.__dict__["serpipe_versions"]
        _check_versions("--cluster", str(worker.address), own, expected)
        return function(task, *arguments)
    except SerpipeError as error:
        return Failed(error)
    except Exception as error:
        return Failed(MachineError(f"{type(error).__name__}: {first_line(error)}"))


def device_here(devices: Sequence[str]) -> str:
    """Choose one of the torch devices of the machine for the worker that calls this.

    Workers that were started together on a machine are numbered, and each uses another device; a
    worker that was started by hand has its own.
    """
    name = get_worker().name
    return devices[name % len(devices) if isinstance(name, int) else 0]


def _check_workers(client: Client, where: str) -> None:
    """Refuse workers with other versions, whose numbers could differ."""
    local_versions = versions()
    by_worker = client.run(versions, on_error="return")
    for address, reported in sorted(by_worker.items()):
        if isinstance(reported, Exception):
            raise UserError(
                f"--cluster {where}: worker {address} cannot load serpipe "
                f"({first_line(reported)}); install serpipe {local_versions['serpipe']} in its "
                "environment"
            )
        _check_versions(f"--cluster {where}", address, reported, local_versions)


def _check_versions(
    option: str, worker: str, reported: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    for name, version in expected.items():
        if reported.get(name) != version:
            raise UserError(
                f"{option}: worker {worker} has {name} {reported.get(name)}; expected {version}, "
                "as numbers could differ; install the same versions in its environment"
            )


def _job_cluster(path: Path) -> Any:
    """Start the jobs that a file describes."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path, _MAX_YAML_BYTES))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); expected YAML with scheduler, jobs and "
            "options"
        ) from None
    is_valid = isinstance(content, dict) and content.keys() <= {"scheduler", "jobs", "options"}
    system = str(content.get("scheduler")) if is_valid else ""
    jobs = content.get("jobs", 1) if is_valid else 0
    options = content.get("options") or {} if is_valid else None
    if system not in _JOB_SYSTEMS or not isinstance(options, dict) or type(jobs) is not int:
        raise UserError(
            f"{path}: expected scheduler ({', '.join(_JOB_SYSTEMS)}), jobs (a number) and options "
            "(of dask-jobqueue), and nothing else"
        )
    try:
        import dask_jobqueue.local

        classes = {**vars(dask_jobqueue), "LocalCluster": dask_jobqueue.local.LocalCluster}
        cluster = classes[_JOB_SYSTEMS[system]](**options)
        cluster.scale(jobs=jobs)
    except Exception as error:  # whatever a batch system raises
        raise UserError(
            f"{path}: {system} does not accept it ({first_line(error)}); correct the options of "
            "dask-jobqueue"
        ) from None
    return cluster
