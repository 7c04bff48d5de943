"""One object from its source to its final name: temporary file, digest, receipt, rename.

A file under its final name is always complete and verified. Large objects leave checkpoints, so that after a kill at
any instant they go on where they were.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from datamount.drivers.base import Buffer, Driver, Item
from datamount.errors import DatamountError, DiskFull, NotFound, Unavailable, VerificationFailed
from datamount.fetch.checkpoints import Checkpoints
from datamount.fetch.digests import Digester
from datamount.fetch.folders import Folder
from datamount.fetch.ranges import Ranges
from datamount.fetch.receipts import Receipt, Receipts, this_boot
from datamount.fetch.workers import Crew, Memory
from datamount.names import DATA_STATE_DIR

SMALL = 64 * 1024
"""Bytes up to which a body is not counted against the memory: so many small ones at once take little."""
CHUNK = 1024 * 1024
"""Bytes that a driver may hold of a body that it streams."""
LARGE = 8 * 1024 * 1024
"""Bytes over which an object is resumed rather than fetched again."""
CHECKPOINT = 1024 * 1024
"""Bytes between the checkpoints of a large object."""
BLOCK = 512 * 1024
"""Bytes of a large object that are hashed at once."""
_READ = 1024 * 1024
_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

ALIVE = 16 * 1024
"""Bytes that must arrive within the stall time: a server that drips them is as good as silent."""


class Abandoned(BaseException):
    """Raised in a transfer that was given up from outside, so that its thread ends without touching anything."""


class Attempt:
    """One try at one object, watched from another thread, which may give it up at any time."""

    def __init__(self, count: Counter) -> None:
        self._count = count
        self._mutex = threading.Lock()
        self._arrived = 0
        self._counted = 0
        self.touched = time.monotonic()
        self.abandoned = False

    def beat(self, size: int) -> None:
        """`size` more bytes arrived from the source (not yet written)."""
        if self.abandoned:
            raise Abandoned
        self._arrived += size
        if self._arrived >= ALIVE:
            self._arrived = 0
            self.touched = time.monotonic()

    def advance(self, size: int) -> None:
        """`size` more bytes of the object are in the file; raises where the fetch is to stop."""
        if self.abandoned:
            raise Abandoned
        self._count(size)
        self._counted += size

    def give_back(self) -> None:
        """Nothing that was counted is there. Not to be called while it is `held`: who gives it up counts, too."""
        with self._mutex:
            counted, self._counted = self._counted, 0
        self._count(-counted)

    def abandon(self) -> None:
        """Give it up, from the watching thread."""
        with self._mutex:
            self.abandoned = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile it cannot be given up. Raises Abandoned where it was."""
        with self._mutex:
            if self.abandoned:
                raise Abandoned
            yield

    def settle(self) -> None:
        """What was counted stays."""
        self._counted = 0


class Counter(Protocol):
    """Told how many more bytes of the dataset are there; negative when they are given up."""

    def __call__(self, size: int, /) -> None: ...


