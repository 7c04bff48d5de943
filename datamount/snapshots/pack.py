"""Turns the content of files into objects: small ones in bundles, large ones alone, compressed where it pays.

Runs as a bounded pipeline: workers read, hash and compress; bundles and large files upload while the next ones are
read; at most `_WINDOW` files and `_UPLOADS` bundles are held in memory, and `_LARGE` large files are in parts of it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import secrets
import tempfile
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import zstandard

from datamount import room
from datamount.errors import Conflict
from datamount.objectstore import Body, ObjectStore
from datamount.snapshots.scan import FileChanged, Patience, Reading, VerifiedFile, open_below, printable, read_file
from datamount.snapshots.versionfile import Encoding, Location

SMALL = 4 << 20
"""Bytes; larger files become objects of their own."""
BUNDLE = 8 << 20
"""Bytes; a bundle is closed when it holds this much, so that none exceeds BUNDLE + SMALL."""
_LEVEL = 3
_WORTH = 0.95
"""A compressed form larger than this share of the file is not kept: reading it raw is simpler and as cheap."""
_SAMPLE = 1 << 20
_READERS = 4
_WINDOW = 16
_UPLOADS = 4
_LARGE = 2
_ZIP_HEADER = 30


@dataclass(frozen=True, slots=True)
class Packed:
    """A file that was read: its hash and stat, and a warning when it did not hold still."""

    path: str
    reading: Reading


@dataclass(frozen=True, slots=True)
class _Prepared:
    reading: Reading
    encoding: Encoding = "raw"
    stored: bytes | None = None


@dataclass
class Packer:
    """Uploads what `locations` does not know yet, below `prefix` of `store`, and adds it there."""

    store: ObjectStore
    prefix: str
    root: Path
    locations: dict[str, Location]
    objects: int = 0
    uploaded: int = 0
    unread: dict[str, str] = field(default_factory=dict)
    """Files that could not be read: path → reason."""
    leave: Mapping[str, str] = field(default_factory=dict)
    """Files that need no object while they have this digest."""
    avoid: frozenset[str] = frozenset()
    """Keys that no object of this save may have."""
    uploading: Callable[[], None] = lambda: None
    """Called when an upload begins."""
    _pending: list[tuple[str, Encoding, bytes]] = field(default_factory=list)
    _held: int = 0
    _waiting: set[str] = field(default_factory=set)
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def pack(self, paths: Iterable[str]) -> Iterator[Packed]:
        """Read each file and store it. When this ends, all uploads are durable; when it raises, some may be."""
        patience = Patience()
        with ExitStack() as stack:
            readers = stack.enter_context(ThreadPoolExecutor(_READERS, thread_name_prefix="save-read"))
            uploads = _Uploads(stack.enter_context(ThreadPoolExecutor(_UPLOADS, thread_name_prefix="save-put")))
            larges = stack.enter_context(ThreadPoolExecutor(_LARGE, thread_name_prefix="save-large"))
            window: deque[tuple[str, Future[_Prepared]]] = deque()
            large: dict[str, Future[Reading]] = {}
            twins: list[tuple[str, Reading]] = []

            @stack.callback
            def cancel() -> None:
                for _, reading in window:
                    reading.cancel()
                for upload in large.values():
                    upload.cancel()

            def take() -> Iterator[Packed]:
                path, future = window.popleft()
                reading = self._take(path, future, uploads)
                if reading is None:
                    return
                if reading.data is not None or self._has(path, reading.sha256):
                    # The bytes are in the bundle; holding them here too would double the memory.
                    yield Packed(path, replace(reading, data=None))
                elif reading.sha256 in self._waiting:
                    twins.append((path, reading))
                else:
                    self._waiting.add(reading.sha256)
                    self.uploading()
                    large[path] = larges.submit(self._large, path, reading, patience)

            for path in paths:
                window.append((path, readers.submit(self._prepare, path, patience)))
                if len(window) >= _WINDOW:
                    yield from take()
            while window:
                yield from take()
            self._flush(uploads)
            for path, future in large.items():
                with self._named(path):
                    yield Packed(path, future.result())
            # Only now: had the first of two equal files changed on its way up, the second one would be nowhere.
            for path, reading in twins:
                with self._named(path):
                    stored = self._has(path, reading.sha256)
                    yield Packed(path, reading if stored else self._large(path, reading, patience))
            uploads.wait()

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """What cannot be read is named, and does not end the save."""
        try:
            yield
        except OSError as error:
            self.unread[path] = error.strerror or str(error)

    def _prepare(self, path: str, patience: Patience) -> _Prepared:
        reading = read_file(self.root, path, SMALL, patience)
        if reading.size > SMALL:  # a notebook, which was parsed; it is read again when it goes up
            reading = replace(reading, data=None)
        if reading.data is None or self._has(path, reading.sha256):
            return _Prepared(reading)
        squeezed = zstandard.ZstdCompressor(level=_LEVEL).compress(reading.data)
        if len(squeezed) < len(reading.data) * _WORTH:
            return _Prepared(reading, "zstd", squeezed)
        return _Prepared(reading, "raw", reading.data)

    def _take(self, path: str, future: Future[_Prepared], uploads: _Uploads) -> Reading | None:
        """What was read, in a bundle now if it is small; None for what cannot be read."""
        with self._named(path):
            prepared = future.result()
            sha256 = prepared.reading.sha256
            if prepared.stored is not None and not self._has(path, sha256) and sha256 not in self._waiting:
                self._pending.append((sha256, prepared.encoding, prepared.stored))
                self._held += len(prepared.stored)
                self._waiting.add(sha256)
                if self._held >= BUNDLE:
                    self._flush(uploads)
            return prepared.reading
        return None

    def _has(self, path: str, sha256: str) -> bool:
        return sha256 in self.locations or self.leave.get(path) == sha256

    def _flush(self, uploads: _Uploads) -> None:
        if not self._pending:
            return
        body, places = bundle(self._pending)
        key = self._key("bundles", hashlib.sha256(body).hexdigest(), ".zip")
        for sha256, encoding, offset, length in places:
            self.locations[sha256] = Location(key, offset, length, encoding)
        self._pending.clear()
        self._held = 0
        self._count(len(body))
        self.uploading()
        uploads.submit(self.store, self.prefix + key, body)

    def _large(self, path: str, reading: Reading, patience: Patience) -> Reading:
        """Store a large file as an object of its own, under the hash of exactly the bytes that went up."""
        for _ in range(3):
            try:
                self._put_large(self.root / path, reading.sha256)
            except FileChanged:
                reading = read_file(self.root, path, 0, patience)
                if self._has(path, reading.sha256):
                    return reading
                if reading.data is not None:
                    # A notebook, whole in memory: these very bytes were parsed.
                    with tempfile.NamedTemporaryFile(prefix="datamount-") as copy:
                        copy.write(reading.data)
                        copy.flush()
                        self._put_large(Path(copy.name), reading.sha256)
                    return replace(reading, data=None)
            else:
                return reading
        if not _may_copy(reading.size):
            raise OSError(errno.EAGAIN, "it was being written all the time, and there is no room for a copy of it")
        with tempfile.NamedTemporaryFile(prefix="datamount-") as copy:
            digest = hashlib.sha256()
            with open_below(self.root, path) as file:
                while chunk := file.read(_SAMPLE):
                    digest.update(chunk)
                    copy.write(chunk)
            copy.flush()
            size = copy.tell()
            if not self._has(path, digest.hexdigest()):
                self._put_large(Path(copy.name), digest.hexdigest())
        warning = f"{printable(path)} was being written while it was saved"
        return Reading(reading.stat, size, digest.hexdigest(), None, 0, warning)

    def _put_large(self, full: Path, sha256: str) -> None:
        verified = VerifiedFile(full, sha256)
        size = full.stat().st_size
        if not (_may_copy(size) and _compressible(full)):
            self._put_blob(self._key("blobs", sha256, ""), verified, size, "raw", sha256)
            return
        with tempfile.NamedTemporaryFile(prefix="datamount-") as squeezed:
            with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(squeezed, closefd=False) as writer:
                for chunk in verified:
                    writer.write(chunk)
            squeezed.flush()
            self._put_blob(self._key("blobs", sha256, ".zst"), Path(squeezed.name), squeezed.tell(), "zstd", sha256)

    def _put_blob(self, key: str, body: Body, size: int, encoding: Encoding, sha256: str) -> None:
        try:
            self.store.put(self.prefix + key, body)
        except Conflict:
            # A store that replaces nothing holds the same content as another zstd compressed it.
            key = _other_key(key)
            self.store.put(self.prefix + key, body)
        self.locations[sha256] = Location(key, 0, size, encoding)
        self._count(size)

    def _key(self, folder: str, digest: str, suffix: str) -> str:
        key = f"{folder}/{digest}{suffix}"
        return _other_key(key) if key in self.avoid else key

    def _count(self, size: int) -> None:
        with self._mutex:
            self.objects += 1
            self.uploaded += size


def _other_key(key: str) -> str:
    """A new name for the same content: `.<random>` after the digest."""
    folder, _, name = key.partition("/")
    return f"{folder}/{name[:64]}.{secrets.token_hex(6)}{name[64:]}"


class _Uploads:
    """Puts under way, at most `_UPLOADS`; the first failure is raised at the next call."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._running: deque[Future[None]] = deque()

    def submit(self, store: ObjectStore, key: str, body: bytes) -> None:
        while len(self._running) >= _UPLOADS:
            self._running.popleft().result()
        self._running.append(self._pool.submit(store.put, key, body))

    def wait(self) -> None:
        while self._running:
            self._running.popleft().result()


