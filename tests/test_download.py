"""Archives are fetched whole or not at all, whatever a server does, and unpacked safely."""

import gzip
import hashlib
import io
import random
import shutil
import ssl
import stat
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from serpipe.corpora import download as module
from serpipe.corpora.corpus import Archive
from serpipe.corpora.download import (
    ATTEMPTS,
    MAX_BYTES,
    MAX_REDIRECTS,
    Downloaded,
    download,
    track_bytes,
)
from serpipe.errors import MachineError, SerpipeError, UserError

from .conftest import run_python
from .messages import assert_names, raises_about

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


@dataclass
class Served:
    """How the server serves a path, and what it was asked and has sent of it."""

    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    ranges: bool = True
    if_range: bool = True
    drops: list[int] = field(default_factory=list)  # bytes after which an answer breaks off
    announced: int | None = None
    chunked: bool = False
    endless: bool = False
    status: int = 200
    location: str = ""
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        served: Served = self.server.paths[self.path]  # type: ignore[attr-defined]
        asked = self.headers.get("Range")
        served.asked.append(asked)
        if served.status != 200:
            self.send_response(served.status)
            if served.location:
                self.send_header("Location", served.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked[len("bytes=") : -1]) if asked and served.ranges else 0
        condition = self.headers.get("If-Range")
        if served.if_range and condition and condition not in (served.etag, served.modified):
            start = 0
        if start and start >= len(served.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(served.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        size = len(served.body)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if served.etag:
            self.send_header("ETag", served.etag)
        if served.modified:
            self.send_header("Last-Modified", served.modified)
        if served.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif not served.endless:
            self.send_header("Content-Length", str(served.announced or size - start))
        self.end_headers()
        self.close_connection = True
        body = served.body[start:]
        if served.drops:
            body = body[: served.drops.pop(0)]
        try:
            while True:
                # Counted first: who has received it all may look before this thread goes on.
                served.sent += len(body)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) if served.chunked else body)
                if not served.endless:
                    break
            if served.chunked and len(body) == size - start:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # the other side has had enough


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: dict[str, Served] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Server]:
    """A real web server on this machine."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def fetch(
    server: Server, served: Served, folder: Path, *, name: str = "a.bin", **of_archive: object
) -> Downloaded:
    """Have an archive served in some way and download it."""
    server.paths[f"/{name}"] = served
    archive = Archive(f"{server.url}/{name}", name, **of_archive)  # type: ignore[arg-type]
    return download([archive], folder, pause=0)[0]


def refused(
    call: Callable[[], object], *values: object, error: type[Exception] = MachineError
) -> str:
    """Return the message of an error, which is one line that names these values."""
    with raises_about(error, *values) as caught:
        call()
    return str(caught.value)


def left(folder: Path) -> dict[str, bytes]:
    """What is in a folder, besides the lock."""
    files = {path for path in folder.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name != ".download.lock"
    }


# --- Receiving


@pytest.mark.parametrize("checksum", [md5(BODY), "sha256:" + hashlib.sha256(BODY).hexdigest(), ""])
@pytest.mark.parametrize("size", [0, len(BODY)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_complete_archive_is_not_downloaded_again(
    server: Server, tmp_path: Path, checksum: str, size: int, chunked: bool
) -> None:
    served = Served(chunked=chunked)
    for fetched in (True, False):
        got = fetch(server, served, tmp_path, checksum=checksum, size=size)
        assert got.sha256 == hashlib.sha256(BODY).hexdigest()
        assert (got.size, got.fetched, got.verified) == (len(BODY), fetched, bool(checksum))
        assert left(tmp_path) == {"a.bin": BODY}
    assert served.sent == len(BODY)


def test_the_bytes_shown_are_the_bytes_received(server: Server, tmp_path: Path) -> None:
    server.paths["/a"] = Served(drops=[100_000])
    shown: list[int] = []

    def track(chunks: Iterable[bytes], what: str, total: int) -> Iterator[bytes]:
        assert (what, total) == ("a.bin", len(BODY))
        for chunk in chunks:
            shown.append(len(chunk))
            yield chunk

    archive = Archive(f"{server.url}/a", "a.bin", len(BODY), md5(BODY))
    download([archive], tmp_path, track=track, pause=0)
    assert sum(shown) == len(BODY)


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for total in (0, 3):
        assert list(track_bytes([b"ab", b"c"], "a.bin", total)) == [b"ab", b"c"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path, chunked: bool) -> None:
    served = Served(drops=[100_000, 50_000], chunked=chunked)
    fetch(server, served, tmp_path, size=len(BODY), checksum=md5(BODY))
    assert left(tmp_path) == {"a.bin": BODY}
    assert served.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert served.sent == len(BODY)  # not one byte twice


def test_a_later_run_resumes_an_earlier_one(server: Server, tmp_path: Path) -> None:
    served = Served(drops=[20_000] * ATTEMPTS)
    refused(lambda: fetch(server, served, tmp_path), len(BODY), 20_000 * ATTEMPTS)
    assert left(tmp_path)["a.bin.part"] == BODY[: 20_000 * ATTEMPTS]
    assert "a.bin" not in left(tmp_path)
    fetch(server, served, tmp_path)
    assert left(tmp_path) == {"a.bin": BODY}
    assert served.sent == len(BODY)


def test_a_complete_part_is_not_requested_again(server: Server, tmp_path: Path) -> None:
    served = Served(drops=[20_000] * ATTEMPTS)
    refused(lambda: fetch(server, served, tmp_path))
    (tmp_path / "a.bin.part").write_bytes(BODY)
    assert fetch(server, served, tmp_path).size == len(BODY)
    assert len(served.asked) == ATTEMPTS


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    served = Served(ranges=False, drops=[100_000])
    fetch(server, served, tmp_path, size=len(BODY), checksum=md5(BODY))
    assert left(tmp_path) == {"a.bin": BODY}
    assert served.sent == 100_000 + len(BODY)


@pytest.mark.parametrize(
    "before, after, if_range",
    [
        ({"etag": '"one"'}, {"etag": '"two"'}, True),
        ({"etag": '"one"'}, {"etag": '"two"'}, False),
        ({"etag": 'W/"one"'}, {"etag": 'W/"two"'}, True),
        (
            {"etag": "", "modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
            {"etag": "", "modified": "Tue, 02 Jan 2024 00:00:00 GMT"},
            True,
        ),
        ({"etag": ""}, {"etag": ""}, True),  # nothing tells them apart
    ],
)
def test_a_file_that_changed_is_started_over(
    server: Server,
    tmp_path: Path,
    before: dict[str, str],
    after: dict[str, str],
    if_range: bool,
) -> None:
    refused(lambda: fetch(server, Served(**before, drops=[9_000] * ATTEMPTS), tmp_path))  # type: ignore[arg-type]
    assert left(tmp_path)["a.bin.part"]
    served = Served(OTHER, **after, if_range=if_range)  # type: ignore[arg-type]
    fetch(server, served, tmp_path)
    assert left(tmp_path) == {"a.bin": OTHER}
    # Asked for by If-Range, or not at all for a part, one answer is enough.
    assert len(served.asked) == (1 if if_range and "W/" not in before["etag"] else 2)


def test_a_part_from_another_address_is_not_resumed(server: Server, tmp_path: Path) -> None:
    refused(lambda: fetch(server, Served(drops=[9_000] * ATTEMPTS), tmp_path))
    server.paths["/b"] = served = Served(OTHER)
    download([Archive(f"{server.url}/b", "a.bin")], tmp_path)
    assert served.asked == [None]
    assert left(tmp_path) == {"a.bin": OTHER}


@pytest.mark.parametrize(
    "served, size, values",
    [
        (Served(announced=5), len(BODY), [5, len(BODY)]),
        (Served(announced=10**12), 0, [10**12, MAX_BYTES]),
        (Served(), len(BODY) - 1, [len(BODY), len(BODY) - 1]),
        (Served(endless=True), len(BODY), [len(BODY)]),
        (Served(chunked=True), len(BODY) - 1, [len(BODY) - 1]),
    ],
)
def test_a_server_that_sends_another_length_is_refused(
    server: Server, tmp_path: Path, served: Served, size: int, values: list[int]
) -> None:
    refused(lambda: fetch(server, served, tmp_path, size=size), f"{server.url}/a.bin", *values)
    assert left(tmp_path) == {}
    assert len(served.asked) == 1


def test_an_endless_body_of_unknown_size_ends(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    refused(lambda: fetch(server, Served(endless=True), tmp_path), 1_000_000)
    assert left(tmp_path) == {}


@pytest.mark.parametrize(
    "served",
    [
        Served(announced=len(BODY) + 1, ranges=False),
        Served(chunked=True, drops=[9_000] * ATTEMPTS, ranges=False),
        Served(b""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_fewer_bytes_than_announced_are_never_the_archive(
    server: Server, tmp_path: Path, served: Served
) -> None:
    refused(lambda: fetch(server, served, tmp_path))
    assert "a.bin" not in left(tmp_path)


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    should = md5(OTHER)
    hashes = md5(BODY)[4:], should[4:]
    refused(lambda: fetch(server, Served(), tmp_path, checksum=should), *hashes)
    assert left(tmp_path) == {}


def test_a_different_archive_of_the_user_is_refused_and_kept(
    server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(OTHER)
    served = Served()
    refused(lambda: fetch(server, served, tmp_path, checksum=md5(BODY)), path, md5(OTHER)[4:])
    refused(lambda: fetch(server, served, tmp_path, size=5), path, len(OTHER), 5)
    assert left(tmp_path) == {"a.bin": OTHER}
    assert not served.asked


@pytest.mark.parametrize(
    "status, asked", [(204, 1), (404, 1), (403, 1), (304, 1), (500, ATTEMPTS), (503, ATTEMPTS)]
)
def test_an_error_of_the_server_is_reported(
    server: Server, tmp_path: Path, status: int, asked: int
) -> None:
    served = Served(status=status)
    refused(lambda: fetch(server, served, tmp_path), f"{server.url}/a.bin", status)
    assert len(served.asked) == asked


def test_a_part_longer_than_the_file_is_started_over(server: Server, tmp_path: Path) -> None:
    served = Served(drops=[20_000] * ATTEMPTS)
    refused(lambda: fetch(server, served, tmp_path))
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")  # the server answers 416
    fetch(server, served, tmp_path)
    assert left(tmp_path) == {"a.bin": BODY}


def test_a_missing_server_is_reported(tmp_path: Path) -> None:
    with Server() as server:
        url = server.url
    refused(lambda: download([Archive(url, "a.bin")], tmp_path, pause=0), url)


def test_redirects_are_followed_up_to_a_limit(server: Server, tmp_path: Path) -> None:
    for number in range(1, MAX_REDIRECTS + 2):
        server.paths[f"/{number}"] = Served(status=302, location=f"/{number - 1}")
    server.paths["/0"] = Served()
    server.paths["/loop"] = Served(status=301, location=f"{server.url}/loop")
    many, loop = f"{server.url}/{MAX_REDIRECTS + 1}", f"{server.url}/loop"
    download([Archive(f"{server.url}/{MAX_REDIRECTS}", "a.bin")], tmp_path)
    assert left(tmp_path) == {"a.bin": BODY}
    refused(lambda: download([Archive(many, "b.bin")], tmp_path), many, MAX_REDIRECTS)
    refused(lambda: download([Archive(loop, "b.bin")], tmp_path), loop, MAX_REDIRECTS)
    assert len(server.paths["/loop"].asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/a",
        "http://me:word@127.0.0.1/a",
        "http://[",
        "data:,x",
    ],
)
def test_only_public_web_addresses_are_read(server: Server, tmp_path: Path, address: str) -> None:
    refused(lambda: download([Archive(address, "a.bin")], tmp_path), address)
    moved = Served(status=302, location=address)
    refused(lambda: fetch(server, moved, tmp_path, name="b.bin"), f"{server.url}/b.bin")
    assert len(moved.asked) == 1
    assert left(tmp_path) == {}


def test_no_redirect_leads_from_https_to_http(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not here to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    rest = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    rest += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *rest], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.paths["/a"] = Served()
    with Server() as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=secure.serve_forever, args=(0.01,), daemon=True).start()
        url = secure.url.replace("http:", "https:")
        secure.paths["/a"] = Served()
        secure.paths["/down"] = Served(status=302, location=f"{server.url}/a")
        server.paths["/up"] = Served(status=302, location=f"{url}/a")
        out = tmp_path / "out"
        refused(
            lambda: download([Archive(f"{url}/down", "a.bin")], out),
            f"{url}/down",
            f"{server.url}/a",
        )
        download([Archive(f"{server.url}/up", "a.bin")], out)
        secure.shutdown()
    assert left(out) == {"a.bin": BODY}
    assert not server.paths["/a"].asked


def test_bytes_that_fit_on_the_disk_are_kept_and_resumed(server: Server, tmp_path: Path) -> None:
    served = server.paths["/a"] = Served()
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from serpipe.corpora.corpus import Archive\n"
        "from serpipe.corpora.download import download\n"
        "from serpipe.errors import MachineError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: download([Archive(sys.argv[1], 'a.bin')], Path(sys.argv[2]))\n"
        "except MachineError as error: print(error)\n"
    )
    ran = run_python("-c", script, f"{server.url}/a", tmp_path)
    assert ran.stderr == ""
    (message,) = ran.stdout.splitlines()
    assert_names(message, tmp_path / "a.bin.part")
    assert left(tmp_path)["a.bin.part"] == BODY[:100_000]
    download([Archive(f"{server.url}/a", "a.bin")], tmp_path)
    assert served.asked == [None, "bytes=100000-"]
    assert left(tmp_path) == {"a.bin": BODY}


def test_two_downloads_do_not_write_the_same_folder(server: Server, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".download.lock"):
        refused(lambda: fetch(server, Served(), tmp_path), tmp_path, error=UserError)


# --- Unpacking


def zipped(files: dict[str, bytes], **attributes: int) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = attributes.get("mode", stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    """A gzipped tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "" if kind == tarfile.REGTYPE else "/etc/passwd"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def unpacked(server: Server, body: bytes, folder: Path, name: str = "a.zip") -> Downloaded:
    return fetch(server, Served(body), folder, name=name)


