"""A small server that speaks the protocol of the Hugging Face hub."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Files from this size on are stored apart, as the hub stores them: `resolve` redirects to them.
LARGE = 10_000


@dataclass
class Repo:
    """A repository of a model."""

    #: Files by name, of each commit.
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Commits of branches.
    branches: dict[str, str] = field(default_factory=dict)
    #: Status of requests for files, with the code GatedRepo; 0 if access is free. The list of files
    #: is public, as it is on the hub.
    gated: int = 0
    #: Sizes that the list of files states in place of the true ones.
    stated: dict[str, int] = field(default_factory=dict)

    def push(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files to a branch; return its hash."""
        text = repr([sorted((n, hashlib.sha1(c).hexdigest()) for n, c in files.items()), branch])
        commit = hashlib.sha1(f"{len(self.commits)} {text}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


class Hub(ThreadingHTTPServer):
    """Repositories behind HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        #: Method and path of each request.
        self.requests: list[tuple[str, str]] = []
        #: Bytes after which each next answer with a file breaks off, by the name of the file.
        self.breaks: dict[str, list[int]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def push_folder(self, name: str, folder: Path, **more: bytes) -> str:
        """Add a commit with the files of a folder to the main branch of a repository."""
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        return self.repos.setdefault(name, Repo()).push(files | more)

    def requested_files(self) -> list[tuple[str, str]]:
        """Return revision and name of each file that was asked for, in order, once per GET."""
        paths = [path.split("/resolve/") for method, path in self.requests if method == "GET"]
        return [tuple(path[1].split("/", 1)) for path in paths if len(path) == 2]  # type: ignore[misc]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] == ["revision"]:
            self.list_files("/".join(parts[2:4]), "/".join(parts[5:]))
        elif "resolve" in parts[2:4]:
            is_large_store = parts[0] == "cdn"
            owner, name, _, revision, *file = parts[is_large_store:]
            self.resolve(f"{owner}/{name}", revision, "/".join(file), is_large_store)
        else:
            self.reply(404)

    def find(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """Return a repository and the commit of a revision, or answer why there is none."""
        repo = self.server.repos.get(name)
        if repo is None:  # the hub does not tell strangers whether it exists
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            self.reply(404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repo, commit

    def list_files(self, name: str, revision: str) -> None:
        if match := self.find(name, revision):
            repo, commit = match
            siblings = [
                {"rfilename": file, "size": repo.stated.get(file, len(content))}
                for file, content in repo.commits[commit].items()
            ]
            about = {"id": name, "modelId": name, "sha": commit, "siblings": siblings}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(about).encode())

    def resolve(self, name: str, revision: str, file: str, is_large_store: bool) -> None:
        if not (match := self.find(name, revision)):
            return
        repo, commit = match
        if repo.gated:
            self.reply(repo.gated, {"X-Error-Code": "GatedRepo"})
            return
        content = repo.commits[commit].get(file)
        if content is None:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"X-Repo-Commit": commit, "ETag": etag}
        if len(content) < LARGE or is_large_store:
            self.send_file(file, content, headers)
            return
        headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": etag}
        location = f"{self.server.url}/cdn/{name}/resolve/{commit}/{file}"
        self.reply(302, headers | {"Location": location})

    def send_file(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        breaks = self.server.breaks.get(file, []) if self.command == "GET" else []
        sent = breaks.pop(0) if breaks else None
        if sent == 0:
            self.reply(503)
            return
        self.reply(206 if start else 200, headers, content[start:], sent)

    def reply(
        self,
        status: int,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        sent: int | None = None,
    ) -> None:
        """Answer; break the connection off after so many bytes of the body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if sent is None else body[:sent])
        if sent is not None:
            self.close_connection = True
