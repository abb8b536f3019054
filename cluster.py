"""A Dask cluster: find one or start one, see that its workers are like this process, map on it.

The engine is Dask's; what runs on its workers is the code that runs here without one.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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

#: How often a task is tried: on others when a worker dies, again when it fails.
TRIES = 3
#: Seconds in which a cluster must answer; in which a lost scheduler, or a worker, must come back.
CONNECT_SECONDS = 30.0
COME_BACK_SECONDS = 300.0
#: Seconds without a result after which it is looked whether anybody is at work.
_LOOKED_EVERY = 5.0
#: Bytes of a file that describes jobs.
_MAX_YAML_BYTES = 1 << 20
#: How often a cluster that seems well may lose what it was given.
_LOSSES = 10
#: Schedulers of batch systems, by the name of their class in dask-jobqueue.
_JOB_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",  # jobs as processes of this machine, to try a file out
}


@dataclass
class Cluster:
    """A connection, which is renewed when the scheduler was lost and comes back.

    Attributes
    ----------
    client : Client
        Of Dask.
    address : str or None
        Where the scheduler is, if it is not of this process.
    say : callable
        Takes lines that tell what happens.
    """

    client: Client
    address: str | None
    say: Say = say_nothing

    @property
    def threads(self) -> int:
        """How many tasks can run at once."""
        return sum(self.client.ncores().values())

    @property
    def resources(self) -> dict[str, float]:
        """What a task that needs a GPU asks for: one, if any worker says that it has some."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return {"GPU": 1} if any("GPU" in worker["resources"] for worker in workers) else {}

    def can_run(self, resources: Mapping[str, float]) -> bool:
        """Whether any worker is there that has what a task needs."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(set(resources) <= set(worker["resources"]) for worker in workers)

    def come_back(self) -> None:
        """Connect again to a scheduler that was lost, when it is there again with a worker.

        Raises
        ------
        MachineError
            If it does not come back.
        """
        with suppress(OSError, TimeoutError):  # nobody is there to say goodbye to
            self.client.close(timeout=2)
        if self.address is None:
            raise MachineError(
                "--cluster: its scheduler has ended; expected it to stay; what is done is kept: "
                "run the same command again"
            )
        self.say(f"cluster  {self.address}: lost; waiting for it to come back ...")
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
            f"--cluster {self.address}: has been away for {COME_BACK_SECONDS:.0f} s; expected it "
            "to come back; what is done is kept: start it and run the same command again"
        )


@dataclass(frozen=True)
class Failed:
    """A task that was given up.

    Attributes
    ----------
    error : Exception
        Of its last try.
    """

    error: Exception


@contextmanager
def connect(where: str, say: Say = say_nothing) -> Iterator[Cluster]:
    """Connect to a cluster, or start one for as long as it is needed.

    Parameters
    ----------
    where : str
        ``"local:N"``: N processes of one thread on this machine; ``"tcp://HOST:PORT"`` (or
        ``tls://``): a scheduler; or a YAML file with ``scheduler`` (slurm, pbs, lsf, ...), ``jobs``
        and ``options`` for the cluster of that name in dask-jobqueue.
    say : callable
        Takes lines that tell what happens.

    Yields
    ------
    Cluster

    Raises
    ------
    UserError
        If ``where`` is none of these, or a worker is not like this process.
    MachineError
        If the cluster does not answer.
    """
    with ExitStack() as stack:
        # Of a scheduler of our own: what to do with a task whose worker died is decided below.
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
        logger = logging.getLogger("distributed")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)  # what matters is told in a line
        kind, _, rest = where.partition(":")
        address = None
        if kind == "local":
            if not rest.isdecimal() or not int(rest):
                raise UserError(f"--cluster {where}: expected local:N with N workers, as local:2")
            cluster: Any
            try:
                cluster = LocalCluster(
                    n_workers=int(rest),
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=0,  # decoding and encoders are bounded by themselves
                )
            except RuntimeError as error:
                raise MachineError(
                    f"--cluster {where}: its workers do not start ({first_line(error)}); expected "
                    "them to; in a script, call it below: if __name__ == '__main__':"
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
                f"--cluster {where}: no worker answers ({first_line(error)}); expected a scheduler "
                "with workers; start them, or mend the address"
            ) from None
        found = Cluster(client, address, say)
        stack.callback(lambda: found.client.close())
        _check_workers(client, where)
        n_workers = len(client.ncores())
        say(
            f"cluster  {counted(n_workers, 'worker')}, {counted(found.threads, 'thread')}; "
            f"{client.dashboard_link}"
        )
        yield found


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
    """Run a function on every task, few more than fit at once, and take results as they come.

    What a dead worker had is done again by another; what fails is tried again; what a lost
    scheduler had is done again when it is back.

    Parameters
    ----------
    cluster : Cluster
        Where.
    function : callable
        Called with a task, ``arguments``, and ``large`` if there is some. One of a module, so that
        it can travel.
    tasks : sequence
        What it is called with; picklable.
    *arguments : object
        The same for all tasks; small, for they go along with each.
    prepare : callable
        Makes a task ready to travel when its turn comes: all at once would fill the memory.
    large : object, optional
        Sent to each worker once.
    resources : mapping, optional
        What a task needs of its worker.

    Yields
    ------
    place : int
        Of the task.
    result : object
        What was returned, or :class:`Failed` after :data:`TRIES` tries.

    Raises
    ------
    UserError
        What the function raises of these ends it all: another try would say the same. So does a
        worker whose versions are not those of this process.
    MachineError
        If the scheduler, or all workers, are away for long.
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
                cluster.come_back()
            elif not cluster.can_run(work.resources):
                work.wait_for_workers()
            elif losses > _LOSSES:
                raise MachineError(
                    f"--cluster: was lost {losses} times, the last time by {first_line(error)}; "
                    "expected it to stay; what is done is kept: run the same command again"
                ) from None


@dataclass
class _Work:
    """Tasks that are left to do, and how often each was tried."""

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
        """Run what is left; what a lost scheduler had is left again."""
        client, cluster = self.cluster.client, self.cluster
        given, here = self._give(), versions()
        places: dict[Any, int] = {}
        alone: deque[int] = deque()  # had a worker when it died: perhaps they killed it

        def submit(place: int) -> None:
            future = client.submit(
                _attempt,
                self.function,
                self.prepare(self.tasks[place]),
                given,
                here,
                pure=False,
                resources=self.resources,
            )
            places[future] = place

        try:
            while self.left or alone or places:
                # The next are there when one is done, and no more; workers may join meanwhile.
                while self.left and len(places) < 2 * cluster.threads + 2:
                    submit(self.left.popleft())
                if not places:
                    submit(alone.popleft())
                for future in self._done(places):
                    told = _outcome(client, future)
                    place = places.pop(future)
                    self.tries[place] += 1
                    if not isinstance(told, Failed):
                        yield place, told
                    elif isinstance(told.error, UserError):
                        raise told.error
                    elif self.tries[place] >= TRIES:
                        yield place, told
                    elif isinstance(told.error, KilledWorker):
                        alone.append(place)
                    else:
                        self.left.append(place)
                    if isinstance(told, Failed) and isinstance(told.error, _LostError):
                        given = self._give()  # its worker may have been the last that had it
        finally:
            self.left.extendleft(sorted((*places.values(), *alone), reverse=True))

    def _give(self) -> tuple[Any, ...]:
        """Return the arguments; what is large is sent to every worker, and stood for."""
        if self.large is None:
            return self.arguments
        (held,) = self.cluster.client.scatter([self.large], broadcast=True, hash=False)
        return (*self.arguments, held)

    def _done(self, places: Mapping[Any, int]) -> list[Any]:
        """Wait for futures; never for ever, if nobody is there to work on them."""
        while True:
            try:
                with self.cluster.client.as_current():
                    wait(list(places), timeout=_LOOKED_EVERY, return_when="FIRST_COMPLETED")
            except FuturesCancelledError:
                pass  # told by each future itself
            except TimeoutError:
                if not self.cluster.can_run(self.resources):
                    self.wait_for_workers()
                continue
            done = [future for future in places if future.status != "pending"]
            if done:
                return done

    def wait_for_workers(self) -> None:
        """Wait until some worker can do the work.

        Raises
        ------
        MachineError
            If none comes.
        """
        what = "".join(f" with {name}" for name in self.resources)
        self.cluster.say(f"cluster  no worker{what} is left; waiting for one ...")
        ends = time.monotonic() + COME_BACK_SECONDS
        while time.monotonic() < ends and self.cluster.client.status == "running":
            if self.cluster.can_run(self.resources):
                return
            time.sleep(1)
        if self.cluster.client.status == "running":
            raise MachineError(
                f"--cluster: no worker{what} for {COME_BACK_SECONDS:.0f} s; expected some; what is "
                "done is kept: start workers and run the same command again"
            )


class _LostError(MachineError):
    """The worker that held a result, or what a task needs, died."""


def _outcome(client: Client, future: Any) -> Any:
    """Return what came of a task; raise what says that the scheduler was lost."""
    try:
        error = future.exception()
        return Failed(error) if error else future.result()
    except (FutureCancelledError, OSError) as lost:
        time.sleep(0.5)  # until the client has noticed, too
        if client.status != "running":
            raise
        return Failed(_LostError(f"its worker was lost: {first_line(lost)}"))


def _attempt(
    function: Callable[..., Any], task: Any, arguments: Sequence[Any], there: dict[str, str]
) -> Any:
    """Call a function on a worker; what it raises is returned, for not every error can travel."""
    worker = get_worker()
    try:
        # Looked up once: workers may join at any time, so that each looks at itself.
        if "serpipe_versions" not in worker.__dict__:
            worker.__dict__["serpipe_versions"] = versions()
        here = worker.__dict__["serpipe_versions"]
        _check_versions("--cluster", str(worker.address), here, there)
        return function(task, *arguments)
    except SerpipeError as error:
        return Failed(error)
    except Exception as error:
        return Failed(MachineError(f"{type(error).__name__}: {first_line(error)}"))


def device_here(devices: Sequence[str]) -> str:
    """Choose one of the devices of the worker that calls it.

    Workers of one machine that were started together are numbered, and each takes another; one that
    was started by hand was given its own.

    Parameters
    ----------
    devices : sequence of str
        In torch's words.

    Returns
    -------
    str
    """
    name = get_worker().name
    return devices[name % len(devices) if isinstance(name, int) else 0]


def _check_workers(client: Client, where: str) -> None:
    """Refuse workers whose numbers could differ."""
    here = versions()
    found = client.run(versions, on_error="return")
    for address, there in sorted(found.items()):
        if isinstance(there, Exception):
            raise UserError(
                f"--cluster {where}: worker {address} cannot load serpipe ({first_line(there)}); "
                f"expected serpipe {here['serpipe']} there, as here; install it in its environment"
            )
        _check_versions(f"--cluster {where}", address, there, here)


def _check_versions(
    option: str, worker: str, there: Mapping[str, str], here: Mapping[str, str]
) -> None:
    for name, version in here.items():
        if there.get(name) != version:
            raise UserError(
                f"{option}: worker {worker} has {name} {there.get(name)}; expected {version}, as "
                "here: numbers could differ; install the same versions there"
            )


def _job_cluster(path: Path) -> Any:
    """Start the jobs that a file describes."""
    import yaml

    try:
        content = yaml.safe_load(read_text(path, _MAX_YAML_BYTES))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); expected YAML with scheduler, jobs and "
            "options; mend it"
        ) from None
    form = isinstance(content, dict) and content.keys() <= {"scheduler", "jobs", "options"}
    system = str(content.get("scheduler")) if form else ""
    jobs = content.get("jobs", 1) if form else 0
    options = content.get("options") or {} if form else None
    if system not in _JOB_SYSTEMS or not isinstance(options, dict) or type(jobs) is not int:
        raise UserError(
            f"{path}: expected scheduler ({', '.join(_JOB_SYSTEMS)}), jobs (a number) and options "
            "(of dask-jobqueue), and nothing else; mend it"
        )
    try:
        import dask_jobqueue.local

        classes = {**vars(dask_jobqueue), "LocalCluster": dask_jobqueue.local.LocalCluster}
        cluster = classes[_JOB_SYSTEMS[system]](**options)
        cluster.scale(jobs=jobs)
    except Exception as error:  # whatever a batch system says
        raise UserError(
            f"{path}: {system} does not take it ({first_line(error)}); expected options of "
            "dask-jobqueue; mend them"
        ) from None
    return cluster