@pytest.mark.parametrize("name, pack", [("a.zip", zipped), ("a.tar.gz", tarred), ("a.TGZ", tarred)])
def test_real_clips_are_unpacked_unchanged(
    server: Server,
    tmp_path: Path,
    sample: Path,
    name: str,
    pack: Callable[[dict[str, bytes]], bytes],
) -> None:
    clips = {f"Actor_01/{path.name}": path.read_bytes() for path in (sample / "Actor_01").iterdir()}
    junk = {"__MACOSX/Actor_01/._x.wav": b"?", "Actor_01/._y.wav": b"?", ".DS_Store": b"?"}
    body = pack(clips | junk)
    assert unpacked(server, body, tmp_path, name).unpacked == len(clips)
    assert left(tmp_path) == clips | {name: body}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    assert unpacked(server, body, tmp_path, name).unpacked == len(clips)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}


def test_links_at_the_names_of_temporary_files_are_not_followed(
    server: Server, tmp_path: Path
) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "corpus"
    precious.write_text("do not overwrite")
    folder.mkdir()
    for name in ("a.zip.part", "a.zip.part.json", "x.wav.unfinished"):
        (folder / name).symlink_to(precious)
    body = zipped({"x.wav": b"x"})
    assert unpacked(server, body, folder).unpacked == 1
    assert left(folder) == {"a.zip": body, "x.wav": b"x"}
    assert precious.read_text() == "do not overwrite"


