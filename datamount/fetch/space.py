"""The data folder as several datasets share it: free bytes, one fetch of a dataset at a time, one file a path."""

from __future__ import annotations

import fcntl
import math
import os
import threading
import time
from pathlib import Path

from datamount import names, room
from datamount.errors import DiskFull, UsageError
from datamount.fetch.retries import stopped
from datamount.progress import human

LOOK_SECONDS = 60.0
"""How long a look at all that is in a bounded volume is good, with what was written since."""
LOOK_BYTES = 8 << 20


class Space:
    """Free bytes of the data folder's disk or volume, less what datasets on their way are going to write."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._coming: dict[str, int] = {}
        self._mutex = threading.Lock()
        self._bounded = room.bound(data) is not None
        self._looked, self._room, self._since = -math.inf, 0, 0

    def free(self) -> int:
        """Bytes that nothing on its way has taken."""
        with self._mutex:
            return self._left() - sum(self._coming.values())

    def _left(self) -> int:
        if not self._bounded:
            return room.free(self._data)
        # All that is there has to be looked at, so that is not done for each page of a plan.
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._room, self._since = room.free(self._data), 0
            self._looked = time.monotonic()
        return self._room - self._since

    def reserve(self, name: str, size: int) -> None:
        """Set `size` bytes more aside for a dataset, or DiskFull with the figures."""
        free = self.free()
        with self._mutex:
            mine = self._coming.get(name, 0)
            if size > free:
                raise DiskFull(
                    f'dataset "{name}": needs {human(mine + size)}, and {self._data} has '
                    f"{human(max(free + mine, 0))} free.",
                    hint="Free some space, or ask for a larger volume, and fetch again.",
                    who="the hub's operator",
                )
            self._coming[name] = mine + max(size, 0)

    def unplanned(self, name: str, size: int) -> None:
        """Count `size` bytes of which nobody knew before, or (below 0) that are gone again; DiskFull, now and then,
        when they are too many for a volume that would take them."""
        if not self._bounded:
            return
        with self._mutex:
            before, self._since = self._since, self._since + size
            look = size > 0 and before // LOOK_BYTES != self._since // LOOK_BYTES
        if look:
            self.reserve(name, 0)

    def arrived(self, name: str, size: int) -> None:
        with self._mutex:
            self._since += size
            if name in self._coming:
                self._coming[name] = max(self._coming[name] - size, 0)

    def release(self, name: str) -> None:
        with self._mutex:
            self._coming.pop(name, None)


class Turn:
    """A dataset's lock in the data folder: one fetch of it at a time on this machine; others wait.

    The lock is the kernel's (flock), so it ends with the process that holds it, however that ends.
    """

    def __init__(self, data: Path, name: str) -> None:
        self._folder = data / names.DATA_STATE_DIR / "locks"
        self._name = name
        self._handle = -1
        self._mutex = threading.Lock()

    def take(self, stop: threading.Event) -> None:
        """Wait for it; the error of `stopped` where the fetch ends meanwhile."""
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._handle = os.open(self._folder / self._name, flags, 0o644)
        while True:
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if stop.wait(0.1):
                    raise stopped(self._name) from None
            else:
                return

    def give(self) -> None:
        """Let the next one have it. May be called twice, and from another thread."""
        with self._mutex:
            handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


class Paths:
    """The paths of a dataset's objects: UsageError where two want one, or one is a file and another's folder."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset
        self._files: set[str] = set()
        self._folders: dict[str, str] = {}

    def add(self, path: str) -> None:
        if path in self._files:
            raise self._clash(f'two objects would become the file "{path}"')
        if path in self._folders:
            raise self._clash(f'"{path}" is an object and also the folder of "{self._folders[path]}"')
        self._files.add(path)
        folder = path
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in self._files:
                raise self._clash(f'"{folder}" is an object and also the folder of "{path}"')
            if folder in self._folders:
                break
            self._folders[folder] = path

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def __len__(self) -> int:
        return len(self._files)

    def _clash(self, problem: str) -> UsageError:
        return UsageError(
            f'dataset "{self._dataset}": {problem}.',
            hint="Leave one of them out with `exclude`, or rename it at the source.",
            who="the course's author",
        )
