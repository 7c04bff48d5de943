"""The node cache: what one session brought, the next one on this machine takes without asking the source for it.

A folder, shared by processes of one user (in a cluster: a hostPath that only our own containers mount):

    <cache>/scopes/<scope>/refs/<aa>/<key>      JSON: sha256 and size of one version of one object
    <cache>/scopes/<scope>/objects/<aa>/<sha>   its content; the modification time says when it was last used
    <cache>/scopes/<scope>/locks/<aaa>          who holds one fetches the object, others wait (flock: a crash frees it)
    <cache>/new/                                files being written; nothing looks there

A *scope* is a source (host, bucket, repo…, as declared) together with the credential that opens it. Content is looked
up within one scope only, so a digest that a course writes into its lock never opens what another source delivered;
and the engine comes here only after the source itself, asked with this session's credential, has answered `resolve`.
A session that gets no credential for a source thus gets nothing of it from the cache.

Nothing is believed: each object is hashed on its way into the session, and one that does not match is removed and
fetched again. Whatever fails here (no space, no permission) costs the benefit and never the fetch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Protocol

from datamount.credentials import Credential
from datamount.drivers.base import Digest, Item
from datamount.errors import UsageError, VerificationFailed
from datamount.fetch.receipts import Receipt
from datamount.fetch.retries import stopped
from datamount.fetch.transfer import ALIVE, Attempt, Desk, StoredBody, Unreadable, clone
from datamount.manifest import Dataset

_log = logging.getLogger(__name__)

FOLDER_VARIABLE = "DATAMOUNT_CACHE"
SIZE_VARIABLE = "DATAMOUNT_CACHE_SIZE"
DEFAULT_SIZE = 20_000_000_000
"""Bytes; a node's disk is usually 50 to 100 GB."""
KINDS = frozenset({"s3", "quilt", "pachyderm", "url"})
"""Not mysql: a table has no version that a second session could ask for."""
LOCKED_AT_MOST = 900.0
"""Seconds that one waits for another process's transfer of the same object before fetching it itself."""
ABANDONED = 86_400.0
"""Seconds after which a file in `new` was left by a crash."""
_BLOCK = 1 << 20
_AMBIENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "PACH_CONFIG",
)
"""Variables that decide who asks, or whom, where a dataset names no credential."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One scope, for `datamount cache ls`."""

    scope: str
    label: str
    objects: int
    size: int
    used: float
    """When any of it was last used, in seconds since 1970."""


