"""What is in a folder of work, what is left out and why, and reading a file without ever taking it torn.

Jupyter writes in place: it copies the old content to `.~name`, truncates `name`, writes, removes `.~name`
(jupyter_server `services/contents/fileio.py`). So a file with a `.~name` beside it is waited for, every file is
looked at again after it was read, and a notebook that does not parse is read again before it is believed. A notebook
that is torn for longer than one waits is not believed at all: `.~name` holds what it was, else the last save does.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat as st
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from datamount.names import DATA_LINK
from datamount.snapshots.excludes import SECRET, Excludes, holds_login, may_hold_login
from datamount.snapshots.versionfile import Skipped
from datamount.snapshots.writeback import make_clean

TORN_WAIT = 2.0
"""Seconds that one save waits in all for files that are being written; then they are stored with a warning."""
RETRIES = 4
NOTEBOOK_LIMIT = 64 << 20
"""Bytes; larger notebooks are not parsed, only looked at before and after."""
_EMPTIED = 200_000_000
"""Nanoseconds for which an empty file may be one that a program has just truncated to write it anew."""
_EMPTIED_NOTEBOOK = 2_000_000_000
"""The same for notebooks, which are hardly ever meant to be empty."""
_LOGIN_LIMIT = 8 << 20
"""Bytes of a setting or a log that are looked through for a login."""


class FileStat(NamedTuple):
    """What a save asks of an `os.stat_result`, in a third of its memory: ten thousand of them are held at once."""

    st_mode: int
    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_blocks: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileStat:
        blocks = getattr(stat, "st_blocks", -(-stat.st_size // 512))
        return cls(stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, blocks)


@dataclass(frozen=True, slots=True)
class Found:
    """Something to save. `stat` is that of the thing itself (links are not followed)."""

    path: str
    stat: FileStat
    target: str = ""

    @property
    def is_file(self) -> bool:
        return st.S_ISREG(self.stat.st_mode)

    @property
    def is_folder(self) -> bool:
        return st.S_ISDIR(self.stat.st_mode)


Stamp = tuple[int, int, int, int]
"""Size, modification and change time in ns, and inode: while they stay, so most likely does the content."""


def stamp(stat: os.stat_result | FileStat) -> Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@dataclass
class Scan:
    """One look at a folder, sorted by path."""

    root: Path
    found: list[Found] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files, and folders with all that is in them, that cannot be read: path → reason."""
    writing: set[str] = field(default_factory=set)
    """Files with a `.~name` beside them."""


def scan(root: Path, excludes: Excludes) -> Scan:
    """Look at every entry below `root`. OSError only when `root` itself cannot be listed."""
    result = Scan(root)
    _walk(os.fspath(root), "", excludes, result)
    result.found.sort(key=lambda f: f.path)
    return result


def _walk(folder: str, prefix: str, excludes: Excludes, result: Scan) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except OSError as error:
        if not prefix:
            raise
        result.unreadable[prefix.rstrip("/")] = error.strerror or str(error)
        return
    names = {e.name for e in entries}
    for entry in entries:
        path = prefix + entry.name
        try:
            stat = FileStat.of(entry.stat(follow_symlinks=False))
            is_folder = st.S_ISDIR(stat.st_mode)
            if why := excludes.reason(path, folder=is_folder):
                result.skipped.append(Skipped(path + "/" * is_folder, why))
            elif is_folder:
                result.found.append(Found(path, stat))
                _walk(entry.path, f"{path}/", excludes, result)
            elif st.S_ISREG(stat.st_mode):
                if _has_login(result.root, path) and not excludes.brings_back(path):
                    result.skipped.append(Skipped(path, SECRET))
                    continue
                result.found.append(Found(path, stat))
                if f".~{entry.name}" in names:
                    result.writing.add(path)
            elif st.S_ISLNK(stat.st_mode):
                target = os.readlink(entry.path)  # noqa: PTH115
                if path == DATA_LINK and target.startswith("/"):
                    result.skipped.append(Skipped(path, "the link to the course's data"))
                else:
                    result.found.append(Found(path, stat, target))
            else:
                result.skipped.append(Skipped(path, _KINDS.get(st.S_IFMT(stat.st_mode), "not a file")))
        except FileNotFoundError:
            continue  # removed since the folder was listed
        except OSError as error:
            result.unreadable[path] = error.strerror or str(error)


def _has_login(root: Path, path: str) -> bool:
    if not may_hold_login(path):
        return False
    with open_below(root, path) as file:
        return holds_login(file.read(_LOGIN_LIMIT))


_KINDS = {st.S_IFSOCK: "a socket", st.S_IFIFO: "a FIFO", st.S_IFBLK: "a device", st.S_IFCHR: "a device"}


@dataclass(frozen=True, slots=True)
class Reading:
    """A file as it was read: `data` for small files, else None and the hash of a pass over it."""

    stat: FileStat
    size: int
    sha256: str
    data: bytes | None
    read_ns: int
    warning: str = ""


class Patience:
    """The seconds that one save may spend waiting for files that are being written. Safe from threads."""

    def __init__(self, seconds: float = TORN_WAIT) -> None:
        self._until = time.monotonic() + seconds

    def wait(self, seconds: float = 0.05) -> bool:
        """Wait a little; False when there is no time left."""
        left = self._until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(seconds, left))
        return True


