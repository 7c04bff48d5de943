"""The seam between the fetch engine and the sources.

A driver answers four questions about one dataset and does nothing else: *resolve* (which exact version?),
*plan* (which objects, with what size and digest?), *open* (the bytes of one object) and *connect* (which
connection file and variables?). It raises our errors by the SDK's error type or code, it never retries (the
engine does, with jitter and a budget), and it never writes a file: the engine owns the disk.

A driver is used from several threads at once after `resolve` and `plan` have returned; `open` must be safe
for that. Modules of SDKs are imported inside the driver modules, which are imported only when a manifest
names their source, so that an init container pays for what it uses.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar, Generic, Protocol, TypeVar

from datamount.credentials import Credential
from datamount.errors import UsageError
from datamount.manifest import Dataset, Source

Pin = Mapping[str, Any]
"""What a source resolved to, as plain JSON: {"top_hash": …}, {"commit": …}, {"version_id": …}. Kept in the lock."""

S = TypeVar("S", bound=Source)

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest that the source or the lock promises. `value` is lower-case hex.

    Algorithms: "sha256"; "md5" (an S3 ETag of a single-part object, or Content-MD5); "sha2-256-chunked" as
    Quilt computes it (8 MiB parts, hash of the parts' hashes).
    """

    algorithm: str
    value: str


@dataclass(frozen=True, slots=True)
class Item:
    """One object to deliver, at `path` below the dataset's folder.

    `identity` names the exact version at the source (ETag, VersionId, digest, commit…): the same path with
    the same identity needs no second transfer. `size` is None where the source cannot tell before the bytes
    are read (a table). `ref` is the driver's own, JSON-able: what `open` needs and the lock keeps.
    """

    path: str
    size: int | None
    identity: str
    digest: Digest | None = None
    ref: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Connection:
    """What a dataset hands to programs besides files.

    `files` are written below the run folder with mode 0600 (`{"mysql/mimic2.cnf": "[client]…"}`). `variables`
    may hold `{run}`, replaced by the run folder's path, and `{keys}`, replaced by the address of the session's endpoint
    for AWS keys (see `remote_access`); where nothing serves one, such variables are left out.

    `aws` are variables that AWS SDKs read. A process has one set of them, so they are those of the course's first
    dataset that has any.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    aws: Mapping[str, str] = field(default_factory=dict)


class Earlier(Protocol):
    """What an earlier fetch left in the data folder; see `datamount.fetch.earlier`."""

    def unfinished(self) -> dict[str, tuple[str, int]]:
        """Identity and size of each file that a fetch which did not complete has left, whole; none for a lock."""
        ...

    def complete(self) -> tuple[Pin, dict[str, tuple[str, int]]] | None:
        """The pin and all files of the last fetch, where that completed, was of this source, and nothing is missing."""
        ...


class Shared(Protocol):
    """Files by way of what this machine's sessions share; see `datamount.fetch.shared`."""

    def one_at_a_time(self, item: Item) -> AbstractContextManager[None]:
        """Be the only one on this machine that fetches this file; wait for another that does."""
        ...

    def open(self, item: Item) -> tuple[IO[bytes], str] | None:
        """The file, read whole and compared with its SHA-256, and that; None where it is not there, or was damaged."""
        ...

    def keep(self, item: Item, file: IO[bytes], sha256: str) -> None:
        """Keep a file that was fetched and verified. Never raises an OSError."""
        ...


class Driver(ABC, Generic[S]):
    """One dataset's source, opened with its credential. Closed by the engine when the dataset is done."""

    keeps_versions: ClassVar[bool] = True
    """Whether `identity` tells that nothing changed; a database's tells only when it was read."""

    supports_ranges: ClassVar[bool] = False
    """Whether `open` honours `start` and `stop`, so that large objects may be read in parts and resumed."""

    parallel_ranges: ClassVar[bool] = False
    """Whether parts of one object may be read at once (and are surely of one version: see `one_version`)."""

    streams_plan: ClassVar[bool] = False
    """Whether objects may be opened while `plan` still goes on."""

    supports_batches: ClassVar[bool] = False
    """Whether `open_many` is faster than many `open`s."""

    def __init__(self, name: str, dataset: Dataset, source: S, credential: Credential | None) -> None:
        self.name = name
        self.dataset = dataset
        self.source = source
        self.credential = credential
        self.warnings: list[str] = []
        """What people should know of data that was delivered all the same, a sentence each. For the status."""
        self.alive: Callable[[], None] = lambda: None
        """To be called while an answer takes long, as its parts arrive: the engine gives up what is silent."""
        self.earlier: Earlier | None = None
        """For `plan`, where the source itself cannot tell that nothing changed. Set by the engine before it asks."""
        self.shared: Shared | None = None
        """For a file that holds the objects, which the engine does not see. Set by it, where there is a node cache."""

    @abstractmethod
    def resolve(self, pin: Pin | None = None) -> Pin:
        """The exact version to deliver: what the manifest asks for, or `pin` (of the lock), checked to exist still.

        Raises NotFound, Refused, Unavailable; VerificationFailed where the source shows that the pin drifted.
        """

    @abstractmethod
    def plan(self, pin: Pin) -> Iterable[Item]:
        """The objects of that version; may stream. Paths are relative, normal and inside the folder (`safe_path`)."""

    @abstractmethod
    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """The bytes of one object, from `start` up to before `stop`, in chunks of the driver's liking.

        The iterator is closed by the caller (generators: `finally` runs). Raises as `resolve` does; errors
        that may pass are `transient`.
        """

    def open_many(self, items: Sequence[Item]) -> Generator[tuple[Item, Iterator[Buffer]], None, None]:
        """Each of the items once, in an order of the driver's liking, with all its bytes.

        Sources where a call costs more than a small file override it to bring many in one. A pair's bytes are to be
        read before the next pair is asked for; the iterator is closed by the caller, also early. Raises as `open`;
        what was yielded before an error is good.
        """
        for item in items:
            yield item, self.open(item)

    def one_version(self, item: Item) -> bool:
        """Whether `open` tells when a later part of an object is of another version than the parts before it. Where
        it cannot, an object without a digest is read in one, from its beginning at each try."""
        return True

    def connect(self) -> Connection:
        """Connection files and variables beyond <NAME>_PATH. Does not need the network."""
        return Connection()

    def close(self) -> None:
        """Let go of connections. May be called twice."""


_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f]")


def safe_path(key: str, *, dataset: str) -> str:
    """`key` as a relative path that stays inside the dataset's folder, or UsageError naming key and rule.

    The rule for keys of all sources: `/` separates; empty, `.` and `..` parts, control characters and parts
    over 255 bytes are refused (never renamed: a silent rename could hide one object behind another).
    """
    if fault := path_fault(key):
        shown = ascii(key) if _FORBIDDEN.search(key) else repr(key)
        raise UsageError(
            f'dataset "{dataset}": the key {shown} {fault}.',
            hint="Leave it out with `exclude`, or rename it at the source.",
            who="the course's author",
        )
    return key


def path_fault(key: str) -> str:
    """Why `key` cannot be the path of a file below a dataset's folder ("has …"); "" where it can."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return 'has an empty, "." or ".." part and cannot become a file'
    if _FORBIDDEN.search(key) or any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts):
        return "has a control character or a part over 255 bytes"
    return ""
