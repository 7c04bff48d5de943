"""The versioned store of student work: what was told saved is there, and nothing is overwritten.

The bucket
==========
Everything of one student in one course lies below `workspaces/<owner>/<course>/` (both percent-encoded):

    versions/<seq>-<random>.json   one save. Immutable. Its appearance is the commit: all it names is durable before.
    bundles/<sha256>.zip           8–16 MiB of small files: a plain zip of stored entries, each named by the sha256 of
                                   the file, with `.zst` where the entry is a zstd frame. Named by its own sha256.
    blobs/<sha256>[.zst]           one large file, raw or as a zstd frame, named by the sha256 of the file.
    base/<sha256>.zst              what the course shipped of a file that the student changed: the merge base.

and beside `workspaces/`, `restore.py`: restores a version with nothing but Python.

A version object is one JSON document: `format` (1), `version` (the header, alone on the first line, so that a list
reads 8 KiB of each), `objects` (keys relative to the workspace), `skipped` ({path, reason}), `warnings`, `deleted`
(the course's files that the student removed), `entries`. An entry has `path`, `type` (file, folder, link), `mode`
(permission bits), `mtime_ns`; a file also `size`, `sha256`, and where it is: `object` (index into `objects`), `offset`,
`length`, `encoding` (raw, zstd); a link `target`. `pristine` marks a file as the course shipped it; one that large
may have no `object`: `course_ref` and `image` of the header say where it came from. `base` is the sha256 of what the
course shipped at the path of a changed file, `base_stored` whether `base/` has it. Names whose bytes are not UTF-8
carry them in `path_b64` (`target_b64`), base64.

Rules
=====
- Blobs and bundles first, the version last. A save that dies leaves objects that nothing names, and no version.
- A save refers only to objects that it put itself, or that a version named which it has just seen listed: whatever
  collects garbage counts from versions, and may trust the age of an object that no version names.
- Safety needs neither conditional writes nor clocks. `seq` is one more than the highest seen; two writers may take
  the same, the random part keeps them apart, and both stay, as siblings with the same parent.
- Order is (seq, created, id), so every reader agrees on the latest.
- Times are kept but do not make a version: a tree whose names, modes and contents are the same is the same tree.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat as st
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import zstandard

from datamount import standalone
from datamount.errors import DatamountError, NotFound, UsageError, VerificationFailed
from datamount.index import Index, read_index
from datamount.objectstore import ObjectStore
from datamount.pack import Packer
from datamount.pristine import Pristine, load_pristine
from datamount.restore import Content, Preview, RestoreReport, preview_entries, restore_entries
from datamount.scan import Excludes, Found, Scan, printable, scan
from datamount.versionfile import (
    HEADER_BYTES,
    MESSAGE_LIMIT,
    Entry,
    Location,
    Reason,
    Skipped,
    Version,
    VersionInfo,
    dump,
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

LARGE_PRISTINE = 10 * 1000 * 1000
"""Bytes. A larger file that is exactly as the course ships it is listed, not stored."""
_VERSION_KEY = re.compile(r"versions/(\d{8,})-([0-9a-f]{8,})\.json")
_READERS = 8


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What a save did. `version` is the new version, or the one that already holds this tree."""

    version: VersionInfo | None
    created: bool
    bytes_uploaded: int = 0
    objects_uploaded: int = 0
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions. `before` or `after` is None for what was added or removed."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Entry | None
    after: Entry | None


class _BaseGone(Exception):
    """The version that the local index builds on is not in the store any more."""


