"""Writes entries of a version to a folder: each file whole and verified, or not at all, and never outside.

Every folder on the way is opened by descriptor without following links, so neither a link of the student's nor one
that appears during the restore can lead a write out of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat as st
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from datamount.errors import DatamountError, DiskFull, NotFound, Refused, VerificationFailed
from datamount.objectstore import ObjectStore
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Location, VersionInfo

_WORKERS = 8
_GAP = 256 << 10
"""Bytes between two wanted files of a bundle that are cheaper to read than to skip with a request of their own."""
_WHOLE = 32 << 20
_CHUNK = 1 << 20
_PART = 8 << 20
_PARTS = 4
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did, by path. Whole when `failed` and `not_stored` are empty."""

    restored: tuple[str, ...]
    unchanged: tuple[str, ...]
    """Files that were there already with this content."""
    failed: dict[str, str]
    """Path → why it is missing."""
    not_stored: tuple[str, ...]
    """Large files of the course that the version lists by digest only, and that are not in the folder."""
    bytes: int = 0
    saved_before: VersionInfo | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a restore would do, by path. `replaced` are files and links there with other content."""

    new: tuple[str, ...]
    replaced: tuple[str, ...]
    unchanged: tuple[str, ...]
    not_stored: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """Reads what entries point to, verified."""

    store: ObjectStore
    prefix: str

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The file's bytes; the last chunk only when the whole matches the digest, else VerificationFailed."""
        place = self._place(entry)
        stop = place.offset + place.length
        if place.length > _PART:
            parts = self._parts(self.prefix + place.object, place.offset, stop)
        elif place.object.startswith("blobs/"):
            parts = self.store.stream(self.prefix + place.object, place.offset, stop)
        else:
            parts = iter([self.store.get(self.prefix + place.object, place.offset, stop)])
        yield from verified(decoded(parts, place.encoding), entry)

    def _parts(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """A large object in order, several parts under way at once: one connection is slow on a long way."""
        with ThreadPoolExecutor(_PARTS, thread_name_prefix="restore-part") as pool:
            waiting: deque[Future[bytes]] = deque()
            at = start
            while at < stop or waiting:
                while at < stop and len(waiting) < _PARTS:
                    waiting.append(pool.submit(self.store.get, key, at, min(at + _PART, stop)))
                    at += _PART
                yield waiting.popleft().result()

    def group(self, key: str, entries: list[Entry]) -> Iterator[tuple[Entry, Iterator[bytes] | DatamountError]]:
        """The files of one object, near ones with one request."""
        if key.startswith("blobs/"):
            for entry in entries:
                yield entry, self.chunks(entry)
            return
        entries = sorted(entries, key=lambda e: self._place(e).offset)
        while entries:
            start = self._place(entries[0]).offset
            stop = start
            run: list[Entry] = []
            for entry in entries:
                place = self._place(entry)
                if place.offset > stop + _GAP or place.offset + place.length - start > _WHOLE:
                    break
                stop = max(stop, place.offset + place.length)
                run.append(entry)
            run = run or entries[:1]
            stop = max(stop, start + self._place(run[0]).length)
            entries = entries[len(run) :]
            try:
                data = self.store.get(self.prefix + key, start, stop)
            except DatamountError as error:
                yield from ((entry, error) for entry in run)
                continue
            for entry in run:
                place = self._place(entry)
                part = data[place.offset - start : place.offset - start + place.length]
                yield entry, verified(decoded(iter([part]), place.encoding), entry)

    @staticmethod
    def _place(entry: Entry) -> Location:
        if entry.location is None:
            raise NotFound(
                f"{printable(entry.path)} is a large file of the course, as it was shipped; the version lists only its "
                "digest.",
                hint="Take it from the course's repository.",
                who="you",
            )
        return entry.location


def decoded(parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Stored bytes → the file's bytes. VerificationFailed for what is not a zstd frame."""
    if encoding == "raw":
        yield from parts
        return
    decoder = zstandard.ZstdDecompressor().decompressobj()
    try:
        for part in parts:
            yield decoder.decompress(part)
    except zstandard.ZstdError as error:
        raise VerificationFailed("The stored bytes are damaged: not a zstd frame.") from error


def verified(parts: Iterable[bytes], entry: Entry) -> Iterator[bytes]:
    """Pass chunks on, the last only when size and digest of all match."""
    digest = hashlib.sha256()
    held = b""
    size = 0
    for part in parts:
        if not part:
            continue
        digest.update(part)
        size += len(part)
        if size > entry.size:
            break
        if held:
            yield held
        held = part
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise VerificationFailed(f"The stored bytes of {printable(entry.path)} are damaged.")
    yield held


@dataclass
class _Progress:
    restored: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_stored: list[str] = field(default_factory=list)
    bytes: int = 0


def restore_entries(entries: Iterable[Entry], into: Path, content: Content) -> RestoreReport:
    """Write all entries below `into` (made when missing). DiskFull when there is no room, with whole files only
    written so far; any other fault of one entry is in the report."""
    into.mkdir(parents=True, exist_ok=True)
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    done = _Progress()
    try:
        usable = []
        for entry in entries:
            if why := _refusal(entry):
                done.failed[entry.path] = why
            else:
                usable.append(entry)
        folders = [e for e in usable if e.type == "folder"]
        for entry in sorted(folders, key=lambda e: e.path):
            with _reported(entry, done), _folder(root, entry.path):
                pass
        _files(root, [e for e in usable if e.type == "file"], content, done)
        for entry in usable:
            if entry.type == "link":
                with _reported(entry, done):
                    _link(root, entry, done)
        # Deepest first: writing into a folder changes its time, and a folder may have no write permission.
        for entry in sorted(folders, key=lambda e: e.path, reverse=True):
            with _reported(entry, done), _folder(root, entry.path) as handle:
                os.fchmod(handle, entry.mode)
                os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fsync(handle)
        os.fsync(root)
    finally:
        os.close(root)
    return RestoreReport(
        tuple(sorted(done.restored)),
        tuple(sorted(done.unchanged)),
        dict(sorted(done.failed.items())),
        tuple(sorted(done.not_stored)),
        done.bytes,
    )


def preview_entries(entries: Iterable[Entry], into: Path) -> Preview:
    """What `restore_entries` would do, file by file and link by link."""
    kinds: dict[str, list[str]] = {"new": [], "replaced": [], "unchanged": [], "not_stored": []}
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if into.is_dir() else None
    try:
        for entry in entries:
            if entry.type == "folder" or _refusal(entry):
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


def _refusal(entry: Entry) -> str | None:
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
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if _same(root, entry):
            done.unchanged.append(entry.path)
            with _reported(entry, done):
                _times(root, entry)
        elif entry.location is None:
            done.not_stored.append(entry.path)
        else:
            groups[entry.location.object].append(entry)

    def one(key: str) -> None:
        for entry, chunks in content.group(key, groups[key]):
            with _reported(entry, done):
                if isinstance(chunks, DatamountError):
                    raise chunks
                _write(root, entry, chunks)
                done.restored.append(entry.path)
                done.bytes += entry.size

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="restore") as pool:
        for future in [pool.submit(one, key) for key in groups]:
            future.result()


@contextmanager
def _reported(entry: Entry, done: _Progress) -> Iterator[None]:
    try:
        yield
    except DiskFull:
        raise
    except DatamountError as error:
        done.failed[entry.path] = error.message
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"There is no room to restore {printable(entry.path)}.",
                hint="Free some space and restore again: what is complete stays.",
                who="you",
            ) from error
        done.failed[entry.path] = error.strerror or str(error)


