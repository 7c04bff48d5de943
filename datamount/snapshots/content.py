"""The bytes that entries of a version point to: read in few requests, decoded, and verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TypeVar, cast

import zstandard

from datamount.errors import DatamountError, NotFound, VerificationFailed
from datamount.objectstore import ObjectStore
from datamount.snapshots.inorder import in_order
from datamount.snapshots.scan import printable
from datamount.snapshots.versionfile import Entry, Location

PART = 8 << 20
"""Bytes of a large object that are asked for at once."""
PARTS = 4
_CHUNK = 1 << 20
_GAP = 256 << 10
"""Bytes between two wanted files of a bundle that are cheaper to read than to skip with a request of their own."""
_RUN = 4 << 20
"""Bytes of a bundle that are asked for at once: enough that requests cost little, few enough to go side by side."""
_RUN_FILES = 128


Chunk = bytes | memoryview
AnyChunk = TypeVar("AnyChunk", bytes, Chunk)


@dataclass(frozen=True, slots=True)
class Run:
    """Files that lie near each other in one object: the bytes [start, stop) of it."""

    object: str
    start: int
    stop: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Content:
    """Reads what entries point to, verified."""

    store: ObjectStore
    prefix: str

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """The file's bytes; the last chunk only when the whole matches the digest, else VerificationFailed."""
        place = self._place(entry)
        stop = place.offset + place.length
        if place.length > PART:
            parts = self._parts(self.prefix + place.object, place.offset, stop)
        elif place.object.startswith("blobs/"):
            parts = self.store.stream(self.prefix + place.object, place.offset, stop)
        else:
            parts = iter([self.store.get(self.prefix + place.object, place.offset, stop)])
        yield from verified(decoded(parts, place.encoding), entry)

    def _parts(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        """A large object in order, several parts under way at once: one connection is slow on a long way."""
        with ThreadPoolExecutor(PARTS, thread_name_prefix="restore-part") as pool:
            spans = ((at, min(at + PART, stop)) for at in range(start, stop, PART))
            for chunks in in_order(pool, lambda span: list(self.store.stream(key, *span)), spans, PARTS + 1):
                yield from chunks

    def runs(self, entries: Iterable[Entry]) -> list[Run]:
        """Bundled files, near ones together, so that each run is one request."""
        ordered = sorted(entries, key=lambda e: (self._place(e).object, self._place(e).offset))
        found: list[Run] = []
        for entry in ordered:
            place = self._place(entry)
            stop = place.offset + place.length
            last = found[-1] if found else None
            if (
                last
                and last.object == place.object
                and place.offset <= last.stop + _GAP
                and stop - last.start <= _RUN
                and len(last.entries) < _RUN_FILES
            ):
                found[-1] = Run(last.object, last.start, max(last.stop, stop), (*last.entries, entry))
            else:
                found.append(Run(place.object, place.offset, stop, (entry,)))
        return found

    def read(self, run: Run) -> Iterator[tuple[Entry, Chunk | DatamountError]]:
        """The files of one run, each verified, or what is wrong with it. Raises what the store raises."""
        data = memoryview(self.store.get(self.prefix + run.object, run.start, run.stop))
        for entry in run.entries:
            place = self._place(entry)
            at = place.offset - run.start
            try:
                content = _whole(data[at : at + place.length], entry, place.encoding)
                for _ in verified([content], entry):
                    pass
            except VerificationFailed as error:
                yield entry, error
            else:
                yield entry, content

    @staticmethod
    def _place(entry: Entry) -> Location:
        if entry.location is None:
            raise NotFound(
                f"{printable(entry.path)} is a large file of the course, as it was shipped; the version lists only its "
                "digest.",
                hint="Take it from the course's repository.",
                who="you",
            )
        return entry.location


def decoded(parts: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Stored bytes → the file's bytes. VerificationFailed for what is not a zstd frame. No chunk is larger than a
    part, however much a frame unpacks to."""
    if encoding == "raw":
        yield from parts
        return
    try:
        yield from zstandard.ZstdDecompressor().read_to_iter(cast(IO[bytes], _Reader(parts)), write_size=_CHUNK)
    except zstandard.ZstdError as error:
        raise VerificationFailed("The stored bytes are damaged: not a zstd frame.") from error


def _whole(data: memoryview, entry: Entry, encoding: str) -> Chunk:
    """The same for a small file that is all there."""
    if encoding == "raw":
        return data
    try:
        if zstandard.frame_content_size(data) != entry.size:
            raise VerificationFailed(f"The stored bytes of {printable(entry.path)} are damaged.")
        return zstandard.ZstdDecompressor().decompress(data) if entry.size else b""
    except zstandard.ZstdError as error:
        raise VerificationFailed("The stored bytes are damaged: not a zstd frame.") from error


class _Reader:
    """Parts as a file, of which zstandard reads `bytes`: it takes the memory of whatever it gets for one."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._held = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        if not self._held:
            self._held = memoryview(next(self._parts, b""))
        chunk, self._held = self._held[:size], self._held[size:]
        return bytes(chunk)


def verified(parts: Iterable[AnyChunk], entry: Entry) -> Iterator[AnyChunk]:
    """Pass chunks on, the last only when size and digest of all match."""
    digest = hashlib.sha256()
    held: AnyChunk | None = None
    size = 0
    for part in parts:
        if not part:
            continue
        digest.update(part)
        size += len(part)
        if size > entry.size:
            break
        if held is not None:
            yield held
        held = part
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise VerificationFailed(f"The stored bytes of {printable(entry.path)} are damaged.")
    if held is not None:
        yield held
