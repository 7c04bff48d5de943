"""A store in a folder: of a laptop, or of a volume that several pods mount.

Durable means: file synced, renamed into place, folder synced. A folder goes with its last object. `if_absent` is a
hard link, atomic on local file systems and on NFS; where links are not allowed (FAT, some FUSE) it is a check followed
by a rename. Readers on NFS see a new object within the attribute-cache time of their mount (`actimeo`), which the
engine takes as a stale list.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from datamount.errors import Conflict, DatamountError, DiskFull, NotFound, Refused, Unavailable
from datamount.objectstore.base import Body, ObjectInfo, check_key

CHUNK = 1 << 20
_TEMPORARY = ".tmp-"
_FOLDER_TRIES = 20


class FolderStore:
    """Objects as files below `root`, which the first `put` makes."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        target = self._path(key)
        temporary = target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        try:
            if if_absent and target.exists():
                raise self._conflict(key)
            with self._new_file(temporary) as file:
                for chunk in _chunks(body):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if if_absent:
                self._link(key, temporary, target)
            else:
                temporary.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise self._error("write", key, error) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return file.read() if stop is None else file.read(max(stop - start, 0))
        except OSError as error:
            raise self._error("read", key, error) from error

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                left = float("inf") if stop is None else stop - start
                while left > 0 and (chunk := file.read(int(min(CHUNK, left)))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise self._error("read", key, error) from error

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        top = prefix.rpartition("/")[0]
        folders = [self._path(top) if top else self.root]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    found = [e for e in entries if not e.name.startswith(_TEMPORARY)]
                for entry in found:
                    key = Path(entry.path).relative_to(self.root).as_posix()
                    if entry.is_dir(follow_symlinks=False):
                        if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                            folders.append(Path(entry.path))
                    elif key.startswith(prefix):
                        with suppress(FileNotFoundError):  # deleted since the scan
                            stat = entry.stat(follow_symlinks=False)
                            yield ObjectInfo(key, stat.st_size, stat.st_mtime)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._error("list", prefix, error) from error

    def folders(self, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(self._path(prefix.rstrip("/")) if prefix else self.root) as entries:
                yield from [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return
        except OSError as error:
            if isinstance(error, NotADirectoryError) and self.root.is_dir():
                return
            raise self._error("list", prefix, error) from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root:
                    break
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:  # something else is in it
                    _sync_folder(folder)
                    break
            else:
                return
            if self.root.exists():
                _sync_folder(self.root)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error("delete", key, error) from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _new_file(self, path: Path) -> IO[bytes]:
        for _ in range(_FOLDER_TRIES):
            self._make_folder(path.parent)
            with suppress(FileNotFoundError):  # a delete has just removed the empty folder
                return path.open("xb")
        return path.open("xb")

    def _make_folder(self, folder: Path) -> None:
        """Make a folder and its parents, each synced into the one above."""
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with suppress(FileNotFoundError):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)

    def _link(self, key: str, temporary: Path, target: Path) -> None:
        try:
            os.link(temporary, target)
        except FileExistsError as error:
            # NFS may report a link that it made as existing, when its first answer was lost.
            if temporary.stat().st_nlink != 2:
                raise self._conflict(key) from error
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            if target.exists():
                raise self._conflict(key) from error
            temporary.replace(target)

    def _conflict(self, key: str) -> Conflict:
        return Conflict(f"The store {self.url} already holds {key}.")

    def _error(self, verb: str, key: str, error: OSError) -> DatamountError:
        message = f"The store {self.url} could not {verb} {key or 'its objects'}: {error.strerror or error}."
        if isinstance(error, NotADirectoryError) and not self.root.is_dir():
            # Never NotFound, which is what a store without saved work answers.
            return Unavailable(message, hint="Name a folder as the store.", who="you")
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            return NotFound(message)
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            return Refused(message, hint="Give this user write access to the folder.", who="the hub's operator")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(message, hint="Free some space, then save again.", who="you")
        return Unavailable(message, transient=True)


def _chunks(body: Body) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, Path):
        with body.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    else:
        yield from body


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
