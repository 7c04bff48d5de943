"""How far a large object's partial file is proven: offsets, and the digest of everything before each.

One JSON line a checkpoint, `[offset, sha256]`, in a file beside the partial one. A line that does not parse (torn by a
kill) is ignored. What a line says is believed when the partial file, read again, has that digest.
"""

from __future__ import annotations

import json
import os
from types import TracebackType


class Checkpoints:
    """The checkpoints in one file of an open folder. A context: closed at its end, and the file stays."""

    def __init__(self, folder: int, name: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(name, flags, 0o600, dir_fd=folder)
        self._marks: dict[int, str] = {}
        for line in os.pread(self._handle, os.fstat(self._handle).st_size, 0).splitlines():
            try:
                offset, sha256 = json.loads(line)
                self._marks[int(offset)] = str(sha256)
            except (ValueError, TypeError):
                continue

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._handle)

    def until(self, size: int) -> list[tuple[int, str]]:
        """The checkpoints of a file of `size` bytes, in order."""
        return sorted((offset, sha256) for offset, sha256 in self._marks.items() if 0 < offset <= size)

    def add(self, offset: int, sha256: str) -> None:
        """Write down that the file has these bytes; call it after they were written."""
        self._marks[offset] = sha256
        os.write(self._handle, _line(offset, sha256))

    def forget_after(self, offset: int) -> None:
        """Keep those up to `offset` only."""
        self._marks = dict(self.until(offset))
        os.ftruncate(self._handle, 0)
        os.write(self._handle, b"".join(_line(*mark) for mark in self.until(offset)))


def _line(offset: int, sha256: str) -> bytes:
    return json.dumps([offset, sha256]).encode() + b"\n"
