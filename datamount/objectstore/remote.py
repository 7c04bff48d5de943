"""A store in a bucket or container, through obstore: one client for S3 and Azure, a tenth of boto3's import
time, and no checksum headers that other stores than AWS refuse.

obstore repeats what failed on the way (with jitter, for two minutes at most), except a conditional create: repeating
that is ambiguous, because a first try whose answer was lost makes the second one fail against our own object. Each
create therefore carries a write id in the object's metadata, and a refusal is looked at before it is believed.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore import exceptions as remote

from datamount.errors import Conflict, DatamountError, NotFound, Refused, Unavailable
from datamount.objectstore.base import Body, ObjectInfo, check_key

PART = 16 << 20
"""Bytes a part; S3 allows 10,000 of them, so 160 GB an object. Smaller objects go in one request."""
_PARALLEL_PARTS = 4
_CREATE_TRIES = 5
_BACKOFF = 0.2
"""Seconds before the second try of a create; doubled each time, with full jitter."""
_REQUEST_TIMEOUT = "5m"
"""For one request with its body. A stream that is cut goes on from where it was."""
_STREAM_TRIES = 5
_STREAM_CHUNK = 4 << 20
"""Bytes; in smaller chunks, the way through Python costs more than the network."""
_STATUS = re.compile(r"status code: (\d{3})")
_METADATA = re.compile(r"/latest/(api/token|meta-data)|/metadata/identity")
"""The machine's own identity in a cloud, asked where nothing else gives keys."""
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")

T = TypeVar("T")
_REMOTE = (remote.BaseError, FileNotFoundError)
"""obstore raises the built-in error for a missing object, and its own for all else."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs from one provider to another."""

    bucket: str
    """What its users call a bucket."""
    access: str
    """What to check when access is denied."""
    sign_in: str
    """How to give it keys where none are known."""
    write_id: str = "datamount-write"
    """The name of a write id in an object's metadata."""


