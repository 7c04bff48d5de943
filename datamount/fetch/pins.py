"""datamount.lock: what each dataset resolved to, as JSON with one object a line, so that a diff can be read.

An entry speaks of one declaration (by its digest): when the manifest asks for something else, the entry is stale and
is not used. For sources whose pin already fixes every byte (a Quilt top hash, a Pachyderm commit) the pin is all;
for the others the entry lists the objects with their SHA-256.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from datamount.drivers.base import Driver, Item
from datamount.errors import Fault, ManifestError
from datamount.fetch.locked import LockedObject, LockedObjects
from datamount.manifest import Dataset
from datamount.status import write_atomic

FIXED_BY_PIN = {"quilt": "top_hash", "pachyderm": "commit"}
"""Kinds of source whose pin fixes every byte, with the key of the pin that does."""
_OPEN, _CLOSE = b'   "objects": [\n', b"   ]\n"
"""The lines around the objects of an entry, as `dump` writes them."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LockEntry(_Model):
    """One dataset. `declaration` is the digest of what the manifest asked for."""

    kind: str
    declaration: str
    pin: dict[str, Any] = Field(default_factory=dict)
    objects: LockedObjects | None = None
    """None where the pin says it all."""

    @model_validator(mode="after")
    def _pins_something(self) -> LockEntry:
        key = FIXED_BY_PIN.get(self.kind)
        if key is None and self.objects is None:
            raise ValueError('it has no "objects", so it pins nothing')
        if key is not None and not (isinstance(self.pin.get(key), str) and self.pin[key]):
            raise ValueError(f'its pin has no "{key}", so it pins nothing')
        return self

    def is_for(self, dataset: Dataset) -> bool:
        """Whether it speaks of what this manifest asks for."""
        return self.declaration == declaration(dataset)


class LockFile(_Model):
    version: Literal[1] = 1
    datasets: dict[str, LockEntry] = Field(default_factory=dict)


def declaration(dataset: Dataset) -> str:
    """The digest of what decides which bytes are delivered; titles, licences and credentials' names do not."""
    source = dataset.source.model_dump(mode="json", exclude_defaults=True, exclude={"credential"})
    return hashlib.sha256(json.dumps({dataset.kind: source}, sort_keys=True).encode()).hexdigest()


def read_lock(path: Path) -> LockFile:
    """The lock at `path`; an empty one where there is no file. Raises ManifestError where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return _read(stream)
    except FileNotFoundError:
        return LockFile()
    except ValidationError as error:
        hint = "Restore it from git, or delete it and run `datamount lock`."
        faults = [Fault(": ".join(filter(None, (_place(e["loc"]), f"{e['msg']}."))), hint=hint) for e in error.errors()]
        raise ManifestError(str(path), faults, hint="") from error


def _read(stream: IO[bytes]) -> LockFile:
    """A lock as `dump` writes it, without ever holding its text; one in another form by reading it whole."""
    rest: list[bytes] = []
    found: list[LockedObjects] = []
    try:
        for line in stream:
            if line == _OPEN:
                found.append(LockedObjects.parse(_rows(stream)))
                rest.append(b'   "objects": %d\n' % (len(found) - 1))
            elif b'"objects"' in line and line != b'   "objects": []\n':
                raise ValueError(line)
            else:
                rest.append(line)
        return LockFile.model_validate_json(b"".join(rest), context=found)
    except ValueError:  # pydantic's errors, too: those of the whole name the place
        stream.seek(0)
        return LockFile.model_validate_json(stream.read())


def _rows(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The objects up to the line that closes them. ValueError where a line is not what `dump` writes."""
    before = b""
    for line in chain(lines, (b"",)):
        row = before.removesuffix(b"\n")
        if line != _CLOSE and not (line.startswith(b"    {") and line.endswith((b"}\n", b"},\n"))):
            raise ValueError(line)
        if before and row.endswith(b",") == (line == _CLOSE):
            raise ValueError(line)  # a comma too many, or too few
        if before:
            yield row.removesuffix(b",")
        if line == _CLOSE:
            return
        before = line


def _place(keys: tuple[int | str, ...]) -> str:
    return ".".join(map(str, keys))


