"""A file that holds a source's objects, an archive, brought to this machine once for all sessions that want it.

The objects in it are kept in the node cache one by one, as all are; but which they are is known only from the archive
itself. So that is kept, too, and a driver asks here for it (`Driver.shared`) before it asks its server.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from datamount.drivers.base import Item

if TYPE_CHECKING:
    from datamount.fetch.cache import Shelf

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class SharedFiles:
    """The files of one dataset's scope in the node cache. `alive` is called while work or waiting goes on."""

    shelf: Shelf
    stop: threading.Event
    alive: Callable[[], None]

    def one_at_a_time(self, item: Item) -> AbstractContextManager[None]:
        """Be the only one on this machine that fetches this file; wait for another that does."""
        return self.shelf.only_one(item, self, self.stop)

    def beat(self, size: int) -> None:
        """Somebody else's transfer goes on."""
        self.alive()

    def open(self, item: Item) -> tuple[IO[bytes], str] | None:
        """The file, read whole and compared with its SHA-256, and that; None where there is none that is good."""
        found = self.shelf.find(item)
        if found is None:
            return None
        stream, sha256 = found
        digest = hashlib.sha256()
        try:
            while block := stream.read(_BLOCK):
                self.alive()
                digest.update(block)
        except OSError as error:
            stream.close()
            self.shelf.broke(error)
            return None
        if digest.hexdigest() != sha256:
            stream.close()
            self.shelf.discard(item, sha256)
            return None
        stream.seek(0)
        return stream, sha256

    def keep(self, item: Item, file: IO[bytes], sha256: str) -> None:
        """Keep a file that was fetched and verified. Never raises an OSError."""

        def source() -> int:
            handle = os.dup(file.fileno())
            os.lseek(handle, 0, os.SEEK_SET)
            return handle

        self.shelf.add(item, sha256, os.fstat(file.fileno()).st_size, source)
