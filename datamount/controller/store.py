"""The HTTP routes of the store gateway. `routes` is what a controller is extended with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from datamount.controller.auth import AnySession, Session, Source
from datamount.controller.gateway import Committed, Gateway
from datamount.controller.operations import Batch, Signed
from datamount.controller.shares import NewShare, Share, ShareRequest, Shares
from datamount.controller.store_settings import StoreSettings
from datamount.errors import QuotaExceeded
from datamount.snapshots import Version, Workspace
from datamount.snapshots.scan import printable

if TYPE_CHECKING:
    from datamount.controller.app import Controller

COMMITS = 4
"""Version objects that are read and checked at once: each may take a few hundred MiB as Python objects."""
Key = Annotated[str, Query(max_length=1024)]
ShareId = Annotated[str, PathParameter(max_length=64)]
ShareSecret = Annotated[SecretStr, Header(alias="Datamount-Share", max_length=100)]


class BatchAnswer(BaseModel):
    """The signed requests, in the order of the operations, valid for `seconds`. `used`: bytes in the workspace with
    what they send."""

    seconds: int
    results: list[Signed]
    used: int | None = None


class Usage(BaseModel):
    """Bytes that a workspace holds and may hold. `reserve`, beyond `quota`, is for notebooks and small files."""

    used: int
    quota: int
    reserve: int


class Named(BaseModel):
    """A request about one object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str


def work_key(datamount_work_key: Annotated[SecretStr | None, Header()] = None) -> SecretStr | None:
    """FastAPI dependency: the key of an anonymous session; a header, so that no log of URLs holds it."""
    return datamount_work_key


WorkKey = Annotated[SecretStr | None, Depends(work_key)]


def own_workspace(request: Request, session: Session, key: WorkKey) -> Workspace:
    """FastAPI dependency: the one workspace that this session may touch."""
    gateway: Gateway = request.app.state.gateway
    return gateway.workspace(session, key)


Own = Annotated[Workspace, Depends(own_workspace)]


def routes(settings: StoreSettings) -> Callable[[FastAPI, Controller], None]:
    """What adds the gateway to a controller's application."""

    def extend(app: FastAPI, controller: Controller) -> None:
        home = settings.home_namespace or next(iter(controller.settings.namespaces), "")
        gateway = Gateway(settings, controller.audit, controller.metrics, home_namespace=home)
        app.state.gateway = gateway
        _add_store(app, gateway)
        _add_shares(app, Shares(gateway))

    return extend


def _add_store(app: FastAPI, gateway: Gateway) -> None:
    checking = asyncio.Semaphore(COMMITS)

    @app.get("/v1/store", tags=["store"])
    def about(session: Session, key: WorkKey) -> dict[str, Any]:
        """Whose workspace this session has, and its limits."""
        return gateway.about(session, key)

    @app.post("/v1/store/batch", response_model_exclude_defaults=True, tags=["store"])
    async def batch(session: Session, workspace: Own, request: Request, response: Response) -> BatchAnswer:
        """Presigned URLs, in the order asked for. The body is a Batch."""
        response.headers["Cache-Control"] = "no-store"
        wanted = _batch(await request.body())
        results, used = await run_in_threadpool(gateway.sign, session, workspace, wanted.operations)
        return BatchAnswer(seconds=gateway.settings.url_seconds, results=results, used=used)

    @app.get("/v1/store/usage", tags=["store"])
    def usage(workspace: Own) -> Usage:
        """How much of the quota is taken."""
        room = gateway.room(workspace)
        return Usage(used=room.used, quota=room.limit, reserve=room.reserve)

    @app.get("/v1/store/list", response_class=StreamingResponse, tags=["store"])
    def list_objects(workspace: Own, prefix: Key = "") -> StreamingResponse:
        """The workspace's objects, one a line."""
        return StreamingResponse(gateway.listing(workspace, prefix), media_type="application/x-ndjson")

    @app.post("/v1/store/commit", tags=["store"])
    async def commit(session: Session, workspace: Own, key: Key, request: Request) -> Committed:
        """The body is the version object, byte for byte. Answers when it is durable."""
        # The body is read when it is its turn: until then it waits in the sender's socket, not in our memory.
        async with checking:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > gateway.settings.max_version:
                    raise QuotaExceeded(
                        f"the list of files alone takes more than {gateway.settings.max_version} bytes.",
                        hint="Leave folders with very many files out (`save: exclude:` in datamount.yaml).",
                        who="you",
                    )
            return await run_in_threadpool(gateway.commit, session, workspace, key, bytes(body))

    @app.post("/v1/store/delete", status_code=204, tags=["store"])
    def delete(session: Session, workspace: Own, named: Named) -> None:
        """Thin out an autosave."""
        gateway.delete(session, workspace, named.key)

    @app.post("/v1/work-keys", status_code=201, tags=["store"])
    def new_key(session: Session, response: Response) -> dict[str, str]:
        """A work key for an anonymous session. It is in this answer and nowhere else."""
        response.headers["Cache-Control"] = "no-store"
        return {"work_key": gateway.new_key(session)}

    @app.post("/v1/resume", tags=["store"])
    def resume(session: Session, key: WorkKey) -> dict[str, Any]:
        """What is kept under the key of the header `Datamount-Work-Key`."""
        return gateway.resume(session, key)


