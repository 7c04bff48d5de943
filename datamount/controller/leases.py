"""Leases: a credential for one dataset of one session, renewed while its sidecar lives, ended with its pod.

A lease's id is not a key to anything: it repeats what was asked for, readably. Each renewal decides anew by the
policy in force, for the pod whose token makes the request, so nothing has to be remembered between replicas, and a
right taken away in the policy ends with the next renewal.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from datamount.controller import pachyderm_leases, s3_leases, s3_reads
from datamount.controller.audit import Audit
from datamount.controller.identity import PodSession
from datamount.controller.metrics import Metrics
from datamount.controller.mysql_leases import MySQLLeases, covers
from datamount.controller.mysql_leases import granted as mysql_granted
from datamount.controller.policy import CredentialPolicy, Denied, MySQLGrant, PolicyFile, StaticGrant, read_secret
from datamount.controller.s3_leases import Place, S3Leases
from datamount.controller.s3_reads import Reads, SignedReads
from datamount.credentials import Credential
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError
from datamount.manifest import CredentialName, Database, DatasetName, PachydermName, TableName, links

MAX_ID = 48 << 10
AT_ONCE = 40
"""Leases that are made, renewed or ended at a time, fewer than the worker threads: a database that hangs must leave
some to the sessions that save."""
PATIENCE = 5.0
"""Seconds that a request waits for its turn."""
SourceKind = Literal["mysql", "s3", "quilt", "pachyderm", "url"]
_BY = {"mysql": "mysql", "s3": "s3", "quilt": "s3", "pachyderm": "pachyderm"}
"""How a credential for each kind of source is made; `static` serves every kind."""


class _Source(BaseModel):
    """The part of a manifest's source that a decision needs; its other keys are not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class MySQLSource(_Source):
    database: Database
    tables: list[TableName] = Field(default_factory=list, max_length=500)

    @field_validator("tables", mode="before")
    @classmethod
    def _names_only(cls, value: Any) -> Any:
        return list(value) if isinstance(value, dict) else value


class S3Source(_Source):
    """`url`, or `registry` (Quilt), or `bucket` and `prefix`."""

    url: Annotated[str, Field(max_length=1200)] = ""
    registry: Annotated[str, Field(max_length=200)] = ""
    bucket: Annotated[str, Field(max_length=63)] = ""
    prefix: Annotated[str, Field(max_length=1024)] = ""

    def place(self) -> tuple[str, str | None]:
        """Bucket and key; a Quilt registry has no key: its packages name objects anywhere in the bucket."""
        if self.registry:
            return Place.of(self.registry).bucket, None
        place = Place.of(self.url) if self.url else Place(self.bucket, self.prefix)
        return place.bucket, place.key


class PachydermSource(_Source):
    repo: PachydermName
    project: PachydermName = "default"


class URLSource(_Source):
    url: Annotated[str, Field(max_length=4096)]


S = TypeVar("S", bound=_Source)
_GRANTS = TypeAdapter(dict[str, list[str]])


