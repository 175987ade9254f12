"""A small local Hub: it answers the requests of `from_pretrained` and `push_to_hub` from memory.

It implements the part of the HTTP interface that those two use, and fails on request (`Hub.fail`). Files of `large_file`
bytes or more are transferred by LFS: their content is stored and served under another host name, which receives no token.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml
from hub_faults import Fault

_REPO = r"(?P<repo>[^/]+/[^/]+)"
# Kind of request -> its path. `head` has the path of `file`, with method HEAD; `store` that of `storage`, with PUT.
_ROUTES = {
    "whoami": r"/api/whoami-v2",
    "validate": r"/api/validate-yaml",
    "create": r"/api/repos/create",
    **{verb: rf"/api/models/{_REPO}/{verb}/(?P<revision>[^/]+)" for verb in ("preupload", "commit", "branch", "tag")},
    "tree": rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<name>.*))?",
    "info": rf"/api/models/{_REPO}(?:/revision/(?P<revision>[^/]+))?",
    "batch": rf"/{_REPO}\.git/info/lfs/objects/batch",
    "storage": r"/storage/(?P<oid>[0-9a-f]{64})/(?P<name>.*)",
    "file": rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)",
}
_WRITES = ("create", "preupload", "commit", "branch", "tag", "batch")
_SIGNED = ("storage", "store", "no route")  # requested without a token


@dataclass
class Repository:
    """Commits, oldest first, each with all its files.

    Attributes:
        refs: branch, tag or pull request -> commit.
        gated: nobody may read the files, as if the user had not accepted the terms.
        private: the repository is visible only with a token.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def at(self, revision: str) -> str | None:
        """The commit of a revision."""
        return self.refs.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        """The files of the last commit on `main`."""
        return self.commits[self.refs["main"]]


@dataclass
class Request:
    kind: str
    name: str
    token: str | None
    range: str | None