def test_a_file_that_differs_is_not_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"mine!")
    body = zipped({"a.wav": b"a", "x.wav": b"other"})
    path = tmp_path / "x.wav"
    refused(lambda: unpacked(server, body, tmp_path), path, "a.zip", error=UserError)
    assert left(tmp_path) == {"a.zip": body, "a.wav": b"a", "x.wav": b"mine!"}


@pytest.mark.parametrize(
    "name, body, value",
    [
        ("a.zip", zipped({"ok.wav": b"1", "../evil": b"1"}), "'../evil'"),
        ("a.zip", zipped({"ok.wav": b"1", "a/../../evil": b"1"}), "'a/../../evil'"),
        ("a.zip", zipped({"ok.wav": b"1", "..\\evil": b"1"}), repr("..\\evil")),
        ("a.zip", zipped({"ok.wav": b"1", "/tmp/evil": b"1"}), "'/tmp/evil'"),
        ("a.zip", zipped({"ok.wav": b"1", "C:\\evil": b"1"}), repr("C:\\evil")),
        ("a.zip", zipped({"ok.wav": b"1", "a/C:/evil": b"1"}), "'a/C:/evil'"),
        ("a.zip", zipped({"ok.wav": b"1", "a/\\\\host\\c": b"1"}), repr("a/\\\\host\\c")),
        ("a.zip", zipped({"evil": b"/etc/passwd"}, mode=stat.S_IFLNK | 0o777), "'evil'"),
        ("a.zip", zipped({"evil": b""}, mode=stat.S_IFIFO | 0o777), "'evil'"),
        ("a.zip", zipped({"ok.wav": b"1", "bomb": bytes(10**7)}), 100_000),
        ("a.zip", zipped({"ok.wav": b"1", "": b"1"}), "''"),
        ("a.zip", zipped({"ok.wav": b"1", ".": b"1"}), "'.'"),
        ("a.zip", zipped({"ok.wav": b"1", "a\nb": b"1"}), repr("a\nb")),
        (
            "a.zip",
            zipped({"ok.wav": b"1", "evil#.wav": b"1"}).replace(b"#", b"\0"),
            repr("evil\0.wav"),
        ),
        ("a.zip", zipped({"ok.wav": b"1", "x" * 250: b"1"}), "'" + "x" * 40),
        ("a.zip", zipped({"ok.wav": b"1", "a/" * 99 + "b": b"1"}), "'" + "a/" * 20),
        ("a.zip", zipped({"ok.wav": b"1", "./ok.wav": b"2"}), "'./ok.wav'"),
        ("a.zip", zipped({"a": b"1", "a/b.wav": b"2"}), "'a'"),
        ("a.zip", zipped({"a/": b"", "a": b"2"}), "'a'"),
        ("a.tgz", tarred({"ok.wav": b"1", "": b"1"}), "''"),
        ("a.tgz", tarred({"ok.wav": b"1", "a\tb": b"1"}), repr("a\tb")),
        ("a.tgz", tarred({"ok.wav": b"1", "./ok.wav": b"2"}), "'./ok.wav'"),
        ("a.tgz", tarred({"a": b"1", "a/b.wav": b"2"}), "'a'"),
        ("a.tgz", tarred({"ok.wav": b"1", "../evil": b"1"}), "'../evil'"),
        ("a.tgz", tarred({"ok.wav": b"1", "/tmp/evil": b"1"}), "'/tmp/evil'"),
        ("a.tgz", tarred({"ok.wav": b"1", "a/C:/evil": b"1"}), "'a/C:/evil'"),
        ("a.tgz", tarred({"evil": b""}, tarfile.SYMTYPE), "'evil'"),
        ("a.tgz", tarred({"evil": b""}, tarfile.LNKTYPE), "'evil'"),
        ("a.tgz", tarred({"evil": b""}, tarfile.CHRTYPE), "'evil'"),
        ("a.tgz", tarred({"ok.wav": b"1", "bomb": bytes(10**7)}), 100_000),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
def test_a_harmful_archive_writes_nothing(
    server: Server, tmp_path: Path, name: str, body: bytes, value: object
) -> None:
    folder = tmp_path / "deep" / "down"
    refused(lambda: unpacked(server, body, folder, name), folder / name, value)
    assert left(tmp_path) == {f"deep/down/{name}": body}


def test_too_many_files_are_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    unpacked(server, zipped({f"{number}.wav": b"" for number in range(3)}), tmp_path / "three")
    four = zipped({f"{number}.wav": b"" for number in range(4)})
    refused(lambda: unpacked(server, four, tmp_path / "four"), tmp_path / "four" / "a.zip", 3)
    assert left(tmp_path / "four") == {"a.zip": four}


GOOD_ZIP = zipped({"a.wav": b"first", "b.wav": BODY})
GOOD_TAR = tarred({"a.wav": b"first", "b.wav": BODY})
BLOT = len(GOOD_ZIP) // 2


@pytest.mark.parametrize(
    "name, body",
    [
        ("a.zip", b"<html>Sign in</html>"),
        ("a.zip", GOOD_ZIP[:-100]),
        ("a.zip", GOOD_ZIP[:BLOT] + b"blot" + GOOD_ZIP[BLOT + 4 :]),
        (
            "a.zip",
            GOOD_ZIP.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
        ),
        ("a.tgz", b"<html>Sign in</html>"),
        ("a.tgz", GOOD_TAR[:BLOT]),
        ("a.tgz", GOOD_TAR[:BLOT] + b"blot" + GOOD_TAR[BLOT + 4 :]),
        ("a.tgz", gzip.compress(gzip.decompress(GOOD_TAR).replace(b"b.wav", b"c.wav"))),
    ],
)
def test_a_damaged_archive_is_reported_and_leaves_no_partial_files(
    server: Server, tmp_path: Path, name: str, body: bytes
) -> None:
    assert body not in (GOOD_ZIP, GOOD_TAR)
    refused(lambda: unpacked(server, body, tmp_path, name), tmp_path / name)
    files = left(tmp_path)
    assert files.pop(name) == body
    assert files in ({}, {"a.wav": b"first"})


def with_zip64_fields(archive: bytes, values: bytes) -> bytes:
    """Let the first entry of the central directory refer to 64-bit sizes and offsets."""
    content, extra = bytearray(archive), struct.pack("<HH", 1, len(values)) + values
    entry = content.index(b"PK\1\2")
    content[entry + 20 : entry + 28] = b"\xff" * 8
    content[entry + 42 : entry + 46] = b"\xff" * 4
    struct.pack_into("<H", content, entry + 30, len(extra))
    after_name = entry + 46 + struct.unpack_from("<H", content, entry + 28)[0]
    content[after_name:after_name] = extra
    end = content.rindex(b"PK\5\6")
    struct.pack_into("<I", content, end + 12, end - entry)
    return bytes(content)


def test_any_damage_to_an_archive_gives_files_or_one_line(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    refusals = 0
    directory = GOOD_ZIP.index(b"PK\1\2")
    bodies = [with_zip64_fields(GOOD_ZIP, draw.bytes(24)) for _ in range(10)]
    bodies += [with_zip64_fields(GOOD_ZIP, b"\xff" * n) for n in (0, 8, 16, 24)]
    bodies.append(GOOD_ZIP.replace(b"a.wav", b"\0.wav"))
    for n in range(200):
        content = np.frombuffer(GOOD_ZIP, np.uint8).copy()
        places = draw.integers(0 if n % 4 == 0 else directory, len(content), 4)
        content[places] = draw.choice([0, 1, 127, 128, 255, 8, 14], 4)
        bodies.append(content.tobytes())
    for n, body in enumerate(bodies):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "a.zip").write_bytes(body)
        try:
            module._unpack(folder / "a.zip", folder)
        except SerpipeError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert 100 < refusals < len(bodies)
