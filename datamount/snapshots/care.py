"""Looking after a store: is everything there, how much is it, and away with what a person asks to have deleted."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from datamount.errors import DatamountError, NotFound, Refused, UsageError, VerificationFailed
from datamount.objectstore import ObjectInfo, ObjectStore
from datamount.snapshots import bases
from datamount.snapshots.content import Content
from datamount.snapshots.excludes import holds_login
from datamount.snapshots.exposed import Exposed
from datamount.snapshots.inorder import in_order
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Version, VersionInfo
from datamount.snapshots.workspace import Workspace, workspaces

_WORKERS = 8
Kind = Literal["missing", "corrupt", "unreadable"]


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that is not what versions say, with what is lost by it."""

    key: str
    kind: Kind
    versions: tuple[str, ...]
    paths: tuple[str, ...]
    why: str = ""


@dataclass
class Checked:
    """What a check of one workspace found. Sound when `damage` is empty."""

    workspace: str
    versions: int = 0
    objects: int = 0
    read: int = 0
    """Objects whose content was compared with its digests; the others were only looked for."""
    damage: list[Damage] = field(default_factory=list)
    secrets: dict[str, list[str]] = field(default_factory=dict)
    """Files that a save leaves out today because they may hold a secret, with the versions that have them: of courses
    that ask for them (`exclude: ["!name"]`), or saved by an earlier datamount. Read of those objects that are read."""


@dataclass
class _Object:
    """What versions expect of one object."""

    places: dict[tuple[int, int], Entry] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)


def check(
    store: ObjectStore,
    *,
    sample: float = 1.0,
    owner: str | None = None,
    course: str | None = None,
    chance: random.Random | None = None,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Checked]:
    """Check every workspace (of one owner, in one course): all version objects are read, all that they name is looked
    for, and of the objects the share `sample` (0 to 1) is read whole and compared with its digests. Nothing is written.

    A version that is removed meanwhile is no damage. Raises when the store cannot be listed.
    """
    if not 0 <= sample <= 1:
        raise UsageError("The sample is a share between 0 and 1.", who="you")
    chance = chance or random.Random()  # noqa: S311
    for workspace in workspaces(store, owner, course):
        yield _check(workspace, sample, chance, step)


def _check(workspace: Workspace, sample: float, chance: random.Random, step: Callable[[], None]) -> Checked:
    found = Checked(workspace.prefix)
    expected: dict[str, _Object] = defaultdict(_Object)
    exposed = Exposed()
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="check") as pool:
        load = partial(_load, workspace, damage=found.damage)
        ids = list(workspace.ids())
        for id, version in zip(ids, in_order(pool, load, ids, 2 * _WORKERS), strict=True):
            if version is not None:
                found.versions += 1
                _expect(expected, id, version)
                exposed.look(version)
        # Listed after the versions: what a save added meanwhile may be there, what a version names must be.
        sizes = _sizes(workspace)
        found.objects = len(expected)
        chosen = {key for key in expected if sample >= 1 or chance.random() < sample}
        found.read = len(chosen)

        def one(key: str) -> Damage | None:
            step()
            return _examine(workspace, key, expected[key], sizes.get(key), read=key in chosen)

        found.damage += filter(None, pool.map(one, sorted(expected)))
    found.secrets = exposed.confirmed(
        lambda e: bool(e.location and e.location.object in chosen and _login(workspace, e))
    )
    return found


def _sizes(workspace: Workspace) -> dict[str, int]:
    """The objects of a workspace by the names that versions have for them."""
    sizes: dict[str, int] = {}
    for found in workspace.store.list(workspace.prefix):
        key = found.key.removeprefix(workspace.prefix)
        sha256 = bases.sha256_of(key)
        name = bases.FOLDER + sha256 if sha256 else key
        sizes[name] = sizes.get(name, 0) + found.size
    return sizes


def _login(workspace: Workspace, entry: Entry) -> bool:
    try:
        return holds_login(b"".join(workspace.content().chunks(entry)))
    except DatamountError:
        return False  # named as damage


def _load(workspace: Workspace, id: str, *, damage: list[Damage]) -> Version | None:
    try:
        return workspace.load(id)
    except NotFound:
        return None  # thinned out since it was listed
    except DatamountError as error:
        kind: Kind = "corrupt" if isinstance(error, VerificationFailed) else "unreadable"
        damage.append(Damage(f"versions/{id}.json", kind, (id,), (), error.message))
        return None


def _expect(expected: dict[str, _Object], id: str, version: Version) -> None:
    for entry in version.entries:
        if entry.location:
            wanted = expected[entry.location.object]
            wanted.places.setdefault((entry.location.offset, entry.location.length), entry)
            wanted.versions.add(id)
            wanted.paths.add(entry.path)
        if entry.base_stored:
            base = expected[bases.FOLDER + entry.base]
            base.versions.add(id)
            base.paths.add(entry.path)