class Workspace:
    """All versions of one owner's work in one course. Safe to use from several threads and processes at once."""

    def __init__(self, store: ObjectStore, owner: str, course: str) -> None:
        if not owner or not course:
            raise UsageError("A workspace needs an owner and a course.", who="you")
        self.store = store
        self.owner = owner
        self.course = course
        self.prefix = f"workspaces/{_encoded(owner)}/{_encoded(course)}/"
        self._headers: dict[str, VersionInfo] = {}

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
        `parent`, else the version that this folder comes from, else the latest.
        Raises the store's errors; the versions that were there are untouched, and the same call may be repeated.
        """
        started = time.monotonic()
        draft = _Draft(reason, message[:MESSAGE_LIMIT], author, course_ref, image, tuple(exclude), max_bytes, parent)
        folder = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would follow a link of the student's)
        if not folder.is_dir():
            raise UsageError(f"{printable(str(folder))} is not a folder.", who="you")
        try:
            result = self._save(folder, draft, state_dir)
        except _BaseGone:
            result = self._save(folder, draft, state_dir, forget=True)
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

    def _save(self, folder: Path, draft: _Draft, state_dir: Path | None, *, forget: bool = False) -> SaveResult:
        index = read_index(state_dir, self._identity(), folder)
        if forget:
            index.last = None
        base = self._base(index, draft)
        seen = scan(folder, Excludes(draft.exclude, skip=_inside(state_dir, folder)))
        pristine = load_pristine(state_dir)
        skipped = list(seen.skipped)
        files = _within(seen, draft.max_bytes, pristine, skipped)

        packer = Packer(self.store, self.prefix, folder, dict(index.locations), leave=pristine.large(LARGE_PRISTINE))
        hashes: dict[str, str] = {}
        stats = {f.path: f.stat for f in files}
        sizes = {f.path: f.stat.st_size for f in files}
        warnings = list(seen.warnings)
        to_read = []
        for found in files:
            sha256 = None if found.path in seen.writing else index.lookup(found.path, found.stat)
            if sha256 and (sha256 in packer.locations or packer.leave.get(found.path) == sha256):
                hashes[found.path] = sha256
            else:
                to_read.append(found.path)
        for packed in packer.pack(to_read):
            hashes[packed.path] = packed.reading.sha256
            stats[packed.path] = packed.reading.stat
            sizes[packed.path] = packed.reading.size
            index.remember(packed.path, packed.reading.stat, packed.reading.sha256, packed.reading.read_ns)
            if packed.reading.warning:
                warnings.append(packed.reading.warning)
        for path, why in packer.unread.items():
            skipped.append(Skipped(path, f"cannot be read ({why})"))
            warnings.append(f"{printable(path)} cannot be read ({why})")

        entries = [
            *(_file(p, stats[p], sizes[p], sha, packer.locations.get(sha), pristine) for p, sha in hashes.items()),
            *(_other(found) for found in seen.found if not found.is_file),
        ]
        entries.sort(key=lambda e: e.path)
        tree = tree_digest(entries)
        for path in index.files.keys() - hashes.keys():
            del index.files[path]
            index.changed = True

        if base and tree == base.tree:
            self._keep(index, state_dir, warnings, base, entries)
            return SaveResult(base, False, packer.uploaded, packer.objects, tuple(skipped), tuple(warnings))
        return self._commit(draft, base, packer, pristine, index, state_dir, entries, tree, skipped, warnings)

    def _commit(  # noqa: PLR0917
        self,
        draft: _Draft,
        base: VersionInfo | None,
        packer: Packer,
        pristine: Pristine,
        index: Index,
        state_dir: Path | None,
        entries: list[Entry],
        tree: str,
        skipped: list[Skipped],
        warnings: list[str],
    ) -> SaveResult:
        listed = self._ids()
        if base and base.id not in listed:
            raise _BaseGone
        entries, deleted = self._store_bases(entries, pristine, packer, index, warnings)
        files = [e for e in entries if e.type == "file"]
        seq = max(listed.values(), default=0) + 1
        info = VersionInfo(
            id=f"{seq:08d}-{secrets.token_hex(6)}",
            seq=seq,
            created=datetime.now(UTC),
            reason=draft.reason,
            message=draft.message,
            author=draft.author,
            course_ref=draft.course_ref,
            image=draft.image,
            parent=base.id if base else None,
            writer=index.writer,
            files=len(files),
            bytes=sum(e.size for e in files),
            skipped=len(skipped),
            tree=tree,
            shrunk=base is not None and len(files) * 2 < base.files,
        )
        version = Version(info, tuple(entries), tuple(skipped), tuple(warnings), deleted)
        body = dump(version)
        self.store.put(self._key(info.id), body, if_absent=True)
        self._headers[info.id] = info
        self._keep(index, state_dir, warnings, info, entries)
        if not listed:
            # Beside the workspaces, for the day when nobody has datamount. Not part of what was promised above.
            with suppress(DatamountError):
                self.store.put("restore.py", Path(standalone.__file__).read_bytes(), if_absent=True)
        return SaveResult(info, True, packer.uploaded + len(body), packer.objects + 1, tuple(skipped), tuple(warnings))

    def _store_bases(
        self, entries: list[Entry], pristine: Pristine, packer: Packer, index: Index, warnings: list[str]
    ) -> tuple[list[Entry], dict[str, str]]:
        """Put the course's content of what the student changed or removed; say in each entry whether it is there."""
        deleted = pristine.missing(packer.root)
        stored = set(index.bases)
        for sha256 in {e.base for e in entries if e.base} | set(deleted.values()):
            if sha256 in stored or (content := pristine.content(sha256)) is None:
                continue
            squeezed = zstandard.ZstdCompressor(level=3).compress(content)
            self.store.put(f"{self.prefix}base/{sha256}.zst", squeezed)
            packer.objects += 1
            packer.uploaded += len(squeezed)
            stored.add(sha256)
        index.bases = stored
        return [replace(e, base_stored=True) if e.base in stored else e for e in entries], deleted

    def _base(self, index: Index, draft: _Draft) -> VersionInfo | None:
        """The version to build on. Costs no request when the local index knows it."""
        if index.last and draft.parent in (None, index.last.id):
            return index.last
        try:
            version = self.version(draft.parent or "latest")
        except NotFound:
            if draft.parent:
                raise
            index.locations.clear()
            index.bases.clear()
            return None
        index.locations = {e.sha256: e.location for e in version.entries if e.location}
        index.bases = {e.base for e in version.entries if e.base_stored}
        return version.info

    def _keep(
        self, index: Index, state_dir: Path | None, warnings: list[str], last: VersionInfo, entries: list[Entry]
    ) -> None:
        if state_dir is None or (index.last == last and not index.changed):
            return
        index.last = last
        index.locations = {e.sha256: e.location for e in entries if e.location}
        try:
            index.write(state_dir)
        except OSError as error:
            warnings.append(f"The local index could not be written ({error.strerror}): the next save takes longer.")

    # --- Reading ------------------------------------------------------------------------------------------------

    def versions(self) -> list[VersionInfo]:
        """All versions, newest first, siblings included. One that cannot be read is left out and logged."""
        ids = self._ids()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="versions") as pool:
            found = [info for info in pool.map(self._header, ids) if info]
        return sorted(found, key=_order, reverse=True)

    def version(self, id: str = "latest") -> Version:
        """One version: by its id, a unique beginning of it, its number, or "latest". NotFound, or UsageError when
        several match; VerificationFailed when the object cannot be read."""
        if _VERSION_KEY.fullmatch(f"versions/{id}.json"):
            return self._load(id)
        ids = self._ids()
        if id == "latest":
            newest = [i for i, seq in ids.items() if seq == max(ids.values())]
            if not newest:
                raise NotFound(f"{self._named()} has no saved version yet.")
            if len(newest) > 1:
                newest = [info.id for info in sorted(filter(None, map(self._header, newest)), key=_order)]
            return self._load(newest[-1])
        matching = [i for i in ids if id and (i.startswith(id) or i.lstrip("0").startswith(id))]
        exact = [i for i in matching if str(ids[i]) == id]
        matching = exact or matching
        if not matching:
            raise NotFound(f"{self._named()} has no version {id!r}.", hint="`datamount history` lists them.", who="you")
        if len(matching) > 1:
            raise UsageError(
                f"{id!r} could be any of {', '.join(sorted(matching)[:5])}.", hint="Write more of it.", who="you"
            )
        return self._load(matching[0])

    def read(self, version: Version | str, path: str) -> Iterator[bytes]:
        """The content of one file, in chunks. Its last chunk comes only when the whole matches its digest; else
        VerificationFailed. NotFound for a path that the version does not hold as a file."""
        if isinstance(version, str):
            version = self.version(version)
        entry = version.by_path().get(path)
        if entry is None or entry.type != "file":
            raise NotFound(f"Version {version.info.id} has no file {printable(path)!r}.", who="you")
        return self._content().chunks(entry)

    def read_base(self, sha256: str) -> bytes:
        """What the course shipped, by digest: the merge base of a changed file. NotFound when it was not kept."""
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UsageError(f"{sha256!r} is not a sha256.")
        content: bytes = zstandard.ZstdDecompressor().decompress(self.store.get(f"{self.prefix}base/{sha256}.zst"))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise VerificationFailed(f"The course's content {sha256[:12]}… is damaged in the store.")
        return content

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
        report = restore_entries(chosen, into, self._content())
        if state_dir is not None and before is None and not paths and not report.failed:
            self._adopt(version, into, state_dir)
        return replace(report, saved_before=before)

    def preview(self, version: Version | str, into: Path, *, paths: Sequence[str] = ()) -> Preview:
        """What a restore would do, with nothing written."""
        if isinstance(version, str):
            version = self.version(version)
        return preview_entries(_chosen(version, paths), Path(os.path.abspath(into)))  # noqa: PTH100

    def basis(self, folder: Path, state_dir: Path) -> VersionInfo | None:
        """The version that this folder comes from, as far as this machine knows: the last saved from it or restored
        to it whole. No request."""
        return read_index(state_dir, self._identity(), Path(os.path.abspath(folder))).last  # noqa: PTH100

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

    def _adopt(self, version: Version, into: Path, state_dir: Path) -> None:
        index = read_index(state_dir, self._identity(), into)
        index.last = version.info
        index.locations = {e.sha256: e.location for e in version.entries if e.location}
        index.bases = {e.base for e in version.entries if e.base_stored}
        with suppress(OSError):
            index.write(state_dir)

    def _content(self) -> Content:
        return Content(self.store, self.prefix)

    def _ids(self) -> dict[str, int]:
        """The ids of all versions, with their seq."""
        keys = (o.key.removeprefix(self.prefix) for o in self.store.list(f"{self.prefix}versions/"))
        return {f"{m[1]}-{m[2]}": int(m[1]) for key in keys if (m := _VERSION_KEY.fullmatch(key))}

    def _header(self, id: str) -> VersionInfo | None:
        if id not in self._headers:
            try:
                info = load_header(self.store.get(self._key(id), 0, HEADER_BYTES)) or self._load(id).info
                self._headers[id] = info
            except (NotFound, VerificationFailed) as error:
                log.warning("version %s of owner=%s course=%s: %s", id, self.owner, self.course, error)
                return None
        return self._headers[id]

    def _load(self, id: str) -> Version:
        version = load(self.store.get(self._key(id)))
        if version.info.id != id:
            raise VerificationFailed(f"The version object {id} holds another version ({version.info.id}).")
        return version

    def _key(self, id: str) -> str:
        return f"{self.prefix}versions/{id}.json"

    def _identity(self) -> str:
        return f"{self.store.url} {self.prefix}"

    def _named(self) -> str:
        return f"The work of {self.owner!r} in {self.course!r}"


