"""Writes entries of a version to a folder: each file whole and verified, or not at all, and never outside.

Parts of bundles and of large files come side by side; what has come is verified, written and on its way to the disk
while the rest comes (`snapshots.placing`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat as st
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datamount.errors import DatamountError, DiskFull
from datamount.snapshots.content import PART, Content, Run
from datamount.snapshots.placing import (
    TEMPORARY,
    Batch,
    existing_folder,
    folder_below,
    refuse_folder,
    refuse_unseen,
)
from datamount.snapshots.scan import Stamp, printable
from datamount.snapshots.versionfile import Entry, VersionInfo

_WORKERS = 12
_LARGE = 2
"""Large files that are restored at once, each in several parts."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did, by path. Whole when `failed` and `not_stored` are empty."""

    restored: tuple[str, ...]
    unchanged: tuple[str, ...]
    """Files that were there already with this content."""
    failed: dict[str, str]
    """Path → why it is not there as the version has it."""
    not_stored: tuple[str, ...]
    """Large files of the course that the version lists by digest only, and that are not in the folder."""
    bytes: int = 0
    saved_before: VersionInfo | None = None
    again: tuple[str, ...] = ()
    """Those of the failed that another try may bring: the store did not answer, or something wrote to the file."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a restore would do, by path. `replaced` are files and links there with other content."""

    new: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    not_stored: tuple[str, ...]
    merged: tuple[str, ...] = ()
    """Files that get both the saved changes and those of a newer course (`session.resuming`)."""


@dataclass
class _Progress:
    seen: Mapping[str, Stamp] | None
    restored: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_stored: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    bytes: int = 0
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, path: str, error: DatamountError) -> None:
        self.failed[path] = error.message
        if error.transient:
            self.again.append(path)

    def add(self, size: int) -> None:
        with self._mutex:
            self.bytes += size


def restore_entries(
    entries: Iterable[Entry],
    into: Path,
    content: Content,
    *,
    inside: Path | None = None,
    seen: Mapping[str, Stamp] | None = None,
) -> RestoreReport:
    """Write all entries below `into` (made when missing). DiskFull when there is no room, with whole files only
    written so far; any other fault of one entry is in the report.

    With `inside`, a folder that `into` is below, no link between the two is followed: Refused when there is one. With
    `seen`, a file or link that is not as it was seen there is left as it is, and fails.
    """
    done = _Progress(seen)
    with _opened(into, inside) as root:
        usable = []
        for entry in entries:
            if why := refusal(entry):
                done.failed[entry.path] = why
            else:
                usable.append(entry)
        folders = [e for e in usable if e.type == "folder"]
        for entry in sorted(folders, key=lambda e: e.path):
            with _reported(entry, done), folder_below(root, entry.path):
                pass
        _files(root, [e for e in usable if e.type == "file"], content, done)
        for entry in usable:
            if entry.type == "link":
                with _reported(entry, done):
                    _link(root, entry, done)
        _finish_folders(root, folders, done)
    return RestoreReport(
        tuple(sorted(done.restored)),
        tuple(sorted(done.unchanged)),
        dict(sorted(done.failed.items())),
        tuple(sorted(done.not_stored)),
        done.bytes,
        again=tuple(sorted(done.again)),
    )


@contextmanager
def _opened(into: Path, inside: Path | None) -> Iterator[int]:
    if inside is None:
        into.mkdir(parents=True, exist_ok=True)
    above = inside or into
    handle = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with folder_below(handle, "/".join(into.relative_to(above).parts)) as root:
            yield root
    finally:
        os.close(handle)


def preview_entries(entries: Iterable[Entry], into: Path) -> Preview:
    """What `restore_entries` would do, file by file and link by link."""
    kinds: dict[str, list[str]] = {"new": [], "replaced": [], "unchanged": [], "not_stored": []}
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if into.is_dir() else None
    try:
        for entry in entries:
            if entry.type == "folder" or refusal(entry):
                continue
            if root is None or not os.path.lexists(into / entry.path):
                kind = "new" if entry.location or entry.type == "link" else "not_stored"
            elif entry.type == "link":
                path = into / entry.path
                kind = "unchanged" if path.is_symlink() and str(path.readlink()) == entry.target else "replaced"
            elif _same(root, entry):
                kind = "unchanged"
            else:
                kind = "replaced" if entry.location else "not_stored"
            kinds[kind].append(entry.path)
    finally:
        if root is not None:
            os.close(root)
    return Preview(**{kind: tuple(sorted(paths)) for kind, paths in kinds.items()})


def refusal(entry: Entry) -> str | None:
    """Why this entry must not be written, whoever wrote the version."""
    parts = entry.path.split("/")
    if not entry.path or "\0" in entry.path or any(part in ("", ".", "..") for part in parts):
        return "refused: its path leads out of the folder"
    if entry.type not in ("file", "folder", "link"):
        return f"refused: it is a {entry.type}"
    if entry.type == "link" and (not entry.target or "\0" in entry.target):
        return "refused: it is a link without a target"
    return None