def _examine(workspace: Workspace, key: str, wanted: _Object, size: int | None, *, read: bool) -> Damage | None:
    def damage(kind: Kind, paths: set[str], why: str) -> Damage:
        return Damage(key, kind, tuple(sorted(wanted.versions)), tuple(sorted(map(printable, paths))), why)

    if size is None:
        return damage("missing", wanted.paths, "it is not in the store")
    end = max((offset + length for offset, length in wanted.places), default=0)
    if size < end:
        return damage("corrupt", wanted.paths, f"it has {size} bytes of {end}")
    if not read:
        return None
    if key.startswith(bases.FOLDER):
        try:
            workspace.read_base(key.removeprefix(bases.FOLDER))
        except DatamountError as error:
            kind: Kind = "corrupt" if isinstance(error, VerificationFailed) else "unreadable"
            return damage(kind, wanted.paths, error.message)
        return None
    bad = dict(_wrong(Content(workspace.store, workspace.prefix), key, wanted.places.values()))
    if not bad:
        return None
    first = next(iter(bad.values()))
    return damage("corrupt" if isinstance(first, VerificationFailed) else "unreadable", set(bad), first.message)


def _wrong(content: Content, key: str, entries: Iterable[Entry]) -> Iterator[tuple[str, DatamountError]]:
    """The files of one object whose bytes are not what they should be."""
    if key.startswith("blobs/"):
        for entry in entries:
            try:
                for _ in content.chunks(entry):
                    pass
            except DatamountError as error:
                yield entry.path, error
        return
    for run in content.runs(entries):
        try:
            yield from ((entry.path, found) for entry, found in content.read(run) if isinstance(found, DatamountError))
        except DatamountError as error:
            yield from ((entry.path, error) for entry in run.entries)


@dataclass(frozen=True, slots=True)
class Stats:
    """How much one workspace holds. Bytes are of the store, but `latest_bytes`, which are of the student's files."""

    owner: str
    course: str
    versions: int
    latest: str
    latest_bytes: int
    objects: int
    bytes: int
    unnamed_objects: int
    """Objects that no version names: garbage, or a save that is under way."""
    unnamed_bytes: int
    unreadable: int = 0
    """Versions that could not be read; then the garbage is not known and counted as none."""


def stats(store: ObjectStore, owner: str | None = None, course: str | None = None) -> Iterator[Stats]:
    """How much is in every workspace (of one owner, in one course). Reads all version objects."""
    for workspace in workspaces(store, owner, course):
        damage: list[Damage] = []
        named: set[str] = set()
        infos: list[VersionInfo] = []
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="stats") as pool:
            for version in in_order(pool, partial(_load, workspace, damage=damage), workspace.ids(), 2 * _WORKERS):
                if version is not None:
                    infos.append(version.info)
                    named |= {e.location.object for e in version.entries if e.location}
                    named |= {bases.FOLDER + sha256 for sha256 in bases.wanted_bases(version)}
        sizes = _sizes(workspace)
        content = [key for key in sizes if key.startswith(("blobs/", "bundles/", bases.FOLDER))]
        unnamed = [] if damage else [key for key in content if key not in named]
        latest = max(infos, key=lambda info: (info.seq, info.created, info.id), default=None)
        yield Stats(
            workspace.owner,
            workspace.course,
            len(infos),
            latest.id if latest else "",
            latest.bytes if latest else 0,
            len(sizes),
            sum(sizes.values()),
            len(unnamed),
            sum(sizes[key] for key in unnamed),
            len(damage),
        )


def purge(store: ObjectStore, owner: str, course: str | None = None, *, dry_run: bool = False) -> list[ObjectInfo]:
    """Remove everything of a person (in one course); what was removed, or would be.

    Versions go first, so that none is ever listed whose content is gone; what is cut short is finished by the next
    call. A session that runs meanwhile may save again: end it first. Refused when something is there after that.
    """
    removed: dict[str, ObjectInfo] = {}
    for _ in range(3):
        found = [o for w in workspaces(store, owner, course) for o in store.list(w.prefix)]
        removed.update({o.key: o for o in found})
        if dry_run or not found:
            return list(removed.values())
        found.sort(key=lambda o: "/versions/" not in o.key)
        versions = [o for o in found if "/versions/" in o.key]
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="purge") as pool:
            for batch in (versions, found[len(versions) :]):
                list(pool.map(lambda o: store.delete(o.key), batch))
    if any(True for w in workspaces(store, owner, course)):
        raise Refused(
            f"Something of {owner!r} is saved again and again while it is being removed.",
            hint="End the sessions of this person, then purge again.",
            who="the hub's operator",
        )
    return list(removed.values())
