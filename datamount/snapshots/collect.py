"""Removes what no version needs any more, in two passes at least a day apart, beside any number of saves.

`snapshots.condemned` has the rules and why they are safe. A workspace where anything is in doubt (a version that
cannot be read, an object that a version names and a list does not show, a name that is not known here) is left as it
is, and named.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from datamount.errors import DatamountError, Unavailable, UsageError
from datamount.objectstore import ObjectInfo, ObjectStore
from datamount.snapshots import bases
from datamount.snapshots.condemned import (
    SWEEP_LIMIT,
    WAIT,
    Mark,
    is_mark,
    list_key,
    marks,
    read_list,
    swept_key,
    write_list,
)
from datamount.snapshots.inorder import in_order
from datamount.snapshots.saving import now as elapsed_clock
from datamount.snapshots.thinning import Dated, surplus
from datamount.snapshots.versionfile import VersionInfo
from datamount.snapshots.workspace import Workspace, workspaces

log = logging.getLogger(__name__)

_READERS = 8


@dataclass
class Collected:
    """What one run did in one workspace. `doubt` says why nothing was removed there."""

    workspace: str
    versions_thinned: int = 0
    objects_condemned: int = 0
    objects_removed: int = 0
    bytes_removed: int = 0
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a collection keeps in memory of a version: the names that must be there, and those that must not go."""

    info: VersionInfo
    needs: frozenset[str]
    wants: frozenset[str]


@dataclass
class _Clock:
    """The store's own time: what it stamped on an object just put, and what has passed here since."""

    at: float
    since: float = field(default_factory=elapsed_clock)

    def now(self) -> float:
        return self.at + (elapsed_clock() - self.since)


def collect(
    store: ObjectStore,
    *,
    thin: bool = True,
    dry_run: bool = False,
    wait: float = WAIT,
    owner: str | None = None,
    course: str | None = None,
) -> Iterator[Collected]:
    """Go through all workspaces (of one owner, in one course), one result each. Memory is that of what one workspace
    lists. `wait` is for tests; less than a day is not safe beside saves.

    A dry run counts what would be done and writes nothing but a probe of the store's clock, which it removes. Raises
    when the store cannot be listed at all; what is wrong in one workspace is in its result.
    """
    if wait < 0:
        raise UsageError("The wait between the passes cannot be negative.")
    clock = _store_clock(store)
    for workspace in workspaces(store, owner, course):
        done = Collected(workspace.prefix)
        try:
            _Collection(workspace, clock, done, wait, dry_run).run(thin=thin)
        except DatamountError as error:
            done.doubt = error.message
            log.warning("nothing more is removed in %s: %s", workspace.prefix, error.message)
        yield done


def _store_clock(store: ObjectStore) -> _Clock:
    key = f"clock/{secrets.token_hex(8)}"
    store.put(key, b"")
    try:
        for found in store.list("clock/"):
            if found.key == key:
                return _Clock(found.modified)
    finally:
        store.delete(key)
    raise Unavailable(
        f"The store {store.url} does not list what was just put: its lists cannot be trusted for removing anything.",
        hint="Run `datamount doctor --store URL`.",
        who="the hub's operator",
    )


