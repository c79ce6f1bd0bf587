"""A small Hub on this machine, for tests: what uploads and downloads of `huggingface_hub` ask of the real one.

Strict where the real one is: tokens and rights, private repositories that look like missing ones, files over 10 MB by
LFS only, uploads checked against their sha256, parents of commits, revisions that do not exist. It keeps everything in
memory, and has faults that a test can switch on (`fail`, `tamper`). Not covered: Xet, discussions, organisations, LFS
uploads in parts.

    with HubServer() as hub:
        HfApi(endpoint=hub.url, token=WRITE).create_repo("alice/model")
"""

import hashlib
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_repos import Answer, Refused, Repo, Request, read_json


# Whose token, and what it may do. As long as real ones, so that what looks for tokens finds them.
WRITE, READ, STRANGER = (f"hf_{name * 4}" for name in ("aliceWrites", "aliceReads", "bobWrites"))
TOKENS = {WRITE: ("alice", "write"), READ: ("alice", "read"), STRANGER: ("bob", "write")}
LFS_JSON = "application/vnd.git-lfs+json"


@dataclass
class Fault:
    """What goes wrong with requests `METHOD /path` that a pattern is found in.

    Args:
        pattern: searched for in "METHOD /path".
        status: of the answer; None cuts the connection in the middle of the request.
        times: how often, then all is well.
        done: what was asked for is done, only the answer goes wrong.
    """

    pattern: str
    status: int | None
    times: int
    done: bool


