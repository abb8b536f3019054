"""What docs/how-to/deploy.md puts into a container and behind nginx serves, without Docker."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs serpipe[serve]")
pytest.importorskip("uvicorn", reason="needs serpipe[serve]")
pytest.importorskip("python_multipart", reason="needs serpipe[serve]")
httpx = pytest.importorskip("httpx", reason="needs httpx, the client of these tests")

# ruff: noqa: E402  # what is imported from here on needs the extra
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, load_model
from serpipe.serving.options import ServeOptions

from .conftest import ROOT, Command, run_python
from .messages import assert_refused
from .server import address_of

PAGE = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
#: Of the last stage: the image itself.
STAGE = DOCKERFILE.split("\nFROM ")[-1]
SERPIPE = [sys.executable, "-c", "from serpipe.cli import main; main()"]


def in_exec_form(pattern: str) -> list[str]:
    """A command of the Dockerfile, of which the pattern finds the list."""
    (match,) = re.findall(pattern, STAGE, re.MULTILINE)
    command: list[str] = json.loads(match)
    return command


def is_ignored(path: str) -> bool:
    """As Docker does: the last line counts that matches the path or a folder above it."""
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?")
            pattern = pattern.replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, each) for each in above):
                ignored = not line.startswith("!")
    return ignored


@dataclass(frozen=True)
class Image:
    """What the build leaves, in folders of this test."""

    wheel: Path
    site: Path
    model: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the image, at its paths of here and at any free port; no others."""
        variables = dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"(?m)^ENV (.*)$", STAGE))))
        variables["PATH"] = variables["PATH"].replace("$PATH", os.environ["PATH"])
        assert (variables["SERPIPE_MODEL"], variables["SERPIPE_PORT"]) == ("/opt/ml/model", "8080")
        return variables | {"SERPIPE_MODEL": str(self.model), "SERPIPE_PORT": "0",
                       "PYTHONPATH": str(self.site), "HOME": "/nonexistent"}  # fmt: skip


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("image")
    context = folder / "context"

    def leave_out(parent: str, names: list[str]) -> set[str]:
        where = Path(parent).relative_to(ROOT)
        return {name for name in names if is_ignored((where / name).as_posix())}

    shutil.copytree(ROOT, context, ignore=leave_out)
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) (\S+)$", DOCKERFILE)
    assert all((context / each).exists() for sources, _ in copied for each in sources.split())
    (head,) = (sources for sources, to in copied if to == "/opt/ml/model")
    shutil.copytree(context / head, folder / "model")
    built = run_python("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
                       "--wheel-dir", folder, context)  # fmt: skip
    assert built.returncode == 0, built.stderr
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return Image(wheel, folder / "site", folder / "model")


@contextmanager
def running(command: list[str], environment: Mapping[str, str], work: Path) -> Iterator[Any]:
    """A server as a process of its own; a client of it. It must end in peace."""
    server = subprocess.Popen(command, cwd=work, env=environment, stderr=subprocess.PIPE,
                              text=True)  # fmt: skip
    try:
        assert server.stderr
        address = address_of(server.stderr)
        with httpx.Client(base_url=address, timeout=90, trust_env=False) as client:
            yield client
        server.terminate()
        assert server.wait(60) == 0, server.stderr and server.stderr.read()
    finally:
        server.kill()
        server.wait()


