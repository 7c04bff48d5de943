"""Objects of one workspace, read and written by presigned URLs that the controller's gateway gives.

Threads that want URLs at the same time share one request (`datamount.batches`). Bodies go straight to the store.
"""

from __future__ import annotations

import base64
import hashlib
import random
import secrets
import threading
import time
import xml.etree.ElementTree as ET
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamount.batches import Batches
from datamount.connections import Answer, Connections
from datamount.controller_client import ControllerClient, repeat
from datamount.errors import Conflict, DatamountError, NotFound, Refused, Unavailable
from datamount.objectstore.base import Body

PART = 8 << 20
"""Bytes a part; S3 takes 10,000 of them, 5 MiB at least. Smaller objects go in one request."""
_PARALLEL_PARTS = 3
TRIES = 5
_KEPT_URLS = 4096
_MARGIN = 60.0
"""Seconds before its end from which a URL is not used any more."""
_WRITE_HEADER = "x-amz-meta-datamount-write"


@dataclass(frozen=True, slots=True)
class Signed:
    """A request as the gateway allows it."""

    method: str
    url: str
    headers: Mapping[str, str]
    until: float


class PresignedObjects:
    """The workspace's objects by their names in it. `used` is told what the gateway says that the workspace holds."""

    def __init__(self, client: ControllerClient, used: Callable[[int], None]) -> None:
        self._direct = Connections("the store of saved work")
        self.signer = Signer(client, used)

    def put(self, name: str, body: Body, *, if_absent: bool) -> None:
        """Store an object; a large one in parts. What the body raises comes out as it is, and nothing appears."""
        chunks = parts(body)
        first = next(chunks, b"")
        second = next(chunks, None)
        if second is None:
            self._put_one(name, first, if_absent=if_absent)
        else:
            self._put_parts(name, _chain(first, second, chunks), if_absent=if_absent)

    def stream(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        """The bytes [start, stop), gone on with where a connection broke."""
        for attempt in range(TRIES):
            try:
                for chunk in self._read(name, start, stop):
                    start += len(chunk)
                    yield chunk
            except DatamountError as error:
                if not error.transient or attempt == TRIES - 1:
                    raise
                _pause(attempt)
            else:
                return

    def close(self) -> None:
        """Close the connections that are kept."""
        self._direct.close()

    # --- Writing ----------------------------------------------------------------------------------------------------

    def _put_one(self, name: str, body: bytes, *, if_absent: bool) -> None:
        write = secrets.token_hex(12)
        operation = {"method": "PUT", "key": name, "size": len(body), "md5": _md5(body), "write": write}
        tried = 0

        def once() -> None:
            nonlocal tried
            tried += 1
            signed = self.signer.sign(operation | {"if_absent": if_absent})
            with self._send(signed, body) as answer:
                if answer.status == 412:
                    self._believe(name, len(body), write if tried > 1 else "", if_absent=if_absent)
                elif answer.status >= 300:
                    raise self._error("write", name, answer)

        repeat(once, TRIES)
        self.signer.forget(name)

    def _believe(self, name: str, size: int, write: str, *, if_absent: bool) -> None:
        """Look at what is there when the store would not replace it; Conflict where that is not this object."""
        with self._send(self.signer.sign({"method": "HEAD", "key": name}), None) as answer:
            if answer.status == 200:
                if write and answer.headers.get(_WRITE_HEADER) == write:
                    return
                # A merge base is always read whole, so any compressed form of it will do.
                same = name.startswith("base/") or int(answer.headers.get("Content-Length") or -1) == size
                if same and not if_absent:
                    return
        raise Conflict(f"The store of saved work already holds {name}.")

    def _put_parts(self, name: str, parts: Iterator[bytes], *, if_absent: bool) -> None:
        """Multipart. What the body raises comes out as it is, and the object does not appear."""
        write = secrets.token_hex(12)
        created = self._xml({"method": "CREATE", "key": name, "write": write}, b"", name)
        upload = next((e.text for e in created.iter() if e.tag.rpartition("}")[2] == "UploadId"), None)
        if not upload:
            raise Unavailable("the store of saved work began no upload.", transient=True)
        size = 0
        tags: list[str] = []
        running: deque[Future[str]] = deque()
        try:
            with ThreadPoolExecutor(_PARALLEL_PARTS, thread_name_prefix="save-part") as pool:
                for number, part in enumerate(parts, 1):
                    if len(running) >= _PARALLEL_PARTS:
                        tags.append(running.popleft().result())
                    size += len(part)
                    running.append(pool.submit(self._put_part, name, upload, number, part))
                tags += [future.result() for future in running]
            self._complete(name, upload, tags, size, write, if_absent=if_absent)
        except BaseException:
            abort = {"method": "ABORT", "key": name, "upload": upload}
            with suppress(DatamountError), self._send(self.signer.sign(abort), None):
                pass
            raise
        self.signer.forget(name)

    def _put_part(self, name: str, upload: str, number: int, body: bytes) -> str:
        operation = {"method": "PART", "key": name, "upload": upload, "part": number, "size": len(body)}
        operation["md5"] = _md5(body)

        def once() -> str:
            with self._send(self.signer.sign(operation), body) as answer:
                if answer.status >= 300:
                    raise self._error("write", name, answer)
                return str(answer.headers.get("ETag") or "")

        return repeat(once, TRIES)

    def _complete(self, name: str, upload: str, tags: Iterable[str], size: int, write: str, *, if_absent: bool) -> None:
        root = ET.Element("CompleteMultipartUpload")
        for number, tag in enumerate(tags, 1):
            part = ET.SubElement(root, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = tag
        body = ET.tostring(root)
        operation = {"method": "COMPLETE", "key": name, "upload": upload, "if_absent": if_absent}

        def once() -> None:
            with self._send(self.signer.sign(operation), body) as answer:
                if answer.status < 300:
                    # S3 may begin a 200 and end it with an error (CompleteMultipartUpload, in its reference).
                    if b"<Error>" in answer.read():
                        raise Unavailable(f"The store of saved work could not complete {name}.", transient=True)
                elif answer.status in (404, 412):
                    # 404: a first try that completed it, whose answer was lost.
                    self._believe(name, size, write, if_absent=if_absent)
                else:
                    raise self._error("write", name, answer)

        repeat(once, TRIES)

    def _xml(self, operation: dict[str, Any], body: bytes, name: str) -> ET.Element:
        def once() -> ET.Element:
            with self._send(self.signer.sign(operation), body) as answer:
                if answer.status >= 300:
                    raise self._error("write", name, answer)
                try:
                    return ET.fromstring(answer.read())  # noqa: S314  (from the operator's own store)
                except ET.ParseError as error:
                    raise Unavailable("the store of saved work answered nonsense.", transient=True) from error

        return repeat(once, TRIES)

    # --- Reading ----------------------------------------------------------------------------------------------------

    def _read(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        signed = self.signer.sign({"method": "GET", "key": name})
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        with self._send(signed, None, headers) as answer:
            if answer.status == 416:
                return
            if answer.status >= 300:
                self.signer.forget(name)
                raise self._error("read", name, answer)
            yield from answer.chunks()

    def _send(self, signed: Signed, body: bytes | None, headers: Mapping[str, str] | None = None) -> Answer:
        return self._direct.request(signed.method, signed.url, body=body, headers={**signed.headers, **(headers or {})})

    def _error(self, verb: str, name: str, answer: Answer) -> DatamountError:
        text = answer.read()[:4096].decode("utf-8", "replace")
        code = text.partition("<Code>")[2].partition("</Code>")[0][:60]
        if answer.status == 404 and code in ("", "NoSuchKey"):
            return missing(name)
        what = f"The store of saved work could not {verb} {name}"
        named = f" ({code or f'HTTP {answer.status}'})"
        if answer.status == 403 and code not in ("AccessDenied", "ExpiredToken", "RequestTimeTooSkewed", ""):
            return Refused(f"{what}: access is denied{named}.", who="the hub's operator")
        # AccessDenied is also how a URL says that its time is over: another one may work.
        return Unavailable(
            f"{what}{named}.",
            hint="Nothing that was saved before is lost. Try again in a while.",
            who="the hub's operator",
            transient=answer.status in (403, 408, 429) or answer.status >= 500 or code == "BadDigest",
        )


class Signer:
    """Gets requests signed, many in one call when many threads ask; keeps URLs that read."""

    def __init__(self, client: ControllerClient, used: Callable[[int], None]) -> None:
        self._client = client
        self._used = used
        self._lock = threading.Lock()
        self._batches: Batches[dict[str, Any], Signed] = Batches(self._ask)
        self._known: OrderedDict[str, Signed] = OrderedDict()

    def sign(self, operation: dict[str, Any]) -> Signed:
        """The signed request. Raises what the gateway refuses with."""
        reading = operation["method"] == "GET"
        with self._lock:
            known = self._known.get(operation["key"]) if reading else None
        if known and known.until > time.monotonic():
            return known
        signed = self._batches.get(operation)
        if reading:
            with self._lock:
                self._known[operation["key"]] = signed
                while len(self._known) > _KEPT_URLS:
                    self._known.popitem(last=False)
        return signed

    def forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)

    def forget_all(self) -> None:
        with self._lock:
            self._known.clear()

    def _ask(self, operations: list[dict[str, Any]]) -> list[Signed]:
        asked = time.monotonic()
        answer = self._client.call("POST", "/v1/store/batch", {"operations": operations})
        until = asked + float(answer["seconds"]) - _MARGIN
        if "used" in answer:
            self._used(int(answer["used"]))
        return [Signed(r["method"], r["url"], r.get("headers") or {}, until) for r in answer["results"]]


def parts(body: Body) -> Iterator[bytes]:
    """The body in parts of PART bytes; an empty body has none."""
    if isinstance(body, bytes):
        yield from (body[at : at + PART] for at in range(0, len(body), PART))
        return
    if isinstance(body, Path):
        with body.open("rb") as file:
            while part := file.read(PART):
                yield part
        return
    held = bytearray()
    for chunk in body:
        held += chunk
        while len(held) >= PART:
            yield bytes(held[:PART])
            del held[:PART]
    if held:
        yield bytes(held)


def _chain(first: bytes, second: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield second
    yield from rest


def _md5(body: bytes) -> str:
    """What S3 checks bodies with (Content-MD5); not for security: the files' own digests are sha256."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311


def missing(name: str) -> NotFound:
    """The error for an object that is not there."""
    return NotFound(f"The store of saved work could not read {name}: there is none.")
