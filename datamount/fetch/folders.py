"""The dataset's folder, walked without ever following a link out of it.

Every step is relative to an open folder and refuses symbolic links (openat with O_NOFOLLOW), so that neither a link
that was there before nor one put there meanwhile leads a write, a rename or a removal elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from datamount.drivers.base import path_fault
from datamount.errors import Unavailable

OPEN_FOLDERS = 128
"""Descriptors kept of folders that are written to: walking there again for each file costs more than the file."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A folder below the data folder. `replaceable` says which of the files in it are ours to remove."""

    def __init__(self, root: Path, name: str, replaceable: Callable[[str], bool] = lambda _path: False) -> None:
        self.root = root
        self.name = name
        self._replaceable = replaceable
        self._mutex = threading.Lock()
        self._open: dict[str, int] = {}

    def close(self) -> None:
        """Close the folders that were kept open. Nothing may be under way."""
        while self._open:
            os.close(self._open.popitem()[1])

    def is_empty(self) -> bool:
        """Whether there is no such folder, or nothing in it."""
        try:
            with self.parent("_") as (handle, _), os.scandir(handle) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _kept(self, folder: str, *, make: bool) -> int:
        """An open descriptor of a folder below, as `parent` opens it; -1 where too many are open."""
        handle = self._open.get(folder)
        if handle is None:
            with self._mutex:
                if folder in self._open or len(self._open) >= OPEN_FOLDERS:
                    return self._open.get(folder, -1)
                with self.parent(f"{folder}/_" if folder else "_", make=make) as (found, _):
                    handle = self._open[folder] = os.dup(found)
        return handle

    @contextlib.contextmanager
    def parent(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """An open descriptor of the folder that holds `path`, and the last part of `path`.

        With `make`, missing folders are made, and a link or a replaceable file that stands where a folder must be is
        removed; anything else there raises Unavailable. Without, FileNotFoundError or NotADirectoryError as found.
        ValueError for a path that is not below this folder, such as "../x": whoever names it must have refused it.
        """
        *folders, last = path.split("/")
        if fault := path_fault(path):
            raise ValueError(f"{path!r} {fault}")
        handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            walked = ""
            for depth, part in enumerate([*self.name.split("/"), *folders]):
                walked = f"{walked}/{part}" if depth >= len(self.name.split("/")) else ""
                inner = self._enter(handle, part, walked.lstrip("/"), make)
                os.close(handle)
                handle = inner
            yield handle, last
        finally:
            os.close(handle)

    def stat(self, path: str) -> os.stat_result | None:
        """The status of the regular file at `path`; None for anything else, a link included."""
        above, _, last = path.rpartition("/")
        try:
            # A folder that was removed since is empty, so what is kept open of it has no such file either.
            handle = self._kept(above, make=False)
            if handle >= 0:
                found = os.stat(last, dir_fd=handle, follow_symlinks=False)
            else:
                with self.parent(path) as (folder, last):
                    found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == 40:  # ELOOP: a link among the folders
                return None
            raise
        return found if stat.S_ISREG(found.st_mode) else None

    def open(self, path: str) -> int:
        """A descriptor to read the file at `path`."""
        with self.parent(path) as (folder, last):
            return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)

    def place(self, source_folder: int, source: str, path: str) -> None:
        """Rename `source` (in another open folder of the same file system) to `path`, over what is there."""
        folder, _, last = path.rpartition("/")
        if (handle := self._kept(folder, make=True)) >= 0:
            try:
                os.rename(source, last, src_dir_fd=source_folder, dst_dir_fd=handle)
            except OSError:  # a folder in the way, or this one was removed meanwhile: walk there
                self._place(source_folder, source, path)
        else:
            self._place(source_folder, source, path)

    def _place(self, source_folder: int, source: str, path: str) -> None:
        with self.parent(path, make=True) as (folder, last):
            try:
                os.rename(source, last, src_dir_fd=source_folder, dst_dir_fd=folder)
            except IsADirectoryError as error:
                try:
                    os.rmdir(last, dir_fd=folder)
                except OSError:
                    raise self._in_the_way(path) from error
                os.rename(source, last, src_dir_fd=source_folder, dst_dir_fd=folder)

    def remove(self, path: str) -> None:
        """Remove a file, and the folders above it that are empty then. No error when it is not there."""
        try:
            with self.parent(path) as (folder, last):
                os.unlink(last, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        while "/" in path:
            path = path.rpartition("/")[0]
            try:
                with self.parent(path) as (folder, last):
                    os.rmdir(last, dir_fd=folder)
            except OSError:
                return

    def _enter(self, handle: int, part: str, walked: str, make: bool) -> int:
        try:
            return os.open(part, _FOLDER, dir_fd=handle)
        except FileNotFoundError:
            if not make:
                raise
        except OSError:
            if not make:
                raise
            found = os.stat(part, dir_fd=handle, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode) and not self._replaceable(walked):
                raise self._in_the_way(walked) from None
            os.unlink(part, dir_fd=handle)
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=handle)
        return os.open(part, _FOLDER, dir_fd=handle)

    def _in_the_way(self, path: str) -> Unavailable:
        return Unavailable(
            f'dataset "{self.name}": {self.root / self.name / path} is in the way; it is not from this dataset.',
            hint="Move it away and fetch again.",
            who="you",
        )
