"""datamount.lock: what each dataset resolved to, as JSON with one object a line, so that a diff can be read.

An entry speaks of one declaration (by its digest): when the manifest asks for something else, the entry is stale and
is not used. For sources whose pin already fixes every byte (a Quilt top hash, a Pachyderm commit) the pin is all;
for the others the entry lists the objects with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from datamount.drivers.base import Digest, Item
from datamount.errors import Fault, ManifestError
from datamount.manifest import Dataset, Sha256
from datamount.status import write_atomic

FIXED_BY_PIN = frozenset({"quilt", "pachyderm"})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class LockedObject:
    """One object, as it was when the lock was written. `ref` is the driver's own.

    With slots, because a lock may have 100,000 of them: 1.5 KB each where a model takes 2.4.
    """

    path: str
    size: Annotated[int, Field(ge=0)]
    sha256: Sha256
    identity: str
    ref: dict[str, Any] = field(default_factory=dict)

    def item(self) -> Item:
        return Item(self.path, self.size, self.identity, Digest("sha256", self.sha256), self.ref)


class LockEntry(_Model):
    """One dataset. `declaration` is the digest of what the manifest asked for."""

    kind: str
    declaration: str
    pin: dict[str, Any] = Field(default_factory=dict)
    objects: tuple[LockedObject, ...] | None = None

    def items(self) -> list[Item] | None:
        """The objects to deliver, or None where the pin says it all."""
        return None if self.objects is None else [o.item() for o in self.objects]

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
        content = path.read_bytes()
    except FileNotFoundError:
        return LockFile()
    hint = "Restore it from git, or delete it and run `datamount lock`."
    try:
        return LockFile.model_validate_json(content)
    except ValidationError as error:
        faults = [Fault(": ".join(filter(None, (_place(e["loc"]), f"{e['msg']}."))), hint=hint) for e in error.errors()]
        raise ManifestError(str(path), faults, hint="") from error


def _place(keys: tuple[int | str, ...]) -> str:
    return ".".join(map(str, keys))


def write_lock(path: Path, lock: LockFile) -> None:
    """Write the lock atomically; the same content gives the same bytes."""
    write_atomic(path, dump(lock).encode())


def dump(lock: LockFile) -> str:
    """The lock as text: sorted, one object a line."""
    datasets = []
    for name in sorted(lock.datasets):
        entry = lock.datasets[name]
        lines = [f'   "{key}": {_json(getattr(entry, key))}' for key in ("kind", "declaration", "pin")]
        if entry.objects is not None:
            rows = [f"    {_json(asdict(o))}" for o in sorted(entry.objects, key=lambda o: o.path)]
            lines.append('   "objects": [' + ("\n" + ",\n".join(rows) + "\n   " if rows else "") + "]")
        datasets.append(f"  {_json(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    inside = "\n" + ",\n".join(datasets) + "\n " if datasets else ""
    return f'{{\n "version": {lock.version},\n "datasets": {{{inside}}}\n}}\n'


def drift(entry: LockEntry, pin: Mapping[str, Any], items: Iterable[Item]) -> list[str]:
    """What is different at the source now, a sentence a difference: `"a.csv": size 3 → 4`. Empty when nothing is."""
    if entry.objects is None:
        return [
            f"{key} {entry.pin.get(key)} → {pin.get(key)}"
            for key in sorted({*entry.pin, *pin})
            if entry.pin.get(key) != pin.get(key)
        ]
    then = {o.path: o for o in entry.objects}
    now = {i.path: i for i in items}
    found = [f'"{path}" is new' for path in sorted(now.keys() - then.keys())]
    found += [f'"{path}" is gone' for path in sorted(then.keys() - now.keys())]
    for path in sorted(then.keys() & now.keys()):
        old, new = then[path], now[path]
        changes = []
        if new.size is not None and old.size != new.size:
            changes.append(f"size {old.size} → {new.size}")
        changes += [
            f"{key} {old.ref.get(key)} → {new.ref.get(key)}"
            for key in sorted({*old.ref, *new.ref})
            if old.ref.get(key) != new.ref.get(key)
        ]
        if old.identity != new.identity and not changes:
            changes.append(f"{old.identity} → {new.identity}")
        if new.digest and new.digest.algorithm == "sha256" and new.digest.value != old.sha256:
            changes.append(f"sha256 {old.sha256} → {new.digest.value}")
        if changes:
            found.append(f'"{path}": {", ".join(changes)}')
    return found


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
