"""A workspace's store through the controller's gateway: no key to the bucket is in the pod.

Keys are `workspaces/<owner>/<course>/…` as everywhere; those three parts are taken off on the way, because which
workspace a session has is the gateway's to say, whatever names this side uses. Threads that want URLs at the same time
share one request: whoever comes while one is under way goes into the next, so a single thread waits for nobody.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
import threading
import time
import xml.etree.ElementTree as ET
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from datamount.batches import Batches
from datamount.connections import Answer, Connections, Lost
from datamount.controller_client import ControllerClient, repeat
from datamount.errors import Conflict, DatamountError, NotFound, Refused, Unavailable
from datamount.objectstore.base import Body, ObjectInfo, Room, check_key
from datamount.status import write_atomic

PART = 8 << 20
"""Bytes a part; S3 takes 10,000 of them, 5 MiB at least. Smaller objects go in one request."""
_PARALLEL_PARTS = 3
_TRIES = 5
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


class GatewayStore:
    """One workspace as an object store, for `Workspace(GatewayStore(client), owner, course)`.

    `key_file` keeps the work key of an anonymous session: made at the first write, or put there by `resume`.
    """

    def __init__(self, client: ControllerClient, *, key_file: Path | None = None) -> None:
        self.client = client
        self.key_file = key_file
        self._direct = Connections("the store of saved work")
        self._signer = _Signer(client, self._used)
        self._about: dict[str, Any] | None = None
        self._room: Room | None = None
        self._lock = threading.Lock()
        self._read_key()

    @property
    def url(self) -> str:
        """Where this is, for messages; another one for each work key, as each is another workspace."""
        key = self.client.work_key
        tag = hashlib.sha256(key.get_secret_value().encode()).hexdigest()[:8] if key and self._resumed else ""
        return f"{self.client.url}{'#' if tag else ''}{tag}"

    # --- The store --------------------------------------------------------------------------------------------------

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        """As every store. Where the gateway is append-only, an object of the same size that is there already is taken
        for this one, because content is named by its digest; Conflict for one of another size."""
        name = self._name(key)
        self._need_workspace()
        if name.startswith("versions/"):
            path = f"/v1/store/commit?key={quote(name, safe='')}"
            self._room = _room(json.loads(self.client.send("POST", path, _whole(body))))
            return
        chunks = _parts(body)
        first = next(chunks, b"")
        second = next(chunks, None)
        if second is None:
            self._put_one(name, first, if_absent=if_absent)
        else:
            self._put_parts(name, _chain(first, second, chunks), if_absent=if_absent)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join(self.stream(key, start, stop))

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        if stop is not None and stop <= start:
            return
        if not self._has_workspace():
            raise self._missing(name)
        for attempt in range(_TRIES):
            try:
                for chunk in self._read(name, start, stop):
                    start += len(chunk)
                    yield chunk
            except DatamountError as error:
                if not error.transient or attempt == _TRIES - 1:
                    raise
                _pause(attempt)
            else:
                return

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As every store; a list that was cut short is asked for again before anything of it is given."""
        if not self._has_workspace():
            return
        top, inner = _split(prefix)
        path = f"/v1/store/list?prefix={quote(inner, safe='')}"
        yield from repeat(lambda: self._list(top, path), _TRIES)

    def folders(self, prefix: str) -> Iterator[str]:
        rests = (found.key.removeprefix(prefix) for found in self.list(prefix))
        yield from {rest.partition("/")[0] for rest in rests if "/" in rest}

    def delete(self, key: str) -> None:
        name = self._name(key)
        if self._has_workspace():
            self.client.call("POST", "/v1/store/delete", {"key": name})
            self._signer.forget(name)

    @property
    def known_room(self) -> Room | None:
        return self._room

    def room(self, *, fresh: bool = False) -> Room:
        """What there is room for. Known without asking after the first save: each batch and each commit tells it."""
        if not self._has_workspace():
            return Room(0, int(self.about()["quota"]))
        if self._room is None or fresh:
            self._room = _room(self.client.call("GET", "/v1/store/usage"))
        return self._room

    def _used(self, size: int) -> None:
        if self._room is not None:
            self._room = replace(self._room, used=size)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._direct.close()

    # --- The work key -----------------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """Whose work this is, and its limits; asked once."""
        if self._about is None:
            self._about = self.client.call("GET", "/v1/store")
        return self._about

    def link(self, key: SecretStr) -> str | None:
        """Where a resume key or a share's secret opens a new session of this course; None where the gateway does not
        know the hub's address."""
        place = self.about().get("link")
        return str(place).replace("{key}", key.get_secret_value()) if place else None

    def work_key(self) -> SecretStr | None:
        """The key to this work, where it is not a user's; None before the first save too."""
        return self.client.work_key

    def resume(self, key: SecretStr) -> dict[str, Any]:
        """Go on with the work under this key: what the gateway knows of it. Refused for a key of no work, and then
        everything stays as it was."""
        before, self.client.work_key = self.client.work_key, key
        try:
            found = self.client.call("POST", "/v1/resume")
        except DatamountError:
            self.client.work_key = before
            raise
        self._resumed = True
        self._keep_key()
        self._about = self._room = None
        self._signer.forget_all()
        return found

    # --- Links to versions ------------------------------------------------------------------------------------------

    def share(self, version: str, days: float) -> dict[str, Any]:
        """A read-only link to a version: id, version, created, expires, secret, `link` (a download) and `session_link`
        where the hub has these addresses. The secret is told this once."""
        self._check_work()
        return self.client.call("POST", "/v1/shares", {"version": version, "days": days}, tries=1)

    def shares(self) -> Sequence[dict[str, Any]]:
        """The links that are valid, newest first."""
        if not self._has_workspace():
            return ()
        found: Sequence[dict[str, Any]] = json.loads(self.client.send("GET", "/v1/shares"))
        return found

    def revoke(self, id: str) -> None:
        """End a link now; no error for one that has ended."""
        if self._has_workspace():
            self.client.call("DELETE", f"/v1/shares/{quote(id, safe='')}")

    def _check_work(self) -> None:
        if not self._has_workspace():
            raise NotFound("nothing is saved yet.", hint="Save first.", who="you")

    def _read_key(self) -> None:
        self._resumed = False
        if self.key_file is not None:
            with suppress(OSError, ValueError, KeyError, TypeError):
                document = json.loads(self.key_file.read_bytes())
                self.client.work_key = SecretStr(str(document["work_key"]))
                self._resumed = bool(document["resumed"])

    def _keep_key(self) -> None:
        if self.key_file is not None and self.client.work_key is not None:
            document = {"work_key": self.client.work_key.get_secret_value(), "resumed": self._resumed}
            write_atomic(self.key_file, json.dumps(document).encode(), 0o600)

    def _has_workspace(self) -> bool:
        """Whether there can be any work: an anonymous session without a key has none."""
        return self.client.work_key is not None or self.about()["owner"] != "work-key"

    def _need_workspace(self) -> None:
        with self._lock:
            if not self._has_workspace():
                self.client.work_key = SecretStr(str(self.client.call("POST", "/v1/work-keys")["work_key"]))
                self._keep_key()

    # --- Writing ----------------------------------------------------------------------------------------------------

    def _put_one(self, name: str, body: bytes, *, if_absent: bool) -> None:
        write = secrets.token_hex(12)
        operation = {"method": "PUT", "key": name, "size": len(body), "md5": _md5(body), "write": write}
        tried = 0

        def once() -> None:
            nonlocal tried
            tried += 1
            signed = self._signer.sign(operation | {"if_absent": if_absent})
            with self._send(signed, body) as answer:
                if answer.status == 412:
                    self._believe(name, len(body), write if tried > 1 else "", if_absent=if_absent)
                elif answer.status >= 300:
                    raise self._error("write", name, answer)

        repeat(once, _TRIES)
        self._signer.forget(name)

    def _believe(self, name: str, size: int, write: str, *, if_absent: bool) -> None:
        """Look at what is there when the store would not replace it; Conflict where that is not this object."""
        with self._send(self._signer.sign({"method": "HEAD", "key": name}), None) as answer:
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
            with suppress(DatamountError), self._send(self._signer.sign(abort), None):
                pass
            raise
        self._signer.forget(name)

    def _put_part(self, name: str, upload: str, number: int, body: bytes) -> str:
        operation = {"method": "PART", "key": name, "upload": upload, "part": number, "size": len(body)}
        operation["md5"] = _md5(body)

        def once() -> str:
            with self._send(self._signer.sign(operation), body) as answer:
                if answer.status >= 300:
                    raise self._error("write", name, answer)
                return str(answer.headers.get("ETag") or "")

        return repeat(once, _TRIES)

    def _complete(self, name: str, upload: str, tags: Iterable[str], size: int, write: str, *, if_absent: bool) -> None:
        root = ET.Element("CompleteMultipartUpload")
        for number, tag in enumerate(tags, 1):
            part = ET.SubElement(root, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = tag
        body = ET.tostring(root)
        operation = {"method": "COMPLETE", "key": name, "upload": upload, "if_absent": if_absent}

        def once() -> None:
            with self._send(self._signer.sign(operation), body) as answer:
                if answer.status < 300:
                    # S3 may begin a 200 and end it with an error (CompleteMultipartUpload, in its reference).
                    if b"<Error>" in answer.read():
                        raise Unavailable(f"The store of saved work could not complete {name}.", transient=True)
                elif answer.status in (404, 412):
                    # 404: a first try that completed it, whose answer was lost.
                    self._believe(name, size, write, if_absent=if_absent)
                else:
                    raise self._error("write", name, answer)

        repeat(once, _TRIES)

    def _xml(self, operation: dict[str, Any], body: bytes, name: str) -> ET.Element:
        def once() -> ET.Element:
            with self._send(self._signer.sign(operation), body) as answer:
                if answer.status >= 300:
                    raise self._error("write", name, answer)
                try:
                    return ET.fromstring(answer.read())  # noqa: S314  (from the operator's own store)
                except ET.ParseError as error:
                    raise Unavailable("the store of saved work answered nonsense.", transient=True) from error

        return repeat(once, _TRIES)

    # --- Reading ----------------------------------------------------------------------------------------------------

    def _read(self, name: str, start: int, stop: int | None) -> Iterator[bytes]:
        signed = self._signer.sign({"method": "GET", "key": name})
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        with self._send(signed, None, headers) as answer:
            if answer.status == 416:
                return
            if answer.status >= 300:
                self._signer.forget(name)
                raise self._error("read", name, answer)
            yield from answer.chunks()

    def _list(self, top: str, path: str) -> Sequence[ObjectInfo]:
        found: deque[ObjectInfo] = deque()
        for line in self.client.lines(path):
            entry = json.loads(line)
            if isinstance(entry, dict):
                if entry.get("end") == len(found):
                    return found
                break
            found.append(ObjectInfo(top + entry[0], entry[1], entry[2]))
        raise Lost("the hub's controller ended a list before its end.", transient=True)

    def _send(self, signed: Signed, body: bytes | None, headers: Mapping[str, str] | None = None) -> Answer:
        return self._direct.request(signed.method, signed.url, body=body, headers={**signed.headers, **(headers or {})})

    def _name(self, key: str) -> str:
        return _split(check_key(key))[1]

    def _missing(self, name: str) -> NotFound:
        return NotFound(f"The store of saved work could not read {name}: there is none.")

    def _error(self, verb: str, name: str, answer: Answer) -> DatamountError:
        text = answer.read()[:4096].decode("utf-8", "replace")
        code = text.partition("<Code>")[2].partition("</Code>")[0][:60]
        if answer.status == 404 and code in ("", "NoSuchKey"):
            return self._missing(name)
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


class _Signer:
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


def _room(told: Mapping[str, Any]) -> Room:
    return Room(int(told["used"]), int(told["quota"]), int(told["reserve"]))


def _split(key: str) -> tuple[str, str]:
    """("workspaces/ada/stat/", "versions/1.json") of a key. Refused for one outside of a workspace."""
    parts = key.split("/", 3)
    if len(parts) < 4 or parts[0] != "workspaces":
        raise Refused(f"a session uses its own workspace only, not {key!r}.")
    return "/".join(parts[:3]) + "/", parts[3]


def _parts(body: Body) -> Iterator[bytes]:
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


def _whole(body: Body) -> bytes:
    return b"".join(_parts(body))


def _md5(body: bytes) -> str:
    """What S3 checks bodies with (Content-MD5); not for security: the files' own digests are sha256."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, 0.2 * 2**attempt))  # noqa: S311