class Cache:
    """One folder. Safe from threads and processes."""

    def __init__(self, folder: Path, size: int = DEFAULT_SIZE) -> None:
        self.folder = folder.absolute()
        self.size = size
        self._grown = 0
        self._mutex = threading.Lock()
        self._broken = False

    def shelf(self, dataset: Dataset, credential: Credential | None) -> Shelf | None:
        """Where objects of this source, opened with this credential, are kept; None where they are not."""
        if dataset.kind not in KINDS or self._broken:
            return None
        scope, label = _scope(dataset, credential)
        folder = self.folder / "scopes" / scope
        try:
            for part in (self.folder / "new", folder / "refs", folder / "objects", folder / "locks"):
                part.mkdir(parents=True, exist_ok=True, mode=0o700)
            with contextlib.suppress(FileExistsError), (folder / "label").open("x", encoding="utf-8") as stream:
                stream.write(label)
        except OSError as error:
            self.broke(error)
            return None
        return Shelf(self, folder)

    def broke(self, error: OSError) -> None:
        """Go on without the cache, and say so once."""
        if not self._broken:
            self._broken = True
            _log.warning("the node cache %s is not used: %s", self.folder, error.strerror or error)

    def grew(self, size: int) -> None:
        with self._mutex:
            self._grown += size

    def entries(self) -> list[Entry]:
        """What is there, a row a scope, the last used first."""
        rows = []
        for scope in self._scopes():
            files = list(_files(scope / "objects"))
            try:
                label = (scope / "label").read_text(encoding="utf-8")
            except OSError:
                label = ""
            used = max((stat.st_mtime for _, stat in files), default=0.0)
            rows.append(Entry(scope.name, label, len(files), sum(stat.st_size for _, stat in files), used))
        return sorted(rows, key=lambda row: -row.used)

    def prune_if_grown(self) -> None:
        """Prune where this process has added something. Never raises."""
        with self._mutex:
            grown, self._grown = self._grown, 0
        if grown:
            with contextlib.suppress(OSError):
                self.prune()

    def prune(self, size: int | None = None) -> int:
        """Remove what was used longest ago until at most `size` bytes (default: the cache's size) are left.

        Returns the bytes removed. Whoever is reading a removed file reads on to its end: the kernel keeps an open
        file. One process prunes at a time; where another does, nothing is done.
        """
        limit = self.size if size is None else size
        try:
            lock = os.open(self.folder / "prune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return 0
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            return self._prune(limit)
        finally:
            os.close(lock)

    def _prune(self, limit: int) -> int:
        for path, stat in list(_files(self.folder / "new")):
            if time.time() - stat.st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
        files = [found for scope in self._scopes() for found in _files(scope / "objects")]
        total = sum(stat.st_size for _, stat in files)
        removed = 0
        for path, stat in sorted(files, key=lambda found: found[1].st_mtime_ns):
            if total - removed <= limit:
                break
            with contextlib.suppress(OSError):
                if path.stat().st_mtime_ns == stat.st_mtime_ns:  # not used since
                    path.unlink()
                    removed += stat.st_size
        if removed:
            self._drop_refs()
        return removed

    def _drop_refs(self) -> None:
        """Remove the references to what is no longer there; a reference that races with this is a miss, no more."""
        for scope in self._scopes():
            kept = {path.name for path, _ in _files(scope / "objects")}
            for path, _ in list(_files(scope / "refs")):
                found = _read_ref(path)
                if found is None or found[0] not in kept:
                    path.unlink(missing_ok=True)

    def _scopes(self) -> list[Path]:
        try:
            return sorted(path for path in (self.folder / "scopes").iterdir() if path.is_dir())
        except FileNotFoundError:
            return []


class Waiting(Protocol):
    """Told that what is waited for goes on elsewhere; an Attempt is one."""

    def beat(self, size: int, /) -> None: ...


class Shelf:
    """The objects of one scope."""

    def __init__(self, cache: Cache, folder: Path) -> None:
        self._cache = cache
        self._folder = folder

    def broke(self, error: OSError) -> None:
        """Go on without the cache."""
        self._cache.broke(error)

    def keeps(self, item: Item) -> bool:
        """Whether this object may be kept: one whose version has a name."""
        return bool(item.digest or item.identity) and not item.identity.startswith("unknown:")

    @contextlib.contextmanager
    def only_one(self, item: Item, attempt: Waiting, stop: threading.Event) -> Iterator[None]:
        """Be the one process, and thread, that fetches this object; wait for another that does.

        The lock is the kernel's: it ends with its holder, however that ends. After `LOCKED_AT_MOST` it goes on
        without, since the source's own sloth must not hold everybody up.
        """
        handle = -1
        try:
            try:
                name = self._folder / "locks" / _key(item)[:3]
                handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError as error:
                self._cache.broke(error)
            until, pause = time.monotonic() + LOCKED_AT_MOST, 0.002
            while handle >= 0 and time.monotonic() < until:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    attempt.beat(ALIVE)
                    if stop.wait(pause):
                        raise stopped("cache") from None
                    pause = min(pause * 1.5, 0.1)
            yield
        finally:
            if handle >= 0:
                os.close(handle)

    def serve(self, item: Item, attempt: Attempt, desk: Desk) -> Receipt | None:
        """The object placed from the cache; None where it is not there, or was damaged (and is removed then)."""
        if not self.keeps(item):
            return None
        found = _read_ref(self._ref(item))
        if found is None or (item.size is not None and found[1] != item.size):
            return None
        sha256, size = found
        path = self._object(sha256)
        try:
            stream = path.open("rb")
        except OSError:
            return None
        with stream:
            wanted = replace(item, digest=Digest("sha256", sha256), size=size)
            if os.fstat(stream.fileno()).st_size != size:  # what a power failure leaves
                self.discard(item, sha256)
                return None
            try:
                # Its temporary file has the name that the item itself would have: a resume finds the same.
                receipt = desk.fetch(wanted, attempt, StoredBody(stream.fileno()), as_item=item)
            except VerificationFailed:
                self.discard(item, sha256)
                return None
            except Unreadable as error:
                assert isinstance(error.__cause__, OSError)
                self._cache.broke(error.__cause__)
                return None
            with contextlib.suppress(OSError):
                os.utime(stream.fileno())
            return receipt

    def find(self, item: Item) -> tuple[IO[bytes], str] | None:
        """The object as an open file, and the SHA-256 to compare it with; None where it is not there."""
        found = _read_ref(self._ref(item)) if self.keeps(item) else None
        if found is None or (item.size is not None and found[1] != item.size):
            return None
        try:
            stream = self._object(found[0]).open("rb")
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(stream.fileno())
        return stream, found[0]

    def discard(self, item: Item, sha256: str) -> None:
        """Remove an object whose bytes are damaged."""
        _log.warning("the node cache had damaged bytes of %s; they are removed and fetched again", item.path)
        self._remove(self._object(sha256))
        self._remove(self._ref(item))

    def put(self, item: Item, receipt: Receipt, desk: Desk) -> None:
        """Keep what has just been delivered and verified. Never raises an OSError."""
        self.add(item, receipt.sha256, receipt.size, lambda: desk.folder.open(item.path))

    def add(self, item: Item, sha256: str, size: int, source: Callable[[], int]) -> None:
        """Keep a verified object, whose file `source` opens. Never raises an OSError."""
        if not self.keeps(item):
            return
        path = self._object(sha256)
        try:
            if not path.exists():
                if shutil.disk_usage(self._cache.folder).free < 2 * size:
                    return
                handle = source()
                try:
                    self._copy(handle, path, sha256)
                finally:
                    os.close(handle)
                self._cache.grew(size)
            self._write_ref(item, sha256, size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                self._cache.broke(error)

    def _copy(self, source: int, path: Path, sha256: str) -> None:
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with self._new() as stream:
            if not clone(stream.fileno(), source):
                digest = hashlib.sha256()
                while block := os.read(source, _BLOCK):
                    digest.update(block)
                    stream.write(block)
                stream.flush()
                if digest.hexdigest() != sha256:  # somebody wrote into the session's file already
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            Path(stream.name).rename(path)

    def _write_ref(self, item: Item, sha256: str, size: int) -> None:
        path = self._ref(item)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with self._new() as stream:
            stream.write(json.dumps([sha256, size]).encode())
            stream.flush()
            Path(stream.name).rename(path)

    @contextlib.contextmanager
    def _new(self) -> Iterator[IO[bytes]]:
        """A file that is gone at the end unless it was renamed."""
        stream = tempfile.NamedTemporaryFile(dir=self._cache.folder / "new", delete=False)  # noqa: SIM115
        try:
            with stream:
                yield stream
        finally:
            with contextlib.suppress(FileNotFoundError):
                Path(stream.name).unlink()

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()

    def _object(self, sha256: str) -> Path:
        return self._folder / "objects" / sha256[:2] / sha256

    def _ref(self, item: Item) -> Path:
        key = _key(item)
        return self._folder / "refs" / key[:2] / key


def default_cache() -> Cache | None:
    """The cache of $DATAMOUNT_CACHE, of $DATAMOUNT_CACHE_SIZE bytes ("20 GB"); None where no folder is set."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return open_cache(Path(folder)) if folder else None


def open_cache(folder: Path) -> Cache:
    """The cache in a folder, of the size that the environment says."""
    return Cache(folder.expanduser(), parse_size(os.environ.get(SIZE_VARIABLE, str(DEFAULT_SIZE))))


def parse_size(text: str) -> int:
    """Bytes of "20 GB", "500 MiB" or "1000000". Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kKMGT])(i?)B?|B)?\s*", text)
    if not found:
        raise UsageError(f"{text!r} is not a size.", hint='Write it as in "20 GB".', who="you")
    number, unit, binary = found.groups()
    power = " kMGT".index(unit.replace("K", "k")) if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)