def bundle(files: Iterable[tuple[str, Encoding, bytes]]) -> tuple[bytes, list[tuple[str, Encoding, int, int]]]:
    """A standard zip of stored entries named by digest (`.zst` where compressed), and where each one's bytes are.

    The same files make the same bytes: times are fixed at the zip epoch.
    """
    buffer = io.BytesIO()
    places: list[tuple[str, Encoding, int, int]] = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for sha256, encoding, stored in files:
            name = sha256 + (".zst" if encoding == "zstd" else "")
            info = zipfile.ZipInfo(name)
            archive.writestr(info, stored)
            places.append((sha256, encoding, info.header_offset + _ZIP_HEADER + len(name), len(stored)))
    return buffer.getvalue(), places


def _may_copy(size: int) -> bool:
    """Whether there is room for so many bytes where temporary files are: in a pod, on a volume that may not grow over
    its size."""
    return size * _LARGE < room.free(Path(tempfile.gettempdir()))


def _compressible(full: Path) -> bool:
    """Whether the first and the middle MiB shrink enough to be worth compressing the whole."""
    with full.open("rb") as file:
        sample = file.read(_SAMPLE)
        file.seek(full.stat().st_size // 2)
        sample += file.read(_SAMPLE)
    return len(zstandard.ZstdCompressor(level=1).compress(sample)) < len(sample) * _WORTH
