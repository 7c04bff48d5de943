"""The course as it was shipped, recorded at launch before any student code runs.

`record` hashes the whole tree into `pristine.json` of the state folder and keeps a copy of what a student is likely
to edit: notebooks up to 10 MiB, other files up to 1 MiB, 256 MiB in all, notebooks first. Not more, because the copy
costs the launch time and disk; not hashes alone, because the merge base of an edited file would then be lost the
moment it is first saved over. What was not kept can still be merged file by file, only not line by line.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat as st
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from datamount.snapshots.excludes import Excludes
from datamount.snapshots.scan import Patience, read_file, scan
from datamount.status import write_atomic

FILE = "pristine.json"
COPIES = "pristine"
NOTEBOOK_LIMIT = 10 << 20
FILE_LIMIT = 1 << 20
TOTAL_LIMIT = 256 << 20
_FORMAT = 1


@dataclass(frozen=True)
class Pristine:
    """What the course shipped: sha256 and size by path, and the copies that were kept."""

    files: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    copies: Path | None = None

    def large(self, limit: int) -> dict[str, str]:
        """Path → sha256 of the shipped files over `limit` bytes."""
        return {path: self.files[path] for path, size in self.sizes.items() if size > limit}

    def listed_only(self, path: str, size: int, limit: int) -> bool:
        """Whether a file of this size is, by the look of it, shipped and too large to store."""
        return size > limit and self.sizes.get(path) == size

    def missing(self, folder: Path) -> dict[str, str]:
        """The shipped files that are not in `folder` any more, with their digests."""
        return {path: sha256 for path, sha256 in self.files.items() if not os.path.lexists(folder / path)}

    def content(self, sha256: str) -> bytes | None:
        """The copy of a shipped file, None when none was kept or it is not what it was."""
        if self.copies is None:
            return None
        try:
            data = (self.copies / sha256).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None


def record(folder: Path, state_dir: Path) -> Pristine:
    """Hash the course tree in `folder` and keep copies; replaces what was recorded before. Files that a save would
    leave out by default are left out here too."""
    found = [f for f in scan(folder, Excludes()).found if f.is_file]
    found.sort(key=lambda f: (not f.path.endswith(".ipynb"), f.stat.st_size))
    copies = state_dir / COPIES
    copies.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    sizes: dict[str, int] = {}
    left = TOTAL_LIMIT
    for entry in found:
        limit = NOTEBOOK_LIMIT if entry.path.endswith(".ipynb") else FILE_LIMIT
        with suppress(OSError):
            reading = read_file(folder, entry.path, min(limit, left), Patience(0))
            files[entry.path], sizes[entry.path] = reading.sha256, reading.size
            if reading.data is not None and reading.size <= min(limit, left) and not (copies / reading.sha256).exists():
                write_atomic(copies / reading.sha256, reading.data, st.S_IRUSR | st.S_IWUSR)
                left -= reading.size
    document = {"format": _FORMAT, "files": {p: [files[p], sizes[p]] for p in sorted(files)}}
    write_atomic(state_dir / FILE, json.dumps(document).encode(), 0o600)
    return Pristine(files, sizes, copies)


def load_pristine(state_dir: Path | None) -> Pristine:
    """What `record` wrote; empty when there is nothing, or nothing that can be read."""
    if state_dir is None:
        return Pristine()
    try:
        files = json.loads((state_dir / FILE).read_bytes())["files"]
        return Pristine({p: f[0] for p, f in files.items()}, {p: f[1] for p, f in files.items()}, state_dir / COPIES)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return Pristine()
