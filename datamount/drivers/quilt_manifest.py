"""The manifest of a Quilt package: JSON lines, a header and then one entry a file. Read as quilt3 writes and hashes it.

A package may have 100,000 files, so the entries are never all in memory: they are parsed anew each time that somebody
goes through them.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datamount.errors import VerificationFailed


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a package."""

    logical_key: str
    physical_key: str
    size: int
    hash: Mapping[str, str]
    meta: Mapping[str, Any]

    @property
    def place(self) -> list[str]:
        """What entries are sorted by."""
        return self.logical_key.split("/")


class Manifest:
    """Its `header`, and its entries in their order. Raises VerificationFailed where the text is no manifest."""

    def __init__(self, text: bytes, *, dataset: str) -> None:
        self._text = text
        self._starts = array("Q")
        last: list[str] = []
        ordered = True
        try:
            lines = self._lines()
            self.header: dict[str, Any] = json.loads(next(lines, (0, ""))[1])
            self.header.pop("top_hash", None)  # written by quilt3 before 2.0, not part of the hash
            for start, line in lines:
                if (entry := _entry(line)) is not None:
                    ordered, last = ordered and last <= entry.place, entry.place
                    self._starts.append(start)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise VerificationFailed(
                f'dataset "{dataset}": the package\'s manifest in the registry cannot be read '
                f"({type(error).__name__}).",
                hint="Push the package again.",
                who="the data's owner",
            ) from error
        if not ordered:
            self._starts = array("Q", sorted(self._starts, key=lambda start: self._at(start).place))

    def __iter__(self) -> Iterator[Entry]:
        return map(self._at, self._starts)

    def top_hash(self) -> str:
        """The package's top hash, as quilt3 computes it: over names, sizes, digests and metadata, not over places."""
        encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
        total = hashlib.sha256(encode(self.header).encode())
        for entry in self:
            row = {"hash": entry.hash, "logical_key": entry.logical_key, "meta": entry.meta, "size": entry.size}
            total.update(encode(row).encode())
        return total.hexdigest()

    def _lines(self) -> Iterator[tuple[int, str]]:
        start = 0
        while start < len(self._text):
            line = self._line(start)
            if line.strip():
                yield start, line.decode()
            start += len(line) + 1

    def _line(self, start: int) -> bytes:
        end = self._text.find(b"\n", start)
        return self._text[start : end if end >= 0 else None]

    def _at(self, start: int) -> Entry:
        entry = _entry(self._line(start).decode())
        assert entry is not None
        return entry


def _entry(line: str) -> Entry | None:
    """None for the metadata of a folder."""
    row = json.loads(line)
    if not row.get("physical_keys"):
        return None
    meta = row.get("meta") or {}
    return Entry(row["logical_key"], row["physical_keys"][0], int(row["size"]), dict(row["hash"]), meta)
