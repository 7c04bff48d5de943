"""The routes of the sidecar's API, version 1. Every error is an RFC 9457 problem document."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse

import datamount
from datamount import names
from datamount.errors import TooMany
from datamount.problems import PROBLEM_TYPE, add_handlers
from datamount.snapshots import SaveResult, Version, Workspace
from datamount.status import read_status
from sidecar import archive, page, sharing
from sidecar.differences import FileDifference, compare
from sidecar.errors import KeyReused
from sidecar.guard import Guard
from sidecar.models import (
    Difference,
    Merge,
    MergeSummary,
    NewSnapshot,
    Problem,
    Restored,
    RestorePreview,
    RestoreRequest,
    Saved,
    SessionEnd,
    SessionStatus,
    Snapshot,
    SnapshotDetail,
)
from sidecar.session import Session, problem

REMEMBERED_KEYS = 256
KEEPALIVE_SECONDS = 15.0
STREAMS = 32

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "As the ETag of If-None-Match names it"}}
DOWNLOAD: dict[int | str, dict[str, Any]] = {200: {"description": "The file", "content": {"*/*": {}}}}
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]
VersionId = Annotated[str, Path(max_length=100, description='Of `/snapshots`, a beginning of it, or "latest".')]
Against = Annotated[
    str | None, Query(max_length=100, description="The version to compare with; its parent where not given.")
]


def create_app(session: Session, token: str) -> FastAPI:
    """The API over one session. The session is started and closed with the application."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        session.start()
        yield
        await asyncio.to_thread(session.close)

    refusals: dict[int | str, dict[str, Any]] = {
        code: {
            "model": Problem,
            "description": HTTPStatus(code).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for code in (400, 401, 403, 404, 405, 409, 413, 421, 422, 429, 500, 502, 503, 507)
    }
    app = FastAPI(
        title="datamount sidecar",
        version=datamount.__version__,
        summary="Data and saved work of one notebook session.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=refusals,
    )
    app.add_middleware(Guard, token=token, max_body=session.settings.max_body)
    _handle_errors(app)
    _add_status(app, session)
    _add_snapshots(app, session)
    sharing.add(app, session)
    return app


def _handle_errors(app: FastAPI) -> None:
    add_handlers(app, hint="See /docs.", document_of=problem)

    @app.exception_handler(Unchanged)
    async def unchanged(_: Request, found: Unchanged) -> Response:
        return Response(status_code=304, headers={"ETag": str(found), "Cache-Control": "private, no-cache"})


def _add_status(app: FastAPI, session: Session) -> None:
    def status() -> SessionStatus:
        report = session.merged()
        return SessionStatus(
            data=read_status(session.settings.run / names.STATUS_FILE),
            save=session.state(),
            session=SessionEnd(ends_at=session.settings.ends_at),
            merge=MergeSummary.of(report) if report else None,
        )

    open_streams: set[object] = set()

    @app.get("/healthz", tags=["service"])
    @app.get("/api/v1/healthz", tags=["service"], include_in_schema=False)
    async def healthz() -> dict[str, str]:
        """Answers as soon as the service can save; needs no token."""
        return {"status": "ok", "version": datamount.__version__}

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.render(app.openapi()), headers={"Content-Security-Policy": page.POLICY})

    @app.get("/api/v1/status", tags=["state"])
    def get_status() -> SessionStatus:
        """The datasets, and whether the work is saved."""
        return status()

    @app.get("/api/v1/merge", tags=["state"])
    def get_merge() -> Merge:
        """What this launch merged: saved work with a newer course, or with what another session had saved."""
        report = session.merged()
        return Merge(report=report, markdown=report.markdown() if report else None)

    @app.get("/api/v1/events", tags=["state"], response_class=StreamingResponse)
    async def events() -> StreamingResponse:
        """Server-sent events: `state` with the document of /status, at once and then whenever it changes.

        The stream ends with the session, or with the connection; 32 may be open at once.
        """
        if len(open_streams) >= STREAMS:
            raise TooMany(
                f"{len(open_streams)} streams of events are open.",
                hint="Close one, or ask /status.",
                who="you",
                retry_after=KEEPALIVE_SECONDS,
            )
        stream = object()
        open_streams.add(stream)
        return StreamingResponse(
            _state_events(session, status, lambda: open_streams.discard(stream)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )


async def _state_events(session: Session, status: Any, ended: Callable[[], None]) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(changed.set)

    forget = session.listen(wake)
    sent, silent = "", 0.0
    try:
        while True:
            document = (await asyncio.to_thread(status)).model_dump_json()
            if document != sent:
                yield f"event: state\ndata: {document}\n\n"
                sent, silent = document, 0.0
            elif silent >= KEEPALIVE_SECONDS:
                yield ": still here\n\n"
                silent = 0.0
            if session.closing.is_set():
                return
            try:
                # status.json changes without telling, so it is looked at every second.
                await asyncio.wait_for(changed.wait(), 1.0)
            except TimeoutError:
                silent += 1.0
            changed.clear()
    finally:
        forget()
        ended()


def _add_snapshots(app: FastAPI, session: Session) -> None:
    keys = IdempotencyKeys()

    @app.get("/api/v1/snapshots", tags=["snapshots"], responses=NOT_MODIFIED)
    def list_snapshots(
        request: Request, response: Response, limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000
    ) -> list[Snapshot]:
        """The versions of the work, newest first; `limit` of them."""
        found = session.workspace().versions(limit)
        _same(request, response, *(info.id for info in found))
        return [Snapshot.of(info) for info in found]

    @app.post("/api/v1/snapshots", tags=["snapshots"], status_code=201, responses={200: {"model": Saved}})
    async def create_snapshot(
        body: NewSnapshot,
        response: Response,
        idempotency_key: Key = None,
    ) -> Saved:
        """Save now. Answers when the version is durable: 201 with the new one, 200 when nothing had changed.

        A repeated request with the same Idempotency-Key answers as the first one did and saves nothing more.
        """
        request = f"save {body.model_dump_json()}"
        future = keys.once(idempotency_key, request, lambda: session.save(message=body.message))
        result: SaveResult = await asyncio.shield(asyncio.wrap_future(future))
        response.status_code = 201 if result.created else 200
        assert result.version is not None
        response.headers["Location"] = f"/api/v1/snapshots/{result.version.id}"
        return Saved.of(result)

    @app.get("/api/v1/snapshots/{id}", tags=["snapshots"], responses=NOT_MODIFIED)
    def get_snapshot(id: VersionId, request: Request, response: Response) -> SnapshotDetail:
        """One version with its files; `latest` names the newest."""
        version = session.workspace().version(id)
        _same(request, response, version.info.id)
        return SnapshotDetail.whole(version)

    @app.get(
        "/api/v1/snapshots/{id}/files/{path:path}",
        tags=["snapshots"],
        response_class=StreamingResponse,
        responses=NOT_MODIFIED | DOWNLOAD,
    )
    def get_file(id: VersionId, path: str, request: Request, response: Response) -> StreamingResponse:
        """The content of one file as it was, as a download."""
        workspace = session.workspace()
        version = workspace.version(id)
        if (entry := version.by_path().get(path)) and entry.sha256:
            _same(request, response, entry.sha256)
        chunks = _begun(workspace.read(version, path))
        kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
        headers = _download(path.rpartition("/")[2]) | dict(response.headers)
        return StreamingResponse(chunks, media_type=kind, headers=headers)

    @app.get(
        "/api/v1/snapshots/{id}/archive.zip",
        tags=["snapshots"],
        response_class=StreamingResponse,
        responses={200: {"description": "The zip file", "content": {"application/zip": {}}}},
    )
    def get_archive(id: VersionId) -> StreamingResponse:
        """A version as a zip file, streamed."""
        workspace = session.workspace()
        version = workspace.version(id)
        return StreamingResponse(
            archive.stream_zip(workspace, version),
            media_type="application/zip",
            headers=_download(f"{session.settings.course.rstrip('/').rpartition('/')[2]}-{version.info.id}.zip"),
        )

    @app.post("/api/v1/snapshots/{id}/restore", tags=["snapshots"])
    async def restore_snapshot(
        id: VersionId, body: RestoreRequest, idempotency_key: Key = None
    ) -> Restored | RestorePreview:
        """Bring back a version, or some of its paths. What is there now is saved first, as `undo`.

        A `dry_run` answers what would happen. A repeated request with the same Idempotency-Key answers as the first
        one did and restores nothing more.
        """
        if body.dry_run:
            return await asyncio.to_thread(session.preview, id, body.paths, body.into)
        request = f"restore {id} {body.model_dump_json()}"
        future = keys.once(idempotency_key, request, lambda: session.restore(id, body.paths, body.into))
        undo, report = await asyncio.shield(asyncio.wrap_future(future))
        return Restored.of(report, undo)

    @app.get("/api/v1/snapshots/{id}/diff", tags=["snapshots"], responses=NOT_MODIFIED)
    def diff(id: VersionId, request: Request, response: Response, against: Against = None) -> list[Difference]:
        """What changed from another version to this one, by path."""
        workspace = session.workspace()
        old, new = _pair(workspace, id, against)
        _same(request, response, old.info.id if old else "", new.info.id)
        return Difference.all(workspace.diff(old or replace(new, entries=()), new))

    @app.get("/api/v1/snapshots/{id}/diff/{path:path}", tags=["snapshots"], responses=NOT_MODIFIED)
    def diff_file(
        id: VersionId, path: str, request: Request, response: Response, against: Against = None
    ) -> FileDifference:
        """What changed in one file from another version to this one: cells of a notebook, lines of a text."""
        workspace = session.workspace()
        old, new = _pair(workspace, id, against)
        _same(request, response, old.info.id if old else "", new.info.id, path)
        return compare(workspace, old, new, path)


def _pair(workspace: Workspace, id: str, against: str | None) -> tuple[Version | None, Version]:
    """The version to compare with, and the version; the first is None where there is none before it."""
    new = workspace.version(id)
    return (workspace.version(against) if against else workspace.before(new.info)), new


class Unchanged(Exception):
    """The caller has this answer already."""


def _same(request: Request, response: Response, *parts: str) -> None:
    """Give the answer an ETag made of what it depends on; Unchanged when the caller knows it."""
    digest = hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    tag = f'"{digest}"'
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = "private, no-cache"
    known = [given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        raise Unchanged(tag)


class IdempotencyKeys:
    """Remembers the answers to the last keys. A failed request is forgotten, so that it may be tried again."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[str, Future[Any]]] = OrderedDict()

    def once(self, key: str | None, body: str, start: Callable[[], Future[Any]]) -> Future[Any]:
        """The future of the first request with this key, or of `start()`; KeyReused for another body."""
        if key is None:
            return start()
        digest = hashlib.sha256(body.encode()).hexdigest()
        if key in self._known:
            known, future = self._known[key]
            if known != digest:
                raise KeyReused(f'the Idempotency-Key "{key}" was used for another request.', who="you")
            if not (future.done() and future.exception()):
                return future
        future = start()
        self._known[key] = (digest, future)
        while len(self._known) > REMEMBERED_KEYS:
            self._known.popitem(last=False)
        return future


def _begun(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the first one read already: what is missing is then an error answer, not a torn download."""
    first = next(chunks, b"")

    def rest() -> Iterator[bytes]:
        yield first
        yield from chunks

    return rest()


def _download(name: str) -> dict[str, str]:
    """Headers that make a browser save the file: shown in place, a student's HTML would run as the hub's page."""
    return {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