def written_in(*folders: Path) -> list[Path]:
    """All that is there, but for the bytecode, which pip leaves in the image."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return sorted(path for path in paths if "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def clip(sample: Path) -> Path:
    return sample / "Actor_01" / "03-01-05-01-01-02-01.flac"


def test_the_image_gets_the_whole_package_and_nothing_private(image: Image) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    private_folders = (".*", "tests", "benchmarks", "docs", "build")
    needed = set()
    for folder in [ROOT, *(path.parent for path in ROOT.rglob("*/__init__.py"))]:
        within = folder.relative_to(ROOT)
        if within.parts and any(fnmatch(within.parts[0], each) for each in private_folders):
            continue
        package = ".".join(("serpipe", *within.parts))
        for pattern in ("*.py", *declared["package-data"].get(package, ())):
            files = [path for path in folder.glob(pattern) if path.is_file()]
            assert files or pattern == "*.py", pattern
            needed |= {f"serpipe/{path.relative_to(ROOT).as_posix()}" for path in files}
    needed.remove("serpipe/setup.py")  # it builds the package and is not part of it
    names = zipfile.ZipFile(image.wheel).namelist()
    assert {name for name in names if "dist-info" not in name} == needed
    assert sum("dist-info/licenses/" in name for name in names) == 3
    for private in (".git/config", ".env", ".venv/bin/python", "voices/a.wav", "token",
                    "artifacts/runs/RUN/run.json", "features/cache/a.h5", "tests/test_cli.py",
                    "pipeline/heads/__pycache__/lr.pyc"):  # fmt: skip
        assert is_ignored(private), private


def test_the_image_serves_its_head_as_docker_and_sagemaker_start_it(
    image: Image, clip: Path, tmp_path: Path
) -> None:
    entry, command = in_exec_form(r"^ENTRYPOINT (\[.*)$"), in_exec_form(r"^CMD (\[.*)$")
    assert [*entry, *command] == ["serpipe", "serve"]  # `docker run IMAGE`, and `... IMAGE serve`
    environment = image.environment | {"HF_HOME": str(tmp_path / "cache")}
    (work := tmp_path / "work").mkdir()
    (python, *check) = in_exec_form(r"^HEALTHCHECK .* CMD (\[.*)$")
    assert python == "python"
    there = written_in(image.site, tmp_path)
    with running([*SERPIPE, *command], environment, work) as client:
        assert client.get("/ping").status_code == 200
        # By its own name in a network of containers, not by one of this machine.
        sent = {"content-type": "audio/flac", "host": "serpipe.internal"}
        answer = client.post("/invocations", content=clip.read_bytes(), headers=sent).json()
        assert answer["label"] == load_model(DEFAULT_BUNDLE).predict(clip).label
        port = {"SERPIPE_PORT": str(client.base_url.port)}
        assert subprocess.run([sys.executable, *check], env=port).returncode == 0
    assert subprocess.run([sys.executable, *check], env=port, stderr=subprocess.DEVNULL).returncode
    assert written_in(image.site, tmp_path) == there  # a read-only root does not hinder it


def test_the_image_serves_a_model_archive_of_sagemaker(
    image: Image, fitted_once: Path, small_encoder: Path, clip: Path, tmp_path: Path
) -> None:
    bundle = next(fitted_once.glob("artifacts/runs/*/bundles/lr"))
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(bundle, ".")
        archive.add(small_encoder, "encoder")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model", filter="data")
    assert '"SERPIPE_ENCODER": "/opt/ml/model/encoder"' in PAGE
    changes = {"SERPIPE_MODEL": str(tmp_path / "model"), "SERPIPE_TIMEOUT": "50",
               "SERPIPE_ENCODER": str(tmp_path / "model" / "encoder")}  # fmt: skip
    with running([*SERPIPE, "serve"], image.environment | changes, tmp_path) as client:
        sent = {"content-type": "audio/flac",
                "x-amzn-sagemaker-custom-attributes": "window=2,hop=1"}  # fmt: skip
        answer = client.post("/invocations", content=clip.read_bytes(), headers=sent).json()
    prediction = load_model(bundle, encoder=small_encoder).predict(clip, window=2, hop=1)
    assert answer["label"] == prediction.label
    assert [each["label"] for each in answer["timeline"]] == [
        each.label for each in prediction.timeline
    ]


def test_an_empty_model_folder_is_an_error_and_no_other_model(
    serpipe: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (empty := tmp_path / "model").mkdir()
    monkeypatch.setenv("SERPIPE_MODEL", str(empty))
    done = serpipe("serve", "--port", 0)
    assert_refused(done, empty)


def block(language: str) -> str:
    """The one block of the page in a language."""
    (match,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(match)


def test_the_limits_of_nginx_agree_with_those_of_the_server() -> None:
    def number(directive: str) -> int:
        (match,) = re.findall(rf"(?m)^ *{directive} (?:\w+ )?(\d+)[ms]?;", block("nginx"))
        return int(match)

    options = ServeOptions()
    most = number("client_max_body_size") << 20
    assert options.max_bytes + (64 << 10) <= most <= options.max_bytes + (1 << 20)
    assert number("client_body_buffer_size") << 20 >= most
    assert options.timeout < number("proxy_read_timeout") <= options.timeout + 30
    assert number("limit_conn") == options.queue
    assert "TimeoutStopSec=150" in block("ini")
    assert options.max_wait + options.timeout + options.upload_timeout < 150


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The nginx of the page, in front of a port; its port and that one."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or shutil.which("openssl") is None:
        pytest.skip("needs nginx and openssl on this machine")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=voices.example.org", "-keyout", tmp_path / "privkey.pem",
         "-out", tmp_path / "fullchain.pem"], check=True, capture_output=True)  # fmt: skip
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(free.getsockname()[1])
    site = block("nginx")
    for there, here in {
        "listen 443": f"listen 127.0.0.1:{ports[0]}",
        "listen 80": f"listen 127.0.0.1:{ports[1]}",
        "127.0.0.1:8010": f"127.0.0.1:{ports[2]}",
        "/etc/letsencrypt/live/voices.example.org": str(tmp_path),
    }.items():
        assert there in site
        site = site.replace(there, here)
    (tmp_path / "site.conf").write_text(site)
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in (
        "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid;\n"
        f"error_log {tmp_path}/error.log info;\nevents {{}}\n"
        f"http {{ access_log off;\n{temporary} include {tmp_path}/site.conf; }}\n"
    )
    command = [program, "-e", str(tmp_path / "error.log"), "-c", str(tmp_path / "nginx.conf")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert tested.returncode == 0 and "warn" not in tested.stderr, tested.stderr
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield ports[0], ports[2]
    finally:
        process.terminate()
        process.wait()


def test_nginx_passes_voices_on_and_keeps_none(
    nginx: tuple[int, int], clip: Path, tmp_path: Path
) -> None:
    outside, inside = nginx
    token = "a-token-of-these-tests-alone"
    (tmp_path / "token").write_text(token)
    command = [*SERPIPE, "serve", "--port", str(inside), "--token-file", str(tmp_path / "token")]
    with (
        running(command, os.environ, tmp_path),
        httpx.Client(base_url=f"https://127.0.0.1:{outside}", verify=False, timeout=90,
                     trust_env=False, headers={"host": "voices.example.org"}) as client,
    ):  # fmt: skip
        named = {"extensions": {"sni_hostname": "voices.example.org"}}
        sound = {"audio": ("clip.flac", clip.read_bytes())}
        assert client.post("/recognize", files=sound, **named).status_code == 401
        client.headers["authorization"] = f"Bearer {token}"
        answer = client.post("/recognize", files=sound, **named)
        assert answer.json()["label"] == load_model(DEFAULT_BUNDLE).predict(clip).label
        assert "strict-transport-security" in answer.headers
        # Both refusals of what is too large: the server's, nginx's.
        assert client.get("/", **named).status_code == 200
        assert client.get("/model", **named).status_code == 200
        assert client.get("/metrics", **named).status_code == 404
        large = {"audio": ("clip.wav", bytes((25 << 20) + 1))}
        assert "MiB" in client.post("/recognize", files=large, **named).json()["detail"]
        larger = {"audio": ("clip.wav", bytes(27 << 20))}
        assert "nginx" in client.post("/recognize", files=larger, **named).text
        asked = [client.get("/", **named).status_code for _ in range(40)]
        assert asked[0] == 200 and asked[-1] == 429
    with (
        httpx.Client(verify=False, trust_env=False) as stranger,
        pytest.raises(httpx.ConnectError, match=r"UNRECOGNIZED_NAME|unrecognized name"),
    ):
        stranger.get(f"https://127.0.0.1:{outside}/", headers={"host": "voices.example.org"})
    assert "temporary file" not in (tmp_path / "error.log").read_text()
    kept = [path for kind in ("client_body", "proxy") for path in (tmp_path / kind).rglob("*")]
    assert not [path for path in kept if path.is_file()]


def test_the_unit_is_one(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze on this machine")
    unit = tmp_path / "serpipe.service"
    unit.write_text(block("ini").replace("/opt/serpipe/bin/serpipe", sys.executable))
    done = subprocess.run([program, "verify", unit], capture_output=True, text=True)
    assert done.returncode == 0 and "serpipe.service" not in done.stderr, done.stderr
