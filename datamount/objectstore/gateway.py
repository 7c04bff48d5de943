"""A workspace's store through the controller's gateway: no key to the bucket is in the pod.

Keys are `workspaces/<owner>/<course>/…` as everywhere; those three parts are taken off on the way, because which
workspace a session has is the gateway's to say, whatever names this side uses. Versions go through the gateway; other
objects go by the URLs that it signs (`presigned`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from datamount.connections import Lost
from datamount.controller_client import ControllerClient, repeat
from datamount.errors import DatamountError, NotFound, Refused
from datamount.objectstore.base import Body, ObjectInfo, Room, check_key
from datamount.objectstore.presigned import TRIES, PresignedObjects, missing, parts
from datamount.status import write_atomic


class GatewayStore:
    """One workspace as an object store, for `Workspace(GatewayStore(client), owner, course)`.

    `key_file` keeps the work key of an anonymous session: made at the first write, or put there by `resume`.
    """

    def __init__(self, client: ControllerClient, *, key_file: Path | None = None) -> None:
        self.client = client
        self.key_file = key_file
        self._objects = PresignedObjects(client, self._used)
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
            self._room = _room(json.loads(self.client.send("POST", path, b"".join(parts(body)))))
        else:
            self._objects.put(name, body, if_absent=if_absent)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return b"".join(self.stream(key, start, stop))

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        name = self._name(key)
        if stop is not None and stop <= start:
            return
        if not self._has_workspace():
            raise missing(name)
        yield from self._objects.stream(name, start, stop)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As every store; a list that was cut short is asked for again before anything of it is given."""
        if not self._has_workspace():
            return
        top, inner = _split(prefix)
        path = f"/v1/store/list?prefix={quote(inner, safe='')}"
        yield from repeat(lambda: self._list(top, path), TRIES)

    def folders(self, prefix: str) -> Iterator[str]:
        rests = (found.key.removeprefix(prefix) for found in self.list(prefix))
        yield from {rest.partition("/")[0] for rest in rests if "/" in rest}

    def delete(self, key: str) -> None:
        name = self._name(key)
        if self._has_workspace():
            self.client.call("POST", "/v1/store/delete", {"key": name})
            self._objects.signer.forget(name)

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
        self._objects.close()

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
        self._objects.signer.forget_all()
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

    def _name(self, key: str) -> str:
        return _split(check_key(key))[1]


def _room(told: Mapping[str, Any]) -> Room:
    return Room(int(told["used"]), int(told["quota"]), int(told["reserve"]))


def _split(key: str) -> tuple[str, str]:
    """("workspaces/ada/stat/", "versions/1.json") of a key. Refused for one outside of a workspace."""
    parts = key.split("/", 3)
    if len(parts) < 4 or parts[0] != "workspaces":
        raise Refused(f"a session uses its own workspace only, not {key!r}.")
    return "/".join(parts[:3]) + "/", parts[3]