@dataclass
class Hub:
    """
    Attributes:
        tokens: token -> `"read"` or `"write"`. While it is empty, every request is permitted.
        large_file: minimum size in bytes of files that are transferred by LFS.
        requests: all requests so far, including failed ones.
        stored: sha256 -> content of large files.
    """

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    large_file: int = 10_000_000
    requests: list[Request] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def upload(self, repo_id: str, folder: str | Path, gated: bool = False) -> str:
        """Commits the files of a folder; returns the commit's sha."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in Path(folder).rglob("*")
            if path.is_file()
        }
        repository = self.repositories.setdefault(repo_id, Repository(gated=gated))
        return repository.commit(files)

    def fail(self, kind: str, **settings: Any) -> None:
        """Makes requests fail until `faults` is cleared; the settings are those of `Fault`."""
        self.faults.append(Fault(kind, **settings))


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str, **headers: str):
        super().__init__(message)
        codes = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {**codes, "X-Error-Message": message, **headers}


class _Cut(Exception):
    """The connection is closed here."""


Answer = tuple[int, dict[str, str], Any]  # status, headers, content: bytes, or an object to be sent as JSON


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # with Nagle's algorithm the body would wait 40 ms for the acknowledgement of the headers
    )
    hub: Hub

    def _answer(self) -> None:
        kind, found = self._route()
        fault = next((fault for fault in self.hub.faults if fault.hits(kind, found.get("name") or "")), None)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(kind, found.get("name") or "", self.token, self.headers.get("Range")))
        try:
            body = self._body(None if fault is None else fault.received)
            status, headers, content = self._outcome(kind, found, body, fault)
            if not isinstance(content, bytes):
                content, headers = json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
            self._send(status, headers, content, fault)
        except _Cut:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _route(self) -> tuple[str, dict[str, str]]:
        path = urlsplit(self.path).path
        for kind, route in _ROUTES.items():
            if match := re.fullmatch(route, path):
                kind = {"HEAD": {"file": "head"}, "PUT": {"storage": "store"}}.get(self.command, {}).get(kind, kind)
                return kind, {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
        return "no route", {}

    def _body(self, limit: int | None) -> bytes:
        if limit is not None:
            is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
            self.rfile.read(limit if is_chunked else min(limit, int(self.headers.get("Content-Length") or 0)))
            raise _Cut
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _outcome(self, kind: str, found: dict[str, str], body: bytes, fault: Fault | None) -> Answer:
        try:
            if fault is not None and fault.status is not None:
                raise Refusal(fault.status, "", "the Hub has a fault")
            self._authorize(kind)
            repository = None if "repo" not in found else self._repository(found["repo"])
            return getattr(self, "_" + kind.replace(" ", "_"))(repository, found, body)
        except Refusal as refusal:
            return refusal.status, refusal.headers, {"error": str(refusal)}

    def _send(self, status: int, headers: dict[str, str], content: bytes, fault: Fault | None) -> None:
        fault = fault or Fault("")
        self.send_response(status)
        for header in {"Content-Length": str(len(content)), **headers, **fault.headers}.items():
            self.send_header(*header)
        if fault.sent is None:
            threading.Event().wait(fault.pause)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: fault.sent])
        if fault.sent is not None:
            self.wfile.flush()
            threading.Event().wait(fault.pause)
        if (
            fault.sent is not None or fault.headers
        ):  # after a wrong length the client cannot find the start of the next answer
            raise _Cut

    # --- permissions -------------------------------------------------------------------------------------------------

    def _authorize(self, kind: str) -> None:
        tokens, token = self.hub.tokens, self.token
        if not tokens or kind in _SIGNED:
            return
        if token is not None and token not in tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if kind in (*_WRITES, "whoami") and token is None:
            raise Refusal(401, "", "Invalid username or password.")
        if kind in _WRITES and tokens[token] != "write":
            raise Refusal(403, "", "Forbidden: you must use a write token to upload to a repository.")

    def _repository(self, repo_id: str) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self.token is None):
            raise Refusal(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        return repository

    def _commit_of(self, repository: Repository, revision: str = "main") -> str:
        sha = repository.at(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    # --- answers, one method for each kind of request ----------------------------------------------------------------

    def _no_route(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        raise Refusal(404, "", f"no such page: {self.command} {self.path}")

    def _whoami(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        return 200, {}, {"type": "user", "name": "org", "orgs": []}

    def _validate(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        return 200, {}, {"errors": [], "warnings": []}

    def _create(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        asked = json.loads(body)
        repo_id = f"{asked.get('organization') or 'org'}/{asked['name']}"
        if repo_id in self.hub.repositories:
            return 409, {}, {"url": f"{self.hub.url}/{repo_id}"}
        self.hub.repositories[repo_id] = Repository(private=asked.get("visibility") == "private")
        self.hub.repositories[repo_id].commit({".gitattributes": b""})
        return 200, {}, {"url": f"{self.hub.url}/{repo_id}"}

    def _preupload(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        there = repository.commits[self._commit_of(repository, found["revision"])]
        answers = [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if asked["size"] >= self.hub.large_file else "regular",
                "shouldIgnore": False,
                "oid": self._oid(there[asked["path"]]) if asked["path"] in there else None,
            }
            for asked in json.loads(body)["files"]
        ]
        return 200, {}, {"files": answers}

    def _batch(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.stored:
                item["actions"] = {"upload": {"href": self._storage_url(item["oid"], "upload")}}
        return 200, {}, {"transfer": "basic", "objects": objects}

    def _store(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != found["oid"]:
            raise Refusal(400, "", "the content does not match its sha256")
        self.hub.stored[found["oid"]] = body
        return 200, {}, b""

    def _commit(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        files = dict(repository.commits[self._commit_of(repository, found["revision"])])
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    raise Refusal(400, "", f"{value['path']}: its content was not uploaded")
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        ref, page = found["revision"], None
        if "create_pr" in parse_qs(urlsplit(self.path).query):
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
            ref, page = f"refs/pr/{number}", f"{self.hub.url}/{found['repo']}/discussions/{number}"
        sha = repository.commit(files, ref)
        url = f"{self.hub.url}/{found['repo']}/commit/{sha}"
        return 200, {}, {"commitUrl": url, "commitOid": sha, "pullRequestUrl": page}

    def _branch(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        start = json.loads(body or b"{}").get("startingPoint", "main")
        repository.refs[found["revision"]] = self._commit_of(repository, start)
        return 200, {}, b""

    def _tag(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        repository.refs[json.loads(body)["tag"]] = self._commit_of(repository, found["revision"])
        return 200, {}, b""

    def _tree(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        files, below = repository.commits[self._commit_of(repository, found["revision"])], found.get("name", "")
        return 200, {}, [self._entry(name, files[name]) for name in files if name.startswith(below)]

    def _info(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        files = repository.commits[sha := self._commit_of(repository, found.get("revision", "main"))]
        header = re.match(r"---\n(.*?)\n---", files.get("README.md", b"").decode(), re.DOTALL)
        card = yaml.safe_load(header[1]) if header else {}
        siblings = [{"rfilename": name} for name in files]
        about = {"id": found["repo"], "modelId": found["repo"], "sha": sha, "siblings": siblings}
        return 200, {}, {**about, "private": repository.private, "cardData": card, "tags": card.get("tags") or []}

    def _file(self, repository: Repository, found: dict[str, str], body: bytes) -> Answer:
        if repository.gated:
            message = "Access to this model is restricted and you are not in the authorized list."
            raise Refusal(401 if self.token is None else 403, "GatedRepo", message)
        name, sha = found["name"], self._commit_of(repository, found["revision"])
        content, commit = repository.commits[sha].get(name), {"X-Repo-Commit": sha}
        if content is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", **commit)
        if len(content) < self.hub.large_file:
            return self._range(content, {"ETag": f'"{self._oid(content)}"', **commit})
        oid = self._oid(content)
        self.hub.stored[oid] = content
        linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return 302, {"Location": self._storage_url(oid, name), **linked, **commit}, b""

    _head = _file

    def _storage(self, repository: None, found: dict[str, str], body: bytes) -> Answer:
        return self._range(self.hub.stored[found["oid"]], {})

    def _range(self, content: bytes, headers: dict[str, str]) -> Answer:
        """The content of a file, starting at the byte that the client requests."""
        if (asked := self.headers.get("Range")) is None:
            return 200, headers, content
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        return 206, {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:]

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": self._oid(content)}

    def _oid(self, content: bytes) -> str:
        if len(content) >= self.hub.large_file:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's object id

    def _storage_url(self, oid: str, name: str) -> str:
        return f"{self.hub.url.replace('127.0.0.1', 'localhost')}/storage/{oid}/{quote(name)}"

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that disconnects is not reported
            super().handle_error(*args)


@contextmanager
def fake_hub() -> Iterator[Hub]:
    """Serves an empty Hub at `hub.url` until the block ends; each block has its own port and its own Hub."""

    class Handler(_Handler):
        pass

    server = _Server(("127.0.0.1", 0), Handler)
    hub = Handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
