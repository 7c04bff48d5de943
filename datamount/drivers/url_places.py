"""How one kind of address is read: a file of this machine, a web server, or any other protocol by fsspec.

A place answers what a file is (`facts`) and gives its bytes (`read`); its errors say what happened and who can act.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from datamount.credentials import Credential
from datamount.drivers import files
from datamount.drivers.base import Buffer
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed
from datamount.manifest import links

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


def open_place(dataset: str, url: str, credential: Credential | None) -> Place:
    """The place of an address, which the errors name for `dataset`. Makes no network call; UsageError for no URL."""
    scheme = urlsplit(url).scheme if len(links(url)) == 1 else ""
    if scheme in ("http", "https"):
        return WebPlace(dataset, url, credential)
    if scheme == "file":
        return FilePlace(dataset, url, credential)
    if "://" in url:
        return FsspecPlace(dataset, url, credential)
    raise UsageError(
        f'dataset "{dataset}": {shown(url)!r} is not a URL.',
        hint="Write the whole address, such as https://example.edu/file.csv.",
        who="the course's author",
    )


class Place(ABC):
    """How one kind of address is read."""

    def __init__(self, dataset: str, url: str, credential: Credential | None) -> None:
        self.name = dataset
        self.url = url
        self.shown = shown(url)
        self.credential = credential

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

    def changed(self) -> VerificationFailed:
        return VerificationFailed(
            f'dataset "{self.name}": {self.shown} changed while it was read.', hint="Fetch it again.", who="you"
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
    def __init__(self, dataset: str, url: str, credential: Credential | None) -> None:
        super().__init__(dataset, url, credential)
        self.path = Path(unquote(urlsplit(url).path))

    def facts(self) -> Facts:
        try:
            with self.path.open("rb"):  # says now what reading would say
                found = self.path.stat()
        except OSError as error:
            raise files.explain(error, self.path, dataset=self.name) from error
        return Facts(found.st_size, f"{found.st_mtime_ns}-{found.st_size}", ranges=True)

    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]:
        yield from files.read_file(self.path, dataset=self.name, start=start, stop=stop)
        if version and self.facts().version != version:
            raise self.changed()


class WebPlace(Place):
    """http and https. A credential is sent to the URL's own host only, never along a redirect."""

    def __init__(self, dataset: str, url: str, credential: Credential | None) -> None:
        super().__init__(dataset, url, credential)
        self._address = _ascii(url)

    def facts(self) -> Facts:
        # A GET of one byte: many servers and all presigned URLs refuse HEAD, and this tells whether ranges work.
        try:
            with self._get({"Range": "bytes=0-0"}) as answer:
                headers, ranges = answer.headers, answer.status == 206
        except urllib.error.HTTPError as error:
            if error.code != 416:  # an empty file has no first byte
                raise self._explain(error) from error
            headers, ranges = error.headers, True
        except _NO_ANSWER as error:
            raise self._explain(error) from error
        return Facts(_size(headers, ranges), _version(headers, ranges), ranges, _plain_name(headers.get_filename("")))

    def read(self, start: int, stop: int | None, version: str) -> Iterator[Buffer]:
        headers = {}
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            with self._get(headers) as answer:
                if start and answer.status == 206:
                    self._same(_version(answer.headers, True), version)
                yield from self._body(answer, start, stop)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise self._explain(error) from error
        except _NO_ANSWER as error:
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

    def _same(self, found: str, version: str) -> None:
        """A part read later must be of the file whose beginning was read before: by ETag, or else by date and size."""
        if version and found != version:
            raise self.changed()

    def _get(self, headers: dict[str, str]) -> Any:
        request = urllib.request.Request(
            self._address, headers={"User-Agent": "datamount", "Accept-Encoding": "identity"} | headers
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
            return self.unavailable(_silence(error.reason if isinstance(error, urllib.error.URLError) else error))
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
            raise self._unreadable(error) from error
        except Exception as error:
            raise self._explain(error) from error
        return system, path

    def _unreadable(self, error: Exception) -> UsageError:
        protocol = links(self.url)[-1].partition("://")[0]
        if isinstance(error, ImportError):
            hint = f"{str(error).rstrip('.')}."  # fsspec's own words: which package to install
        else:
            hint = "Use another address, such as https:// or s3://."
        return UsageError(
            f'dataset "{self.name}": nothing here reads {protocol}:// addresses.',
            hint=hint,
            who="the hub's operator" if isinstance(error, ImportError) else "the course's author",
        )

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


_NO_ANSWER = (OSError, http.client.HTTPException, UnicodeError)
"""UnicodeError: a host whose name is none, such as "a..b"."""


def _size(headers: Message, part: bool) -> int | None:
    """Bytes of the whole file, of an answer with a part or all of it."""
    total = headers.get("Content-Range", "").rpartition("/")[2] if part else headers.get("Content-Length", "")
    return int(total) if total.isdecimal() else None


def _version(headers: Message, part: bool) -> str:
    """What tells versions apart: the ETag, else date and size; "" where the server says neither."""
    dated = f"{headers['Last-Modified']} {_size(headers, part)}" if headers.get("Last-Modified") else ""
    return str(headers.get("ETag") or dated)


def _ascii(url: str) -> str:
    """A URL as browsers send what people write: "…/données.csv" becomes "…/donn%C3%A9es.csv"."""
    safe = "".join(map(chr, range(0x21, 0x7F)))
    parts = urlsplit(url)
    return parts._replace(path=quote(parts.path, safe=safe), query=quote(parts.query, safe=safe)).geturl()


def _silence(reason: object) -> str:
    """Why a server gave no answer, in words."""
    if isinstance(reason, socket.gaierror | UnicodeError):
        return "there is no such host, or nobody knows it here"
    if isinstance(reason, ssl.SSLError):
        return f"no safe connection ({getattr(reason, 'verify_message', '') or type(reason).__name__})"
    if isinstance(reason, TimeoutError):
        return f"the server was silent for {SILENCE_SECONDS} s"
    if isinstance(reason, ConnectionRefusedError):
        return "the server refuses connections"
    return f"the connection broke ({type(reason).__name__})"


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
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
