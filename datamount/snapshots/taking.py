"""What a save takes of a folder: where each file is in the store, what stays as it was saved before, what is left out.

The bytes go up on the way (`snapshots.pack`), so that what could not be read or has no room is known in the end.
"""

from __future__ import annotations

import os
import stat as st
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamount.snapshots.excludes import Excludes
from datamount.snapshots.index import Index
from datamount.snapshots.owed import Owed, gone
from datamount.snapshots.pack import Packed, Packer
from datamount.snapshots.pristine import Pristine
from datamount.snapshots.room import LeftOut, pack_within, room_for, worth
from datamount.snapshots.scan import FileStat, Found, Scan, printable, scan
from datamount.snapshots.versionfile import Entry, Location, Skipped

LARGE_PRISTINE = 10 * 1000 * 1000
"""Bytes. A larger file that is exactly as the course ships it is listed, not stored."""


@dataclass
class Taking:
    """One look at `folder`. `before` gives what the version that the save builds on holds; asked only where needed.
    `owed` is what could not be brought back to the folder. `tight`: the store has just refused something."""

    folder: Path
    index: Index
    packer: Packer
    pristine: Pristine
    before: Callable[[], Mapping[str, Entry]]
    exclude: Sequence[str]
    skip: Sequence[str]
    max_bytes: int | None
    owed: dict[str, Owed]
    """What the version does not carry on is taken out."""
    tight: bool
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def entries(self) -> list[Entry]:
        """The entries of the version, sorted by path. Uploads what the store lacks."""
        seen = scan(self.folder, Excludes(self.exclude, skip=self.skip))
        self.skipped += seen.skipped
        files = self._within(seen)
        packer, index = self.packer, self.index
        hashes: dict[str, str] = {}
        stats = {f.path: f.stat for f in files}
        sizes = {f.path: f.stat.st_size for f in files}
        to_read = []
        for found in files:
            sha256 = None if found.path in seen.writing else index.lookup(found.path, found.stat)
            if sha256 and (sha256 in packer.locations or packer.leave.get(found.path) == sha256):
                hashes[found.path] = sha256
            else:
                to_read.append(found)
        for packed in self._pack(to_read, len(files)):
            hashes[packed.path] = packed.reading.sha256
            stats[packed.path] = packed.reading.stat
            sizes[packed.path] = packed.reading.size
            index.remember(packed.path, packed.reading.stat, packed.reading.sha256, packed.reading.read_ns)
            if packed.reading.warning:
                self.warnings.append(packed.reading.warning)
        others = [_other(found) for found in seen.found if not found.is_file]
        kept = [e for path, why in (seen.unreadable | packer.unread).items() for e in self._unreadable(path, why)]
        for path in index.files.keys() - hashes.keys():
            del index.files[path]
            index.changed = True
        entries = [
            *(_file(p, stats[p], sizes[p], s, packer.locations.get(s), self.pristine) for p, s in hashes.items()),
            *self.left_out.kept,
            *({e.path: e for e in [*kept, *others]}.values()),
        ]
        entries = self._with_owed(entries)
        self.skipped += self.left_out.skipped
        self.warnings += self.left_out.warnings
        entries.sort(key=lambda e: e.path)
        return entries

    def _unreadable(self, path: str, why: str) -> list[Entry]:
        """What the version before holds of a file or folder that cannot be read: a version without it would restore
        without it."""
        kept = [e for e in self.before().values() if e.path == path or e.path.startswith(f"{path}/")]
        why = f"cannot be read ({why})"
        if kept:
            self.warnings.append(f"{printable(path)} {why}; what was saved of it before is kept")
        else:
            self.skipped.append(Skipped(path, why))
            self.warnings.append(f"{printable(path)} {why}")
        return kept

    def _with_owed(self, entries: list[Entry]) -> list[Entry]:
        """The same with what could not be brought back, where nothing has taken its place since."""
        there = {entry.path: entry for entry in entries}
        for path in [path for path, owed in self.owed.items() if not owed.still(there)]:
            del self.owed[path]
        missing = gone(self.packer.store, self.packer.prefix, self.owed.values())
        for path, owed in list(self.owed.items()):
            if owed.entry.location and owed.entry.location.object in missing:
                del self.owed[path]
                self.skipped.append(Skipped(path, "could not be brought back, and is not in the store any more"))
            else:
                # Whether its merge base is stored is found out anew, as of every file.
                there[path] = replace(owed.entry, base_stored=False)
        if self.owed:
            some = ", ".join(map(printable, sorted(self.owed)[:5]))
            more = f" and {len(self.owed) - 5} more" if len(self.owed) > 5 else ""
            self.warnings.append(f"{some}{more} could not be brought back; what was saved before is kept")
        return list(there.values())

    def _within(self, seen: Scan) -> list[Found]:
        """The files to save: all, or those that fit the limit, notebooks and small ones first."""
        files = [f for f in seen.found if f.is_file]
        limit = self.max_bytes
        if limit is None:
            return files
        left = limit
        kept = set()
        for found in sorted(files, key=worth):
            size = 0 if self._listed_only(found) else found.stat.st_size
            if size <= left:
                left -= size
                kept.add(found.path)
            else:
                self.left_out.beyond(found, limit)
        return [f for f in files if f.path in kept]

    def _pack(self, files: list[Found], count: int) -> Iterator[Packed]:
        """Store these files, of `count` in all; those that there is no room for are left out."""
        room = room_for(files, self.packer.store, tight=self.tight)
        if room is None:
            return self.packer.pack(found.path for found in files)
        return pack_within(self.packer, files, room, self.before(), self._listed_only, self.left_out, count)

    def _listed_only(self, found: Found) -> bool:
        return self.pristine.listed_only(found.path, found.stat.st_size, LARGE_PRISTINE)


def inside(state_dir: Path | None, folder: Path) -> list[str]:
    """The state folder as a path below the folder, when it is there: it is not the student's work."""
    with suppress(ValueError):
        if state_dir is not None:
            return [Path(os.path.abspath(state_dir)).relative_to(folder).as_posix()]  # noqa: PTH100
    return []


def _file(  # noqa: PLR0917
    path: str, stat: FileStat, size: int, sha256: str, place: Location | None, pristine: Pristine
) -> Entry:
    shipped = pristine.files.get(path, "")
    return Entry(
        path,
        "file",
        st.S_IMODE(stat.st_mode) & 0o777,
        stat.st_mtime_ns,
        size=size,
        sha256=sha256,
        location=place,
        pristine=shipped == sha256,
        base=shipped if shipped != sha256 else "",
        sparse=stat.st_blocks * 512 < stat.st_size // 2,
    )


def _other(found: Found) -> Entry:
    return Entry(
        found.path,
        "folder" if found.is_folder else "link",
        st.S_IMODE(found.stat.st_mode) & 0o777,
        found.stat.st_mtime_ns,
        target=found.target,
    )
