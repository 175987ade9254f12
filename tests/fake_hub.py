"""A small Hub on this machine: what `from_pretrained` and `push_to_hub` ask of the real one, answered from memory.

Only the part of its HTTP interface that those two use; every upload is one of ordinary files, never of LFS.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Commits, oldest first, each with all its files.

    Attributes:
        gated: files are given to nobody, as where a user has not accepted the terms.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        return sha

    def at(self, revision: str) -> str | None:
        """The commit that a revision names; branches other than `main` do not exist."""
        head = next(reversed(self.commits), None)
        return head if revision == "main" else revision if revision in self.commits else None


@dataclass
class Hub:
    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)

    def upload(self, repo_id: str, folder: str | Path, gated: bool = False) -> str:
        """A folder as a new commit; returns its sha."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        repository = self.repositories.setdefault(repo_id, Repository(gated=gated))
        return repository.commit(files)


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message, **headers}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            status, headers, content = self._route(unquote(urlsplit(self.path).path), body)
        except Refusal as refusal:
            status, headers, content = refusal.status, refusal.headers, b""
        if not isinstance(content, bytes):
            content, headers = json.dumps(content).encode(), {**headers, "Content-Type": "application/json"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = _answer

    def _route(self, path: str, body: bytes) -> tuple[int, dict[str, str], Any]:
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return 200, {}, {"type": "user", "name": "org", "orgs": []}
        if path == "/api/validate-yaml":
            return 200, {}, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'org'}/{asked['name']}"
            if repo_id in self.hub.repositories:
                return 409, {}, {"url": f"{self.hub.url}/{repo_id}"}
            self.hub.repositories[repo_id] = Repository()
            self.hub.repositories[repo_id].commit({".gitattributes": b""})
            return 200, {}, {"url": f"{self.hub.url}/{repo_id}"}
        if parts[:2] == ["api", "models"]:
            repository = self._repository(repo_id := "/".join(parts[2:4]))
            verb, revision = (parts[4:6] + ["revision", "main"][len(parts[4:6]) :]) if len(parts) < 6 else parts[4:6]
            if verb == "preupload":
                names = [file["path"] for file in json.loads(body)["files"]]
                return (
                    200,
                    {},
                    {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]},
                )
            if verb == "commit":
                return 200, {}, self._commit(repo_id, repository, body)
            files = repository.commits[sha := self._commit_of(repository, revision)]
            if verb == "tree":
                below = "/".join(parts[6:])
                return 200, {}, [self._entry(name, files[name]) for name in files if name.startswith(below)]
            siblings = [{"rfilename": name} for name in files]
            return (
                200,
                {},
                {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings, "tags": [], "private": False},
            )
        repository, revision, name = self._repository("/".join(parts[:2])), parts[3], "/".join(parts[4:])
        if repository.gated:
            raise Refusal(
                403, "GatedRepo", "Access to this model is restricted and you are not in the authorized list."
            )
        files = repository.commits[sha := self._commit_of(repository, revision)]
        if name not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        etag = hashlib.sha1(files[name]).hexdigest()
        return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": sha}, files[name]

    def _repository(self, repo_id: str) -> Repository:
        if repo_id not in self.hub.repositories:
            raise Refusal(401, "RepoNotFound", "Repository not found")
        return self.hub.repositories[repo_id]

    def _commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.at(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _commit(self, repo_id: str, repository: Repository, body: bytes) -> dict[str, Any]:
        files = dict(repository.commits[self._commit_of(repository, "main")])
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        sha = repository.commit(files)
        return {"commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Serves an empty Hub at `hub.url` until the block ends; each block has its own port and its own Hub."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
