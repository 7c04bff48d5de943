"""Read-only links to one version of somebody's work: a secret of its own, an end, and a way to take it back.

    links/<sha256 of the secret>.json                      where the secret leads, and until when
    workspaces/…/shares/<version>/<the same sha256>.json   the same in the workspace: it keeps the version from being
                                                           thinned out, and is how the owner lists and revokes

The store holds hashes only, so that reading the bucket gives no link. What a link shows is read here and handed on
file by file, not by presigned URLs: bundles also hold files of other versions, which the owner may have removed before
sharing.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from datamount.controller import links
from datamount.controller.gateway import Gateway
from datamount.controller.identity import PodSession
from datamount.controller.rates import Failures
from datamount.errors import NotFound, Refused, Unavailable, UsageError
from datamount.snapshots import Version, Workspace

SECRET_PREFIX = "dms_"  # noqa: S105  (how secrets begin)
DAY = 86400
DEFAULT_DAYS = 14
MAX_SHARES = 100
STREAMS = 4
"""Links that are read at once by one replica; each holds a chunk or a small file in memory."""
FAILURES = 30
"""Wrong links in a row from one address, or in one session."""
FAILURE_SECONDS = 2.0
_SECRET = re.compile(r"dms_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{64}")


class ShareRequest(BaseModel):
    """Which version to share, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[str, Field(min_length=1, max_length=100)] = "latest"
    days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = DEFAULT_DAYS


class Share(BaseModel):
    """A link that was given. `id` names it; it is not the secret."""

    id: str
    version: str
    created: datetime
    expires: datetime


class NewShare(Share):
    """The one answer that has the secret. `link` downloads the version, where browsers can reach the controller;
    `session_link` opens it in a new session of the course, where the hub's address is known."""

    secret: str
    link: str | None = None
    session_link: str | None = None


class _Target(BaseModel):
    """What a secret's object holds."""

    owner: str
    course: str
    version: str
    created: datetime
    expires: datetime