@dataclass(frozen=True, slots=True)
class _Draft:
    """What the caller of save said."""

    reason: Reason
    message: str
    author: str
    course_ref: str
    image: str
    exclude: tuple[str, ...]
    max_bytes: int | None
    parent: str | None


def _order(info: VersionInfo) -> tuple[int, datetime, str]:
    return info.seq, info.created, info.id


def _encoded(name: str) -> str:
    """A name as one part of a key: percent-encoded, never `.` or `..`, cut with a digest where a file system would."""
    encoded = quote(name, safe="").replace("~", "%7E")
    if encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}"
    if len(encoded) <= 200:
        return encoded
    return f"{encoded[:130].rstrip('%')}={hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _inside(state_dir: Path | None, folder: Path) -> list[str]:
    """The state folder as a path below the folder, when it is there: it is not the student's work."""
    with suppress(ValueError):
        if state_dir is not None:
            return [Path(os.path.abspath(state_dir)).relative_to(folder).as_posix()]  # noqa: PTH100
    return []


def _within(seen: Scan, max_bytes: int | None, pristine: Pristine, skipped: list[Skipped]) -> list[Found]:
    """The files to save: all, or those that fit the limit, notebooks and small ones first."""
    files = [f for f in seen.found if f.is_file]
    if max_bytes is None:
        return files
    left = max_bytes
    kept = set()
    for found in sorted(files, key=lambda f: (not f.path.endswith(".ipynb"), f.stat.st_size, f.path)):
        size = 0 if pristine.listed_only(found.path, found.stat.st_size, LARGE_PRISTINE) else found.stat.st_size
        if size <= left:
            left -= size
            kept.add(found.path)
        else:
            skipped.append(Skipped(found.path, f"over the limit of {max_bytes / 1e6:.4g} MB for saved work"))
    return [f for f in files if f.path in kept]


def _file(  # noqa: PLR0917
    path: str, stat: os.stat_result, size: int, sha256: str, place: Location | None, pristine: Pristine
) -> Entry:
    shipped = pristine.files.get(path, "")
    return Entry(
        path,
        "file",
        st.S_IMODE(stat.st_mode) & 0o777,
        stat.st_mtime_ns,
        size=size,
        sha256=sha256,
        location=place,
        pristine=shipped == sha256,
        base=shipped if shipped != sha256 else "",
        sparse=getattr(stat, "st_blocks", stat.st_size) * 512 < stat.st_size // 2,
    )


def _other(found: Found) -> Entry:
    return Entry(
        found.path,
        "folder" if found.is_folder else "link",
        st.S_IMODE(found.stat.st_mode) & 0o777,
        found.stat.st_mtime_ns,
        target=found.target,
    )


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