class LeaseRequest(BaseModel):
    """What a session asks for. `source` is the manifest's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: DatasetName
    kind: SourceKind
    credential: CredentialName
    source: dict[str, Any] = Field(default_factory=dict, max_length=50)


class LeaseAnswer(BaseModel):
    """A lease. `credential` is absent from a renewal that changes nothing in it."""

    lease: str
    expires: datetime | None
    credential: dict[str, Any] | None = None


class Leases:
    """Gives, renews and ends leases; every decision is audited and counted."""

    def __init__(self, policy: PolicyFile, audit: Audit, metrics: Metrics, *, installation: str = "") -> None:
        self._policy = policy
        self._audit = audit
        self._metrics = metrics
        self._installation = installation
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def give(self, session: PodSession, request: LeaseRequest) -> LeaseAnswer:
        """A new lease. Raises Refused with whom to ask for what, or Unavailable."""
        try:
            policy = self._decide(session, request)
            with self._turn():
                handle, credential = self._make(session, request, policy)
        except DatamountError as error:
            self._refused("lease", session, request, error)
            raise
        self._note("lease", session, request, handle=handle, expires=credential.expires, source=policy.kind)
        grants = _wanted(request, policy.mysql) if policy.mysql else {}
        lease = _encode(request, handle, grants)
        return LeaseAnswer(lease=lease, expires=credential.expires, credential=_plain(credential))

    def renew(self, session: PodSession, lease: str) -> LeaseAnswer:
        """The lease, longer. The credential is in the answer where it is a new one."""
        request, handle, grants = _decode(lease)
        try:
            policy = self._decide(session, request)
            if policy.mysql is not None:
                if not covers(_wanted(request, policy.mysql), grants):
                    raise NotFound(
                        f'dataset "{request.dataset}": the policy grants less than this lease has.',
                        hint="Ask for a new one.",
                        who="you",
                    )
                server = self._server(request, policy.mysql)
                with self._turn():
                    expires: datetime | None = server.renew(handle, session.uid, grants, ttl=policy.ttl).expires
                credential = None
            else:
                with self._turn():
                    handle, made = self._make(session, request, policy)
                expires, credential = made.expires, _plain(made)
        except DatamountError as error:
            self._refused("renewal", session, request, error)
            raise
        self._note("renewal", session, request, handle=handle, expires=expires, source=policy.kind)
        return LeaseAnswer(lease=_encode(request, handle, grants), expires=expires, credential=credential)

    def revoke(self, session: PodSession, lease: str) -> None:
        """End a lease of this session now, where the source can. No error when it has ended."""
        request, handle, _ = _decode(lease)
        policy = self._policy.current().credentials.get(request.credential)
        try:
            if policy is not None and policy.mysql is not None:
                with self._turn():
                    self._server(request, policy.mysql).revoke(handle, session.uid)
        except DatamountError as error:
            self._refused("revocation", session, request, error)
            raise
        self._note("revocation", session, request, handle=handle, source=policy.kind if policy else "gone")

    def reads(self, session: PodSession, lease: str, wanted: Reads) -> SignedReads:
        """URLs for what a session wants to read, where its lease is one for presigned reads. Decided anew each time."""
        request, _, _ = _decode(lease)
        try:
            policy = self._decide(session, request)
            if policy.s3 is None or not policy.s3.presigned:
                raise Denied(
                    f'dataset "{request.dataset}": the credential "{request.credential}" is not one for presigned '
                    "reads.",
                    "wrong kind",
                    hint="Start the session again: the policy has changed.",
                    who="you",
                )
            bucket, key = _parse(S3Source, request).place()
            places = s3_leases.granted(policy.s3, bucket, key, dataset=request.dataset)
            signed = s3_reads.sign(request.credential, policy.s3, places, wanted, dataset=request.dataset)
        except DatamountError as error:
            self._refused("reads", session, request, error)
            raise
        self._metrics.leases.labels("s3", "reads").inc()
        return signed

    def allowed(self, session: PodSession) -> list[str]:
        """Names of the credentials that the policy lets this session use."""
        return self._policy.current().allowed(session)

    # --- One decision -------------------------------------------------------------------------------------------

    def _decide(self, session: PodSession, request: LeaseRequest) -> CredentialPolicy:
        policy = self._policy.current().decide(request.credential, session, dataset=request.dataset)
        if policy.kind not in ("static", _BY.get(request.kind)):
            raise Denied(
                f'dataset "{request.dataset}": the credential "{request.credential}" is not one for {request.kind}.',
                "wrong kind",
                hint="Name another credential in the manifest.",
                who="the course's author",
            )
        return policy

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=PATIENCE):
            raise Unavailable(
                "the controller is busy with other sessions' credentials.",
                hint="Try again in a few seconds.",
                who="you",
                transient=True,
                retry_after=3,
            )
        try:
            yield
        finally:
            self._turns.release()

    def _make(self, session: PodSession, request: LeaseRequest, policy: CredentialPolicy) -> tuple[str, Credential]:
        if policy.mysql is not None:
            account, credential = self._server(request, policy.mysql).create(
                session.uid,
                _wanted(request, policy.mysql),
                ttl=policy.ttl,
                max_ttl=policy.max_ttl,
                per_pod=policy.per_pod,
            )
            return account.name, credential
        if policy.s3 is not None:
            bucket, key = _parse(S3Source, request).place()
            places = s3_leases.granted(policy.s3, bucket, key, dataset=request.dataset)
            if policy.s3.presigned:
                return "", Credential(presigned=True, endpoint_url=policy.s3.endpoint_url, region=policy.s3.region)
            name = f"{session.user or 'anonymous'}.{session.uid}"
            return "", S3Leases(request.credential, policy.s3).create(name, places, lifetime=policy.lifetime)
        if policy.pachyderm is not None:
            repo = _parse(PachydermSource, request)
            pachyderm_leases.check(policy.pachyderm, repo.project, repo.repo, dataset=request.dataset)
            return "", pachyderm_leases.create(request.credential, policy.pachyderm, lifetime=policy.lifetime)
        assert policy.secret is not None
        _check_way(policy.secret, request)
        return "", _static(request.credential, policy.secret)

    def _server(self, request: LeaseRequest, grant: MySQLGrant) -> MySQLLeases:
        return MySQLLeases(request.credential, grant, installation=self._installation)

    def _note(self, event: str, session: PodSession, request: LeaseRequest, *, source: str, **fields: Any) -> None:
        self._metrics.leases.labels(source, event).inc()
        self._audit.write(
            event, session, dataset=request.dataset, credential=request.credential, kind=request.kind, **fields
        )

    def _refused(self, what: str, session: PodSession, request: LeaseRequest, error: DatamountError) -> None:
        refused = isinstance(error, Refused)
        reason = getattr(error, "reason", "") or type(error).__name__
        if refused:
            self._metrics.refusals.labels(reason).inc()
        self._audit.write(
            "refused" if refused else "failed",
            session,
            what=what,
            reason=reason,
            detail=error.message,
            dataset=request.dataset,
            credential=request.credential,
            kind=request.kind,
        )


def _parse(model: type[S], request: LeaseRequest) -> S:
    try:
        return model.model_validate(request.source)
    except ValidationError as error:
        keys = ", ".join(sorted({".".join(map(str, fault["loc"])) for fault in error.errors()}))
        raise UsageError(
            f'dataset "{request.dataset}": the source of the request is not one of {request.kind} ({keys}).'
        ) from None


def _wanted(request: LeaseRequest, grant: MySQLGrant) -> dict[str, list[str]]:
    source = _parse(MySQLSource, request)
    return mysql_granted(grant, source.database, source.tables, dataset=request.dataset)


def _check_way(grant: StaticGrant, request: LeaseRequest) -> None:
    """A secret goes to the server of the policy only: the manifest's is the course author's. (S3 keys are not sent.)"""
    named = {
        "mysql": grant.host is not None,
        "pachyderm": grant.address is not None,
        "url": request.kind == "url" and _may_go(_parse(URLSource, request).url, grant.urls),
    }
    if named.get(request.kind, True):
        return
    key = {"mysql": "host", "pachyderm": "address"}.get(request.kind, "urls")
    raise Denied(
        f'dataset "{request.dataset}": the policy does not send the credential "{request.credential}" there.',
        key,
        hint=f"Ask the hub's operator to name the server in the policy (`{key}`).",
    )


def _may_go(url: str, allowed: list[str]) -> bool:
    """Whether a URL begins as the policy says and leads nowhere else: no chain, no user, no way back up."""
    plain = url
    while (decoded := unquote(plain)) != plain:
        plain = decoded
    leads = "@" in plain or len(links(url)) > 1 or not {".", ".."}.isdisjoint(re.split(r"[/\\?#]", plain))
    return not leads and any(url.startswith(start) for start in allowed)


def _static(name: str, grant: StaticGrant) -> Credential:
    what = f'the secret of "{name}"'
    secrets: dict[str, Any] = {
        field: read_secret(path, what)
        for field in ("password", "token", "secret_access_key")
        if (path := getattr(grant, f"{field}_file")) is not None
    }
    if grant.access_key_id_file is not None:
        secrets["access_key_id"] = read_secret(grant.access_key_id_file, what).get_secret_value()
    plain = grant.model_dump(include={"user", "host", "port", "endpoint_url", "region", "address"})
    return Credential(**plain, **secrets)


def _plain(credential: Credential) -> dict[str, Any]:
    """The credential as it goes over TLS to its session: the one place where secrets are opened."""
    document = credential.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    for name in ("password", "secret_access_key", "session_token", "token"):
        secret = getattr(credential, name)
        if secret is not None:
            document[name] = secret.get_secret_value()
    return document


def _encode(request: LeaseRequest, handle: str, grants: Mapping[str, Sequence[str]]) -> str:
    text = json.dumps([request.model_dump(mode="json"), handle, grants], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(lease: str) -> tuple[LeaseRequest, str, dict[str, list[str]]]:
    """Request, account and what it may read: none of it is believed. The account's name says whose it is and, by a
    hash, what it may read."""
    try:
        if len(lease) > MAX_ID:
            raise ValueError("too long")
        request, handle, grants = json.loads(base64.urlsafe_b64decode(lease + "=" * (-len(lease) % 4)))
        return LeaseRequest.model_validate(request), str(handle), _GRANTS.validate_python(grants)
    except (ValueError, TypeError, RecursionError):
        raise NotFound("there is no such lease.", hint="Ask for a new one.", who="you") from None
