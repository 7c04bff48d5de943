"""The HTTP routes of the store gateway. `routes` is what a controller is extended with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, SecretStr

from datamount.controller.auth import Session
from datamount.controller.gateway import Batch, Committed, Gateway, Signed
from datamount.controller.store_settings import StoreSettings
from datamount.errors import QuotaExceeded
from datamount.snapshots import Workspace

if TYPE_CHECKING:
    from datamount.controller.app import Controller

COMMITS = 4
"""Version objects that are read and checked at once: each may take a few hundred MiB as Python objects."""
Key = Annotated[str, Query(max_length=1024)]


class BatchAnswer(BaseModel):
    """The signed requests, in the order of the operations, valid for `seconds`."""

    seconds: int
    results: list[Signed]


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
        namespaces = controller.settings.namespaces
        gateway = Gateway(
            settings, controller.audit, controller.metrics, home_namespace=namespaces[0] if namespaces else ""
        )
        app.state.gateway = gateway
        _add_store(app, gateway)

    return extend


def _add_store(app: FastAPI, gateway: Gateway) -> None:
    checking = asyncio.Semaphore(COMMITS)

    @app.get("/v1/store", tags=["store"])
    def about(session: Session, key: WorkKey) -> dict[str, Any]:
        """Whose workspace this session has, and its limits."""
        return gateway.about(session, key)

    @app.post("/v1/store/batch", response_model_exclude_defaults=True, tags=["store"])
    def batch(session: Session, workspace: Own, wanted: Batch, response: Response) -> BatchAnswer:
        """Presigned URLs, in the order asked for."""
        response.headers["Cache-Control"] = "no-store"
        return BatchAnswer(
            seconds=gateway.settings.url_seconds, results=gateway.sign(session, workspace, wanted.operations)
        )

    @app.get("/v1/store/list", response_class=StreamingResponse, tags=["store"])
    def list_objects(workspace: Own, prefix: Key = "") -> StreamingResponse:
        """The workspace's objects, one a line."""
        return StreamingResponse(gateway.list(workspace, prefix), media_type="application/x-ndjson")

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