class _Collection:
    """One run over one workspace."""

    def __init__(self, workspace: Workspace, clock: _Clock, done: Collected, wait: float, dry_run: bool) -> None:
        self.workspace = workspace
        self.store = workspace.store
        self.prefix = workspace.prefix
        self.clock = clock
        self.done = done
        self.wait = wait
        self.dry_run = dry_run
        self._names: dict[str, str] = {}

    def run(self, *, thin: bool) -> None:
        listed = list(self.store.list(f"{self.prefix}versions/"))
        versions = self._load(listed)
        if thin:
            self._thin(listed, versions)
        parts = ("blobs/", "bundles/", bases.FOLDER)
        objects = {o.key.removeprefix(self.prefix): o for part in parts for o in self.store.list(self.prefix + part)}
        there = {_name(key) for key in objects}
        if missing := sorted({name for version in versions.values() for name in version.needs} - there):
            raise Unavailable(f"{len(missing)} objects that versions name are not listed, {missing[0]} among them.")
        named = _named(versions.values())
        garbage = {key: o for key, o in objects.items() if _name(key) not in named}
        found = marks(listed, self.prefix)
        for mark in found:
            self._carry_out(mark, garbage, versions)
        waiting: set[str] = set()
        for mark in found:
            waiting |= read_list(self.store, self.prefix, mark.name) or set()
        fresh = [key for key, o in garbage.items() if key not in waiting and o.modified <= self.clock.now() - self.wait]
        self.done.objects_condemned = len(fresh)
        if fresh and not self.dry_run:
            write_list(self.store, self.prefix, secrets.token_hex(8), fresh)

    def _load(self, listed: Iterable[ObjectInfo], known: Iterable[str] = ()) -> dict[str, _Kept]:
        """What matters of every version but those that are known; all of each is read. Raises for one that cannot be
        read, or an unknown name."""
        keys = [o.key for o in listed]
        ids = self.workspace.ids(keys)
        names = {key.removeprefix(f"{self.prefix}versions/") for key in keys}
        strange = [n for n in names if not is_mark(n) and n.removesuffix(".json") not in ids]
        if strange:
            raise Unavailable(f"versions/{sorted(strange)[0]} is not something that this datamount knows.")
        known = set(known)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="collect") as pool:
            new = [id for id in ids if id not in known]
            return dict(zip(new, in_order(pool, self._read, new, 2 * _READERS), strict=True))

    def _read(self, id: str) -> _Kept:
        version = self.workspace.load(id)
        objects = (e.location.object for e in version.entries if e.location)
        needs = {*objects, *(bases.FOLDER + sha256 for sha256 in bases.stored_bases(version))}
        wants = needs | {bases.FOLDER + sha256 for sha256 in bases.wanted_bases(version)}
        return _Kept(version.info, self._shared(needs), self._shared(wants))

    def _shared(self, names: Iterable[str]) -> frozenset[str]:
        """One string for each name, however many versions have it."""
        return frozenset(self._names.setdefault(name, name) for name in names)

    def _thin(self, listed: list[ObjectInfo], versions: dict[str, _Kept]) -> None:
        appeared = {id: o.modified for o in listed for id in self.workspace.ids([o.key])}
        shared = self.workspace.shared()
        dated = [Dated(version.info, appeared[id]) for id, version in versions.items()]
        for id in surplus(dated, now=self.clock.now(), today=datetime.now(UTC), keep=lambda info: info.id in shared):
            self.done.versions_thinned += 1
            if not self.dry_run:
                self.store.delete(self.workspace.key(id))
                del versions[id]

    def _carry_out(self, mark: Mark, garbage: dict[str, ObjectInfo], versions: dict[str, _Kept]) -> None:
        """Remove what one list names, when it is old enough; the list itself a day later."""
        if mark.since > self.clock.now() - self.wait:
            return
        if mark.swept is not None and mark.swept <= self.clock.now() - self.wait:
            if not self.dry_run:
                self.store.delete(list_key(self.prefix, mark.name))
                self.store.delete(swept_key(self.prefix, mark.name))
            return
        keys = read_list(self.store, self.prefix, mark.name)
        if not keys:
            return
        if mark.swept is None and not self.dry_run:
            self.store.put(swept_key(self.prefix, mark.name), b"")
        until = self.clock.now() + SWEEP_LIMIT if mark.swept is None else mark.swept + SWEEP_LIMIT
        # Once more, now that the announcement is there: every save that did not see the list has committed by now.
        later = list(self.store.list(f"{self.prefix}versions/"))
        newer = self._load(later, versions)
        named = _named([*versions.values(), *newer.values()])
        for key in sorted(key for key in keys & garbage.keys() if _name(key) not in named):
            if self.clock.now() > until:
                return
            if not self.dry_run:
                self.store.delete(self.prefix + key)
            self.done.objects_removed += 1
            self.done.bytes_removed += garbage.pop(key).size


def _named(versions: Iterable[_Kept]) -> set[str]:
    return {name for version in versions for name in version.wants}


def _name(key: str) -> str:
    """What versions call an object: bases by their digest, all else by its key."""
    sha256 = bases.sha256_of(key)
    return bases.FOLDER + sha256 if sha256 else key