@dataclass
class HubServer:
    """The server; a context manager.

    Attributes:
        log: "METHOD /path status user" of every request.
        blobs: sha256 -> content of all files.
        repos: "models/alice/name" -> repository.
    """

    log: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    repos: dict[str, Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    served: dict[str, bytes] = field(default_factory=dict)  # instead of the blob
    keys: dict[str, str] = field(default_factory=dict)  # of signed addresses -> sha256
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> "HubServer":
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.hub, self.http.daemon_threads = self, True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.http.shutdown()
        self.http.server_close()

    # --- for tests ----------------------------------------------------------------------------------------------

    def fail(self, pattern: str, status: int | None = 500, times: int = 1, done: bool = False) -> None:
        """Let the next requests that fit go wrong, see `Fault`."""
        self.faults.append(Fault(pattern, status, times, done))

    def tamper(self, repo: str, path: str) -> None:
        """Serve a file of the main branch with another byte in its middle; all that is said of it stays as it was."""
        stored = self.repo(f"models/{repo}").at("main").files[path]
        content = bytearray(self.blobs[stored.oid])
        content[len(content) // 2] ^= 0xFF
        self.served[stored.oid] = bytes(content)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Name and content of the files of a model."""
        return {path: self.blobs[file.oid] for path, file in self.repo(f"models/{repo}").at(revision).files.items()}

    def titles(self, repo: str, revision: str = "main") -> list[str]:
        """The messages of the commits of a model, the newest first."""
        return [commit.title for commit in self.repo(f"models/{repo}").history(revision)]

    # --- who may do what ----------------------------------------------------------------------------------------

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.repos[name]

    def readable(self, request: Request, name: str) -> Repo:
        """A repository that the sender may read. To all others it does not exist."""
        found = self.repos.get(name)
        if found is not None and (not found.private or request.user == found.owner):
            return found
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        raise Refused(404, "Repository not found", "RepoNotFound")

    def writable(self, request: Request, name: str, pull_request: bool = False) -> Repo:
        """A repository that the sender may write to; of pull requests all who may read are capable."""
        found = self.readable(request, name)
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        if request.role != "write" or not (pull_request or request.user == found.owner):
            raise Refused(403, "Authorization error: your token has no right to write to this repository.")
        return found

    def create(self, request: Request) -> Answer:
        wanted = read_json(request.body)
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        owner, kind = wanted.get("organization") or request.user, f"{wanted.get('type') or 'model'}s"
        if request.role != "write" or owner != request.user:
            raise Refused(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
        if not re.fullmatch(r"[\w.-]{1,96}", wanted["name"]):
            raise Refused(400, f"invalid name {wanted['name']!r}")
        repo = f"{owner}/{wanted['name']}"
        url = f"{self.url}/{'' if kind == 'models' else kind + '/'}{repo}"
        if f"{kind}/{repo}" in self.repos:
            return Answer(409, {"error": f"You already created this {kind[:-1]} repo", "url": url})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.repos[f"{kind}/{repo}"] = Repo(repo, url, private, self.blobs)
        return Answer(200, {"url": url, "name": repo, "id": repo})

    # --- large files --------------------------------------------------------------------------------------------

    def signed(self, oid: str, place: str) -> str:
        """An address of the storage, another host, that whoever knows it may use."""
        key = secrets.token_hex(8)
        self.keys[key] = oid
        return f"{self.url.replace('127.0.0.1', 'localhost')}/{place}/{oid}?key={key}"

    def require_signed(self, request: Request, oid: str) -> None:
        if self.keys.get(request.query.get("key", "")) != oid:
            raise Refused(403, "the signature of this address is wrong")

    def lfs_batch(self, request: Request, name: str) -> Answer:
        wanted = read_json(request.body)
        self.writable(request, name, pull_request="ref" not in wanted)
        if wanted.get("operation") != "upload" or wanted.get("hash_algo") != "sha256":
            raise Refused(422, "only uploads by sha256")
        objects = []
        for item in wanted["objects"]:
            row = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if item["oid"] not in self.blobs:
                verify = {"href": f"{self.url}/lfs/{item['oid']}/verify", "header": {}}
                row["actions"] = {"upload": {"href": self.signed(item["oid"], "lfs"), "header": {}}, "verify": verify}
            objects.append(row)
        return Answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": LFS_JSON})

    def lfs_put(self, request: Request, oid: str) -> Answer:
        self.require_signed(request, oid)
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refused(400, "the content has another sha256")
        self.blobs[oid] = request.body
        return Answer(200)

    def lfs_verify(self, request: Request, oid: str) -> Answer:
        if request.role != "write":
            raise Refused(403, "Authorization error")
        if len(self.blobs.get(oid, b"")) != read_json(request.body)["size"]:
            raise Refused(404, "object not found, or of another size")
        return Answer(200, {})

    def lfs_get(self, request: Request, oid: str) -> Answer:
        self.require_signed(request, oid)
        return request.content(self.served.get(oid, self.blobs[oid]), {"ETag": f'"{oid}"'})

    # --- files --------------------------------------------------------------------------------------------------

    def resolve(self, request: Request, name: str, revision: str, path: str) -> Answer:
        repo = self.readable(request, name)
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.sha}
        file = commit.files.get(path)
        if file is None:
            return Answer(404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"})
        if file.lfs:
            headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.oid}"'}
            return Answer(302, b"", headers | {"Location": self.signed(file.oid, "cdn")})
        content = self.served.get(file.oid, self.blobs[file.oid])
        return request.content(content, headers | {"ETag": f'"{file.sha1}"'})

    # --- the way to all of it -----------------------------------------------------------------------------------

    def route(self, request: Request) -> Answer:
        """What a request gets.

        Raises:
            Refused: it gets nothing.
        """
        path = request.path
        if request.header("Authorization") and request.user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            if request.user is None:
                raise Refused(401, "Invalid username or password.")
            token = {"displayName": "test", "role": request.role}
            return Answer(200, {"type": "user", "name": request.user, "orgs": [], "auth": {"accessToken": token}})
        if path == "/api/validate-yaml":
            return request.validated_card()
        if path == "/api/repos/create":
            return self.create(request)
        if match := re.fullmatch(r"/(lfs|cdn)/([0-9a-f]{64})(/verify)?", path):
            place, oid, verify = match.groups()
            return (self.lfs_verify if verify else self.lfs_put if place == "lfs" else self.lfs_get)(request, oid)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self.lfs_batch(request, f"{match[1] or 'models/'}{match[2]}")
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(request, f"{match[1] or 'models/'}{match[2]}", unquote(match[3]), unquote(match[4]))
        if match := re.fullmatch(
            r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.+))?)?)?", path
        ):
            name, verb, revision, rest = match.groups()
            verb, revision, rest = verb or "revision", unquote(revision or "main"), unquote(rest or "")
            if verb in ("preupload", "commit", "tag", "branch"):
                repo = self.writable(request, name, request.query.get("create_pr") == "1")
            else:
                repo = self.readable(request, name)
            method = getattr(repo, f"answer_{verb.replace('-', '_')}", None)
            if method is not None:
                return method(request, revision, rest)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")


class Handler(BaseHTTPRequestHandler):
    """HTTP on one side, `HubServer.route` on the other."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def handle_any(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        fault = next((f for f in hub.faults if f.times and re.search(f.pattern, f"{self.command} {url.path}")), None)
        if fault is not None:
            fault.times -= 1
            if fault.status is None and not fault.done:
                self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
                return self.cut(url.path, None)
        user, role = TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "), (None, None))
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = Request(self.command, url.path, query, self.headers, self.body(), user, role)
        try:
            if fault is not None and not fault.done:
                raise Refused(fault.status, "a fault of the test")
            with hub.lock:
                answer = hub.route(request)
            if fault is not None:
                if fault.status is None:
                    return self.cut(url.path, user)
                raise Refused(fault.status, "a fault of the test")
        except Refused as refused:
            answer = refused.answer()
        hub.log.append(f"{self.command} {url.path} {answer.status} {user}")
        self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def cut(self, path: str, user: str | None) -> None:
        self.server.hub.log.append(f"{self.command} {path} cut {user}")
        self.close_connection = True
        self.connection.close()

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
