"""The store gateway: sessions keep their work in the operator's bucket and hold no key to it.

Bytes go straight between a session and the bucket, by presigned URLs that are asked for in batches (as Git LFS does);
the gateway sees names and sizes. It writes only version objects itself: the commit, which it makes when everything
that the version names is in the bucket. Keys on the wire are relative to the workspace, and which workspace that is
follows from the pod's token (and the work key, on an anonymous hub): a session cannot name another one's.

Nothing is remembered that another replica would need. A URL that was signed stays valid for its few minutes, also
when its pod is gone.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr

from datamount.controller.audit import Audit
from datamount.controller.identity import (
    PodSession,
    Whose,
    anonymous_owner,
    course_identity,
    image_repository,
    owner_of,
)
from datamount.controller.links import address
from datamount.controller.metrics import Metrics
from datamount.controller.operations import READABLE, Operation, Signed, check_operation, sign_operation
from datamount.controller.presign import Presigner
from datamount.controller.quota import Quota
from datamount.controller.rates import Once
from datamount.controller.store_settings import StoreSettings
from datamount.controller.work_keys import WorkKeys
from datamount.errors import Conflict, DatamountError, NotFound, Refused, UsageError, VerificationFailed
from datamount.objectstore import ObjectInfo, ObjectStore, Room, check_key
from datamount.objectstore.s3 import S3Store
from datamount.snapshots import Workspace, bases, standalone
from datamount.snapshots.versionfile import HEADER_BYTES, Version, load, load_header

PAGE = 500
REMEMBERED_READERS = 4096
RESTORE_SECONDS = 60.0
_VERSION = re.compile(r"versions/(\d{8,12}-[0-9a-f]{8,64})\.json")


class Committed(BaseModel):
    """A version that is durable."""

    version: str
    used: int = Field(description="Bytes in the workspace now.")
    quota: int
    reserve: int = Field(description="Bytes beyond the quota, for notebooks and small files.")


class Gateway:
    """Workspaces of sessions in one bucket. Every decision about one is audited and counted."""

    def __init__(self, settings: StoreSettings, audit: Audit, metrics: Metrics, *, home_namespace: str) -> None:
        self.settings = settings
        self._signer = Presigner(settings)
        self.store: ObjectStore = S3Store(
            self._signer.bucket, self._signer.prefix, endpoint_url=settings.endpoint_url, region=settings.region
        )
        self.audit = audit
        self._metrics = metrics
        self._home_namespace = home_namespace
        self._quota = Quota(settings.quota, self._measure)
        self._unconfirmed = Once()
        self._keys = WorkKeys(self.store)
        self._readers: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def course(self, session: PodSession) -> str:
        """What names the session's course. A repo's URL that its image does not confirm is audited, once a pod."""
        course = course_identity(session.image, session.repo_url, self.settings.image_prefix)
        unconfirmed = bool(session.repo_url) and course == image_repository(session.image)
        if unconfirmed and self._unconfirmed.first(session.uid):
            self._metrics.refusals.labels("repo not confirmed").inc()
            self.audit.write("unconfirmed-repo", session, repo=session.repo_url, course=course)
        return course

    # --- Whose -----------------------------------------------------------------------------------------------------

    def whose(self, session: PodSession, work_key: SecretStr | None) -> Whose:
        """The workspace of a session. Refused, audited, for a key that no save has made."""
        course = self.course(session)
        try:
            if not self.settings.anonymous:
                return Whose(owner_of(session, home_namespace=self._home_namespace), course, by_key=False)
            if work_key is None:
                return Whose("", course, by_key=True)
            digest = self._keys.check(work_key.get_secret_value(), session.uid)
        except Refused as error:
            self.refuse(session, "workspace", error)
            if work_key is not None and self._keys.failures.count(session.uid):
                self.limited(session, "work-key")
            raise
        return Whose(anonymous_owner(digest), course, by_key=True)

    def workspace(self, session: PodSession, work_key: SecretStr | None) -> Workspace:
        """The same, opened. Refused for an anonymous session that has no key yet."""
        whose = self.whose(session, work_key)
        if not whose.owner:
            error = Refused("nothing was saved in this session yet, so it has no work.", hint="Save first.", who="you")
            self.refuse(session, "workspace", error)
            raise error
        return Workspace(self.store, whose.owner, whose.course)

    def new_key(self, session: PodSession) -> str:
        """A work key for an anonymous session: told this once, and kept as a hash."""
        if not self.settings.anonymous:
            raise UsageError("this hub has users: work belongs to them and needs no key.", who="you")
        course = self.course(session)
        key, digest = self._keys.make(course, session.uid)
        self.audit.write("work-key", session, course=course, key=digest[:12])
        return key

    # --- Objects ---------------------------------------------------------------------------------------------------

    def sign(
        self, session: PodSession, workspace: Workspace, operations: Sequence[Operation]
    ) -> tuple[list[Signed], int | None]:
        """URLs for these operations, all of them or none; and the bytes that the workspace has with what they send,
        None where they send nothing."""
        try:
            for operation in operations:
                check_operation(operation, append_only=self.settings.append_only)
            used = self._grant(workspace, operations)
        except (Refused, UsageError) as error:
            self.refuse(session, "batch", error, keys=[o.key for o in operations[:3]])
            raise
        read = [o for o in operations if o.method == "GET" and not o.key.startswith("versions/")]
        if read and self._first_in_a_while(session.uid):
            self.audit.write("restore", session, workspace=workspace.prefix, first=read[0].key)
        only = self.settings.append_only
        return [sign_operation(self._signer, workspace.prefix, o, append_only=only) for o in operations], used

    def _grant(self, workspace: Workspace, operations: Sequence[Operation]) -> int | None:
        size, large = sum(o.sent for o in operations), any(o.is_large for o in operations)
        return self._quota.grant(workspace.prefix, size, large=large)

    def _first_in_a_while(self, uid: str) -> bool:
        """Whether this pod read nothing in the last minute: a restore is many batches, and one audit line."""
        now = time.monotonic()
        with self._lock:
            last = self._readers.get(uid, 0.0)
            self._readers[uid] = now
            self._readers.move_to_end(uid)
            while len(self._readers) > REMEMBERED_READERS:
                self._readers.popitem(last=False)
        return now - last > RESTORE_SECONDS or not last

    def listing(self, workspace: Workspace, prefix: str) -> Iterator[bytes]:
        """The objects below a prefix as lines of JSON, [key, size, modified] each; {"end": COUNT} closes a list that is
        whole. Memory stays at some hundred lines. What the store refuses with is raised before the first line."""
        if prefix:
            check_key(prefix.removesuffix("/"))
        objects = self.store.list(workspace.prefix + prefix)
        first = list(itertools.islice(objects, 1))
        return _lines(itertools.chain(first, objects), len(workspace.prefix))

    def delete(self, session: PodSession, workspace: Workspace, key: str) -> None:
        """Remove an autosave that nobody named or shared; where the store is not append-only, any object."""
        check_key(key)
        version = _VERSION.fullmatch(key)
        try:
            if self.settings.append_only:
                if not version:
                    raise Refused("a session may not remove what it stored.", who="the hub's operator")
                info = load_header(self.store.get(workspace.prefix + key, 0, HEADER_BYTES))
                if info is None or info.reason != "auto" or info.message or info.id in workspace.shared():
                    raise Refused(f"version {version[1]} is not an autosave that may go.", who="the hub's operator")
            elif key.partition("/")[0] not in READABLE:
                raise Refused("a session may not remove this.", who="the hub's operator")
        except NotFound:
            return
        except Refused as error:
            self.refuse(session, "delete", error, keys=[key])
            raise
        self.store.delete(workspace.prefix + key)
        if version:
            self.audit.write("thin", session, workspace=workspace.prefix, version=version[1])

    # --- Versions --------------------------------------------------------------------------------------------------

    def commit(self, session: PodSession, workspace: Workspace, key: str, body: bytes) -> Committed:
        """Write a version object, once everything that it names is in the bucket. Writing the same one again is no
        error; Conflict for another one of the same name."""
        try:
            version = self._version(key, body)
            listed = {o.key.removeprefix(workspace.prefix): o for o in self.store.list(workspace.prefix)}
            self._check_complete(workspace, version, listed)
            used = sum(o.size for o in listed.values())
            self._quota.check(used, 0 if key in listed else len(body))
        except (Refused, UsageError, VerificationFailed) as error:
            self._metrics.saves.labels("refused").inc()
            self.refuse(session, "commit", error, keys=[key])
            raise
        try:
            self.store.put(workspace.prefix + key, body, if_absent=True)
        except Conflict:
            if self.store.get(workspace.prefix + key) != body:
                raise
        self._quota.learn(workspace.prefix, used + len(body))
        self._note(session, workspace, version, listed, len(body))
        room = self._quota.room(workspace.prefix)
        return Committed(version=version.info.id, used=room.used, quota=room.limit, reserve=room.reserve)

    def _version(self, key: str, body: bytes) -> Version:
        found = _VERSION.fullmatch(key)
        if not found:
            raise UsageError(f'"{key}" is not the key of a version.', who="the developers of datamount")
        version = load(body)
        if version.info.id != found[1]:
            raise UsageError("the version's id is not that of its key.", who="the developers of datamount")
        return version

    def _check_complete(self, workspace: Workspace, version: Version, listed: dict[str, ObjectInfo]) -> None:
        """Every object that the version names is there and long enough. A list may be stale, so it is asked for
        once more before something counts as missing."""
        ends: dict[str, int] = {}
        for entry in version.entries:
            if entry.location:
                place = entry.location
                if place.object.partition("/")[0] not in ("blobs", "bundles") or min(place.offset, place.length) < 0:
                    raise UsageError(f'the version names "{place.object}", which holds no files.')
                ends[check_key(place.object)] = max(ends.get(place.object, 0), place.offset + place.length)
            if entry.base_stored:
                ends.setdefault(check_key(bases.FOLDER + entry.base), 0)
        listed = _by_name(listed)
        if not ends.keys() <= listed.keys():
            again = {o.key.removeprefix(workspace.prefix): o for o in self.store.list(workspace.prefix)}
            listed |= _by_name(again)
        for key, end in ends.items():
            size = listed[key].size if key in listed else None
            if size is None or size < end:
                what = "is not in the store" if size is None else f"has {size} bytes of {end}"
                raise Incomplete(
                    f"version {version.info.id} is not complete: {key} {what}. It was not committed.",
                    hint="Save again; what was saved before is safe.",
                    who="you",
                )

    def _note(
        self, session: PodSession, workspace: Workspace, version: Version, listed: dict[str, ObjectInfo], size: int
    ) -> None:
        info = version.info
        self._metrics.saves.labels("committed").inc()
        self._metrics.save_bytes.inc(size)
        earlier = [o.modified for key, o in listed.items() if _VERSION.fullmatch(key)]
        if earlier:
            self._metrics.save_age.observe(max(time.time() - max(earlier), 0))
        else:
            # Beside the workspaces, for the day when nobody has datamount. Not part of what was promised.
            with suppress(DatamountError):
                self.store.put("restore.py", Path(standalone.__file__).read_bytes(), if_absent=True)
        self.audit.write(
            "save",
            session,
            workspace=workspace.prefix,
            version=info.id,
            reason=info.reason,
            files=info.files,
            bytes=info.bytes,
        )

    def room(self, workspace: Workspace) -> Room:
        """What the workspace holds and may hold."""
        return self._quota.room(workspace.prefix)

    # --- Common ----------------------------------------------------------------------------------------------------

    def about(self, session: PodSession, work_key: SecretStr | None) -> dict[str, Any]:
        """What a session needs to know before it saves. `link` is where a key opens in a new session, with "{key}" in
        its place; None where the hub's address is not known."""
        whose = self.whose(session, work_key)
        return {
            "owner": "work-key" if whose.by_key else "user",
            "user": "" if whose.by_key else whose.owner,
            "course": whose.course,
            "has_workspace": bool(whose.owner),
            "link": address(session, self.settings.hub_url),
            "quota": int(self.settings.quota),
            "append_only": self.settings.append_only,
            "url_seconds": self.settings.url_seconds,
        }

    def resume(self, session: PodSession, work_key: SecretStr | None) -> dict[str, Any]:
        """What is kept under a work key for the course of this session. Refused for the key of another course."""
        if work_key is None:
            raise UsageError("there is no key to resume with.", hint="Paste the key or link that you kept.", who="you")
        workspace = self.workspace(session, work_key)
        made_for = self._keys.made_for(work_key.get_secret_value())
        ids = workspace.ids()
        if not ids and made_for not in ("", workspace.course):
            error = Refused(
                f'the work under this key is in another course ("{made_for}").',
                hint="Open a session of that course, and use the key there.",
                who="you",
            )
            self.refuse(session, "resume", error)
            raise error
        self.audit.write("resume", session, workspace=workspace.prefix, versions=len(ids))
        return {"course": workspace.course, "made_for": made_for, "versions": len(ids)}

    def limited(self, session: PodSession | None, what: str) -> None:
        """Audit and count that no more wrong secrets are looked at for a while."""
        self._metrics.refusals.labels(f"too many bad {what}s").inc()
        self.audit.write("limited", session, what=what)

    def refuse(self, session: PodSession | None, what: str, error: DatamountError, **fields: Any) -> None:
        """Audit and count a refusal."""
        self._metrics.refusals.labels(f"store {what}").inc()
        self.audit.write("refused", session, what=what, reason=error.problem_type(), detail=error.message, **fields)

    def _measure(self, prefix: str) -> int:
        return sum(o.size for o in self.store.list(prefix))


class Incomplete(UsageError):
    """A version that names what is not there."""

    http_status = 409
    title = "The version is not complete"


def _by_name(listed: dict[str, ObjectInfo]) -> dict[str, ObjectInfo]:
    """The objects as versions name them: merge bases by their digest, all else by the key."""
    return {bases.FOLDER + sha256 if (sha256 := bases.sha256_of(key)) else key: o for key, o in listed.items()}


def _lines(objects: Iterable[ObjectInfo], cut: int) -> Iterator[bytes]:
    lines: list[str] = []
    count = 0
    for found in objects:
        lines.append(json.dumps([found.key[cut:], found.size, found.modified]))
        count += 1
        if len(lines) >= PAGE:
            yield ("\n".join(lines) + "\n").encode()
            lines.clear()
    lines.append(json.dumps({"end": count}))
    yield ("\n".join(lines) + "\n").encode()
