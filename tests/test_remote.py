"""What is elsewhere gives what it gives here: against a real S3 server and a real web server."""

import errno
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import h5py
import pytest
from moto.server import ThreadedMotoServer
from serpipe.errors import BadClipError, MachineError, UserError
from serpipe.features.audio import MAX_BYTES, read_clip
from serpipe.features.cache import open_cache
from serpipe.features.read_ahead import read_ahead
from serpipe.mirror import copies, local, stored
from serpipe.provenance import command as given_command
from serpipe.remote import Remote, as_location

from .conftest import Command
from .messages import assert_names, assert_refused, raises_about
from .processes import Forked

SECRET = "not-to-be-printed"
BUCKET = "lab"


@pytest.fixture(scope="session")  # its address is what the client of this process is made with
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> fsspec.AbstractFileSystem:
    """An empty bucket, told as S3's own tools are told: by the environment."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(tmp_path / "xdg"),
    }.items():
        monkeypatch.setenv(name, value)
    store = as_location(f"s3://{BUCKET}/x").store  # type: ignore[union-attr]
    store.invalidate_cache()
    if store.exists(BUCKET):
        store.rm(BUCKET, recursive=True)
    store.mkdir(BUCKET)
    return store


def tell_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have no copies, as another machine has none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


class Voices(BaseHTTPRequestHandler):
    """A web server of files below a folder; some paths do what servers do at their worst."""

    folder: Path
    meet: threading.Barrier | None = None
    asked: list[str]
    fails = 0
    silence: threading.Event

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if path.startswith("/silent"):
            self.silence.wait(60)
            return
        if self.fails:
            self.send_error(self.fails)
            return
        if path == "/endless.wav":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"\0" * 65536)
            except OSError:
                return
        if path == "/forbidden.wav":
            self.send_error(403)
            return
        if self.meet:
            self.meet.wait(20)  # answers nobody before so many have asked
        file = self.folder / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def web(few_clips: Path) -> Iterator[str]:
    Voices.folder, Voices.meet, Voices.asked = few_clips, None, []
    Voices.fails, Voices.silence = 0, threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Voices) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# --- The commands


def test_clips_cache_run_and_model_of_a_bucket_give_what_they_give_here(
    serpipe: Command,
    few_clips: Path,
    small_encoder: Path,
    s3: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3.put(str(few_clips), f"{BUCKET}/", recursive=True)
    assert s3.exists(f"{BUCKET}/ravdess/Actor_01")
    there = f"s3://{BUCKET}"
    fit = ("--grid", "C=0.1", "--layers", "2", "--split", "kfold:2", "--jobs", "1")
    texts = []
    for data, cache, run in (
        (few_clips, "c.h5", "run"),
        (f"{there}/ravdess", f"{there}/caches/c.h5", f"{there}/runs/run"),
    ):
        for command in (
            ("extract", "--data", data, "--encoder", small_encoder, "--out", cache),
            ("fit", "--head", "lr", "--cache", cache, *fit, "--out", run),
            ("report", run),
        ):
            tell_another_machine(monkeypatch, tmp_path / f"machine-{command[0]}")
            done = serpipe(*command)
            assert done.code == 0, done.err
            assert SECRET not in done.out + done.err
            texts.append(done.out)
        clip = "Actor_01/03-01-05-01-01-02-01.flac"
        done = serpipe("predict", f"{data}/{clip}", "--model", run, "--encoder", small_encoder)
        assert done.code == 0, done.err
        texts.append(" ".join(done.out.replace(f"{data}/", "").split()))
    assert texts[4:6] == [f"{there}/caches/c.h5\n", f"{there}/runs/run\n"]
    assert texts[3] == texts[7]

    s3.get(f"{BUCKET}/caches/c.h5", str(tmp_path / "there.h5"))
    here, theirs = open_cache(Path("c.h5")), open_cache(tmp_path / "there.h5")
    assert here.checksums() == theirs.checksums()
    assert here.clips["path"].tolist() == theirs.clips["path"].tolist()
    put = {name.removeprefix(f"{BUCKET}/runs/run/") for name in s3.find(f"{BUCKET}/runs/run")}
    files = [path.relative_to("run") for path in Path("run").rglob("*") if path.is_file()]
    assert put == {path.as_posix() for path in files}
    (predictions,) = (path for path in files if path.parts[0] == "predictions")
    assert s3.cat(f"{BUCKET}/runs/run/{predictions}") == ("run" / predictions).read_bytes()
    assert not any(SECRET.encode() in s3.cat(name) for name in s3.find(BUCKET))


def test_only_what_is_new_is_computed_fetched_and_put(
    serpipe: Command, few_clips: Path, small_encoder: Path, s3: fsspec.AbstractFileSystem
) -> None:
    shutil.rmtree(few_clips / "Actor_05")
    s3.put(str(few_clips), f"{BUCKET}/", recursive=True)
    cache = f"s3://{BUCKET}/c.h5"
    command = ("extract", "--data", f"s3://{BUCKET}/ravdess", "--encoder", small_encoder)
    first = serpipe(*command, "--out", cache)
    assert first.code == 0, first.err
    put = s3.info(f"{BUCKET}/c.h5", refresh=True)["LastModified"]
    again = serpipe(*command, "--out", cache)
    assert_names(again.err, 0, 32)
    assert "fetching" not in again.err
    s3.pipe(f"{BUCKET}/ravdess/Actor_04/03-01-05-01-01-02-04.flac", b"no audio")
    s3.invalidate_cache()
    bad = serpipe(*command, "--out", cache)
    assert_refused(bad, "s3://lab/ravdess/Actor_04/03-01-05-01-01-02-04.flac", "--skip-bad")
    assert s3.info(f"{BUCKET}/c.h5", refresh=True)["LastModified"] == put


def test_clips_of_a_web_server_are_those_of_a_table(
    serpipe: Command, few_clips: Path, small_encoder: Path, web: str, tmp_path: Path
) -> None:
    names = sorted(path.relative_to(few_clips) for path in few_clips.rglob("*.flac"))[:6]
    rows = [f"{name},{name.parent.name},{n % 2}x" for n, name in enumerate(names)]
    (few_clips / "clips.csv").write_text("\n".join(["path,speaker,emotion", *rows]))
    signed = f"{web}/?signature={SECRET}"
    for manifest, data, out in (
        (few_clips / "clips.csv", few_clips, "here.h5"),
        (f"{web}/clips.csv?signature={SECRET}", signed, "there.h5"),
    ):
        command = ("--manifest", manifest, "--data", data, "--out", out)
        done = serpipe("extract", *command, "--encoder", small_encoder)
        assert done.code == 0, done.err
        assert SECRET not in done.out + done.err
    here, there = open_cache(Path("here.h5")), open_cache(Path("there.h5"))
    assert here.checksums() == there.checksums()
    assert all(f"signature={SECRET}" in path for path in Voices.asked)  # but it was sent
    with h5py.File("there.h5") as file:
        assert SECRET not in str(file.attrs["provenance"])

    refused = serpipe("extract", "--data", signed, "--encoder", small_encoder)
    assert_refused(refused, f"{web}/", "--manifest")
    gone = [*rows[:1], "Actor_01/nobody.flac,a,0x", "forbidden.wav,b,1x"]
    (few_clips / "clips.csv").write_text("\n".join(["path,speaker,emotion", *gone[:2]]))
    result = serpipe("extract", "--manifest", f"{web}/clips.csv", "--encoder", small_encoder)
    assert_refused(result, f"{web}/Actor_01/nobody.flac", "--skip-bad")
    # A store that refuses is no bad clip: --skip-bad would leave out all that are asked for then.
    (few_clips / "clips.csv").write_text("\n".join(["path,speaker,emotion", *gone[::2]]))
    result = serpipe(
        "extract", "--manifest", f"{web}/clips.csv", "--encoder", small_encoder, "--skip-bad"
    )
    assert_refused(result, f"{web}/forbidden.wav", 403)


# --- Copies


def test_what_fails_puts_nothing_and_what_names_the_rest_comes_last(
    s3: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Remote(f"s3://{BUCKET}/runs/a")
    with pytest.raises(RuntimeError), stored(run) as folder:
        folder.mkdir()
        (folder / "run.json").write_text("{}")
        raise RuntimeError
    assert not s3.find(BUCKET)
    with pytest.raises(UserError) as caught, stored("s3://nobody/a"):
        raise AssertionError("the work has begun")
    assert_names(str(caught.value), "s3://nobody/a")
    put, placed = s3.put_file, list[str]()

    def break_off(here: str, there: str) -> None:
        if len(placed) == 2:
            raise OSError("the network is gone")
        placed.append(there)
        put(here, there)

    monkeypatch.setattr(s3, "put_file", break_off)
    with pytest.raises(MachineError), stored(run) as folder:
        assert (folder / "run.json").exists()  # what was done is here still
        (folder / "z.csv").write_text("1")
        (folder / "x.unfinished").write_text("1")
        (folder / "bundles").mkdir()
        (folder / "bundles" / "bundle.json").write_text("2")
    assert [name.rpartition("/")[2] for name in placed] == ["z.csv", "bundle.json"]
    monkeypatch.setattr(s3, "put_file", put)
    with stored(run) as folder:
        (folder / "z.csv").unlink()
    s3.invalidate_cache()
    assert sorted(s3.find(BUCKET)) == [
        f"{BUCKET}/runs/a/bundles/bundle.json",
        f"{BUCKET}/runs/a/run.json",
    ]


def test_the_newer_is_taken_and_two_that_are_new_are_not_mixed(
    s3: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"s3://{BUCKET}/a/c.h5"
    s3.pipe(f"{BUCKET}/a/c.h5", b"one")
    s3.pipe(f"{BUCKET}/b/c.h5", b"another")
    assert local(address).read_bytes() == b"one"
    assert local(f"s3://{BUCKET}/b/c.h5").read_bytes() == b"another"
    s3.pipe(f"{BUCKET}/a/c.h5", b"two")
    assert local(address).read_bytes() == b"two"
    copy = local(address)
    copy.unlink()
    assert local(address).read_bytes() == b"two"
    copy.write_bytes(b"mine")  # by a run that was killed before it put it there
    with raises_about(UserError, address, copy):
        local(address)
    with stored(address) as here:
        assert here.read_bytes() == b"mine"
    assert s3.cat(f"{BUCKET}/a/c.h5") == b"mine"
    copy.write_bytes(b"mine again")
    s3.pipe(f"{BUCKET}/a/c.h5", b"theirs")
    with raises_about(UserError, address, copy):
        local(address)
    s3.pipe(f"{BUCKET}/a/c.h5", b"mine again")  # put by a run that was killed just then
    assert local(address).read_bytes() == b"mine again"
    with raises_about(UserError, address, copy), stored(address) as here:
        here.write_bytes(b"mine at last")
        s3.pipe(f"{BUCKET}/a/c.h5", b"theirs at last")
    assert s3.cat(f"{BUCKET}/a/c.h5") == b"theirs at last"
    copy.unlink()
    with raises_about(UserError, f"s3://{BUCKET}/nobody.h5"):
        local(f"s3://{BUCKET}/nobody.h5")
    with stored(address), raises_about(UserError, address), stored(address):
        pass


def test_a_shard_that_is_there_is_neither_fetched_nor_put_again(
    s3: fsspec.AbstractFileSystem,
) -> None:
    index, when = f"s3://{BUCKET}/c.h5", list[object]()
    for turn in range(3):
        with stored(index) as path:
            shards = path.with_name("c.h5.shards")
            shards.mkdir(exist_ok=True)
            assert len(list(shards.iterdir())) == turn
            (shards / f"{turn:06d}.h5").write_text(str(turn))
            path.write_text(f"index {turn}")
        if not turn:
            s3.pipe(f"{BUCKET}/c.h5.shards/000000.h5", b"0")  # written anew, with the same content
            time.sleep(1.1)  # S3 tells whole seconds
        s3.invalidate_cache()
        files = s3.find(f"{BUCKET}/c.h5.shards", detail=True)
        when.append(files[f"{BUCKET}/c.h5.shards/000000.h5"]["LastModified"])
    assert len(set(when)) == 1
    assert [s3.cat(name) for name in sorted(files)] == [b"0", b"1", b"2"]
    said: list[str] = []
    with stored(index, said.append):
        pass
    assert said == []
    assert local(index).with_name("c.h5.shards").joinpath("000001.h5").read_text() == "1"


def test_no_name_of_a_store_leads_out_of_the_copy(s3: fsspec.AbstractFileSystem) -> None:
    s3.pipe(f"{BUCKET}/run/run.json", b"{}")
    for name in ("../evil", "a/../../evil", "/evil"):
        s3.call_s3("put_object", Bucket=BUCKET, Key=f"run/{name}", Body=b"evil")
    s3.invalidate_cache()
    folder = local(f"s3://{BUCKET}/run")
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert not list(copies().rglob("*evil*"))


# --- Addresses and reading


def test_many_are_asked_for_before_the_first_is_used(web: str, few_clips: Path) -> None:
    Voices.meet = threading.Barrier(16)
    names = sorted(path.relative_to(few_clips) for path in few_clips.rglob("*.flac"))[:16]
    asked = list(read_ahead(names, lambda name: as_location(f"{web}/{name}")))
    assert [content() for _, content in asked] == [(few_clips / n).read_bytes() for n in names]


def test_no_more_is_read_than_a_clip_may_have(
    web: str, s3: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serpipe.features.audio.MAX_BYTES", 100_000)
    s3.pipe(f"{BUCKET}/long.wav", b"\0" * 200_000)
    s3.pipe(f"{BUCKET}/empty.wav", b"")
    for address in (f"{web}/endless.wav", f"s3://{BUCKET}/long.wav"):
        with pytest.raises(OSError) as caught:
            Remote(address).read_bytes(1000)
        assert caught.value.errno == errno.EFBIG
        with raises_about(BadClipError, address, "MiB"):
            read_clip(Remote(address))
    assert read_clip(Remote(f"s3://{BUCKET}/empty.wav")) == b""


@pytest.mark.parametrize(
    "address, values",
    [
        (f"https://me:{SECRET}@host/clips", ["https://host/clips", "AWS_PROFILE"]),
        (f"zip://a.zip::https://me:{SECRET}@host/clips", ["zip:"]),
        (f"s3://me:{SECRET}/and/more@bucket/x", ["s3://bucket/x", "AWS_PROFILE"]),
        ("s3://", ["s3://BUCKET/NAME"]),
        ("s3://bucket", ["s3://bucket:"]),
        ("nonsense://bucket/x", ["nonsense://bucket/x"]),
        ("gs://bucket/x", ["gs://bucket/x", "'serpipe[gs]'"]),
    ],
)
def test_an_unusable_address_is_refused_without_its_secrets(
    address: str, values: list[str]
) -> None:
    with raises_about(UserError, *values) as caught:
        local(address)
    assert SECRET not in str(caught.value)


def test_no_signature_is_kept_of_the_command_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [f"https://host/my clips/c.csv?sig={SECRET}", "--x", f"a=https://h/?sig={SECRET}"]
    monkeypatch.setattr(sys, "argv", ["serpipe", *given])
    assert given_command() == "serpipe 'https://host/my clips/c.csv' --x a=https://h/"


def test_a_copy_stays_when_a_web_server_fails_and_addresses_share_none(
    web: str, few_clips: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell_another_machine(monkeypatch, tmp_path / "xdg")
    monkeypatch.setattr("serpipe.remote._PAUSES", ())
    (few_clips / "t.csv").write_text("one")
    first, second = local(f"{web}/t.csv?id=1"), local(f"{web}/t.csv?id=2")
    assert first != second
    Voices.fails = 503
    with raises_about(MachineError, f"{web}/t.csv", 503):
        local(f"{web}/t.csv?id=1")
    Voices.fails = 403
    with raises_about(UserError, f"{web}/t.csv", 403):
        local(f"{web}/t.csv?id=1")
    assert first.read_text() == second.read_text() == "one"


def test_what_is_kept_there_under_any_name_is_found_again(s3: fsspec.AbstractFileSystem) -> None:
    with stored(f"s3://{BUCKET}/run") as folder:
        folder.mkdir()
        (folder / "concat:3 #é.csv").write_text("1")
    assert [path.name for path in local(f"s3://{BUCKET}/run").iterdir()] == ["concat:3 #é.csv"]
    s3.pipe(f"{BUCKET}/record.json", b"a table")
    assert local(f"s3://{BUCKET}/record.json").read_bytes() == b"a table"
    with raises_about(UserError, f"s3://{BUCKET}/run:"):
        local(f"s3://{BUCKET}/run", file=True)
    shutil.rmtree(local(f"s3://{BUCKET}/run"))  # somebody makes room
    with stored(f"s3://{BUCKET}/run"):
        pass
    assert s3.exists(f"{BUCKET}/run/concat:3 #é.csv")


def test_a_stop_does_not_wait_for_a_store_that_says_nothing(web: str) -> None:
    process = Forked("serpipe", "predict", *(f"{web}/silent{n}.wav" for n in range(4)))
    ends = time.monotonic() + 60
    while len(Voices.asked) < 4:
        assert time.monotonic() < ends
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    Voices.silence.set()


def test_a_store_that_does_not_answer_is_a_failure_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serpipe.remote._PAUSES", (0.0,))
    with raises_about(MachineError, "http://127.0.0.1:9/clip.wav") as caught:
        Remote(f"http://127.0.0.1:9/clip.wav?signature={SECRET}").read_bytes(MAX_BYTES)
    assert SECRET not in str(caught.value)


def test_a_path_is_a_path() -> None:
    for text in ("a/b.h5", "/a", "C:\\a", "corpus=x", "a:b"):
        assert as_location(text) == Path(text)
    assert as_location("file:///a/b") == Path("/a/b")
    for address in (
        *("http://[::1]:9000/x.wav", "http://minio:9000/a@b.wav"),
        *("s3://b/a@b.wav", "s3://b/a:b@c.wav", "s3://b/a::b"),
    ):
        assert as_location(address) == Remote(address)
    assert as_location("S3://b/X") == Remote("s3://b/X")
    folder = Remote("https://host/a b?sig=1")
    assert (folder / "c #1.wav").url == "https://host/a b/c%20%231.wav?sig=1"
    assert str(folder) == "https://host/a b"


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None; from serpipe.cli import main; "
        "sys.argv = ['serpipe', 'fit', '--cache', 's3://b/c.h5']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert_names(line, "s3://b/c.h5", "'serpipe[s3]'")
