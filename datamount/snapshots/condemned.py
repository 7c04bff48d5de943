"""What the garbage collector has announced that it will remove, where every save sees it before it commits.

    versions/condemned-<random>    one run's list of objects that no version names. Immutable.
    versions/swept-<random>        that list is being carried out; removed, with the list, a day after.

They lie among the versions so that the one list that each save makes anyway shows them. The rules that make a
collection safe beside any number of saves, without locks, conditional writes or agreeing clocks:

- A save never names an object of a list that it sees: it stores the content anew, under another name.
- From its list to its version a save takes less than `SAVE_LIMIT`; else it starts again.
- An object is removed no sooner than `WAIT` after its list appeared, by the store's own clock, and only while no
  version names it. So a save that did not see the list has committed by then, and is counted.
- A list stays for `WAIT` after it began to be carried out, and is not carried out any more an hour after that: so
  no save sees a list too late, nor takes an object for spared that a slow collector is about to remove.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass

from datamount.errors import NotFound
from datamount.objectstore import ObjectInfo, ObjectStore

log = logging.getLogger(__name__)

WAIT = 24 * 3600.0
"""Seconds between announcing and removing. Never less outside of tests."""
SAVE_LIMIT = 6 * 3600.0
"""Seconds that a save may take from its first upload to its version."""
SWEEP_LIMIT = 3600.0
"""Seconds that a list may be carried out, from when that was announced."""
_CONDEMNED = "condemned-"
_SWEPT = "swept-"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """One list, with when it and the announcement that it is being carried out appeared (the store's clock)."""

    name: str
    since: float
    swept: float | None


def marks(listed: Iterable[ObjectInfo], prefix: str) -> list[Mark]:
    """The lists among what is listed below `prefix` + versions/."""
    since: dict[str, float] = {}
    swept: dict[str, float] = {}
    for found in listed:
        name = found.key.removeprefix(f"{prefix}versions/")
        if name.startswith(_CONDEMNED):
            since[name.removeprefix(_CONDEMNED)] = found.modified
        elif name.startswith(_SWEPT):
            swept[name.removeprefix(_SWEPT)] = found.modified
    return [Mark(name, when, swept.get(name)) for name, when in since.items()]


def list_key(prefix: str, name: str) -> str:
    return f"{prefix}versions/{_CONDEMNED}{name}"


def swept_key(prefix: str, name: str) -> str:
    return f"{prefix}versions/{_SWEPT}{name}"


def is_mark(name: str) -> bool:
    """Whether a name below versions/ is one of these."""
    return name.startswith((_CONDEMNED, _SWEPT))


def write_list(store: ObjectStore, prefix: str, name: str, keys: Iterable[str]) -> None:
    """Announce that `keys` (relative to the workspace) will be removed."""
    store.put(list_key(prefix, name), json.dumps({"format": _FORMAT, "objects": sorted(keys)}).encode())


def read_list(store: ObjectStore, prefix: str, name: str) -> frozenset[str] | None:
    """The keys of one list; None for one that cannot be understood, which no collector carries out either."""
    try:
        document = json.loads(store.get(list_key(prefix, name)))
        if document["format"] != _FORMAT:
            return None
        return frozenset(str(key) for key in document["objects"])
    except NotFound:
        return frozenset()
    except (ValueError, KeyError, TypeError):
        log.warning("the list %s cannot be read; it is not carried out", list_key(prefix, name))
        return None


def condemned(
    store: ObjectStore, prefix: str, listed: Iterable[ObjectInfo], known: MutableMapping[str, frozenset[str]]
) -> frozenset[str]:
    """All keys that a save must not name. `known` keeps lists between calls: they never change."""
    found = marks(listed, prefix)
    for mark in found:
        if mark.name not in known:
            known[mark.name] = read_list(store, prefix, mark.name) or frozenset()
    return frozenset().union(*(known[mark.name] for mark in found))
