"""Puts files into a folder: each whole, durable and by a rename, many with few waits for the disk, never outside.

Every folder on the way is opened by descriptor without following links, so neither a link of the student's nor one
that appears meanwhile can lead a write out of the folder.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat as st
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from datamount.errors import Conflict, DatamountError, Refused
from datamount.snapshots.content import Chunk
from datamount.snapshots.scan import Stamp, printable, stamp
from datamount.snapshots.versionfile import Entry
from datamount.snapshots.writeback import start_writeback

TEMPORARY = ".datamount-"
"""How the names of files begin that are not whole yet; saves leave them out."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_TOGETHER = 24
_DIRTY = 8 << 20
"""Bytes of a file after which the disk is told to begin."""


@contextmanager
def folder_below(root: int, path: str) -> Iterator[int]:
    """A descriptor of the folder `path` below `root`, made when missing. Refused when a link is on the way."""
    handle = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=handle)
            try:
                deeper = os.open(part, FOLDER, dir_fd=handle)
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


@contextmanager
def existing_folder(root: int, path: str) -> Iterator[int]:
    """The same, of a folder that is there. OSError when it is not, or a link is on the way."""
    handle = os.dup(root)
    try:
        for part in filter(None, path.split("/")):
            deeper = os.open(part, FOLDER, dir_fd=handle)
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)


def refuse_folder(name: str, folder: int, entry: Entry) -> None:
    with suppress(FileNotFoundError):
        if st.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
            raise Refused(f"{printable(entry.path)} is not restored: there is a folder of that name.")


def refuse_unseen(name: str, folder: int, path: str, seen: Mapping[str, Stamp] | None) -> None:
    """Conflict where `name` in `folder` is not what was seen at `path`: somebody is writing there, and what is there
    now may be nowhere else. What is gone may be replaced."""
    if seen is None:
        return
    with suppress(FileNotFoundError):
        if stamp(os.lstat(name, dir_fd=folder)) != seen.get(path):
            raise Conflict(
                f"{printable(path)} is left as it is: it was changed meanwhile, or saves leave it out.",
                hint="Rename it, or wait until nothing writes to it; then restore again.",
                who="you",
                transient=True,
            )


@dataclass
class Batch:
    """Files that are written, and appear together when the disk has them: while one waits for it, the others are
    on their way already. What `finish` was not called for disappears with `close`."""

    root: int
    """Descriptor of the folder that all paths are below."""
    seen: Mapping[str, Stamp] | None = None
    """What may be replaced, by path; None for anything. The look is right before the rename."""
    _folders: dict[str, int] = field(default_factory=dict)
    _waiting: list[tuple[Entry, int, str, str, int]] = field(default_factory=list)

    def write(self, entry: Entry, chunks: Iterable[Chunk]) -> None:
        """Write a file beside its place. OSError, Refused, or what `chunks` raises; then nothing of it stays."""
        parent, _, name = entry.path.rpartition("/")
        folder = self._folder(parent)
        refuse_folder(name, folder, entry)
        temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            dirty = 0
            for chunk in chunks:
                dirty += len(chunk)
                if dirty > _DIRTY:
                    start_writeback(handle)
                    dirty = 0
                if entry.sparse and not bytes(chunk).strip(b"\0"):
                    os.lseek(handle, len(chunk), os.SEEK_CUR)
                else:
                    _write_all(handle, chunk)
            if entry.sparse:
                os.ftruncate(handle, entry.size)
            os.fchmod(handle, entry.mode)
            os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
            start_writeback(handle)
        except BaseException:
            os.close(handle)
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        self._waiting.append((entry, folder, temporary, name, handle))

    @property
    def full(self) -> bool:
        """Whether it is time to finish: each file is open until then, and a process may open a thousand at most."""
        return len(self._waiting) >= _TOGETHER

    def finish(self) -> Iterator[tuple[Entry, OSError | DatamountError | None]]:
        """Let the files appear, durably but for their folders' entries; each with what kept it from that."""
        while self._waiting:
            entry, folder, temporary, name, handle = self._waiting.pop(0)
            fault: OSError | DatamountError | None = None
            try:
                os.fsync(handle)
                refuse_unseen(name, folder, entry.path, self.seen)
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except (OSError, DatamountError) as error:
                fault = error
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
            finally:
                os.close(handle)
            yield entry, fault
        self._close_folders()

    def close(self) -> None:
        for _, folder, temporary, _, handle in self._waiting:
            os.close(handle)
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
        self._waiting.clear()
        self._close_folders()

    def _close_folders(self) -> None:
        for folder in self._folders.values():
            os.close(folder)
        self._folders.clear()

    def _folder(self, path: str) -> int:
        if path not in self._folders:
            with folder_below(self.root, path) as handle:
                self._folders[path] = os.dup(handle)
        return self._folders[path]


def _write_all(handle: int, data: Chunk) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[:_CHUNK]) :]