class Shares:
    """Gives, lists, revokes and opens links."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._store = gateway.store
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._failures = Failures(FAILURES, FAILURE_SECONDS)

    # --- For the owner ----------------------------------------------------------------------------------------------

    def create(self, session: PodSession, workspace: Workspace, wanted: ShareRequest) -> NewShare:
        """A new link to a version. UsageError for one that would live too long, NotFound without the version."""
        limit = self._gateway.settings.share_days
        if wanted.days > limit:
            raise UsageError(f"a link of this hub is valid for {limit} days at most.", hint="Ask for fewer.", who="you")
        if len(self.given(workspace)) >= MAX_SHARES:
            raise Refused(f"this work has {MAX_SHARES} links already.", hint="Revoke some of them.", who="you")
        version = workspace.version(wanted.version).info.id
        secret = SECRET_PREFIX + secrets.token_urlsafe(32)
        id = _digest(secret)
        now = time.time()
        target = _Target(
            owner=workspace.owner,
            course=workspace.course,
            version=version,
            created=datetime.fromtimestamp(int(now), UTC),
            expires=datetime.fromtimestamp(int(now + wanted.days * DAY), UTC),
        )
        body = target.model_dump_json().encode()
        # First what keeps the version, then what opens it.
        self._store.put(_place(workspace, version, id), body)
        self._store.put(_link(id), body)
        self._gateway.audit.write(
            "share", session, workspace=workspace.prefix, version=version, share=id[:12], expires=target.expires
        )
        public = self._gateway.settings.public_url
        link = f"{public.rstrip('/')}/s/{secret}" if public else None
        return NewShare(
            id=id,
            version=version,
            created=target.created,
            expires=target.expires,
            secret=secret,
            link=link,
            session_link=links.link(links.address(session, self._gateway.settings.hub_url), secret),
        )

    def given(self, workspace: Workspace) -> list[Share]:
        """The links of a workspace that still open something, newest first. Those past their end are removed."""
        start = f"{workspace.prefix}shares/"
        found: list[Share] = []
        for listed in list(self._store.list(start)):
            version, _, name = listed.key.removeprefix(start).partition("/")
            try:
                target = _Target.model_validate_json(self._store.get(listed.key))
            except (ValidationError, NotFound):
                continue
            id = name.removesuffix(".json")
            if target.expires <= datetime.now(UTC):
                self._remove(workspace, version, id)
            else:
                found.append(Share(id=id, version=version, created=target.created, expires=target.expires))
        return sorted(found, key=lambda share: share.created, reverse=True)

    def revoke(self, session: PodSession, workspace: Workspace, id: str) -> None:
        """End a link of this workspace now. No error for one that has ended."""
        if not _ID.fullmatch(id):
            raise NotFound("there is no such link.", who="you")
        for share in self.given(workspace):
            if share.id == id:
                self._remove(workspace, share.version, id)
                self._gateway.audit.write("revoke-share", session, workspace=workspace.prefix, share=id[:12])

    def _remove(self, workspace: Workspace, version: str, id: str) -> None:
        # In this order, so that nothing that opens is ever left without what lists it.
        self._store.delete(_link(id))
        self._store.delete(_place(workspace, version, id))

    # --- For whoever has the secret ---------------------------------------------------------------------------------

    def open(
        self, secret: SecretStr, session: PodSession | None = None, address: str = ""
    ) -> tuple[Workspace, Version]:
        """What a link leads to. NotFound, audited, for a wrong, expired or revoked one: all look the same. Refused in a
        session of another course; TooMany where `address` or the session's pod came with too many wrong ones."""
        asker = session.uid if session else address
        self._failures.check(asker)
        text = secret.get_secret_value()
        id = _digest(text) if _SECRET.fullmatch(text) else ""
        try:
            target = _Target.model_validate(json.loads(self._store.get(_link(id)))) if id else None
        except (NotFound, ValueError):
            target = None
        if target is None or target.expires <= datetime.now(UTC):
            reason = "no such link" if target is None else "expired"
            error = NotFound(
                "this link does not open anything: it is wrong, has expired or was revoked.",
                hint="Ask whoever shared it for a new one.",
                who="you",
            )
            self._gateway.refuse(session, "share", error, share=id[:12] or None, why=reason)
            if self._failures.count(asker):
                self._gateway.limited(session, "share")
            raise error
        if session and self._gateway.course(session) != target.course:
            refused = Refused(
                f'this link is to work in another course ("{target.course}").',
                hint="Open it in a session of that course.",
                who="you",
            )
            self._gateway.refuse(session, "share", refused, share=id[:12], why="another course")
            raise refused
        workspace = Workspace(self._store, target.owner, target.course)
        version = workspace.version(target.version)
        self._gateway.audit.write(
            "open-share", session, workspace=workspace.prefix, version=version.info.id, share=id[:12]
        )
        return workspace, version

    def held(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks, in one of the few places for reading through this replica. Unavailable, with a Retry-After,
        when there is none. The first chunk is read before this returns, so that what is missing is an error answer
        and not a torn download."""
        if not self._streams.acquire(blocking=False):
            raise Unavailable("many links are being read just now.", hint="Try again.", transient=True, retry_after=5)
        return _Held(chunks, self._streams)


class _Held:
    """Chunks that give their place back at the end, also when nobody reads them to it."""

    def __init__(self, chunks: Iterator[bytes], places: threading.BoundedSemaphore) -> None:
        self._chunks, self._places = chunks, places
        self._open = True
        self._first: bytes | None = None
        self._first = next(self, b"")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            return next(self._chunks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._open:
            self._open = False
            self._places.release()

    def __del__(self) -> None:
        self.close()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _link(id: str) -> str:
    return f"links/{id}.json"


def _place(workspace: Workspace, version: str, id: str) -> str:
    return f"{workspace.prefix}shares/{version}/{id}.json"
