"""Dask's workers do what this process does, whatever happens to them; real processes throughout."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import serpipe as package
from distributed import Client
from serpipe.cluster import connect
from serpipe.errors import MachineError, UserError
from serpipe.features.cluster_engine import make_tasks
from serpipe.features.decoding import DecodedClip

from .conftest import Command, save_encoder
from .messages import assert_refused, names, raises_about
from .processes import Forked

Process = Forked | subprocess.Popen[bytes]

#: The same provenance for all runs: what is compared is everything else.
SAME: dict[str, Any] = {"command": "test", "versions": {}, "machine": {}}


#: Starts what follows without the folder that is named first, as on a machine that has it not.
HIDING = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


def can_hide(folder: Path) -> bool:
    """Whether a folder can be hidden from a process here."""
    return (
        bool(shutil.which("unshare")) and not subprocess.run([*HIDING, folder, "true"]).returncode
    )


class Processes:
    """A scheduler of its own, with workers that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Process] = []
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", "0")
        self.address = self.told()

    def start(self, kind: str, *options: object, hide: Path | None = None) -> Process:
        module = f"distributed.cli.dask_{kind}"
        options = ("--no-dashboard", *options)
        if kind == "scheduler":
            (self.folder / "scheduler.json").unlink(missing_ok=True)
            options += ("--scheduler-file", self.folder / "scheduler.json", "--no-show")
        log = self.folder / f"{len(self.running)}.log"
        if hide is None:
            process: Process = Forked(module, *options, cwd=self.folder, out=log, err=log)
        else:
            command = [*HIDING, str(hide), sys.executable, "-m", module, *map(str, options)]
            with log.open("wb") as file:
                process = subprocess.Popen(command, stdout=file, stderr=file, cwd=self.folder)
        self.running.append(process)
        return process

    def told(self) -> str:
        file, ends = self.folder / "scheduler.json", time.monotonic() + 60
        while time.monotonic() < ends:
            if file.is_file() and file.stat().st_size:
                return str(json.loads(file.read_text())["address"])
            time.sleep(0.1)
        raise TimeoutError("the scheduler does not start")

    def end(self) -> None:
        for each in self.running:
            each.kill()
            each.wait()

    def workers(self, number: int, *more: object, hide: Path | None = None) -> list[Process]:
        options = ("worker", self.address, "--nthreads", 1, "--no-nanny")
        folder = ("--local-directory", self.folder)
        return [self.start(*options, *folder, *more, hide=hide) for _ in range(number)]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "dask"
    folder.mkdir()
    with ExitStack() as stack:
        made = Processes(folder)
        stack.callback(made.end)
        yield made


@pytest.fixture
def extract(
    few_clips: Path, small_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)  # where no worker is: what is sent must not be relative

    def run(out: str, encoder: Path = small_encoder, **arguments: Any) -> Any:
        data, options = Path("..") / few_clips.name, package.ExtractOptions(encoder)
        is_new = not Path(out).exists()  # nothing is copied
        return package.extract(
            data, options, out=out, overwrite=is_new, provenance=SAME, **arguments
        )

    return run