def read_file(root: Path, path: str, limit: int, patience: Patience) -> Reading:
    """Read one file whole and stable; `data` is kept up to `limit` bytes. OSError when it cannot be read.

    A file that will not hold still within `patience` is returned as last read, with a warning: its hash is always
    that of the bytes returned, so nothing is ever stored under a wrong digest. A notebook caught torn comes with the
    content before it was written to, or as an OSError: never torn.
    """
    if path.endswith(".ipynb"):
        limit = max(limit, NOTEBOOK_LIMIT)
    full = root / path
    beside = root / beside_of(path)
    shown = printable(path)
    tries = 0
    while True:
        while _exists(beside) and patience.wait():
            pass
        reading = _read_once(root, path, limit)
        while _just_emptied(reading, path) and patience.wait():
            reading = _read_once(root, path, limit)
        # In this order: a write that ends between the two is seen by the second.
        half_done = _exists(beside)
        moved = _moved(reading.stat, os.lstat(full)) or reading.stat.st_size != reading.size
        notebook = full.suffix == ".ipynb" and reading.data is not None
        if moved:
            why = f"{shown} was being written while it was saved"
        elif notebook and not _parses(reading.data or b""):
            why = f"{shown} is not a valid notebook; it was saved as it is"
        elif half_done:
            why = f"{shown} has an unfinished save of Jupyter beside it ({beside.name})"
        else:
            return reading
        tries += 1
        if tries > RETRIES or not patience.wait():
            if notebook and (moved or half_done) and not (reading.data and _parses(reading.data)):
                return _before(root, beside_of(path), reading, limit, shown)
            return replace(reading, read_ns=0, warning=why)


def _just_emptied(reading: Reading, path: str) -> bool:
    limit = _EMPTIED_NOTEBOOK if path.endswith(".ipynb") else _EMPTIED
    return not reading.size and 0 <= reading.read_ns - reading.stat.st_ctime_ns < limit


def beside_of(path: str) -> str:
    """Where Jupyter keeps the old content of a file while it writes to it."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.~{name}"


def _before(root: Path, beside: str, torn: Reading, limit: int, shown: str) -> Reading:
    """What a torn notebook was before it was written to, as Jupyter keeps it meanwhile."""
    with suppress(OSError):
        kept = _read_once(root, beside, limit)
        if kept.data and _parses(kept.data):
            why = f"{shown} was being written all the time; its content before that is saved"
            return replace(kept, stat=torn.stat, read_ns=0, warning=why)
    raise OSError(errno.EAGAIN, "it was being written all the time")


def open_below(root: Path, path: str) -> io.BufferedReader:
    """The file at `path` below `root`, reached without following a link. OSError when a part of it is one.

    Who saves may read more than the student who owns the tree: a folder swapped for a link between the scan and the
    read must not bring a file from elsewhere (keys, another process's environment) into a version.
    """
    *folders, name = path.split("/")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = inner
        # Without O_NONBLOCK, a FIFO that took the file's place would keep the save waiting for a writer.
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
        return os.fdopen(found, "rb")
    finally:
        os.close(handle)


def _read_once(root: Path, path: str, limit: int) -> Reading:
    started = time.time_ns()
    with open_below(root, path) as file:
        stat = FileStat.of(os.fstat(file.fileno()))
        if not st.S_ISREG(stat.st_mode):
            raise OSError(errno.EINVAL, "not a file any more")
        # A program that maps a file (numpy.memmap) gives it a new time at its first write to a page that the disk has,
        # and none at later ones. From here on the next write is a first one again, and the index sees it.
        make_clean(file.fileno())
        if stat.st_size <= limit:
            data = file.read()
            return Reading(stat, len(data), hashlib.sha256(data).hexdigest(), data, started)
        digest = hashlib.file_digest(file, "sha256")
        return Reading(stat, file.tell(), digest.hexdigest(), None, started)


def _moved(before: FileStat, after: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name of 255 bytes has no room for `.~`
        return False


def _parses(data: bytes) -> bool:
    if not data.strip():
        return not data  # Jupyter itself makes new notebooks non-empty; an empty file is what the student has
    try:
        return isinstance(json.loads(data), dict)
    except ValueError:
        return False


def printable(path: str) -> str:
    """A path as a terminal or a message may show it."""
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


class VerifiedFile:
    """A file as the body of a put: raises before its last chunk when its content is not `sha256` any more.

    So an object named by a digest never appears with other content, though the file may change during its upload.
    """

    def __init__(self, path: Path, sha256: str, chunk: int = 1 << 20) -> None:
        self.path, self.sha256, self.chunk = path, sha256, chunk

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        held = b""
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(self.chunk):
                    digest.update(chunk)
                    if held:
                        yield held
                    held = chunk
        except OSError as error:
            raise FileChanged(printable(str(self.path))) from error
        if digest.hexdigest() != self.sha256:
            raise FileChanged(printable(str(self.path)))
        yield held


class FileChanged(Exception):
    """A large file changed between its hash and its upload."""
