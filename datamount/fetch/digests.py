"""Digests computed while bytes pass by."""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

from datamount.drivers.base import Buffer, Digest

CHUNKED = "sha2-256-chunked"
_PART = 8 * 1024 * 1024
_PARTS = 10_000


class Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def hexdigest(self) -> str: ...


class Chunked:
    """SHA-256 of the parts' SHA-256s, as Quilt computes it (quilt3 `checksums.py`).

    Parts are 8 MiB, doubled until there are at most 10,000. An object of no bytes has no parts.
    """

    def __init__(self, size: int) -> None:
        self._part = _PART
        while math.ceil(size / self._part) > _PARTS:
            self._part *= 2
        self._whole = hashlib.sha256()
        self._current = hashlib.sha256()
        self._filled = 0

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data).cast("B")
        while view:
            taken = view[: self._part - self._filled]
            self._current.update(taken)
            self._filled += len(taken)
            view = view[len(taken) :]
            if self._filled == self._part:
                self._whole.update(self._current.digest())
                self._current, self._filled = hashlib.sha256(), 0

    def hexdigest(self) -> str:
        whole = self._whole.copy()
        if self._filled:
            whole.update(self._current.digest())
        return whole.hexdigest()


class Digester:
    """SHA-256 of everything, and beside it what is promised in another algorithm."""

    def __init__(self, promised: Digest | None, size: int | None) -> None:
        self.promised = promised
        self._sha256 = hashlib.sha256()
        self._other: Hash | None = None
        if promised and promised.algorithm == "md5":
            self._other = hashlib.md5(usedforsecurity=False)
        elif promised and promised.algorithm == CHUNKED:
            self._other = Chunked(size or 0)
        elif promised and promised.algorithm != "sha256":
            raise ValueError(f"unknown digest algorithm {promised.algorithm!r}")

    def update(self, data: Buffer) -> None:
        self._sha256.update(data)
        if self._other:
            self._other.update(data)

    def sha256(self) -> str:
        """Of what passed so far."""
        return self._sha256.hexdigest()

    def found(self) -> str:
        """In the promised algorithm."""
        return (self._other or self._sha256).hexdigest()

    def holds(self) -> bool:
        """Whether what passed is what was promised; true where nothing was."""
        return self.promised is None or self.found() == self.promised.value.lower()
