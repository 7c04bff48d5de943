"""One student's work in one course: save, list, compare, restore. The format and its rules: the package's docstring."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from datamount.errors import NotFound, UsageError, VerificationFailed
from datamount.objectstore import ObjectStore
from datamount.snapshots.bases import get_base, stored_bases
from datamount.snapshots.condemned import condemned
from datamount.snapshots.content import Content
from datamount.snapshots.index import read_index
from datamount.snapshots.restore import Preview, RestoreReport, preview_entries, restore_entries
from datamount.snapshots.saving import Draft, Look, SaveResult, save
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import (
    HEADER_BYTES,
    MESSAGE_LIMIT,
    Entry,
    Location,
    Reason,
    Skipped,
    Version,
    VersionInfo,
    load,
    load_header,
    tree_digest,
)

__all__ = [
    "Change",
    "Entry",
    "Location",
    "Preview",
    "RestoreReport",
    "SaveResult",
    "Skipped",
    "Version",
    "VersionInfo",
    "Workspace",
]

log = logging.getLogger(__name__)

_VERSION_KEY = re.compile(r"versions/(\d{8,})-([0-9a-f]{8,})\.json")
_READERS = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions. `before` or `after` is None for what was added or removed."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Entry | None
    after: Entry | None


class Workspace:
    """All versions of one owner's work in one course. Safe to use from several threads and processes at once."""

    def __init__(self, store: ObjectStore, owner: str, course: str) -> None:
        if not owner or not course:
            raise UsageError("A workspace needs an owner and a course.", who="you")
        self.store = store
        self.owner = owner
        self.course = course
        self.prefix = f"workspaces/{_encoded(owner)}/{_encoded(course)}/"
        self.identity = f"{store.url} {self.prefix}"
        self._headers: dict[str, VersionInfo] = {}
        self._condemned: dict[str, frozenset[str]] = {}

    @classmethod
    def at(cls, store: ObjectStore, owner: str, course: str) -> Workspace:
        """The workspace of names as keys have them. `owner` and `course` are decoded where they were kept."""
        made = cls(store, unquote(owner), unquote(course))
        made.prefix = f"workspaces/{owner}/{course}/"
        made.identity = f"{store.url} {made.prefix}"
        return made

    # --- Saving -------------------------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        *,
        reason: Reason = "manual",
        message: str = "",
        author: str = "",
        course_ref: str = "",
        image: str = "",
        exclude: Sequence[str] = (),
        max_bytes: int | None = None,
        state_dir: Path | None = None,
        parent: str | None = None,
    ) -> SaveResult:
        """A new version of `folder`, durable when this returns; or, for an unchanged tree, nothing at all.

        `message` is cut after 2,000 characters.
        `exclude` are patterns as in .gitignore, on top of the defaults (`!pattern` brings back what those leave out).
        Over `max_bytes` (of files) the largest are left out and named, notebooks last. `state_dir` keeps the local
        index and the course's pristine hashes; without it every file is read and the store is asked. The parent is
        `parent`, else the version that this folder comes from, else the latest. A manual save of a tree that only an
        autosave holds makes a version, and so does one with a new message: manual ones are never thinned out.
        Raises the store's errors; the versions that were there are untouched, and the same call may be repeated.
        """
        started = time.monotonic()
        draft = Draft(reason, message[:MESSAGE_LIMIT], author, course_ref, image, tuple(exclude), max_bytes, parent)
        folder = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would follow a link of the student's)
        if not folder.is_dir():
            raise UsageError(f"{printable(str(folder))} is not a folder.", who="you")
        result = save(self, folder, draft, state_dir)
        log.info(
            "saved owner=%s course=%s version=%s created=%s bytes=%d objects=%d seconds=%.2f",
            self.owner,
            self.course,
            result.version.id if result.version else "-",
            result.created,
            result.bytes_uploaded,
            result.objects_uploaded,
            time.monotonic() - started,
        )
        return result

    # --- Reading ------------------------------------------------------------------------------------------------

    def versions(self) -> list[VersionInfo]:
        """All versions, newest first, siblings included. One that cannot be read is left out and logged."""
        ids = self.ids()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="versions") as pool:
            found = [info for info in pool.map(self.header, ids) if info]
        return sorted(found, key=_order, reverse=True)

    def version(self, id: str = "latest") -> Version:
        """One version: by its id, a unique beginning of it, its number, or "latest". NotFound, or UsageError when
        several match; VerificationFailed when the object cannot be read."""
        if _VERSION_KEY.fullmatch(f"versions/{id}.json"):
            return self.load(id)
        ids = self.ids()
        if id == "latest":
            newest = [i for i, seq in ids.items() if seq == max(ids.values())]
            if not newest:
                raise NotFound(f"{self._named()} has no saved version yet.")
            if len(newest) > 1:
                newest = [info.id for info in sorted(filter(None, map(self.header, newest)), key=_order)]
            return self.load(newest[-1])
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

    def restore(
        self,
        version: Version | str,
        into: Path,
        *,
        paths: Sequence[str] = (),
        state_dir: Path | None = None,
        save_first: bool = False,
    ) -> RestoreReport:
        """Write a version, or only `paths` of it (files, or folders with all below), to the folder `into`.

        Each file appears whole, verified and synced, or not at all. What cannot be restored is in the report and
        does not stop the rest. Files that the version does not hold stay as they are. With `save_first` the folder
        as it is becomes a version before anything is written (`saved_before`), and is then the latest: save again to
        make the restored state that. Else, with `state_dir`, the next save of `into` builds on the restored version.
        NotFound when a path is not in the version.
        """
        if isinstance(version, str):
            version = self.version(version)
        chosen = _chosen(version, paths)
        into = Path(os.path.abspath(into))  # noqa: PTH100
        before = None
        if save_first and into.is_dir() and any(into.iterdir()):
            message = f"before restoring {version.info.id}"
            saved = self.save(into, reason="auto", message=message, state_dir=state_dir)
            before = saved.version if saved.created else None
        report = restore_entries(chosen, into, self.content())
        if state_dir is not None and before is None and not paths and not report.failed:
            self.adopt(version, into, state_dir)
        return replace(report, saved_before=before)

    def adopt(self, version: Version, folder: Path, state_dir: Path) -> None:
        """Let the next save of `folder` build on a version that was just restored to it."""
        index = read_index(state_dir, self.identity, Path(os.path.abspath(folder)))  # noqa: PTH100
        index.last = version.info
        index.locations = {e.sha256: e.location for e in version.entries if e.location}
        index.bases = stored_bases(version)
        index.seen = time.time()
        with suppress(OSError):
            index.write(state_dir)

    def preview(self, version: Version | str, into: Path, *, paths: Sequence[str] = ()) -> Preview:
        """What a restore would do, with nothing written."""
        if isinstance(version, str):
            version = self.version(version)
        return preview_entries(_chosen(version, paths), Path(os.path.abspath(into)))  # noqa: PTH100

    def basis(self, folder: Path, state_dir: Path) -> VersionInfo | None:
        """The version that this folder comes from, as far as this machine knows: the last saved from it or restored
        to it whole. No request."""
        return read_index(state_dir, self.identity, Path(os.path.abspath(folder))).last  # noqa: PTH100

    def diff(self, a: Version | str, b: Version | str) -> list[Change]:
        """What changed from `a` to `b`, by path; times do not count."""
        old, new = (self.version(v) if isinstance(v, str) else v for v in (a, b))
        before, after = old.by_path(), new.by_path()
        changes = []
        for path in sorted(before.keys() | after.keys()):
            was, now = before.get(path), after.get(path)
            if was is None or now is None:
                changes.append(Change(path, "added" if was is None else "removed", was, now))
            elif tree_digest([was]) != tree_digest([now]):
                changes.append(Change(path, "changed", was, now))
        return changes

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

    def _named(self) -> str:
        return f"The work of {self.owner!r} in {self.course!r}"


