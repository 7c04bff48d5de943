"""What this machine remembers of a folder between saves, so that an unchanged tree costs neither hashing nor requests.

One file in the state folder, in lines, so that neither reading nor writing it takes memory beside what it tells; the
last line is the sha256 of the others. Lost, corrupt or of another workspace: the next save hashes everything again and
asks the store, and nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from datamount.snapshots.scan import FileStat
from datamount.snapshots.versionfile import Location, VersionInfo, header, read_header
from datamount.status import write_atomic

FILE = "index.json"
_FORMAT = 3
_ROWS = 256
"""Files a line."""
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

    def lookup(self, path: str, stat: FileStat) -> str | None:
        """The sha256 of an unchanged file."""
        known = self.files.get(path)
        same = known and (known.inode, known.size, known.mtime_ns, known.ctime_ns) == (
            stat.st_ino,
            stat.st_size,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
        )
        return known.sha256 if known and same else None

    def remember(self, path: str, stat: FileStat, sha256: str, read_ns: int) -> None:
        """Keep a hash, unless the file changed so shortly before it was read that its time proves nothing."""
        tick = _TICK_NS if stat.st_ctime_ns % 1_000_000 else _COARSE_NS
        if stat.st_ctime_ns + tick < read_ns:
            self.files[path] = Known(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, sha256)
        else:
            self.files.pop(path, None)
        self.changed = True

    def write(self, state_dir: Path) -> None:
        """Replace the index file. Nothing depends on it, so a failure is the caller's to ignore."""
        write_atomic(state_dir / FILE, _sealed(self._lines()), 0o600)
        self.changed = False

    def _lines(self) -> Iterator[bytes]:
        objects = {key: n for n, key in enumerate(dict.fromkeys(place.object for place in self.locations.values()))}
        yield _line(
            {
                "format": _FORMAT,
                "workspace": self.workspace,
                "folder": self.folder,
                "writer": self.writer,
                "last": header(self.last) if self.last else None,
                "bases": sorted(self.bases),
                "seen": self.seen,
                "objects": list(objects),
            }
        )
        places = ((s, objects[p.object], p.offset, p.length, p.encoding) for s, p in self.locations.items())
        known = ((p, k.inode, k.size, k.mtime_ns, k.ctime_ns, k.sha256) for p, k in self.files.items())
        for kind, rows in (("locations", places), ("files", known)):
            while rows_of_line := list(islice(rows, _ROWS)):
                yield _line({kind: rows_of_line})


def read_index(state_dir: Path | None, workspace: str, folder: Path) -> Index:
    """The index of this folder and workspace, or a new one."""
    fresh = Index(workspace, str(folder))
    if state_dir is None:
        return fresh
    try:
        with (state_dir / FILE).open("rb") as file:
            lines = _unsealed(file)
            head = json.loads(next(lines))
            if (head["format"], head["workspace"]) != (_FORMAT, workspace):
                return fresh
            index = Index(workspace, str(folder), writer=head["writer"])
            index.last = read_header(head["last"]) if head["last"] else None
            index.bases, index.seen = set(head["bases"]), float(head["seen"])
            same: dict[str, str] = {}
            for line in lines:
                document = json.loads(line)
                for sha256, number, *place in document.get("locations", ()):
                    index.locations[sha256] = Location(head["objects"][number], *place)
                    same[sha256] = sha256
                for path, inode, size, mtime_ns, ctime_ns, sha256 in document.get("files", ()):
                    index.files[path] = Known(inode, size, mtime_ns, ctime_ns, same.get(sha256, sha256))
        return index if head["folder"] == str(folder) else Index(workspace, str(folder), writer=head["writer"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        return fresh


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _sealed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, and one more with their sha256."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
        yield line
    yield digest.hexdigest().encode()


def _unsealed(file: IO[bytes]) -> Iterator[bytes]:
    """The lines without the last one; ValueError in the end when that is not their sha256."""
    digest = hashlib.sha256()
    line = b""
    for line in file:
        if line.endswith(b"\n"):
            digest.update(line)
            yield line
    if line != digest.hexdigest().encode():
        raise ValueError("the index is damaged")
