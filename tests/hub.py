"""A small server that speaks the protocol of the Hugging Face hub, for downloads and uploads."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
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
    private: bool = False

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
        #: Contents of uploaded large files by their SHA-256; not visible before a commit.
        self.uploads: dict[str, bytes] = {}
        #: Status of the answer to requests to write, by the part of the path that says what they
        #: do, such as ``"commit"``.
        self.refused: dict[str, int] = {}

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

    def do_PUT(self) -> None:
        self.write()

    def do_POST(self) -> None:
        self.write()

    def write(self) -> None:
        """Answer a request to make a repository, to upload a large file, or to commit files."""
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = path.strip("/").split("/")
        status = next((s for what, s in self.server.refused.items() if what in parts), 0)
        if status:
            self.reply(status)
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif parts[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.server.uploads[parts[1]] = body
            self.reply(200)
        elif path.endswith("/info/lfs/objects/batch"):
            upload = f"{self.server.url}/lfs"
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{upload}/{each['oid']}"}} for each in objects]
            self.reply_json(
                {"objects": [e | {"actions": a} for e, a in zip(objects, actions, strict=True)]}
            )
        elif parts[4:5] == ["preupload"]:
            self.reply_json(
                {
                    "files": [
                        {
                            "path": each["path"],
                            "uploadMode": "lfs" if each["size"] >= LARGE else "regular",
                            "shouldIgnore": False,
                        }
                        for each in json.loads(body)["files"]
                    ]
                }
            )
        elif parts[4:5] == ["commit"]:
            self.commit(f"{parts[2]}/{parts[3]}", [json.loads(line) for line in body.splitlines()])
        else:
            self.reply(404)

    def create(self, wanted: dict[str, str]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        exists = name in self.server.repos
        if not exists:
            repo = Repo(private=wanted.get("visibility") == "private")
            repo.push({".gitattributes": b"*.zip filter=lfs\n"})  # as on the hub
            self.server.repos[name] = repo
        self.reply_json({"url": f"{self.server.url}/{name}"}, 409 if exists else 200)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Make one commit of all lines, on top of the commit that they name."""
        repo = self.server.repos[name]
        parent = repo.branches["main"]
        files = dict(repo.commits[parent])
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                assert value.get("parentCommit", parent) == parent
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repo.push(files)
        url = f"{self.server.url}/{name}/commit/{commit}"
        self.reply_json({"success": True, "commitOid": commit, "commitUrl": url})

    def reply_json(self, content: object, status: int = 200) -> None:
        self.reply(status, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and parts[4:5] in ([], ["revision"]):
            self.list_files("/".join(parts[2:4]), "/".join(parts[5:]) or "main")
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
            about = {"id": name, "modelId": name, "sha": commit, "private": repo.private}
            self.reply_json(about | {"siblings": siblings})

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
        if self.command != "HEAD":
            self.wfile.write(body if sent is None else body[:sent])
        if sent is not None:
            self.close_connection = True