def workspaces(store: ObjectStore, owner: str | None = None, course: str | None = None) -> Iterator[Workspace]:
    """Every workspace in a store, or those of one owner, or in one course, or the one of both; found one after the
    other, so that memory does not grow with the store."""
    owners = store.folders("workspaces/") if owner is None else [_encoded(owner)]
    for mine in sorted(owners):
        for name in sorted(store.folders(f"workspaces/{mine}/")):
            found = Workspace.at(store, mine, name)
            # Some stores name folders whose objects were deleted.
            if (course is None or name == _encoded(course)) and any(store.list(found.prefix)):
                yield found


def _order(info: VersionInfo) -> tuple[int, datetime, str]:
    return info.seq, info.created, info.id


def _encoded(name: str) -> str:
    """A name as one part of a key: percent-encoded with its capitals, never `.` or `..`, cut with a digest where a
    file system would."""
    quoted = quote(name, safe="").replace("~", "%7E")
    encoded = re.sub(r"%[0-9A-F]{2}|[A-Z]", lambda m: m[0] if m[0][0] == "%" else f"%{ord(m[0]):02X}", quoted)
    if encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}"
    if len(encoded) <= 200:
        return encoded
    return f"{encoded[:130].rstrip('%')}={hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _chosen(version: Version, paths: Sequence[str]) -> list[Entry]:
    if not paths:
        return list(version.entries)
    wanted = [p.strip("/").removeprefix("./") for p in paths]
    chosen = {
        e.path: e
        for e in version.entries
        for w in wanted
        if w in ("", ".") or e.path == w or e.path.startswith(f"{w}/")
    }
    for w in wanted:
        if w not in ("", ".") and not any(p == w or p.startswith(f"{w}/") for p in chosen):
            raise NotFound(
                f"Version {version.info.id} has nothing at {printable(w)!r}.",
                hint="`datamount diff` and `datamount history` show what a version holds.",
                who="you",
            )
    return list(chosen.values())