def _batch(body: bytes) -> Batch:
    """As FastAPI reads a body, but not before it is known who sends it."""
    try:
        return Batch.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults]) from None


def _add_shares(app: FastAPI, shares: Shares) -> None:
    @app.post("/v1/shares", status_code=201, tags=["shares"])
    def create(session: Session, workspace: Own, wanted: ShareRequest, response: Response) -> NewShare:
        """A read-only link to one version. Its secret is in this answer and nowhere else."""
        response.headers["Cache-Control"] = "no-store"
        return shares.create(session, workspace, wanted)

    @app.get("/v1/shares", tags=["shares"])
    def given(workspace: Own) -> list[Share]:
        """The links of this workspace that are still valid."""
        return shares.given(workspace)

    @app.delete("/v1/shares/{id}", status_code=204, tags=["shares"])
    def revoke(session: Session, workspace: Own, id: ShareId) -> None:
        """End a link now."""
        shares.revoke(session, workspace, id)

    @app.get("/v1/shared", tags=["shares"])
    def shared(secret: ShareSecret, response: Response, session: AnySession, source: Source) -> dict[str, Any]:
        """The version that a link leads to, with its files. The secret is the right to read; no session is needed, but
        one of another course is refused."""
        response.headers["Cache-Control"] = "no-store"
        workspace, version = shares.open(secret, session, source)
        return {
            "course": workspace.course,
            "version": version.info.id,
            "created": version.info.created.isoformat(),
            "message": version.info.message,
            "course_ref": version.info.course_ref,
            "files": [
                {"path": printable(e.path), "size": e.size, "sha256": e.sha256, "stored": e.location is not None}
                for e in version.entries
                if e.type == "file"
            ],
        }

    @app.get("/v1/shared/archive.zip", response_class=StreamingResponse, tags=["shares"])
    def archive(secret: ShareSecret, session: AnySession, source: Source) -> StreamingResponse:
        """The version as a zip file, written while it is read."""
        return _download(shares, *shares.open(secret, session, source))

    @app.get("/s/{secret}", response_class=StreamingResponse, tags=["shares"])
    def link(secret: Annotated[SecretStr, PathParameter(max_length=100)], source: Source) -> StreamingResponse:
        """The same for a browser, which can send no header of its own."""
        return _download(shares, *shares.open(secret, None, source))


def _download(shares: Shares, workspace: Workspace, version: Version) -> StreamingResponse:
    from sidecar.archive import stream_zip

    name = quote(f"{workspace.course.rstrip('/').rpartition('/')[2]}-{version.info.id}.zip", safe="")
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
        "Referrer-Policy": "no-referrer",
        "X-Robots-Tag": "noindex",
    }
    chunks = shares.held(stream_zip(workspace, version))
    return StreamingResponse(chunks, media_type="application/zip", headers=headers)
