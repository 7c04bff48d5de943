"""One file at a URL, or what is in it: http, https and file by the standard library, every other protocol by fsspec.

It is delivered under the last part of its path; where that has no ".", as in `/download` or `/files/123`, under the
name that the server gives it, if it does (OSF, figshare and Dataverse serve files by number). A web server cannot be
asked for an old version: the version that a lock pins is the SHA-256, and `sha256` in the manifest is the same promise
made by hand. Without either, what is delivered is what the server has, told apart by ETag, else by date and size.

With `unpack` the file is read whole into a temporary file, and what is delivered are the files in it (see `archives`).
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http.client
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from datamount.credentials import Credential
from datamount.drivers import files
from datamount.drivers.archives import Archive
from datamount.drivers.base import Buffer, Digest, Driver, Item, Pin, safe_path
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed
from datamount.manifest import URL, Dataset, links

SILENCE_SECONDS = 30
CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of a file before it is read. `version` is "" where it says nothing that tells two apart."""

    size: int | None
    version: str
    ranges: bool
    name: str = ""
    """What the server calls the file (Content-Disposition)."""


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
        self.place: Place
        single = len(links(source.url)) == 1
        if single and urlsplit(source.url).scheme in ("http", "https"):
            self.place = WebPlace(self)
        elif single and urlsplit(source.url).scheme == "file":
            self.place = FilePlace(self)
        elif "://" in source.url:
            self.place = FsspecPlace(self)
            self._no_ranges()
        else:
            raise UsageError(
                f'dataset "{name}": {self.shown!r} is not a URL.',
                hint="Write the whole address, such as https://example.edu/file.csv.",
                who="the course's author",
            )

    def resolve(self, pin: Pin | None = None) -> Pin:
        facts = self.place.facts()
        if facts.name and "." not in self._name:
            self._name = facts.name
        if not facts.ranges:
            self._no_ranges()
        if pin is not None and None not in (pin.get("size"), facts.size) and pin["size"] != facts.size:
            raise VerificationFailed(
                f'dataset "{self.name}": {self.shown} has {facts.size} bytes now; the lock pins {pin["size"]}.',
                hint="Run `datamount lock --upgrade` to take the new content.",
                who="the course's author",
            )
        if pin is not None and self.source.unpack:
            self._archive(facts.version)  # what the lock pins is in it
        return {"size": facts.size, "version": facts.version}

    def plan(self, pin: Pin) -> Iterable[Item]:
        if self.source.unpack:
            if unchanged := self._unpacked(pin):
                return unchanged
            archive = self._archive(str(pin.get("version") or ""))
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
        archive = self._archive("")
        if path not in archive.members:
            raise VerificationFailed(
                f'dataset "{self.name}": {path!r} is not in {self.shown} any more.',
                hint="Run `datamount lock --upgrade` to take the new content.",
                who="the course's author",
            )
        return archive.read(path, start, stop)

    def _archive(self, version: str) -> Archive:
        """The archive, read whole into a file without a name; once. A download that broke goes on where it was."""
        with self._lock:
            if self._opened is None:
                self._download(version)
                spool, self._spool = self._spool, None
                assert spool is not None
                unpack = self.source.unpack
                assert unpack is not None
                inner = (self._name[:-3] if self._name.lower().endswith(".gz") else "") or self.name
                self._opened = Archive(spool, unpack, dataset=self.name, name=inner)
            return self._opened

    def _download(self, version: str) -> None:
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

    def _no_ranges(self) -> None:
        """Reading from the middle works still, by skipping; it is only not worth doing in parallel."""
        self.supports_ranges = False  # type: ignore[misc]


