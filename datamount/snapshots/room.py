"""What a save takes where the store has little room: notebooks first, then the smallest files; the rest is named.

A file that has grown too large stays in the new version as it was saved before: a version without it would restore
without it. Files count as large as they are, and are taken in turns, because many are stored smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from datamount.errors import QuotaExceeded
from datamount.objectstore import Limited, ObjectStore, Room
from datamount.snapshots.pack import Packed, Packer
from datamount.snapshots.scan import Found, printable
from datamount.snapshots.versionfile import Entry, Skipped

SMALL = 1 << 20
"""Bytes; a file up to this may use the reserve, as notebooks may: scripts, texts, results."""
NOTEBOOK = 8 << 20
"""Bytes; the same for notebooks."""
UNASKED = 64 << 20
"""Bytes that are sent before a store has ever told what it has room for: a refusal is then soon enough."""
_VERSION = 64 << 10
_ENTRY = 250
"""Bytes of the version object, and of it for each file: measured 150–220, more with long names."""


def worth(found: Found) -> tuple[bool, int, str]:
    """Sorts files by what is saved first."""
    return not found.path.endswith(".ipynb"), found.stat.st_size, found.path


def fitting(files: Iterable[Found], room: Room, used: int) -> tuple[list[Found], list[Found]]:
    """The files that fit for certain beside `used` bytes of the room, and the others."""
    fit, rest = [], []
    for found in sorted(files, key=worth):
        size = found.stat.st_size
        if used + size <= room.left + (room.reserve if _may_use_reserve(found) else 0):
            used += size
            fit.append(found)
        else:
            rest.append(found)
    return fit, rest


def _may_use_reserve(found: Found) -> bool:
    return found.stat.st_size <= (NOTEBOOK if found.path.endswith(".ipynb") else SMALL)


@dataclass
class LeftOut:
    """What a save left out for its size."""

    skipped: list[Skipped] = field(default_factory=list)
    """Files that the version does not hold."""
    stale: list[Skipped] = field(default_factory=list)
    """Files of which it holds what was saved before: their entries are `kept`."""
    kept: list[Entry] = field(default_factory=list)
    missed: bool = False
    """Whether one of them is a notebook or a small file, which a full workspace should take."""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(item.path for item in (*self.skipped, *self.stale))

    @property
    def warnings(self) -> list[str]:
        return [f"{printable(item.path)} is {item.reason}" for item in self.stale]

    def beyond(self, found: Found, limit: int) -> None:
        """Leave out a file that is over the limit of one version."""
        self.skipped.append(Skipped(found.path, f"over the limit of {limit / 1e6:.4g} MB for saved work"))

    def no_room(self, found: Found, before: Entry | None, room: Room) -> None:
        """Leave out a file for which the store has no room."""
        self.missed |= _may_use_reserve(found)
        why = f"over the quota of {room.limit / 1e6:.4g} MB for saved work, of which {max(room.left, 0) / 1e6:.4g} MB "
        why += f"were left for its {found.stat.st_size / 1e6:.4g} MB"
        if before and before.type == "file":
            self.kept.append(before)
            self.stale.append(Skipped(found.path, f"{why}; the version holds what was saved of it before"))
        else:
            self.skipped.append(Skipped(found.path, why))

    def full(self) -> QuotaExceeded:
        """The error of a save that could keep nothing of what it had to."""
        names = ", ".join(map(printable, self.paths[:3]))
        more = f" and {len(self.paths) - 3} more" if len(self.paths) > 3 else ""
        return QuotaExceeded(
            f"the quota for your saved work in this course is used up: {names}{more} could not be saved; what was "
            "saved before is safe.",
            hint="Download what you need (File > Download), make large files smaller, or ask the hub's operator for a "
            "higher quota.",
            who="you",
            left=0,
        )


def room_for(files: list[Found], store: ObjectStore, *, tight: bool) -> Room | None:
    """What the store has room for; None where all of the files fit, also if nothing of them is there yet. `tight`: the
    store has just refused something, so that what it told before does not count."""
    if not files or not isinstance(store, Limited):
        return None
    wanted = sum(found.stat.st_size for found in files)
    known = store.known_room
    if known is None and wanted <= UNASKED and not tight:
        return None
    if not tight and wanted <= (known or store.room()).left:
        return None
    room = store.room(fresh=True)
    return room if tight or wanted > room.left else None


def pack_within(  # noqa: PLR0917
    packer: Packer,
    files: list[Found],
    room: Room,
    before: Mapping[str, Entry],
    listed_only: Callable[[Found], bool],
    left_out: LeftOut,
    count: int,
) -> Iterator[Packed]:
    """Store what there is room for beside a version object of `count` files; the rest goes to `left_out`.

    `before` is what the version before holds by path; `listed_only` tells files that need not be stored.
    """
    free = {f.path for f in files if listed_only(f) or _is_as_before(f, before.get(f.path))}
    yield from packer.pack(free)
    waiting = [found for found in files if found.path not in free]
    spare = _VERSION + count * _ENTRY
    while waiting:
        fit, waiting = fitting(waiting, room, packer.uploaded + spare)
        if not fit:
            break
        yield from packer.pack(found.path for found in fit)
    for found in waiting:
        left_out.no_room(found, before.get(found.path), room)


def _is_as_before(found: Found, before: Entry | None) -> bool:
    """Whether the store most likely has this file already."""
    if before is None or before.type != "file":
        return False
    return (before.size, before.mtime_ns) == (found.stat.st_size, found.stat.st_mtime_ns)
