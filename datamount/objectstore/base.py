"""The contract of a store; its terms are in the package's docstring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from datamount.errors import UsageError

Body = bytes | Path | Iterable[bytes]
"""What `put` stores. An iterable must start anew at every `iter()` (a try may be repeated) and may raise: the
object then does not appear."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's key, size in bytes and modification time (seconds since the epoch, the store's clock)."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """One store, opened at its prefix. Safe to use from several threads."""

    @property
    def url(self) -> str:
        """For messages; never holds a secret."""

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        """Store an object durably. With `if_absent`, Conflict when the key exists (where the store can tell)."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of an object, fewer where it ends before. NotFound when there is none."""

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """As `get`, in chunks, for objects that may be large."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in no particular order."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Each next part of the keys below `prefix` (empty, or ending in `/`) that has more parts after it, once, in
        no particular order. Some stores also name one whose objects were deleted."""

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a workspace holds and may hold, in bytes. `reserve` is beyond `limit`, for notebooks and small files."""

    used: int
    limit: int
    reserve: int = 0

    @property
    def left(self) -> int:
        """Bytes of any file that still fit; less than nothing where the reserve is in use."""
        return self.limit - self.used


@runtime_checkable
class Limited(Protocol):
    """A store with a quota."""

    @property
    def known_room(self) -> Room | None:
        """What there is room for, as last told; None where that was never told."""

    def room(self, *, fresh: bool = False) -> Room:
        """What there is room for; asks only where it is not known, or for `fresh`."""


_KEY = re.compile(r"[A-Za-z0-9._%=-]+(?:/[A-Za-z0-9._%=-]+)*")


def check_key(key: str) -> str:
    """The key itself; UsageError for one that a store could read as another place."""
    if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise UsageError(f"{key!r} is not a valid key of a store.")
    return key
