"""One object from its source to its final name: temporary file, digest, fsync, receipt, rename.

A file under its final name is always complete and verified. Large objects leave checkpoints, so that after a kill at
any instant they go on where they were.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from datamount.digests import Digester
from datamount.drivers.base import Driver, Item
from datamount.errors import DatamountError, DiskFull, NotFound, Unavailable, VerificationFailed
from datamount.folders import Folder
from datamount.names import DATA_STATE_DIR
from datamount.receipts import Receipt, Receipts

LARGE = 8 * 1024 * 1024
"""Bytes over which an object is resumed rather than fetched again."""
CHECKPOINT = 1024 * 1024
"""Bytes between the checkpoints of a large object: what a kill costs at most, beside what is on its way."""
_READ = 1024 * 1024
_NEW = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

Advance = Callable[[int], None]
"""Told how many more bytes of the object are there; negative when they are given up."""


class Desk:
    """Where one dataset's objects are made complete. Used by one process at a time, from several threads."""

    def __init__(self, data: Path, name: str, driver: Driver[Any], receipts: Receipts) -> None:
        self.name = name
        self.driver = driver
        self.receipts = receipts
        self.folder = Folder(data, name, lambda path: receipts.get(path) is not None)
        with Folder(data, f"{DATA_STATE_DIR}/partial/{name}").parent("_", make=True) as (handle, _):
            self._partial = os.dup(handle)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self._partial)

    def complete(self, item: Item) -> Receipt | None:
        """The receipt of an object that is there already, whole and of this version; None where it must be fetched.

        Reads the file only where no receipt vouches for it as it is.
        """
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

    def fetch(self, item: Item, advance: Advance) -> Receipt:
        """Transfer, verify and place one object.

        Raises the driver's errors; VerificationFailed for wrong bytes; DiskFull; Unavailable (transient) where the
        body ended early. What a resume can use stays in the partial folder, everything else is removed.
        """
        temporary = _temporary(item)
        advanced = 0

        def count(size: int) -> None:
            nonlocal advanced
            advance(size)
            advanced += size

        try:
            handle = os.open(temporary, _NEW, 0o600, dir_fd=self._partial)
            try:
                digester, size = self._write(item, handle, temporary, count)
                self._verify(item, digester, size)
                os.fsync(handle)
                os.fchmod(handle, 0o444)
                mtime_ns = os.fstat(handle).st_mtime_ns
            finally:
                os.close(handle)
            receipt = Receipt(item.path, item.identity, size, digester.sha256(), mtime_ns)
            self.receipts.add(receipt)
            self.folder.place(self._partial, temporary, item.path)
        except BaseException as error:
            count(-advanced)
            if not (self._resumable(item) and isinstance(error, DatamountError) and error.transient):
                self._discard(temporary)
            if isinstance(error, OSError):
                raise local_error(error, self.name) from error
            raise
        self._discard(f"{temporary}.progress")
        return receipt

    def sweep(self) -> None:
        """Remove every partial file; for when all that was wanted is there."""
        for name in os.listdir(self._partial):  # noqa: PTH208  (relative to the open folder)
            self._discard(name)

    def partial_bytes(self, item: Item) -> int:
        """Bytes of the object that are on the disk already."""
        try:
            return os.stat(_temporary(item), dir_fd=self._partial, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def _resumable(self, item: Item) -> bool:
        return self.driver.supports_ranges and item.size is not None and item.size > LARGE

    def _write(self, item: Item, handle: int, temporary: str, count: Advance) -> tuple[Digester, int]:
        """The whole body in the open file; the digest of it and its size."""
        digester = Digester(item.digest, item.size)
        offset = 0
        progress = -1
        if self._resumable(item):
            offset, digester = self._resume(item, handle, temporary)
            progress = os.open(
                f"{temporary}.progress",
                _NEW | os.O_APPEND | (os.O_TRUNC if not offset else 0),
                0o600,
                dir_fd=self._partial,
            )
            count(offset)
        os.ftruncate(handle, offset)
        os.lseek(handle, offset, os.SEEK_SET)
        mark = offset + CHECKPOINT
        try:
            if offset and offset == item.size:
                return digester, offset
            chunks = iter(self.driver.open(item, offset) if offset else self.driver.open(item))
            try:
                for chunk in chunks:
                    view = memoryview(chunk)
                    digester.update(view)
                    size = view.nbytes
                    while view.nbytes:
                        view = view[os.write(handle, view) :]
                    offset += size
                    if item.size is not None and offset > item.size:
                        break
                    count(size)
                    if progress >= 0 and offset >= mark:
                        os.write(progress, json.dumps([offset, digester.sha256()]).encode() + b"\n")
                        mark = offset + CHECKPOINT
            finally:
                if close := getattr(chunks, "close", None):
                    close()
        finally:
            if progress >= 0:
                os.close(progress)
        return digester, offset

    def _resume(self, item: Item, handle: int, temporary: str) -> tuple[int, Digester]:
        """How many bytes of the partial file are proven by its checkpoints, and their digest."""
        marks = self._checkpoints(temporary)
        proven, digester = 0, Digester(item.digest, item.size)
        running = Digester(item.digest, item.size)
        os.lseek(handle, 0, os.SEEK_SET)
        position = 0
        for offset, sha256 in marks:
            while position < offset:
                block = os.read(handle, min(_READ, offset - position))
                if not block:
                    break
                running.update(block)
                position += len(block)
            if position != offset or running.sha256() != sha256:
                break
            proven = offset
        if proven == position:
            return proven, running
        # The last checkpoint does not hold: count again up to the last one that does.
        os.lseek(handle, 0, os.SEEK_SET)
        left = proven
        while left and (block := os.read(handle, min(_READ, left))):
            digester.update(block)
            left -= len(block)
        return proven, digester

    def _checkpoints(self, temporary: str) -> list[tuple[int, str]]:
        try:
            handle = os.open(f"{temporary}.progress", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._partial)
        except FileNotFoundError:
            return []
        marks: dict[int, str] = {}
        with os.fdopen(handle, "rb") as stream:
            for line in stream:
                try:
                    offset, sha256 = json.loads(line)
                    marks[int(offset)] = str(sha256)
                except (ValueError, TypeError):
                    continue
        return sorted(marks.items())

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
        adopted = Receipt(item.path, item.identity, size, digester.sha256(), mtime_ns)
        self.receipts.add(adopted)
        return adopted

    def _discard(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._partial)


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
