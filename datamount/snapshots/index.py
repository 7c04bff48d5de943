"""What this machine remembers of a folder between saves, so that an unchanged tree costs neither hashing nor requests.

One file in the state folder; its first line is the sha256 of the rest. Lost, corrupt or of another workspace: the
next save hashes everything again and asks the store, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datamount.snapshots.versionfile import Location, VersionInfo, header, read_header
from datamount.status import write_atomic

FILE = "index.json"
_FORMAT = 2
_TICK_NS = 20_000_000
"""Kernels stamp files by their timer tick (1–10 ms): a file changed this shortly before it was read could change
once more without a new time."""
_COARSE_NS = 2_000_000_000
"""The same for file systems that stamp whole seconds."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was when it was last hashed."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    sha256: str


@dataclass
class Index:
    """Hashes by path, and what the last version of this workspace stored where."""

    workspace: str
    folder: str
    writer: str = field(default_factory=lambda: secrets.token_hex(8))
    last: VersionInfo | None = None
    """The version that this folder comes from: the last one saved from it or restored to it."""
    files: dict[str, Known] = field(default_factory=dict)
    locations: dict[str, Location] = field(default_factory=dict)
    """sha256 → place, only of what `last` holds: anything else may have been collected."""
    bases: set[str] = field(default_factory=set)
    seen: float = 0.0
    """When a list of the store last showed `last`, in seconds of this machine's clock."""
    changed: bool = False

    def lookup(self, path: str, stat: os.stat_result) -> str | None:
        """The sha256 of an unchanged file."""
        known = self.files.get(path)
        same = known and (known.inode, known.size, known.mtime_ns, known.ctime_ns) == (
            stat.st_ino,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )
        return known.sha256 if known and same else None

    def remember(self, path: str, stat: os.stat_result, sha256: str, read_ns: int) -> None:
        """Keep a hash, unless the file changed so shortly before it was read that its time proves nothing."""
        tick = _TICK_NS if stat.st_ctime_ns % 1_000_000 else _COARSE_NS
        if stat.st_ctime_ns + tick < read_ns:
            self.files[path] = Known(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, sha256)
        else:
            self.files.pop(path, None)
        self.changed = True

    def write(self, state_dir: Path) -> None:
        """Replace the index file. Nothing depends on it, so a failure is the caller's to ignore."""
        document = {
            "format": _FORMAT,
            "workspace": self.workspace,
            "folder": self.folder,
            "writer": self.writer,
            "last": header(self.last) if self.last else None,
            "files": {p: [k.inode, k.size, k.mtime_ns, k.ctime_ns, k.sha256] for p, k in self.files.items()},
            "locations": {s: list(asdict(place).values()) for s, place in self.locations.items()},
            "bases": sorted(self.bases),
            "seen": self.seen,
        }
        body = json.dumps(document, separators=(",", ":")).encode()
        write_atomic(state_dir / FILE, hashlib.sha256(body).hexdigest().encode() + b"\n" + body, 0o600)
        self.changed = False


def read_index(state_dir: Path | None, workspace: str, folder: Path) -> Index:
    """The index of this folder and workspace, or a new one."""
    fresh = Index(workspace, str(folder))
    if state_dir is None:
        return fresh
    try:
        digest, _, body = (state_dir / FILE).read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return fresh
        document = json.loads(body)
        if (document["format"], document["workspace"]) != (_FORMAT, workspace):
            return fresh
        if document["folder"] != str(folder):
            return Index(workspace, str(folder), writer=document["writer"])
        return Index(
            workspace=workspace,
            folder=str(folder),
            writer=document["writer"],
            last=read_header(document["last"]) if document["last"] else None,
            files={p: Known(*k) for p, k in document["files"].items()},
            locations={s: Location(*place) for s, place in document["locations"].items()},
            bases=set(document["bases"]),
            seen=float(document["seen"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return fresh
