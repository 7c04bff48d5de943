"""Repos, branches, commits and files of the stand-in, kept in one folder.

Contents lie in `blobs/`, named by their SHA-256; everything else in `state.json`, rewritten after each change, so
that a server that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


class Fault(Exception):
    """An answer that is an error: a gRPC status code's name and pachd's words."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(frozen=True)
class Blob:
    """The content of one file; `hash` is what pachd would call it (hex)."""

    name: str
    size: int
    hash: str


@dataclass
class Commit:
    id: str
    repo: str
    parent: str = ""
    branch: str = ""
    description: str = ""
    started: float = 0.0
    finishing: float = 0.0
    finished: float = 0.0
    error: str = ""
    files: dict[str, Blob] = field(default_factory=dict)


@dataclass
class Repo:
    """`branches` maps a name to the ID of its head."""

    key: str
    description: str = ""
    created: float = 0.0
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    roles: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class Token:
    """Who signs in with it, and until when (seconds since the epoch; 0: for ever)."""

    subject: str
    expires: float = 0.0


def new_id() -> str:
    """As pachd makes them: a UUID of version 4 without dashes."""
    text = secrets.token_hex(16)
    return f"{text[:12]}4{text[13:]}"


def clean(path: str) -> str:
    """pachd's CleanPath: "", "a/", "/a//b" → "/", "/a", "/a/b"."""
    return "/" + "/".join(part for part in path.split("/") if part)


_PRINTABLE = re.compile(r"[ -~]+\Z")
_GLOB = re.compile(r"[*?\[\]{}!()@+^]")


def check_file_name(path: str) -> None:
    if not _PRINTABLE.match(path):
        raise Fault("UNKNOWN", f"path ({path}) invalid: only printable ASCII characters allowed")
    if found := _GLOB.search(path):
        raise Fault("UNKNOWN", f"path ({path}) invalid: globbing character ({found[0]}) not allowed in path")
    if any(part in (".", "..") for part in path.split("/")):
        raise Fault("UNKNOWN", f"path ({path}) invalid: relative file paths are not allowed")


def check_name(name: str) -> None:
    if not re.fullmatch(r"[a-zA-Z0-9_-]+", name):
        raise Fault(
            "UNKNOWN", f"name ({name}) invalid: only alphanumeric characters, underscores, and dashes are allowed"
        )