def _scope(dataset: Dataset, credential: Credential | None) -> tuple[str, str]:
    """The scope's name, and what a person reads of it. Holds no secret: a credential counts by its name and place."""
    source = dataset.source.model_dump(mode="json", exclude_none=True)
    for choice in ("include", "exclude", "access", "unpack"):
        source.pop(choice, None)  # which of the objects, not which objects there are
    opened: dict[str, Any] = {}
    if credential is not None:
        opened = {f: getattr(credential, f) for f in ("host", "port", "endpoint_url", "region", "profile", "address")}
    elif not source.get("anonymous"):
        opened = {name: os.environ.get(name) for name in _AMBIENT}
    identity = json.dumps([dataset.kind, source, opened], sort_keys=True)
    place = source.get("url") or source.get("package") or source.get("repo") or ""
    label = f"{dataset.kind} {re.sub(r'[?#].*', '', str(place))}"
    if source.get("credential"):
        label += f" as {source['credential']}"
    return hashlib.sha256(identity.encode()).hexdigest()[:32], label


def _key(item: Item) -> str:
    """Names one version of one object within its scope."""
    if item.digest is not None and item.digest.algorithm == "sha256":
        named: list[Any] = ["sha256", item.digest.value.lower()]
    else:
        promised = [item.digest.algorithm, item.digest.value] if item.digest else None
        named = ["object", item.identity, item.size, promised, dict(item.ref)]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _read_ref(path: Path) -> tuple[str, int] | None:
    try:
        sha256, size = json.loads(path.read_bytes())
        return (sha256, int(size)) if re.fullmatch(r"[0-9a-f]{64}", sha256) else None
    except (OSError, ValueError, TypeError):
        return None


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every regular file below, with its status; what vanishes meanwhile is left out."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()