class Desk:
    """Where one dataset's objects are made complete. Used by one process at a time, from several threads.

    `crew` and `memory` are for the parts of large objects that are read at once.
    """

    def __init__(
        self, data: Path, name: str, driver: Driver[Any], receipts: Receipts, *, crew: Crew, memory: Memory
    ) -> None:
        self.name = name
        self.driver = driver
        self.receipts = receipts
        self._crew = crew
        self._memory = memory
        self.folder = Folder(data, name, lambda path: receipts.get(path) is not None)
        with Folder(data, f"{DATA_STATE_DIR}/partial/{name}").parent("_", make=True) as (handle, _):
            self._partial = os.dup(handle)
        self._new = not len(receipts) and self.folder.is_empty()

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.folder.close()
        os.close(self._partial)

    def complete(self, item: Item) -> Receipt | None:
        """The receipt of an object that is there already, whole and of this version; None where it must be fetched.

        Reads the file only where no receipt vouches for it as it is.
        """
        if self._new:
            return None
        receipt = self.receipts.get(item.path)
        wanted = receipt if receipt and receipt.is_of(item) else None
        found = self.folder.stat(item.path)
        if found and wanted and wanted.fits(found):
            return wanted
        if wanted and self._finished(item, wanted):
            return wanted
        if not found or (item.size is not None and found.st_size != item.size) or not (wanted or item.digest):
            return None
        return self._adopt(item, wanted)

    def fetch(
        self, item: Item, attempt: Attempt, body: Iterable[Buffer] | None = None, as_item: Item | None = None
    ) -> Receipt:
        """Transfer, verify and place one object; `body` has its bytes where the caller opened it.

        `as_item`: the object as the source planned it, where `item` promises more than that.
        Raises the driver's errors; VerificationFailed for wrong bytes; DiskFull; Unavailable (transient) where the
        body ended early. What a resume can use stays in the partial folder, everything else is removed.
        """
        temporary = _temporary(as_item or item)
        large = body is None and self._resumable(item)
        try:
            with attempt.held():  # a file that is opened after it was given up is another thread's
                handle = os.open(temporary, _NEW, 0o600, dir_fd=self._partial)
            try:
                if large:
                    digester, size = self._write_large(item, handle, temporary, attempt)
                else:
                    chunks = self.driver.open(item) if body is None else body
                    digester, size = self._write(item, handle, attempt, chunks)
                self._verify(item, digester, size)
                os.fchmod(handle, 0o444)
                mtime_ns = os.fstat(handle).st_mtime_ns
            finally:
                os.close(handle)
            receipt = Receipt(item.path, item.identity, size, digester.sha256(), mtime_ns, this_boot())
            with attempt.held():
                self.receipts.add(receipt)
                self.folder.place(self._partial, temporary, item.path)
            attempt.settle()
        except Abandoned:
            raise  # the watching thread has removed the file
        except BaseException as error:
            with attempt.held():  # else a file of this name is another thread's by now
                if not (large and isinstance(error, DatamountError) and error.transient):
                    self._discard(temporary)
                    if large:
                        self._discard(f"{temporary}.progress")
            attempt.give_back()
            if isinstance(error, OSError):
                raise local_error(error, self.name) from error
            raise
        if large:
            self._discard(f"{temporary}.progress")
        return receipt

    def give_up(self, item: Item) -> None:
        """Remove the file of an abandoned transfer: its thread may still write to it, but nobody else finds it."""
        self._discard(_temporary(item))
        self._discard(f"{_temporary(item)}.progress")

    def sweep(self) -> None:
        """Remove every partial file; for when all that was wanted is there."""
        for name in os.listdir(self._partial):  # noqa: PTH208  (relative to the open folder)
            self._discard(name)

    def partial_bytes(self, item: Item) -> int:
        """Bytes of the object that are on the disk already. (A file written in ranges has holes.)"""
        try:
            found = os.stat(_temporary(item), dir_fd=self._partial, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        return min(found.st_size, found.st_blocks * 512)

    def _resumable(self, item: Item) -> bool:
        large = item.size is not None and item.size > LARGE
        return large and self.driver.supports_ranges and (item.digest is not None or self.driver.one_version(item))

    def _write(self, item: Item, handle: int, attempt: Attempt, body: Iterable[Buffer]) -> tuple[Digester, int]:
        """The whole body in the open file; the digest of it and its size."""
        digester = Digester(item.digest, item.size)
        offset = 0
        held = min(item.size or 0, CHUNK) if (item.size or 0) > SMALL else 0
        if held:
            self._memory.take(held)
        chunks = iter(body)
        try:
            if os.fstat(handle).st_size:
                os.ftruncate(handle, 0)
            cloned = isinstance(body, StoredBody) and clone(handle, body.handle)
            for chunk in chunks:
                size = len(chunk) if type(chunk) is bytes else memoryview(chunk).nbytes
                attempt.beat(size)
                digester.update(chunk)
                if not cloned:
                    _write_all(handle, chunk)
                offset += size
                if item.size is not None and offset > item.size:
                    break
                attempt.advance(size)
        finally:
            if close := getattr(chunks, "close", None):
                close()
            if held:
                self._memory.give(held)
        return digester, offset

    def _write_large(self, item: Item, handle: int, temporary: str, attempt: Attempt) -> tuple[Digester, int]:
        """As `_write`, in ranges where the driver can, from where an earlier transfer was."""
        with Checkpoints(self._partial, f"{temporary}.progress") as marks:
            while True:
                try:
                    return self._assemble(item, handle, marks, attempt)
                except _Unproven as error:
                    marks.forget_after(error.proven)
                    attempt.give_back()

    def _assemble(self, item: Item, handle: int, marks: Checkpoints, attempt: Attempt) -> tuple[Digester, int]:
        """Read what an earlier transfer left, while what it did not comes; both pass the digest in order.

        Raises _Unproven where the file is not what its checkpoints say.
        """
        assert item.size is not None
        found = os.fstat(handle).st_size
        known = marks.until(found)
        start = known[-1][0] if known else 0
        # Not where nothing is to be cut off: ext4 takes a truncation to 0 for a file being replaced, and then writes
        # it all to the disk while it is closed (auto_da_alloc).
        if found != start:
            os.ftruncate(handle, start)
        digester = Digester(item.digest, item.size)
        block = memoryview(bytearray(BLOCK))
        source = io.FileIO(handle, closefd=False)
        source.seek(0)
        position = proven = 0
        with Ranges(
            lambda a, b: self.driver.open(item, a, b) if a or b is not None else self.driver.open(item),
            handle,
            start,
            item.size,
            parallel=self.driver.parallel_ranges,
            crew=self._crew,
            memory=self._memory,
            beat=attempt.beat,
        ) as ranges:
            ranges.start()
            while position < item.size:
                old = position < start
                mark = known[0][0] if old else proven + CHECKPOINT
                end = start if old else ranges.written(position)
                wanted = min(end, mark) - position
                if not wanted:
                    break
                count = source.readinto(block[: min(BLOCK, wanted)])
                if not count:
                    raise _Unproven(proven)
                digester.update(block[:count])
                position += count
                attempt.advance(count)
                ranges.passed(position)
                if old:
                    attempt.beat(count)
                if position == mark:
                    if not old:
                        marks.add(position, digester.sha256())
                    elif digester.sha256() != known.pop(0)[1]:
                        raise _Unproven(proven)
                    proven = position
            ranges.finish()
            return digester, position + ranges.excess

    def _verify(self, item: Item, digester: Digester, size: int) -> None:
        if item.size is not None and size < item.size:
            raise Unavailable(
                f'dataset "{self.name}": "{item.path}" ended after {size} of {item.size} bytes.', transient=True
            )
        if item.size is not None and size > item.size:
            raise VerificationFailed(
                f'dataset "{self.name}": "{item.path}" has more than the {item.size} bytes that were expected.',
                hint="It changed at the source; if that is meant, run `datamount lock --upgrade` on this dataset.",
                who="the course's author",
            )
        if not digester.holds():
            promised = digester.promised
            assert promised is not None
            raise VerificationFailed(
                f'dataset "{self.name}": "{item.path}" does not match its {promised.algorithm}: '
                f"{promised.value} was expected, {digester.found()} arrived. It is not delivered.",
                hint="If the source changed on purpose, update the pin (`datamount lock`); else tell its owner.",
                who="the course's author",
            )

    def _finished(self, item: Item, receipt: Receipt) -> bool:
        """Place the temporary file that a kill kept from being renamed, if it is the one the receipt speaks of."""
        temporary = _temporary(item)
        try:
            found = os.stat(temporary, dir_fd=self._partial, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not receipt.fits(found):
            return False
        self.folder.place(self._partial, temporary, item.path)
        return True

    def _adopt(self, item: Item, receipt: Receipt | None) -> Receipt | None:
        """Vouch for a file by reading it: against its receipt, else against the digest that is promised."""
        digester = Digester(item.digest, item.size)
        try:
            handle = self.folder.open(item.path)
        except OSError:
            return None
        try:
            size = 0
            while block := os.read(handle, _READ):
                digester.update(block)
                size += len(block)
            if (receipt and (receipt.sha256, receipt.size) != (digester.sha256(), size)) or not digester.holds():
                return None
            with contextlib.suppress(PermissionError):
                os.fchmod(handle, 0o444)
            mtime_ns = os.fstat(handle).st_mtime_ns
        finally:
            os.close(handle)
        # What was read after a new start of the machine is on the disk; a file of this boot may still be lost with it.
        boot = this_boot() if receipt is None or receipt.boot == this_boot() else ""
        adopted = Receipt(item.path, item.identity, size, digester.sha256(), mtime_ns, boot)
        self.receipts.add(adopted)
        return adopted

    def _discard(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._partial)


class Unreadable(Exception):
    """The file that a StoredBody is of cannot be read: not an error of the disk that is written to."""


class StoredBody:
    """The bytes of a local file, by its open descriptor: shared with the new file where the file system can.

    Unreadable where the file cannot be read.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __iter__(self) -> Iterator[Buffer]:
        position = 0
        while block := self._read(position):
            position += len(block)
            yield block

    def _read(self, position: int) -> bytes:
        try:
            return os.pread(self.handle, _READ, position)
        except OSError as error:
            raise Unreadable from error


_FICLONE = 0x40049409
"""ioctl_ficlone(2)"""


def clone(target: int, source: int) -> bool:
    """Make an open, empty file share the bytes of another (reflink); False where that cannot be."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


class _Unproven(Exception):
    """A partial file is not what its checkpoints say, but for its first `proven` bytes."""

    def __init__(self, proven: int) -> None:
        super().__init__(proven)
        self.proven = proven


def _write_all(handle: int, chunk: Buffer) -> None:
    written = os.write(handle, chunk)
    view = memoryview(chunk).cast("B")
    while written < view.nbytes:
        written += os.write(handle, view[written:])


def local_error(error: OSError, dataset: str) -> DatamountError:
    """What an error of the local disk means for a dataset."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f'dataset "{dataset}": the disk of the data folder is full ({error.strerror}).',
            hint="Free some space, or ask for a larger volume, and fetch again: what is complete stays.",
            who="the hub's operator",
        )
    kind = NotFound if isinstance(error, FileNotFoundError) else Unavailable
    return kind(
        f'dataset "{dataset}": writing into the data folder failed ({error.strerror or error}).',
        hint="Check that the data folder exists and can be written.",
        who="you",
    )


def _temporary(item: Item) -> str:
    """The partial file's name: the same for the same version of the same object, so that it can be resumed."""
    return hashlib.sha256(f"{item.path}\0{item.identity}\0{item.size}".encode("utf-8", "surrogateescape")).hexdigest()[
        :32
    ]