class Place(ABC):
    """How one kind of address is read."""

    def __init__(self, driver: URLDriver) -> None:
        self.name = driver.name
        self.url = driver.source.url
        self.shown = driver.shown
        self.credential = driver.credential

    @abstractmethod
    def facts(self) -> Facts: ...

    @abstractmethod
    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]: ...

    def missing(self, code: str) -> NotFound:
        return NotFound(
            f'dataset "{self.name}": {self.shown} does not exist ({code}).',
            hint="Check the address in datamount.yaml.",
            who="the course's author",
        )

    def refused(self, code: str) -> Refused:
        return Refused(
            f'dataset "{self.name}": {self.shown} may not be read ({code}).',
            hint="Check the credential that it names."
            if self.credential
            else "Name a `credential:` in datamount.yaml, if the file is not public.",
            who="the hub's operator" if self.credential else "the course's author",
        )

    def unavailable(self, what: str, *, transient: bool = True, retry_after: float | None = None) -> Unavailable:
        return Unavailable(
            f'dataset "{self.name}": reading {self.shown} failed: {what}.',
            hint="Try again later; if it lasts, tell the data's owner.",
            who="the data's owner",
            transient=transient,
            retry_after=retry_after,
        )


class FilePlace(Place):
    def __init__(self, driver: URLDriver) -> None:
        super().__init__(driver)
        self.path = Path(unquote(urlsplit(self.url).path))

    def facts(self) -> Facts:
        try:
            with self.path.open("rb"):  # says now what reading would say
                found = self.path.stat()
        except OSError as error:
            raise files.explain(error, self.path, dataset=self.name) from error
        return Facts(found.st_size, f"{found.st_mtime_ns}-{found.st_size}", ranges=True)

    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]:
        return files.read_file(self.path, dataset=self.name, start=start, stop=stop)


class WebPlace(Place):
    """http and https. A credential is sent to the URL's own host only, never along a redirect."""

    def facts(self) -> Facts:
        # A GET of one byte: many servers and all presigned URLs refuse HEAD, and this tells whether ranges work.
        try:
            with self._get({"Range": "bytes=0-0"}) as answer:
                headers, ranges = answer.headers, answer.status == 206
        except urllib.error.HTTPError as error:
            if error.code != 416:  # an empty file has no first byte
                raise self._explain(error) from error
            headers, ranges = error.headers, True
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from error
        total = headers.get("Content-Range", "").rpartition("/")[2] if ranges else headers.get("Content-Length", "")
        size = int(total) if total and total.isdigit() else None
        dated = f"{headers['Last-Modified']} {size}" if headers.get("Last-Modified") else ""
        return Facts(size, headers.get("ETag") or dated, ranges, _plain_name(headers.get_filename("")))

    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]:
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            with self._get(headers) as answer:
                if start and answer.status == 206:
                    self._same(answer.headers.get("ETag", ""), version)
                yield from self._body(answer, start, stop)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise self._explain(error) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(error) from error

    def _body(self, answer: http.client.HTTPResponse, start: int, stop: int | None) -> Iterator[bytes]:
        skip = 0 if answer.status == 206 else start  # a server without ranges sends everything
        left = None if stop is None else stop - start
        whole = answer.length
        received = 0
        while left is None or left > 0:
            chunk = answer.read(CHUNK)
            if not chunk:
                break
            received += len(chunk)
            if skip:
                skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
            chunk = chunk if left is None else chunk[:left]
            left = None if left is None else left - len(chunk)
            if chunk:
                yield chunk
        if whole is not None and received < whole and (left is None or left > 0):
            raise self.unavailable(f"the connection ended after {received} of {whole} bytes")

    def _same(self, etag: str, version: str) -> None:
        """A part read later must be of the file whose beginning was read before."""
        if etag and version.startswith(('"', "W/")) and etag != version:
            raise VerificationFailed(
                f'dataset "{self.name}": {self.shown} changed while it was read.',
                hint="Fetch it again.",
                who="you",
            )

    def _get(self, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self.url, headers={"User-Agent": "datamount", "Accept-Encoding": "identity"} | headers
        )
        secret = self.credential
        if secret and secret.token:
            request.add_unredirected_header("Authorization", f"Bearer {secret.token.get_secret_value()}")
        elif secret and secret.user and secret.password:
            pair = f"{secret.user}:{secret.password.get_secret_value()}".encode()
            request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(pair).decode()}")
        return urllib.request.urlopen(request, timeout=SILENCE_SECONDS)

    def _explain(self, error: Exception) -> DatamountError:
        if not isinstance(error, urllib.error.HTTPError):
            reason = getattr(error, "reason", error)
            return self.unavailable(f"the server did not answer ({type(reason).__name__})")
        error.close()
        if error.code in (404, 410):
            return self.missing(str(error.code))
        if error.code in (401, 403, 407, 451):
            return self.refused(str(error.code))
        passing = error.code in (408, 425, 429) or error.code >= 500
        after = retry_after(error.headers.get("Retry-After", "")) if passing else None
        return self.unavailable(f"the server answered {error.code}", transient=passing, retry_after=after)


