"""What is saved of one student's work in one course: which versions there are, and what they hold."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from urllib.parse import quote, unquote

from datamount.errors import NotFound, UsageError, VerificationFailed
from datamount.objectstore import ObjectStore
from datamount.snapshots.bases import get_base
from datamount.snapshots.condemned import condemned
from datamount.snapshots.content import Content
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import HEADER_BYTES, Version, VersionInfo, load, load_header

log = logging.getLogger(__name__)

_VERSION_KEY = re.compile(r"versions/(\d{8,})-([0-9a-f]{8,})\.json")
_READERS = 8


@dataclass(frozen=True, slots=True)
class Look:
    """What the store's list showed: versions with their seq, and the objects that must not be named."""

    ids: dict[str, int]
    condemned: frozenset[str]


class History:
    """All versions of one owner's work in one course, to read. Safe to use from several threads and processes."""

    def __init__(self, store: ObjectStore, owner: str, course: str) -> None:
        if not owner or not course:
            raise UsageError("A workspace needs an owner and a course.", who="you")
        self.store = store
        self.owner = owner
        self.course = course
        self.prefix = f"workspaces/{encoded(owner)}/{encoded(course)}/"
        self.identity = f"{store.url} {self.prefix}"
        self._headers: dict[str, VersionInfo] = {}
        self._condemned: dict[str, frozenset[str]] = {}

    @classmethod
    def at(cls, store: ObjectStore, owner: str, course: str) -> Self:
        """The workspace of names as keys have them. `owner` and `course` are decoded where they were kept."""
        made = cls(store, unquote(owner), unquote(course))
        made.prefix = f"workspaces/{owner}/{course}/"
        made.identity = f"{store.url} {made.prefix}"
        return made

    # --- Reading ---------------------------------------------------------------------------------------------------

    def versions(self, newest: int | None = None) -> list[VersionInfo]:
        """All versions, or so many of the newest, newest first, siblings included. One that cannot be read is left out
        and logged. Each header is a request to the store: those of older versions are not read."""
        ids = self.ids()
        ordered = sorted(ids, key=ids.__getitem__, reverse=True)
        found: list[VersionInfo] = []
        at = 0
        with ThreadPoolExecutor(_READERS, thread_name_prefix="versions") as pool:
            while at < len(ordered) and (newest is None or len(found) < newest):
                end = len(ordered) if newest is None else min(at + newest - len(found), len(ordered))
                while end < len(ordered) and ids[ordered[end]] == ids[ordered[end - 1]]:
                    end += 1  # which of siblings is newer, only their headers tell
                found += filter(None, pool.map(self.header, ordered[at:end]))
                at = end
        return sorted(found, key=_order, reverse=True)[:newest]

    def version(self, id: str = "latest") -> Version:
        """One version: by its id, a unique beginning of it, its number, or "latest". NotFound, or UsageError when
        several match; VerificationFailed when the object cannot be read."""
        if _VERSION_KEY.fullmatch(f"versions/{id}.json"):
            return self.load(id)
        ids = self.ids()
        if id == "latest":
            newest = next(self.newest_first(ids), None)
            if newest is None:
                raise NotFound(f"{self._named()} has no saved version yet.")
            return self.load(newest)
        matching = [i for i in ids if id and (i.startswith(id) or i.lstrip("0").startswith(id))]
        exact = [i for i in matching if str(ids[i]) == id]
        matching = exact or matching
        if not matching:
            raise NotFound(f"{self._named()} has no version {id!r}.", hint="`datamount history` lists them.", who="you")
        if len(matching) > 1:
            raise UsageError(
                f"{id!r} could be any of {', '.join(sorted(matching)[:5])}.", hint="Write more of it.", who="you"
            )
        return self.load(matching[0])

    def newest(self, ids: Mapping[str, int] | None = None) -> Version | None:
        """The newest version, of all or of these, that can be read: a damaged one must not stand in the way of those
        before it."""
        for id in self.newest_first(ids):
            with suppress(NotFound, VerificationFailed):
                return self.load(id)
        return None

    def before(self, info: VersionInfo) -> Version | None:
        """What a version was made from; where that was thinned out, the newest older one. None for a first version."""
        if info.parent is None:
            return None
        with suppress(NotFound):
            return self.version(info.parent)
        return self.newest({id: seq for id, seq in self.ids().items() if seq < info.seq})

    def read(self, version: Version | str, path: str) -> Iterator[bytes]:
        """The content of one file, in chunks. Its last chunk comes only when the whole matches its digest; else
        VerificationFailed. NotFound for a path that the version does not hold as a file."""
        if isinstance(version, str):
            version = self.version(version)
        entry = version.by_path().get(path)
        if entry is None or entry.type != "file":
            raise NotFound(f"Version {version.info.id} has no file {printable(path)!r}.", who="you")
        return self.content().chunks(entry)

    def read_base(self, sha256: str) -> bytes:
        """What the course shipped, by digest: the merge base of a changed file. NotFound when it was not kept."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UsageError(f"{sha256!r} is not a sha256.")
        return get_base(self.store, self.prefix, sha256)

    # --- For the parts of the engine ------------------------------------------------------------------------------

    def look(self) -> Look:
        """One list: all versions, and what must not be named."""
        listed = list(self.store.list(f"{self.prefix}versions/"))
        keys = [o.key for o in listed]
        return Look(self.ids(keys), condemned(self.store, self.prefix, listed, self._condemned))

    def ids(self, keys: Iterable[str] | None = None) -> dict[str, int]:
        """The ids of all versions, with their seq; of those among `keys`, when these are listed already."""
        if keys is None:
            keys = [o.key for o in self.store.list(f"{self.prefix}versions/")]
        found = (_VERSION_KEY.fullmatch(key.removeprefix(self.prefix)) for key in keys)
        return {f"{m[1]}-{m[2]}": int(m[1]) for m in found if m}

    def appeared(self) -> dict[str, float]:
        """The ids of all versions, with when each appeared by the store's clock."""
        listed = self.store.list(f"{self.prefix}versions/")
        return {id: o.modified for o in listed for id in self.ids([o.key])}

    def shared(self) -> set[str]:
        """The ids of the versions that somebody was given a link to: they stay."""
        start = f"{self.prefix}shares/"
        return {o.key.removeprefix(start).partition("/")[0] for o in self.store.list(start)}

    def header(self, id: str, *, fresh: bool = False) -> VersionInfo | None:
        """A version's header, kept after the first time (but `fresh`); None, and logged, when it cannot be read."""
        if fresh or id not in self._headers:
            try:
                info = load_header(self.store.get(self.key(id), 0, HEADER_BYTES)) or self.load(id).info
                self._headers[id] = info
            except (NotFound, VerificationFailed) as error:
                log.warning("version %s of owner=%s course=%s: %s", id, self.owner, self.course, error)
                return None
        return self._headers[id]

    def remember(self, info: VersionInfo) -> None:
        """Keep the header of a version that was just put."""
        self._headers[info.id] = info

    def key(self, id: str) -> str:
        return f"{self.prefix}versions/{id}.json"

    def content(self) -> Content:
        return Content(self.store, self.prefix)

    def load(self, id: str) -> Version:
        """One version by its whole id. NotFound, or VerificationFailed when its object cannot be understood."""
        version = load(self.store.get(self.key(id)))
        if version.info.id != id:
            raise VerificationFailed(f"The version object {id} holds another version ({version.info.id}).")
        return version

    def newest_first(self, ids: Mapping[str, int] | None = None) -> Iterator[str]:
        """The ids of all versions, or these, in order. Headers are read of siblings only."""
        ids = self.ids() if ids is None else ids
        for seq in sorted(set(ids.values()), reverse=True):
            same = [id for id in ids if ids[id] == seq]
            if len(same) > 1:
                same = [i.id for i in sorted(filter(None, map(self.header, same)), key=_order, reverse=True)]
            yield from same

    def _named(self) -> str:
        return f"The work of {self.owner!r} in {self.course!r}"


def _order(info: VersionInfo) -> tuple[int, datetime, str]:
    return info.seq, info.created, info.id


def encoded(name: str) -> str:
    """A name as one part of a key: percent-encoded with its capitals, never `.` or `..`, cut with a digest where a
    file system would."""
    quoted = quote(name, safe="").replace("~", "%7E")
    encoded = re.sub(r"%[0-9A-F]{2}|[A-Z]", lambda m: m[0] if m[0][0] == "%" else f"%{ord(m[0]):02X}", quoted)
    if encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}"
    if len(encoded) <= 200:
        return encoded
    return f"{encoded[:130].rstrip('%')}={hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"
