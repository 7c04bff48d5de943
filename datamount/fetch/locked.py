"""The objects of one locked dataset. A lock may have 100,000 of them, so they are kept packed.

An object as a row of Python's takes over 1 KB; packed as JSON and compressed, about 0.1. Whoever wants them reads them
from the first to the last, as often as is needed.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, GetCoreSchemaHandler, TypeAdapter, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from datamount.drivers.base import Digest, Item, path_fault
from datamount.manifest import Sha256

PAGE = 500
"""Objects that are packed together: at most so many are unpacked at once."""


def _inside(path: str) -> str:
    """A lock may say anything; its paths must stay below the dataset's folder, as those of a source must."""
    if fault := path_fault(path):
        raise ValueError(f"{path!a} {fault}")
    return path


@dataclass(frozen=True, slots=True)
class LockedObject:
    """One object, as it was when the lock was written. `ref` is the driver's own."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: Annotated[str, AfterValidator(_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    identity: str
    ref: dict[str, Any] = field(default_factory=dict)

    def item(self) -> Item:
        return Item(self.path, self.size, self.identity, Digest("sha256", self.sha256), self.ref)

    def row(self) -> bytes:
        """As one line of a lock: the same object gives the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


_ROWS = TypeAdapter(list[LockedObject])


class LockedObjects:
    """In the order of their paths, of which no two are the same."""

    def __init__(self) -> None:
        self._pages: list[bytes] = []
        self._length = 0
        self._last = ""

    @classmethod
    def of(cls, objects: Iterable[LockedObject]) -> LockedObjects:
        """Objects that are in order already."""
        return cls.parse(found.row() for found in objects)

    @classmethod
    def parse(cls, rows: Iterable[bytes]) -> LockedObjects:
        """Objects that are written as JSON. Raises ValueError where one is not valid, or not in its place."""
        made = cls()
        rows = iter(rows)
        while page := b",".join(islice(rows, PAGE)):
            made._pack(b"[" + page + b"]")
        return made

    def _pack(self, page: bytes) -> None:
        for found in _ROWS.validate_json(page):
            if self._length and found.path <= self._last:
                raise ValueError(f"{found.path!a} stands twice among the objects, or not in its place")
            self._last = found.path
            self._length += 1
        self._pages.append(zlib.compress(page, 1))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[LockedObject]:
        for page in self._pages:
            yield from _ROWS.validate_json(zlib.decompress(page))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LockedObjects):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def items(self) -> Iterator[Item]:
        """What the engine has to deliver."""
        return (found.item() for found in self)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read from a list; a number is the place of objects that are packed already, in the context's list."""

        def read(value: Any, listed: Callable[[Any], list[LockedObject]], info: ValidationInfo) -> LockedObjects:
            if isinstance(value, LockedObjects):
                return value
            if info.context is not None and type(value) is int:
                found: LockedObjects = info.context[value]
                return found
            return cls.of(sorted(listed(value), key=lambda found: found.path))

        return core_schema.with_info_wrap_validator_function(read, handler.generate_schema(list[LockedObject]))


class Gathered:
    """What a source names while it is listed, in any order, for the lock. Kept in a temporary file until its end."""

    def __init__(self) -> None:
        self._paths: list[str] = []
        self._starts = array("q")
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._end = 0

    def add(self, item: Item) -> None:
        row = json.dumps([item.identity, dict(item.ref)]).encode() + b"\n"
        self._paths.append(item.path)
        self._starts.append(self._end)
        self._end += self._file.write(row)

    def close(self) -> None:
        """Remove the file. May be called twice."""
        self._file.close()

    def locked(self, content: Callable[[str], tuple[int, str]]) -> LockedObjects:
        """Each with the size and the SHA-256 that `content` says for its path."""

        def objects() -> Iterator[LockedObject]:
            for place in sorted(range(len(self._paths)), key=self._paths.__getitem__):
                self._file.seek(self._starts[place])
                identity, ref = json.loads(self._file.readline())
                size, sha256 = content(self._paths[place])
                yield LockedObject(self._paths[place], size, sha256, identity, ref)

        return LockedObjects.of(objects())