class FsspecPlace(Place):
    """Any protocol that fsspec has a file system for."""

    def facts(self) -> Facts:
        system, path = self._open_system()
        try:
            info = system.info(path)
            if info.get("type") == "directory":
                raise self.missing("it is a folder")
            return Facts(info.get("size"), str(system.ukey(path)), ranges=False)
        except Exception as error:
            raise self._explain(error) from error

    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]:
        system, path = self._open_system()
        try:
            with system.open(path, "rb") as stream:
                stream.seek(start)
                left = None if stop is None else stop - start
                while chunk := stream.read(CHUNK if left is None else min(CHUNK, left)):
                    left = None if left is None else left - len(chunk)
                    yield chunk
        except Exception as error:
            raise self._explain(error) from error

    def _open_system(self) -> tuple[Any, str]:
        import fsspec

        options: dict[str, Any] = {}
        secret = self.credential
        if secret is not None:
            given = {"username": secret.user, "password": secret.password, "token": secret.token}
            given |= {"key": secret.access_key_id, "secret": secret.secret_access_key}
            given |= {"endpoint_url": secret.endpoint_url}
            options = {
                key: value if isinstance(value, str) else value.get_secret_value()
                for key, value in given.items()
                if value is not None
            }
        try:
            system, path = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            protocol = self.url.partition("://")[0]
            raise UsageError(
                f'dataset "{self.name}": fsspec here cannot read {protocol}:// addresses ({type(error).__name__}).',
                hint="Install the package that fsspec names for it, or use another address.",
                who="the hub's operator",
            ) from error
        except Exception as error:
            raise self._explain(error) from error
        return system, path

    def _explain(self, error: Exception) -> DatamountError:
        """File systems raise what their SDK raises; only Python's own kinds are told apart."""
        if isinstance(error, DatamountError):
            return error
        cause = error.__cause__
        if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, FileNotFoundError):
            # fsspec's http says FileNotFoundError for whatever went wrong; the cause knows.
            status = getattr(cause, "status", 0)
            if status in (401, 403):
                return self.refused(str(status))
            if status not in (404, 410):
                return self.unavailable(type(cause).__name__)
        if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | KeyError):
            return self.missing(type(error).__name__)
        if isinstance(error, PermissionError):
            return self.refused(type(error).__name__)
        return self.unavailable(type(error).__name__)


def shown(url: str) -> str:
    """The URL for messages: without user, password and query, which may hold secrets."""
    parts = []
    for part in links(url):
        base = part.partition("?")[0].partition("#")[0]
        scheme, separator, rest = base.rpartition("://")
        host, slash, path = rest.partition("/")
        parts.append(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}")
    return "::".join(parts)


def _plain_name(name: str) -> str:
    """A server's name for a file; "" where it is none that could stand in a folder."""
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    usable = name not in ("", ".", "..") and name.isprintable() and len(name.encode("utf-8", "replace")) <= 255
    return name if usable else ""


def file_name(url: str) -> str:
    """The last part of the path, decoded; "" where the URL ends in a slash."""
    address = links(url)[0]
    if urlsplit(address).scheme in ("http", "https", "file"):
        return unquote(urlsplit(address).path).rpartition("/")[2]
    return address.partition("://")[2].rpartition("/")[2]


def retry_after(value: str) -> float | None:
    """Seconds to wait, of a Retry-After header in either form."""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