class State:
    """All that the server knows. Calls hold `lock`; a change ends with `save`."""

    def __init__(self, folder: Path, *, finish_seconds: float = 0.0) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self.file = folder / "state.json"
        self.finish_seconds = finish_seconds
        self.lock = threading.RLock()
        self.projects: dict[str, str] = {"default": ""}
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, Token] = {}
        if self.file.exists():
            self._load()

    def save(self) -> None:
        document = {
            "projects": self.projects,
            "repos": [asdict(repo) for repo in self.repos.values()],
            "tokens": {name: asdict(token) for name, token in self.tokens.items()},
        }
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(document))
        temporary.replace(self.file)

    def _load(self) -> None:
        document: dict[str, Any] = json.loads(self.file.read_text())
        self.projects = document["projects"]
        self.tokens = {name: Token(**token) for name, token in document["tokens"].items()}
        for entry in document["repos"]:
            commits = {
                key: Commit(**{**commit, "files": {path: Blob(**blob) for path, blob in commit["files"].items()}})
                for key, commit in entry["commits"].items()
            }
            self.repos[entry["key"]] = Repo(**{**entry, "commits": commits})

    # --- looking up ---------------------------------------------------------------------------------------------

    def repo(self, key: str) -> Repo:
        project = key.partition("/")[0]
        if project not in self.projects:
            raise Fault("NOT_FOUND", f'project "{project}" not found')
        if key not in self.repos:
            raise Fault("NOT_FOUND", f"repo {key} not found")
        return self.repos[key]

    def commit(self, key: str, commit: str, branch: str) -> Commit:
        """By ID, else the head of a branch; an ID may end in `^`s, and may be a branch's name."""
        trying = f"pick commit tx: commit {key}@{commit} not found\n"
        if not commit and not branch:
            raise Fault("UNKNOWN", "pick commit tx: cannot pick commit with no ID or branch")
        try:
            repo = self.repo(key)
        except Fault as fault:
            if fault.text.startswith("project"):
                raise Fault(
                    fault.code,
                    f"pick commit tx: picking commit: picking branch: picking repo: picking project: {fault.text}",
                ) from None
            raise Fault(fault.code, trying + fault.text) from None
        name = commit.rstrip("^") or branch
        up = len(commit) - len(commit.rstrip("^"))
        found = repo.commits.get(repo.branches.get(name, name))
        if found is None:
            if re.fullmatch(r"[0-9a-f]{32}", commit):
                raise Fault("NOT_FOUND", f"{trying}commit {key}@{commit} not found")
            raise Fault("NOT_FOUND", f'{trying}branch "{branch}" not found in repo {key}')
        for _ in range(up):
            if not found.parent or found.parent not in repo.commits:
                raise Fault("NOT_FOUND", f"{trying}commit {key}@{commit} not found")
            found = repo.commits[found.parent]
        self.settle(found)
        return found

    def settle(self, commit: Commit) -> None:
        """Finish what has been finishing for long enough."""
        if commit.finishing and not commit.finished and time.time() >= commit.finishing + self.finish_seconds:
            commit.finished = max(time.time(), commit.finishing)

    # --- changing -----------------------------------------------------------------------------------------------

    def start(self, key: str, branch: str, *, description: str = "") -> Commit:
        check_name(branch)
        try:
            repo = self.repo(key)
        except Fault as fault:
            raise Fault(fault.code, f"start commit in transaction: {fault.text}") from None
        parent = repo.commits.get(repo.branches.get(branch, ""))
        if parent and not parent.finishing:
            raise Fault(
                "UNKNOWN",
                f"start commit in transaction: create commit: parent commit {key}@{parent.id} has not been finished",
            )
        files = dict(parent.files) if parent and not parent.error else {}
        commit = Commit(new_id(), key, parent.id if parent else "", branch, description, time.time(), files=files)
        repo.commits[commit.id] = commit
        repo.branches[branch] = commit.id
        return commit

    def finish(self, commit: Commit, *, error: str = "", description: str = "") -> None:
        if commit.finishing:
            raise Fault("UNKNOWN", f"commit {commit.repo}@{commit.id} has already finished")
        commit.finishing = time.time()
        commit.description = description or commit.description
        commit.error = error or _collision(commit.files)
        self.settle(commit)

    def read(self, blob: Blob, start: int = 0) -> Iterator[bytes]:
        with (self.blobs / blob.name).open("rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        change = Change(self)
        try:
            yield change
        finally:
            change.discard()


def _collision(files: dict[str, Blob]) -> str:
    """pachd's complaint where a file's path is a folder of another."""
    for path in sorted(files):
        parts = path.split("/")
        for end in range(2, len(parts)):
            if "/".join(parts[:end]) in files:
                return f"file / directory path collision ({path})"
    return ""


class Change:
    """The puts and deletes of one ModifyFile call: nothing is seen before `apply`."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._path = ""
        self._file: Any = None
        self._before: dict[str, Blob] = {}

    def begin(self, before: dict[str, Blob]) -> None:
        self._before = dict(before)

    def put(self, path: str, data: bytes) -> None:
        """Append to a file; consecutive calls for one path stream into one blob."""
        check_file_name(path)
        path = clean(path)
        if path == "/":
            return  # pachd takes it too, and keeps nothing
        if path != self._path or self._file is None:
            self._end()
            self._path = path
            self._file = (self.state.blobs / f".new-{secrets.token_hex(8)}").open("w+b")
            if old := self._before.get(path):
                for chunk in self.state.read(old):
                    self._file.write(chunk)
        self._file.write(data)

    def delete(self, path: str) -> None:
        """A file, or (ending in "/") a folder with all below."""
        self._end()
        whole = clean(path)
        self._before.pop(whole, None)
        if path.endswith("/"):
            for known in [known for known in self._before if known.startswith(whole.rstrip("/") + "/")]:
                del self._before[known]

    def files(self) -> dict[str, Blob]:
        """The files after all steps."""
        self._end()
        return self._before

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
            with contextlib.suppress(FileNotFoundError):
                Path(self._file.name).unlink()
            self._file = None

    def _end(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        self._file.seek(0)
        # pachd's hash is over the hashes of the file's chunks: none of an empty file, one below 1 MB. It cuts larger
        # ones by content, we at every 4 MB, so their hashes differ from pachd's but are as opaque.
        name, outer, size = hashlib.sha256(), hashlib.blake2b(digest_size=32), 0
        while chunk := self._file.read(4_000_000):
            name.update(chunk)
            outer.update(hashlib.blake2b(chunk, digest_size=32).digest())
            size += len(chunk)
        blob = Blob(name.hexdigest(), size, outer.hexdigest())
        self._file.close()
        Path(self._file.name).replace(self.state.blobs / blob.name)
        self._file = None
        self._before[self._path] = blob
