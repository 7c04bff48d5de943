"""Which files a save takes where the store has little room: notebooks first, then the smallest; the rest is named."""

from __future__ import annotations

from collections.abc import Iterable

from datamount.objectstore import Room
from datamount.snapshots.scan import Found

SMALL = 1 << 20
"""Bytes; a file up to this may use the reserve, as notebooks may: scripts, texts, results."""
NOTEBOOK = 8 << 20
"""Bytes; the same for notebooks."""
_VERSION = 64 << 10
_ENTRY = 250
"""Bytes of the version object, and of it for each file: measured 150–220, more with long names."""


def worth(found: Found) -> tuple[bool, int, str]:
    """Sorts files by what is saved first."""
    return not found.path.endswith(".ipynb"), found.stat.st_size, found.path


def may_use_reserve(found: Found) -> bool:
    """Whether this is a file that a full workspace still takes."""
    return found.stat.st_size <= (NOTEBOOK if found.path.endswith(".ipynb") else SMALL)


def overhead(files: int) -> int:
    """Bytes to keep back for the version object itself."""
    return _VERSION + files * _ENTRY


def fitting(files: Iterable[Found], room: Room, used: int) -> tuple[list[Found], list[Found]]:
    """The files that fit for certain beside `used` bytes of the room, and the others. Each counts as large as it is;
    stored it may be smaller, so that more may fit afterwards."""
    fit, rest = [], []
    for found in sorted(files, key=worth):
        size = found.stat.st_size
        if used + size <= room.left + (room.reserve if may_use_reserve(found) else 0):
            used += size
            fit.append(found)
        else:
            rest.append(found)
    return fit, rest
