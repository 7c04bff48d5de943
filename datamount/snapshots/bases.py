"""Merge bases: what the course shipped of a file that the student changed or removed, `base/<sha256>.zst`.

Versions name a base by its digest, so a base that is needed again while its object is condemned gets a second object,
`base/<sha256>.<random>.zst`, and readers take any of them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection

import zstandard

from datamount.errors import NotFound, VerificationFailed
from datamount.objectstore import ObjectStore
from datamount.snapshots.versionfile import Version

FOLDER = "base/"
_LEVEL = 3
_KEY = re.compile(r"base/([0-9a-f]{64})(?:\.[0-9a-f]{12})?\.zst")


def sha256_of(key: str) -> str | None:
    """Whose base an object is; None for a key that is no base's."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


def put_base(store: ObjectStore, prefix: str, sha256: str, content: bytes, condemned: Collection[str] = ()) -> int:
    """Store a base under a name that is not condemned; how many bytes went up."""
    key = f"{FOLDER}{sha256}.zst"
    if key in condemned:
        key = f"{FOLDER}{sha256}.{secrets.token_hex(6)}.zst"
    squeezed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
    store.put(prefix + key, squeezed)
    return len(squeezed)


def get_base(store: ObjectStore, prefix: str, sha256: str) -> bytes:
    """The content of a base. NotFound, or VerificationFailed when what is stored is not it."""
    key = f"{prefix}{FOLDER}{sha256}"
    try:
        stored = store.get(f"{key}.zst")
    except NotFound:
        other = next((o.key for o in store.list(f"{key}.")), None)
        if other is None:
            raise
        stored = store.get(other)
    try:
        content: bytes = zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError as error:
        raise VerificationFailed(f"The course's content {sha256[:12]}… is damaged in the store.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise VerificationFailed(f"The course's content {sha256[:12]}… is damaged in the store.")
    return content


def stored_bases(version: Version) -> set[str]:
    """The digests of the bases that are in the store, as the version says."""
    return {e.base for e in version.entries if e.base_stored}


def wanted_bases(version: Version) -> set[str]:
    """The digests of all bases that a merge with the version would ask for, stored or not."""
    return stored_bases(version) | set(version.deleted.values())