@contextmanager
def _folder(root: int, path: str) -> Iterator[int]:
    """A descriptor of the folder `path` below `root`, made when missing. Refused when a link is on the way."""
    handle = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=handle)
            try:
                deeper = os.open(part, _FOLDER, dir_fd=handle)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise Refused(
                        f"{printable(path)} is not restored: {printable(part)} is a link or a file there, not a folder."
                    ) from error
                raise
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def _write(root: int, entry: Entry, chunks: Iterator[bytes]) -> None:
    parent, _, name = entry.path.rpartition("/")
    with _folder(root, parent) as folder:
        _not_a_folder(name, folder, entry)
        temporary = f".datamount-{secrets.token_hex(8)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                for chunk in chunks:
                    if entry.sparse and not chunk.strip(b"\0"):
                        file.seek(len(chunk), os.SEEK_CUR)
                    else:
                        _write_all(file.fileno(), chunk)
                if entry.sparse:
                    file.truncate(entry.size)
                os.fchmod(file.fileno(), entry.mode)
                os.utime(file.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_CHUNK]) :]


def _link(root: int, entry: Entry, done: _Progress) -> None:
    parent, _, name = entry.path.rpartition("/")
    with _folder(root, parent) as folder:
        with suppress(OSError):
            if os.readlink(name, dir_fd=folder) == entry.target:
                done.unchanged.append(entry.path)
                return
        _not_a_folder(name, folder, entry)
        temporary = f".datamount-{secrets.token_hex(8)}"
        os.symlink(entry.target, temporary, dir_fd=folder)
        os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        done.restored.append(entry.path)


def _not_a_folder(name: str, folder: int, entry: Entry) -> None:
    with suppress(FileNotFoundError):
        if st.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            raise Refused(f"{printable(entry.path)} is not restored: there is a folder of that name.")


def _same(root: int, entry: Entry) -> bool:
    """Whether the file is there already with the wanted content."""
    try:
        parent, _, name = entry.path.rpartition("/")
        with _existing(root, parent) as folder:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            stat = os.fstat(file.fileno())
            if not st.S_ISREG(stat.st_mode) or stat.st_size != entry.size:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
    except OSError:
        return False


@contextmanager
def _existing(root: int, path: str) -> Iterator[int]:
    handle = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            deeper = os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def _times(root: int, entry: Entry) -> None:
    parent, _, name = entry.path.rpartition("/")
    with _existing(root, parent) as folder:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fchmod(handle, entry.mode)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(handle)
