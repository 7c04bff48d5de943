"""Where snapshots are kept: a few calls over a folder, a bucket, or the controller's gateway.

Keys are relative, `/`-separated, made of [A-Za-z0-9._%=/-]: the snapshot engine makes them, so no store has to
escape. An object appears whole or not at all. Safety of the snapshots never depends on `if_absent`: stores that
ignore it only lose an optimisation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

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

    def delete(self, key: str) -> None:
        """Remove an object; no error when there is none."""


_KEY = re.compile(r"[A-Za-z0-9._%=-]+(?:/[A-Za-z0-9._%=-]+)*")


def check_key(key: str) -> str:
    """The key itself; UsageError for one that a store could read as another place."""
    if not _KEY.fullmatch(key) or any(part in (".", "..") for part in key.split("/")):
        raise UsageError(f"{key!r} is not a valid key of a store.")
    return key


def open_store(url: str, endpoint_url: str | None = None) -> ObjectStore:
    """The store at `file:///folder` or `s3://bucket/prefix`.

    S3 takes region and credentials from the usual AWS variables, and its address from `endpoint_url`, else
    AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL. No request is made here. UsageError for any other URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        from datamount.stores.folder import FolderStore

        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc and "@" not in parts.netloc and not parts.query:
        from datamount.stores.s3 import S3Store

        return S3Store(parts.netloc, unquote(parts.path).strip("/"), endpoint_url=endpoint_url)
    raise UsageError(
        "The store's URL is not one that datamount knows.",
        hint="Write file:///path/of/a/folder or s3://bucket/prefix, without credentials in it.",
        who="you",
    )