def in_the_middle(act: Callable[[], object], shown: list[str] | None = None) -> Any:
    """Return what tracks, acts once when the third batch is embedded, and keeps what is shown."""

    def track(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
        for number, item in enumerate(items):
            if shown is not None:
                shown.append(str(what))
            if str(what).startswith("embedding") and number == 3:
                act()
            yield item

    return track


def test_the_file_equals_that_of_a_local_run_although_a_worker_is_killed(
    processes: Processes, extract: Callable[..., Any]
) -> None:
    local = extract("local.h5")
    first, _ = processes.workers(2)
    shown: list[str] = []
    track = in_the_middle(first.kill, shown)
    remote = extract("remote.h5", cluster=processes.address, track=track)
    # By two, unless the one that is killed had finished nothing.
    assert re.search(r"s of audio a second by [12] workers?; slowest tcp://", shown[-1])
    assert first.wait() == -9
    assert remote.computed == local.computed == 40
    assert Path("remote.h5").read_bytes() == Path("local.h5").read_bytes()


def test_a_scheduler_that_is_restarted_in_the_middle_loses_nothing(
    processes: Processes, extract: Callable[..., Any]
) -> None:
    extract("local.h5")
    processes.workers(1)

    def start() -> None:
        port = processes.address.rpartition(":")[2]
        processes.start("scheduler", "--host", "127.0.0.1", "--port", port)
        assert processes.told() == processes.address
        processes.workers(1)

    def restart() -> None:
        processes.end()
        threading.Timer(2.0, start).start()

    extract("remote.h5", cluster=processes.address, track=in_the_middle(restart))
    assert len(processes.running) == 4, "the scheduler and the worker, and those after them"
    assert Path("remote.h5").read_bytes() == Path("local.h5").read_bytes()


@pytest.mark.parametrize("late", [False, True])
def test_a_worker_of_another_version_is_refused_whenever_it_joins(
    processes: Processes, extract: Callable[..., Any], late: bool
) -> None:
    old = processes.folder / "old.py"
    old.write_text("import serpipe._version\nserpipe._version.__version__ = '0.0.1'\n")

    def join() -> None:
        processes.workers(1, "--preload", old)
        with Client(processes.address, set_as_default=False) as client:
            client.wait_for_workers(2)

    if late:
        processes.workers(1)
        with raises_about(UserError, "tcp://", "0.0.1"):
            extract("remote.h5", cluster=processes.address, track=in_the_middle(join))
        return
    processes.workers(1, "--preload", old)
    with raises_about(UserError, "tcp://", "0.0.1"):
        extract("remote.h5", cluster=processes.address)
    assert not Path("remote.h5").exists()


def test_without_workers_it_ends_with_one_line_and_keeps_the_results(
    processes: Processes, extract: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serpipe.cluster.COME_BACK_SECONDS", 2.0)
    monkeypatch.setattr("serpipe.cluster._CHECK_SECONDS", 0.5)
    (worker,) = processes.workers(1)
    with raises_about(MachineError, "--cluster", "2 s"):
        extract("remote.h5", cluster=processes.address, track=in_the_middle(worker.kill))
    processes.workers(1)
    assert 0 < extract("remote.h5", cluster=processes.address).computed < 40


def test_a_worker_without_the_clips_is_named_and_no_clip_is_omitted(
    processes: Processes, extract: Callable[..., Any], few_clips: Path, tmp_path: Path
) -> None:
    """Not even if bad clips may be skipped: these are good."""
    empty = tmp_path / "empty"
    empty.mkdir()
    if not can_hide(empty):
        pytest.skip("a folder cannot be hidden from a process here: needs unshare and its rights")
    processes.workers(1, hide=few_clips)
    with raises_about(UserError, "tcp://") as caught:
        extract("c.h5", cluster=processes.address, skip_bad=True)
    assert any(names(str(caught.value), clip.name) for clip in few_clips.rglob("*.flac"))
    assert not Path("c.h5").exists()


def test_a_worker_reloads_an_encoder_whose_weights_changed(
    processes: Processes, extract: Callable[..., Any], tmp_path: Path
) -> None:
    processes.workers(1)
    folder = save_encoder(tmp_path / "encoder", "wav2vec2-group")
    first = extract("first.h5", cluster=processes.address, encoder=folder)
    save_encoder(folder, "wav2vec2-group", intermediate_size=96)
    second = extract("second.h5", cluster=processes.address, encoder=folder)
    assert first.cache.key["weights_sha256"] != second.cache.key["weights_sha256"]


def test_a_task_that_kills_its_workers_is_reported_and_does_not_stop_the_others(
    few_clips: Path, extract: Callable[..., Any], tmp_path: Path, forked_workers: None
) -> None:
    import dask

    poisoned = sorted(few_clips.rglob("*.flac"))[17]
    fault = tmp_path / "fault.py"
    fault.write_text(
        "import os\nfrom serpipe.features.engine import LocalEngine\n"
        "embed = vars(LocalEngine).get('whole', LocalEngine.embed)\n"  # it may be loaded twice
        "def fail(self, batches):\n"
        "    for batch in batches:\n"
        f"        if any(h.clip.name == {poisoned.stem!r} for h in batch):\n"
        f"            open({str(tmp_path / 'tries')!r}, 'a').write('x')\n"
        "            os._exit(1)\n"
        "    return embed(self, batches)\n"
        "LocalEngine.whole, LocalEngine.embed = embed, fail\n"
    )
    with (
        dask.config.set({"distributed.worker.preload": [str(fault)]}),
        raises_about(MachineError, 1),
    ):
        extract("remote.h5", cluster="local:2")
    assert (tmp_path / "tries").read_text() == "xxx"
    again = extract("remote.h5")
    assert 0 < again.computed <= 5, "only what the poisoned shard held is left to do"
    extract("local.h5")
    assert Path("remote.h5").read_bytes() == Path("local.h5").read_bytes()


@pytest.mark.parametrize("fit", [{"head": "lr"}, {"head": "lda,sgd", "stream_past": 0.0}])
def test_a_fit_on_workers_gives_the_same_bytes(
    fit: dict[str, Any],
    fitted_once: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forked_workers: None,
) -> None:
    """Whether the workers are sent the embeddings or read them from a file."""
    work = tmp_path / "work"
    shutil.copytree(fitted_once, work)
    monkeypatch.chdir(work)
    options = {**fit, "protocol": package.Protocol(layers="2-3"), "provenance": SAME}
    package.fit(out="local", **options)
    package.fit(out="remote", cluster="local:2", **options)
    files = sorted(path.relative_to("local") for path in Path("local").rglob("*.*"))
    assert len(files) > 4
    for file in files:
        assert (Path("remote") / file).read_bytes() == (Path("local") / file).read_bytes(), file


def test_a_worker_that_does_not_find_the_embeddings_is_named(
    fitted_once: Path, processes: Processes, tmp_path: Path
) -> None:
    (cache,) = fitted_once.glob("features/cache/*.h5")
    hidden = tmp_path / "runs"
    hidden.mkdir()
    if not can_hide(hidden):
        pytest.skip("a folder cannot be hidden from a process here: needs unshare and its rights")
    processes.workers(1, hide=hidden)
    with pytest.raises(UserError, match=f"tcp://.* {hidden / 'run'}/.*--out"):
        package.fit(
            cache, "lda", package.Protocol(layers="2", split="kfold:2"), stream_past=0.0,
            out=hidden / "run", cluster=processes.address,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("where", "code", "values"),
    [
        ("local:0", 2, ("--cluster local:0", "local:N")),
        ("slurm", 2, ("--cluster slurm", "local:N", "tcp://HOST:PORT", "jobqueue.yaml")),
        ("tcp://127.0.0.1:9", 1, ("--cluster tcp://127.0.0.1:9", "1 s")),
        ("none.yaml", 2, ("none.yaml", "YAML")),
        ("wrong.yaml", 2, ("wrong.yaml", "scheduler", "slurm", "jobs", "options")),
    ],
)
def test_a_wrong_cluster_is_refused_in_one_line(
    where: str,
    code: int,
    values: tuple[str, ...],
    serpipe: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serpipe.cluster.CONNECT_SECONDS", 1.0)
    Path("wrong.yaml").write_text("scheduler: !!python/object/apply:os.system ['touch hacked']\n")
    if where == "wrong.yaml":
        Path("wrong.yaml").write_text("scheduler: queue\njobs: 2\n")
    done = serpipe("extract", "--encoder", "whisper-tiny.en", "--cluster", where)
    assert_refused(done, *values, code=code)


def test_a_file_for_a_batch_system_starts_its_jobs(tmp_path: Path) -> None:
    file = tmp_path / "jobqueue.yaml"
    file.write_text(
        "scheduler: local\njobs: 1\noptions: {cores: 1, processes: 1, memory: 2GB, interface: lo}\n"
    )
    with connect(str(file)) as cluster:
        assert cluster.threads == 1


def test_tasks_have_about_equal_seconds_and_keep_the_order() -> None:
    from serpipe.corpora import Clip
    from serpipe.features.audio import AudioFacts

    def decoded(number: int, seconds: float) -> DecodedClip:
        clip = Clip(Path("x"), "x", f"{number}", "c", "s")
        return DecodedClip(clip, AudioFacts(f"{number}", int(seconds * 16000), 16000, 1))

    lengths = [30.0] * 4 + [3.0] * 400
    batches = [(decoded(number, seconds),) for number, seconds in enumerate(lengths)]
    made = make_tasks(batches, most_seconds=60.0, threads=2)
    sums = [sum(h.facts.seconds for batch in shard for h in batch) for shard in made]
    assert [batch for shard in made for batch in shard] == batches
    assert all(54.0 <= each <= 60.0 for each in sums[:-1])
