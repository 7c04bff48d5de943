"""Single changes to a folder of work, made while its owner may be at it: nothing leads out of the folder.

What a launch could not bring home comes while programs of the session run, and the sidecar may read and write where
they may not. So every folder on the way to a file is opened by descriptor and never through a link, as restores do it
(`snapshots.placing`). Paths are relative to the folder. Refused where a link or a file stands in a folder's place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat as st
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from datamount.errors import Refused
from datamount.snapshots.placing import TEMPORARY, existing_folder, folder_below, refuse_unseen
from datamount.snapshots.scan import Stamp, open_below, printable

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def read(folder: Path, path: str) -> bytes:
    """The content of a file."""
    with open_below(folder, path) as file:
        return file.read()


def write(folder: Path, path: str, data: bytes, mode: int, seen: Mapping[str, Stamp] | None = None) -> None:
    """A file that appears whole and durable. With `seen`, Conflict where something else than that would go."""
    with _appearing(folder, path, seen) as (place, temporary), os.fdopen(_made(temporary, place), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def copy(folder: Path, source: str, target: str, seen: Mapping[str, Stamp] | None = None) -> None:
    """A copy that appears whole, or a link with the same target. With `seen`, Conflict where something else than that
    would go."""
    parent, _, name = source.rpartition("/")
    with _opened(folder) as root, existing_folder(root, parent) as beside:
        stat = os.stat(name, dir_fd=beside, follow_symlinks=False)
        times = (stat.st_atime_ns, stat.st_mtime_ns)
        if st.S_ISLNK(stat.st_mode):
            link = os.readlink(name, dir_fd=beside)
            with _appearing(folder, target, seen) as (place, temporary):
                os.symlink(link, temporary, dir_fd=place)
                os.utime(temporary, ns=times, dir_fd=place, follow_symlinks=False)
            return
    with (
        open_below(folder, source) as content,
        _appearing(folder, target, seen) as (place, temporary),
        os.fdopen(_made(temporary, place), "wb") as file,
    ):
        shutil.copyfileobj(content, file)
        file.flush()
        os.fchmod(file.fileno(), st.S_IMODE(stat.st_mode))
        os.utime(file.fileno(), ns=times)


def remove(folder: Path, path: str, seen: Mapping[str, Stamp] | None = None) -> None:
    """Remove a file or link, and the folders that are empty without it. What is gone already is no error. With `seen`,
    Conflict where something else than that would go."""
    parent, _, name = path.rpartition("/")
    with _opened(folder) as root:
        try:
            with existing_folder(root, parent) as place:
                refuse_unseen(name, place, path, seen)
                os.unlink(name, dir_fd=place)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise Refused(f"{printable(path)} is left alone: there is a link or a file on the way to it.") from error
        with suppress(OSError):
            while parent:
                parent, _, name = parent.rpartition("/")
                with existing_folder(root, parent) as place:
                    os.rmdir(name, dir_fd=place)


@contextmanager
def _appearing(folder: Path, path: str, seen: Mapping[str, Stamp] | None = None) -> Iterator[tuple[int, str]]:
    """A name beside `path`, and the folder that it is in, made when missing; in the end it takes the place of `path`.
    A save leaves it out, should a kill leave it there."""
    parent, _, name = path.rpartition("/")
    temporary = f"{TEMPORARY}{os.getpid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    with _opened(folder) as root, folder_below(root, parent) as place:
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place)
            yield place, temporary
            refuse_unseen(name, place, path, seen)
            os.rename(temporary, name, src_dir_fd=place, dst_dir_fd=place)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _made(name: str, place: int) -> int:
    return os.open(name, _NEW, 0o600, dir_fd=place)