def write_lock(path: Path, lock: LockFile) -> None:
    """Write the lock atomically; the same content gives the same bytes."""
    write_atomic(path, dump(lock))


def dump(lock: LockFile) -> Iterator[bytes]:
    """The lock as text, in parts: sorted, one object a line."""
    yield b'{\n "version": %d,\n "datasets": {' % lock.version
    before = b"\n"
    for name in sorted(lock.datasets):
        yield before + b"  " + _json(name) + b": {\n"
        yield from _dump_entry(lock.datasets[name])
        yield b"\n  }"
        before = b",\n"
    yield b"\n }\n}\n" if lock.datasets else b"}\n}\n"


def _dump_entry(entry: LockEntry) -> Iterator[bytes]:
    yield b",\n".join(
        b'   "%s": %s' % (key.encode(), _json(getattr(entry, key))) for key in ("kind", "declaration", "pin")
    )
    if entry.objects is None:
        return
    yield b',\n   "objects": ['
    before = b"\n    "
    for found in entry.objects:
        yield before + found.row()
        before = b",\n    "
    yield b"\n   ]" if entry.objects else b"]"


def drift_at(driver: Driver[Any], entry: LockEntry, pin: Mapping[str, Any]) -> list[str]:
    """What is different at the driver's source, whose version is `pin` now. Of an archive, which changes as a whole, it
    is one sentence: whether a file in it changed that kept its size, only reading all of them would tell."""
    if entry.objects is None or getattr(driver.source, "unpack", None) is None:
        return drift(entry, pin, in_order(driver.plan(pin)))
    if dict(pin) == dict(entry.pin):
        return []
    items = in_order(driver.plan(pin))
    if not drift(entry, pin, items):
        return []  # the same archive, though its server gives it another version
    then, now = ({found.path: found.size for found in side} for side in (entry.objects, items))
    both = then.keys() & now.keys()
    counts = (
        (len(now) - len(both), "new"),
        (len(then) - len(both), "gone"),
        (sum(then[p] != now[p] for p in both), "of another size"),
    )
    said = ", ".join(f"{count} {what}" for count, what in counts if count) or "none of another size"
    return [f"the archive changed: {', '.join(_changes(entry.pin, pin))}; of its {len(now)} files: {said}"]


def drift(entry: LockEntry, pin: Mapping[str, Any], items: Iterable[Item]) -> list[str]:
    """What is different at the source now, a sentence a difference: `"a.csv": size 3 → 4`. Empty when nothing is.

    `items` are `in_order`.
    """
    if entry.objects is None:
        return _changes(entry.pin, pin)
    then = ((found.path, 0, found) for found in entry.objects)
    now = ((item.path, 1, item) for item in items)
    new, gone, changed = list[str](), list[str](), list[str]()
    for path, group in groupby(heapq.merge(then, now, key=itemgetter(0, 1)), key=itemgetter(0)):
        match [found for _, _, found in group]:
            case [LockedObject() as old, Item() as item]:
                if changes := _changed(old, item):
                    changed.append(f'"{path}": {", ".join(changes)}')
            case [Item()]:
                new.append(f'"{path}" is new')
            case _:
                gone.append(f'"{path}" is gone')
    return [*new, *gone, *changed]


def in_order(items: Iterable[Item]) -> list[Item]:
    """Sorted by path, as the objects of a lock are."""
    return sorted(items, key=lambda item: item.path)


def _changed(old: LockedObject, new: Item) -> list[str]:
    changes = []
    if new.size is not None and old.size != new.size:
        changes.append(f"size {old.size} → {new.size}")
    changes += _changes(old.ref, new.ref)
    known = new.digest is not None and new.digest.algorithm == "sha256"
    if old.identity != new.identity and not changes and not known:
        changes.append(f"{old.identity} → {new.identity}")
    if known and new.digest is not None and new.digest.value != old.sha256:
        changes.append(f"sha256 {old.sha256} → {new.digest.value}")
    return changes


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [f"{key} {then.get(key)} → {now.get(key)}" for key in sorted({*then, *now}) if then.get(key) != now.get(key)]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