def _files(root: int, entries: list[Entry], content: Content, done: _Progress) -> None:
    with (
        ThreadPoolExecutor(_WORKERS, thread_name_prefix="restore") as pool,
        ThreadPoolExecutor(_LARGE, thread_name_prefix="restore-large") as larges,
    ):
        looked_at = [entry for entry in entries if _same_size(root, entry)]
        there = {e.path for e, same in zip(looked_at, pool.map(partial(_same, root), looked_at), strict=True) if same}
        wanted = []
        for entry in entries:
            if entry.path in there:
                done.unchanged.append(entry.path)
                with _reported(entry, done):
                    _times(root, entry)
            elif entry.location is None:
                done.not_stored.append(entry.path)
            else:
                wanted.append(entry)
        blobs = [e for e in wanted if e.location and e.location.object.startswith("blobs/")]
        runs = content.runs(e for e in wanted if not (e.location and e.location.object.startswith("blobs/")))
        work: list[Future[None]] = []
        for entry in blobs:
            large = bool(entry.location and entry.location.length > PART)
            work.append((larges if large else pool).submit(_place_blob, root, entry, content, done))
        work += [pool.submit(_place_run, root, run, content, done) for run in runs]
        for future in work:
            future.result()


def _place_blob(root: int, entry: Entry, content: Content, done: _Progress) -> None:
    with closing(Batch(root, done.seen)) as batch:
        with _reported(entry, done):
            batch.write(entry, content.chunks(entry))
        _appear(batch, done)


def _place_run(root: int, run: Run, content: Content, done: _Progress) -> None:
    with closing(Batch(root, done.seen)) as batch:
        try:
            files = content.read(run)
            for entry, found in files:
                with _reported(entry, done):
                    if isinstance(found, DatamountError):
                        raise found
                    batch.write(entry, [found])
                if batch.full:
                    _appear(batch, done)
        except DiskFull:
            raise
        except DatamountError as error:
            for entry in run.entries:
                done.fail(entry.path, error)
        _appear(batch, done)


def _appear(batch: Batch, done: _Progress) -> None:
    for entry, fault in batch.finish():
        with _reported(entry, done):
            if fault:
                raise fault
            done.restored.append(entry.path)
            done.add(entry.size)


def _finish_folders(root: int, folders: list[Entry], done: _Progress) -> None:
    """Modes and times, then the entries of all folders that were written to, made durable together."""
    # Deepest first: writing into a folder changes its time, and a folder may have no write permission.
    for entry in sorted(folders, key=lambda e: e.path, reverse=True):
        with _reported(entry, done), folder_below(root, entry.path) as handle:
            os.fchmod(handle, entry.mode)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
    written = {path.rpartition("/")[0] for path in done.restored}
    for path in written | {entry.path for entry in folders}:
        # One that cannot be opened any more is its owner's doing.
        with suppress(OSError), existing_folder(root, path) as handle:
            os.fsync(handle)
    os.fsync(root)


@contextmanager
def _reported(entry: Entry, done: _Progress) -> Iterator[None]:
    try:
        yield
    except DiskFull:
        raise
    except DatamountError as error:
        done.fail(entry.path, error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"There is no room to restore {printable(entry.path)}.",
                hint="Free some space and restore again: what is complete stays.",
                who="you",
            ) from error
        done.failed[entry.path] = error.strerror or str(error)


def _link(root: int, entry: Entry, done: _Progress) -> None:
    parent, _, name = entry.path.rpartition("/")
    with folder_below(root, parent) as folder:
        with suppress(OSError):
            if os.readlink(name, dir_fd=folder) == entry.target:
                done.unchanged.append(entry.path)
                return
        refuse_folder(name, folder, entry)
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
        os.symlink(entry.target, temporary, dir_fd=folder)
        os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
        try:
            refuse_unseen(name, folder, entry.path, done.seen)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(temporary, dir_fd=folder)
            raise
        done.restored.append(entry.path)


def _same_size(root: int, entry: Entry) -> bool:
    """Whether a look at the content is worth it: there is a file of this size."""
    with suppress(OSError, ValueError):
        stat = os.stat(entry.path, dir_fd=root, follow_symlinks=False)
        return st.S_ISREG(stat.st_mode) and stat.st_size == entry.size
    return False


def _same(root: int, entry: Entry) -> bool:
    """Whether the file is there already with the wanted content."""
    try:
        parent, _, name = entry.path.rpartition("/")
        with existing_folder(root, parent) as folder:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            stat = os.fstat(file.fileno())
            if not st.S_ISREG(stat.st_mode) or stat.st_size != entry.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


def _times(root: int, entry: Entry) -> None:
    parent, _, name = entry.path.rpartition("/")
    with existing_folder(root, parent) as folder:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fchmod(handle, entry.mode)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(handle)
