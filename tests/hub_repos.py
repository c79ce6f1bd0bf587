"""What `hub_server` keeps and says: requests and answers, and repositories with their commits and files."""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any
from urllib.parse import parse_qs

import yaml


LFS_BYTES = 10 * 2**20
LFS_NAMES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.parquet", "*.arrow", "*.onnx", "*.npz")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Answer:
    status: int
    body: Any = b""  # bytes, or what becomes JSON
    headers: dict[str, str] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error, with the headers by which clients tell errors apart."""

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code

    def answer(self) -> Answer:
        headers = {"X-Error-Message": self.message} | ({"X-Error-Code": self.code} if self.code else {})
        return Answer(self.status, {"error": self.message}, headers)


@dataclass
class Request:
    """What was asked for, and by whom."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: bytes
    user: str | None
    role: str | None

    def header(self, name: str) -> str:
        return self.headers.get(name) or ""

    def content(self, content: bytes, headers: dict[str, str]) -> Answer:
        """A file, or the range of it that was asked for."""
        headers = headers | {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.header("Range")):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            return Answer(206, content[first : last + 1], headers)
        return Answer(200, content, headers)

    def validated_card(self) -> Answer:
        """Whether the head of a card is YAML with fields of the right kinds."""
        text, errors = read_json(self.body)["content"], []
        match = re.match(r"---\n(.*?)\n---\s*(\n|$)", text, flags=re.DOTALL)
        if text.startswith("---") and match is None:
            errors.append("the metadata block is not closed")
        try:
            found = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            errors.append(f"YAML: {error}")
        else:
            if not isinstance(found, dict):
                errors.append("the metadata block is no mapping")
            elif not re.fullmatch(r"[a-z0-9.-]+", str(found.get("license", "other"))):
                errors.append(f'"license" is {found["license"]!r}')
        return Answer(400 if errors else 200, {"errors": [{"message": m} for m in errors], "warnings": []})


@dataclass(frozen=True)
class File:
    oid: str  # sha256 of the content
    sha1: str  # of the git object
    size: int
    lfs: bool


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, File]


