"""What saved work holds and could not be brought back: saves go on holding it.

A save takes what is not in the folder for removed. So where work came home in part (an object is damaged, the store
went away, the disk is full), what did not come is kept in the state folder as it was saved. Each save carries it on,
until the student has something else at its path: then that is the newest, and the older stays in the history.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datamount.errors import NotFound, Unavailable
from datamount.objectstore import ObjectStore
from datamount.snapshots.versionfile import Entry, Location
from datamount.status import write_atomic

FILE = "owed.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Owed:
    """A file or link of the work. `instead` is the content (sha256, or a link's target) of what stood at its path when
    it should have come, empty where nothing did."""

    entry: Entry
    instead: str

    def still(self, there: Mapping[str, Entry]) -> bool:
        """Whether nothing has been put in its place since, among what is in the folder."""
        path = self.entry.path
        found = there.get(path)
        if found is not None and found.type == "folder":
            return False
        if (found.sha256 or found.target if found else "") != self.instead:
            return False
        above = (there.get(parent) for parent in _parents(path))
        return all(parent is None or parent.type == "folder" for parent in above)


def keep_owed(state_dir: Path, workspace: str, owed: Mapping[str, Owed]) -> None:
    """Keep this, by path, and nothing of before, for the saves of a workspace (its identity)."""
    if not owed:
        (state_dir / FILE).unlink(missing_ok=True)
        return
    rows = [asdict(found) for found in owed.values()]
    document = {"format": _FORMAT, "workspace": workspace, "owed": rows}
    write_atomic(state_dir / FILE, json.dumps(document).encode(), 0o600)


def read_owed(state_dir: Path | None, workspace: str) -> dict[str, Owed]:
    """What `keep_owed` kept for this workspace; nothing where there is nothing that can be read."""
    if state_dir is None:
        return {}
    try:
        document = json.loads((state_dir / FILE).read_bytes())
        if (document["format"], document["workspace"]) != (_FORMAT, workspace):
            return {}
        owed = [Owed(_entry(row["entry"]), row["instead"]) for row in document["owed"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {found.entry.path: found for found in owed}


def gone(store: ObjectStore, prefix: str, owed: Iterable[Owed]) -> set[str]:
    """The objects of these that are not in the store with all their bytes, right or not: no version may name them. None
    while the store does not say: they were there for the version that named them."""
    ends: dict[str, int] = {}
    for place in (found.entry.location for found in owed):
        if place is not None:
            ends[place.object] = max(ends.get(place.object, 1), place.offset + place.length)
    missing = set()
    for name, end in ends.items():
        try:
            if not store.get(prefix + name, end - 1, end):
                missing.add(name)
        except NotFound:
            missing.add(name)
        except Unavailable:
            break
    return missing


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _entry(row: dict[str, Any]) -> Entry:
    entry = Entry(**row)
    return replace(entry, location=Location(**row["location"])) if row["location"] else entry
