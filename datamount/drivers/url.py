"""One file at a URL, or what is in it: http, https and file by the standard library, every other protocol by fsspec.

It is delivered under the last part of its path; where that has no ".", as in `/download` or `/files/123`, under the
name that the server gives it, if it does (OSF, figshare and Dataverse serve files by number). A web server cannot be
asked for an old version: the version that a lock pins is the SHA-256, and `sha256` in the manifest is the same promise
made by hand. Without either, what is delivered is what the server has, told apart by ETag, else by date and size.

With `unpack` the file is read whole into a temporary file, and what is delivered are the files in it (see `archives`).
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import IO

from datamount.credentials import Credential
from datamount.drivers.archives import Archive
from datamount.drivers.base import Buffer, Digest, Driver, Item, Pin, safe_path
from datamount.drivers.url_places import Facts, file_name, open_place, shown
from datamount.errors import VerificationFailed
from datamount.manifest import URL, Dataset

CHUNK = 1 << 20


class URLDriver(Driver[URL]):
    """One file. Pin: {"size", "version"} as the server said; the lock adds the content's SHA-256."""

    supports_ranges = True

    def __init__(self, name: str, dataset: Dataset, source: URL, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self.shown = shown(source.url)
        self._name = file_name(source.url) or name
        self._lock = threading.RLock()
        self._spool: IO[bytes] | None = None
        self._opened: Archive | None = None
        self._sha256 = ""
        self._facts = Facts(None, "", ranges=True)
        self.place = open_place(name, source.url, credential)

    def resolve(self, pin: Pin | None = None) -> Pin:
        facts = self.place.facts()
        if facts.name and "." not in self._name:
            self._name = facts.name
        if not facts.ranges:
            self._no_ranges()
        if pin is not None and None not in (pin.get("size"), facts.size) and pin["size"] != facts.size:
            raise VerificationFailed(
                f'dataset "{self.name}": {self.shown} has {facts.size} bytes now; the lock pins {pin["size"]}.',
                hint=f"Run `datamount lock --upgrade {self.name}` to take the new content.",
                who="the course's author",
            )
        self._facts = facts
        if pin is not None and self.source.unpack:
            self._archive()  # what the lock pins is in it
        return {"size": facts.size, "version": facts.version}

    def plan(self, pin: Pin) -> Iterable[Item]:
        if self.source.unpack:
            if unchanged := self._unpacked(pin):
                return unchanged
            archive = self._archive()
            return [
                Item(member.path, member.size, f"{self._sha256}:{member.path}", None, {"member": member.path})
                for member in archive.members.values()
            ]
        digest = Digest("sha256", self.source.sha256) if self.source.sha256 else None
        # Without anything to tell versions apart, no earlier copy may pass for this one.
        identity = f"sha256:{digest.value}" if digest else pin.get("version") or f"unknown:{uuid.uuid4().hex}"
        path = safe_path(self._name, dataset=self.name)
        return [Item(path, pin.get("size"), identity, digest, {"version": pin.get("version") or ""})]

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if stop is not None and stop <= start:
            return iter(())
        if self.source.unpack:
            return self._member(item.ref["member"], start, stop)
        # Where a digest decides, an ETag may change (a server moved) without a word from us.
        return self.place.read(start, stop, "" if item.digest else item.ref.get("version", ""))

    def one_version(self, item: Item) -> bool:
        return "member" in item.ref or bool(item.ref.get("version"))

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            if self._spool is not None:
                self._spool.close()
            self._opened = self._spool = None

    def _unpacked(self, pin: Pin) -> list[Item]:
        """The files of the archive, where they are there already and its server says that it is the same still."""
        earlier = self.earlier.complete() if self.earlier and pin.get("version") else None
        if earlier is None or (earlier[0].get("version"), earlier[0].get("size")) != (pin["version"], pin.get("size")):
            return []
        return [Item(path, size, identity, None, {"member": path}) for path, (identity, size) in earlier[1].items()]

    def _member(self, path: str, start: int, stop: int | None) -> Iterator[Buffer]:
        archive = self._archive()
        if path not in archive.members:
            raise VerificationFailed(
                f'dataset "{self.name}": {path!r} is not in {self.shown} any more.',
                hint=f"Run `datamount lock --upgrade {self.name}` to take the new content.",
                who="the course's author",
            )
        return archive.read(path, start, stop)

    def _archive(self) -> Archive:
        """The archive; once. From this machine's cache, or else its server, by a download that goes on where it was."""
        with self._lock:
            if self._opened is None:
                unpack = self.source.unpack
                assert unpack is not None
                inner = (self._name[:-3] if self._name.lower().endswith(".gz") else "") or self.name
                self._opened = Archive(self._brought(), unpack, dataset=self.name, name=inner)
            return self._opened

    def _brought(self) -> IO[bytes]:
        """The archive's file, verified; `_sha256` is then its digest."""
        digest = Digest("sha256", self.source.sha256) if self.source.sha256 else None
        item = Item(self._name, self._facts.size, self._facts.version, digest, {"archive": True})
        if self.shared is None or not (digest or item.identity):
            return self._downloaded()
        with self.shared.one_at_a_time(item):
            found = self.shared.open(item)
            if found is not None:
                stream, self._sha256 = found
                return stream
            stream = self._downloaded()
            self.shared.keep(item, stream, self._sha256)
            return stream

    def _downloaded(self) -> IO[bytes]:
        version = self._facts.version
        spool = self._spool = self._spool or tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        start = spool.seek(0, 2)
        if start and not (version and self.supports_ranges):
            start = spool.seek(0)  # nothing would tell that the rest is of the same file
            spool.truncate()
        for chunk in self.place.read(start, None, version):
            self.alive()
            spool.write(chunk)
        spool.seek(0)
        digest = hashlib.sha256()
        while chunk := spool.read(CHUNK):
            digest.update(chunk)
        self._sha256 = digest.hexdigest()
        if self.source.sha256 not in (None, self._sha256):
            spool.close()
            self._spool = None
            raise VerificationFailed(
                f'dataset "{self.name}": {self.shown} has the SHA-256 {self._sha256}, not the one of datamount.yaml.',
                hint="Check the address; if the change is meant, mend `sha256`.",
                who="the course's author",
                transient=True,  # once more: bytes may break on the way
            )
        self._spool = None
        return spool

    def _no_ranges(self) -> None:
        """Reading from the middle works still, by skipping; it is only not worth doing in parallel."""
        self.supports_ranges = False  # type: ignore[misc]
