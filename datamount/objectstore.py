"""Where snapshots are kept: a few calls over a folder, a bucket, or the controller's gateway.

Keys are relative, `/`-separated, made of [A-Za-z0-9._%=/-]: the snapshot engine makes them, so no store has to
escape. An object appears whole or not at all. Safety of the snapshots never depends on `if_absent`: stores that
ignore it only lose an optimisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's key, size in bytes and modification time (seconds since the epoch, the store's clock)."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """One store, opened at its prefix. Safe to use from several threads."""

    url: str
    """For messages; never holds a secret."""

    def put(self, key: str, body: bytes | Path, *, if_absent: bool = False) -> None:
        """Store an object durably. With `if_absent`, Conflict when the key exists (where the store can tell)."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes [start, stop) of an object. NotFound when there is none."""

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """As `get`, in chunks, for objects that may be large."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in no particular order."""

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""