class RemoteStore:
    """Objects below `prefix` of a bucket. `open_client` makes an obstore store, given `retry_config`."""

    def __init__(self, kind: Kind, scheme: str, bucket: str, prefix: str, open_client: Callable[..., Any]) -> None:
        self.bucket = bucket
        self.url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        self._kind = kind
        self._prefix = f"{prefix}/" if prefix else ""
        self._store = open_client(retry_config={"max_retries": 6, "retry_timeout": timedelta(minutes=2)})
        self._once = open_client(retry_config={"max_retries": 0})
        self._conditional = True

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        name = self._name(key)
        if if_absent:
            self._create(key, name, _whole(body))
        elif isinstance(body, bytes) or (isinstance(body, Path) and body.stat().st_size <= PART):
            self._call("write", key, lambda: obstore.put(self._store, name, _whole(body), use_multipart=False))
        else:
            self._call("write", key, lambda: self._upload(name, body))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        chunks = list(self.stream(key, start, stop))
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        if stop is not None and stop <= start:  # HTTP has no empty range
            return
        for attempt in range(_STREAM_TRIES):
            try:
                for chunk in self._chunks(name, start, stop):
                    start += len(chunk)
                    yield chunk
            except _REMOTE as error:
                mapped = self._error("read", key, error)
                if not mapped.transient or attempt == _STREAM_TRIES - 1:
                    raise mapped from error
                _pause(attempt)
            else:
                return

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        # obstore lists whole path segments only.
        top = (self._prefix + prefix).rpartition("/")[0]
        try:
            for batch in obstore.list(self._store, prefix=top or None, chunk_size=1000):
                for meta in batch:
                    key = meta["path"].removeprefix(self._prefix)
                    if key.startswith(prefix):
                        yield ObjectInfo(key, meta["size"], meta["last_modified"].timestamp())
        except _REMOTE as error:
            raise self._error("list", prefix, error) from error

    def folders(self, prefix: str) -> Iterator[str]:
        top = (self._prefix + prefix).rstrip("/")
        found = self._call("list", prefix, lambda: obstore.list_with_delimiter(self._store, prefix=top or None))
        yield from (name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def delete(self, key: str) -> None:
        try:
            self._call("delete", key, lambda: obstore.delete(self._store, self._name(key)))
        except NotFound:
            return

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _chunks(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        span: Any = {"offset": start} if stop is None else (start, stop)
        options: Any = {"range": span} if start or stop is not None else {}
        for chunk in obstore.get(self._store, name, options=options).stream(min_chunk_size=_STREAM_CHUNK):
            yield bytes(chunk)

    def _upload(self, name: str, body: Body) -> None:
        """Multipart. What the body raises comes out as it is, and the object does not appear."""
        raised: list[BaseException] = []
        source: Any = _watched(body, raised) if not isinstance(body, bytes | Path) else body
        try:
            obstore.put(self._store, name, source, chunk_size=PART, max_concurrency=_PARALLEL_PARTS, use_multipart=True)
        except BaseException as error:
            if raised:
                raise raised[0] from error
            raise

    def _create(self, key: str, name: str, body: bytes) -> None:
        write_id = secrets.token_hex(12)
        for attempt in range(_CREATE_TRIES):
            try:
                if not self._conditional:
                    if self._exists(name):
                        raise self._conflict(key)
                    obstore.put(self._store, name, body, use_multipart=False)
                    return
                obstore.put(
                    self._once,
                    name,
                    body,
                    mode="create",
                    attributes={self._kind.write_id: write_id},
                    use_multipart=False,
                )
            except (remote.AlreadyExistsError, remote.PreconditionError) as error:
                if attempt and self._written_by(key, name, write_id):
                    return
                raise self._conflict(key) from error
            except _REMOTE as error:
                mapped = self._error("write", key, error)
                if self._conditional and (isinstance(error, remote.NotSupportedError) or _status(error) == 501):
                    self._conditional = False  # such as Backblaze B2: check, then write
                    continue
                if not mapped.transient or attempt == _CREATE_TRIES - 1:
                    raise mapped from error
                _pause(attempt)
            else:
                return

    def _exists(self, name: str) -> bool:
        try:
            obstore.head(self._store, name)
        except (FileNotFoundError, remote.NotFoundError):
            return False
        return True

    def _written_by(self, key: str, name: str, write_id: str) -> bool:
        attributes = self._call("read", key, lambda: obstore.get(self._store, name, options={"head": True}).attributes)
        return bool(attributes.get(self._kind.write_id) == write_id)

    def _call(self, verb: str, key: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except _REMOTE as error:
            raise self._error(verb, key, error) from error

    def _conflict(self, key: str) -> Conflict:
        return Conflict(f"The store {self.url} already holds {key}.")

    def _error(self, verb: str, key: str, error: Exception) -> DatamountError:
        """Ours, by the SDK's type, else by status. The SDK's text is not passed on: it can hold request headers."""
        status, code = _status(error), _CODE.search(str(error))
        what = f"The store {self.url} could not {verb} {key or 'its objects'}"
        named = f" ({code[1]})" if code else f" (HTTP {status})" if status else ""
        if isinstance(error, remote.NotFoundError | FileNotFoundError):
            if code and code[1] in ("NoSuchBucket", "ContainerNotFound"):
                return NotFound(f"The {self._kind.bucket} {self.bucket!r} does not exist.", who="the hub's operator")
            return NotFound(f"{what}: there is none.")
        if _METADATA.search(str(error)):
            return Refused(
                f"{what}: no keys for it are known here.",
                hint=f"{self._kind.sign_in}.",
                who="you",
                transient=status is None or status >= 500,  # a machine of a cloud may know them in a moment
            )
        # A LIST that is denied comes without a type of its own.
        denied = isinstance(error, remote.PermissionDeniedError | remote.UnauthenticatedError) or status in (401, 403)
        if denied:
            return Refused(
                f"{what}: access is denied{named}.",
                hint=f"Check {self._kind.access}.",
                who="the hub's operator",
            )
        if isinstance(error, remote.AlreadyExistsError | remote.PreconditionError):
            return self._conflict(key)
        refused = status is not None and 400 <= status < 500 and status not in (408, 429)
        return Unavailable(
            f"{what}: it {'refused the request' if status else 'did not answer'}{named}.",
            hint="Nothing that was saved before is lost. Try again in a while.",
            who="the hub's operator",
            transient=not refused,
        )


def _whole(body: Body) -> bytes:
    if isinstance(body, bytes):
        return body
    return body.read_bytes() if isinstance(body, Path) else b"".join(body)


def _watched(body: Iterable[bytes], raised: list[BaseException]) -> Iterator[bytes]:
    try:
        yield from body
    except BaseException as error:
        raised.append(error)
        raise


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, _BACKOFF * 2**attempt))  # noqa: S311


def _status(error: Exception) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def client_options(endpoint: str | None) -> dict[str, Any]:
    """Time limits; plain HTTP only where the address says so."""
    plain = bool(endpoint and endpoint.startswith("http://"))
    return {"timeout": _REQUEST_TIMEOUT, "connect_timeout": "5s", "allow_http": plain}
