"""That a session shows somebody's shared version in place of the student's files. Kept beside those files: a sidecar
that is started again, or the next session of a home that outlives its pod, must not take them for the student's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from datamount.errors import Refused, Unavailable
from datamount.names import DATA_STATE_DIR
from datamount.session import changing
from datamount.snapshots import VersionInfo
from sidecar.models import ShownShare

FILE = "share.json"
_LIMIT = 16 << 20


class Showing(BaseModel):
    """What is shown, and the files that were not there before."""

    share: ShownShare
    added: list[str]

    @classmethod
    def of(cls, info: VersionInfo, undo: str, added: Iterable[str]) -> Showing:
        share = ShownShare(version=info.id, time=info.created, message=info.message, undo=undo)
        return cls(share=share, added=list(added))


def read_showing(folder: Path) -> Showing | None:
    """What the session shows; None where it has the student's own files."""
    try:
        with _place(folder) as place, open(_opened(FILE, os.O_RDONLY, place), "rb") as file:
            return Showing.model_validate_json(file.read(_LIMIT))
    except (OSError, ValidationError):
        return None


def keep_showing(folder: Path, showing: Showing) -> None:
    """Raises Unavailable where it cannot be kept; then nothing may be shown."""
    temporary = f".{FILE}.new"
    try:
        with suppress(FileExistsError):
            (folder / DATA_STATE_DIR).mkdir(mode=0o700)
        with _place(folder) as place:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=place)
            with open(_opened(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, place), "wb") as file:
                file.write(showing.model_dump_json().encode())
                os.fsync(file.fileno())
            os.rename(temporary, FILE, src_dir_fd=place, dst_dir_fd=place)
            os.fsync(place)
    except OSError as error:
        raise Unavailable(
            f"a shared version cannot be shown: {DATA_STATE_DIR}/ in the folder cannot be written ({error.strerror}).",
            hint="Put it into a folder beside instead.",
            who="you",
        ) from error


def forget_showing(folder: Path) -> None:
    with suppress(OSError), _place(folder) as place:
        os.unlink(FILE, dir_fd=place)
    with suppress(OSError):
        (folder / DATA_STATE_DIR).rmdir()  # not where it holds something else


@contextmanager
def _place(folder: Path) -> Iterator[int]:
    """Our folder among the student's, never through a link of theirs."""
    handle = os.open(folder / DATA_STATE_DIR, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _opened(name: str, flags: int, place: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600, dir_fd=place)


def remove_added(folder: Path, added: Iterable[str]) -> list[str]:
    """Remove files that came with a shared version, and the folders that this leaves empty; what was removed.

    Follows no link, and believes no path that leads out: the list is among the student's files.
    """
    removed = []
    for path in added:
        if path and ".." not in path.split("/") and os.path.lexists(folder / path):
            with suppress(OSError, Refused):
                changing.remove(folder, path)
                removed.append(path)
    return removed