class Repo:
    """A repository: commits, and names for some of them.

    Args:
        name: owner/name.
        url: of its page.
        private: whether only its owner knows of it.
        blobs: sha256 -> content of all files of the server.
    """

    def __init__(self, name: str, url: str, private: bool, blobs: dict[str, bytes]):
        self.name, self.url, self.private, self.blobs = name, url, private, blobs
        self.owner = name.split("/")[0]
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_NAMES).encode()
        self.add("refs/heads/main", "initial commit", {".gitattributes": self.store(attributes, lfs=False)})

    def store(self, content: bytes, lfs: bool) -> File:
        oid = hashlib.sha256(content).hexdigest()
        self.blobs[oid] = content
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
        stored = pointer if lfs else content
        return File(oid, hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest(), len(content), lfs)

    def add(self, ref: str, title: str, files: dict[str, File]) -> Commit:
        parent = self.refs.get(ref)
        commit = Commit(secrets.token_hex(20), parent, title, files)
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request or (the first 7 or more digits of a) hash."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.commits[self.refs[name]]
        for sha, commit in self.commits.items():
            if len(revision) >= 7 and sha.startswith(revision):
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> Iterator[Commit]:
        commit = self.at(revision)
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    # --- reading ------------------------------------------------------------------------------------------------

    def answer_revision(self, request: Request, revision: str, rest: str) -> Answer:
        commit = self.at(revision)
        files = [{"rfilename": path, "size": f.size, "blobId": f.sha1} for path, f in sorted(commit.files.items())]
        facts = {"id": self.name, "modelId": self.name, "author": self.owner, "sha": commit.sha, "siblings": files}
        facts |= {"private": self.private, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        return Answer(200, facts | {"lastModified": DATE, "createdAt": DATE})

    def rows(self, commit: Commit) -> list[dict[str, Any]]:
        rows = []
        for path, file in sorted(commit.files.items()):
            rows.append({"type": "file", "path": path, "oid": file.sha1, "size": file.size})
            if file.lfs:
                rows[-1]["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": 134}
        return rows

    def answer_tree(self, request: Request, revision: str, rest: str) -> Answer:
        inside = f"{rest.rstrip('/')}/" if rest else ""
        rows = [row for row in self.rows(self.at(revision)) if row["path"].startswith(inside)]
        if rest and not rows:
            raise Refused(404, f"{rest} does not exist on {revision}", "EntryNotFound")
        if request.query.get("recursive", "false").lower() not in ("true", "1"):
            below = {row["path"]: row["path"].removeprefix(inside).split("/") for row in rows}
            folders = sorted({inside + parts[0] for parts in below.values() if len(parts) > 1})
            rows = [row for row in rows if len(below[row["path"]]) == 1]
            rows += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        return Answer(200, rows)

    def answer_paths_info(self, request: Request, revision: str, rest: str) -> Answer:
        as_json = request.header("Content-Type").startswith("application/json")
        paths = read_json(request.body)["paths"] if as_json else parse_qs(request.body.decode())["paths"]
        return Answer(200, [row for row in self.rows(self.at(revision)) if row["path"] in paths])

    def answer_refs(self, request: Request, revision: str, rest: str) -> Answer:
        def rows(group: str) -> list[dict[str, str]]:
            found = {ref: sha for ref, sha in self.refs.items() if ref.startswith(f"refs/{group}/")}
            return [{"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": sha} for ref, sha in found.items()]

        return Answer(200, {"branches": rows("heads"), "tags": rows("tags"), "converts": []})

    def answer_commits(self, request: Request, revision: str, rest: str) -> Answer:
        about = {"message": "", "date": DATE, "authors": [{"user": self.owner}]}
        return Answer(200, [{"id": c.sha, "title": c.title} | about for c in self.history(revision)])

    # --- writing ------------------------------------------------------------------------------------------------

    def answer_tag(self, request: Request, revision: str, rest: str) -> Answer:
        return self._name(f"refs/tags/{read_json(request.body)['tag']}", revision)

    def answer_branch(self, request: Request, branch: str, rest: str) -> Answer:
        return self._name(f"refs/heads/{branch}", read_json(request.body or b"{}").get("startingPoint") or "main")

    def _name(self, ref: str, revision: str) -> Answer:
        if ref in self.refs:
            raise Refused(409, f"Reference already exists: {ref}")
        self.refs[ref] = self.at(revision).sha
        return Answer(200, {})

    def answer_preupload(self, request: Request, revision: str, rest: str) -> Answer:
        """How each file shall come, and the hash of the one that is there."""
        files, rows = self.at(revision).files, []
        for item in read_json(request.body)["files"]:
            path, old = item["path"], files.get(item["path"])
            rows.append({"path": path, "shouldIgnore": False, "uploadMode": "lfs" if by_lfs(item) else "regular"})
            rows[-1]["oid"] = old and (old.oid if old.lfs else old.sha1)
        return Answer(200, {"files": rows})

    def answer_commit(self, request: Request, revision: str, rest: str) -> Answer:
        """All changes of the lines that follow a header, or none."""
        header, *lines = (read_json(line) for line in request.body.splitlines() if line)
        if header["key"] != "header" or not header["value"].get("summary"):
            raise Refused(400, "the first line must be a header with a summary")
        parent, pull_request = self.at(revision), request.query.get("create_pr") == "1"
        if header["value"].get("parentCommit") not in (None, parent.sha):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        if not pull_request and f"refs/heads/{revision}" not in self.refs and not revision.startswith("refs/pr/"):
            raise Refused(400, f"{revision} is no branch")
        files = dict(parent.files)
        for line in lines:
            self._change(files, line["key"], line["value"])
        ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
        number = 1 + sum(name.startswith("refs/pr/") for name in self.refs)
        if pull_request:
            ref = f"refs/pr/{number}"
            self.refs[ref] = parent.sha
        commit = self.add(ref, header["value"]["summary"], files)
        facts = {"success": True, "commitOid": commit.sha, "commitUrl": f"{self.url}/commit/{commit.sha}"}
        if pull_request:
            facts["pullRequestUrl"] = f"{self.url}/discussions/{number}"
        return Answer(200, facts)

    def _change(self, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if path.startswith("/") or {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
            raise Refused(400, f"{path!r} is no path inside a repository")
        if key == "file":
            content = base64.b64decode(value["content"], validate=True)
            if by_lfs({"path": path, "size": len(content)}):
                raise Refused(400, f"{path} must be uploaded by LFS: {len(content)} bytes")
            files[path] = self.store(content, lfs=False)
        elif key == "lfsFile":
            if len(self.blobs.get(value["oid"], b"")) != value["size"] or value["algo"] != "sha256":
                raise Refused(400, f"{path}: the LFS object {value['oid']} was never uploaded")
            files[path] = self.store(self.blobs[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(f"{path.rstrip('/')}/")]
            if not gone:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"unknown operation {key!r}")


def by_lfs(item: dict[str, Any]) -> bool:
    """Whether a file of this path and size is kept by LFS; empty files are not."""
    return item["size"] > LFS_BYTES or (item["size"] > 0 and any(fnmatch(item["path"], p) for p in LFS_NAMES))


def read_json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise Refused(400, f"no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "no JSON object")
    return found
