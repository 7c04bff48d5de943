"""The HTTP API of the controller: one FastAPI application over the parts that `Controller` holds together."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI, Path, Request, Response
from starlette.requests import ClientDisconnect

import datamount
from datamount import problems
from datamount.controller import webhook
from datamount.controller.audit import Audit
from datamount.controller.auth import Authenticator, Session
from datamount.controller.events import Progress, ProgressEvents
from datamount.controller.leases import MAX_ID, LeaseAnswer, LeaseRequest, Leases
from datamount.controller.limits import BodyLimit
from datamount.controller.metrics import Metrics
from datamount.controller.s3_reads import Reads, SignedReads
from datamount.controller.settings import Settings
from datamount.errors import DatamountError, UsageError
from datamount.inject import InjectSettings, inject

THREADS = 100
"""Requests at a time that wait for the API server, a database or a store."""
LeaseId = Annotated[str, Path(max_length=MAX_ID)]


@dataclass
class Controller:
    """The parts of one replica, made by `assemble.controller` or by a test. Without sessions it is the webhook only."""

    settings: Settings
    inject: InjectSettings
    metrics: Metrics = field(default_factory=Metrics)
    audit: Audit = field(default_factory=Audit)
    authenticator: Authenticator | None = None
    leases: Leases | None = None
    events: ProgressEvents | None = None
    extend: list[Callable[[FastAPI, Controller], None]] = field(default_factory=list)
    """Each adds routes of its own, such as the store gateway's; they sign in with `auth.Session`."""
    not_ready: list[Callable[[], str]] = field(default_factory=list)
    """Each tells why this replica should not get traffic; an empty text when it should."""
    start: list[Callable[[], None]] = field(default_factory=list)
    stop: list[Callable[[], None]] = field(default_factory=list)


def create_app(controller: Controller) -> FastAPI:
    """The application. Its parts are started and stopped with it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        for begin in controller.start:
            begin()
        yield
        for end in reversed(controller.stop):
            end()
        controller.audit.close()

    app = FastAPI(
        title="datamount controller",
        version=datamount.__version__,
        summary="Admission, leases and saved work for sessions.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(BodyLimit, limit=controller.settings.max_body)
    problems.add_handlers(app)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # nobody reads it; without it, each leaves a traceback in the log

    _add_webhook(app, controller)
    add_service(app, controller)
    app.state.authenticator = controller.authenticator
    if controller.leases is not None:
        _add_leases(app, controller, controller.leases)
    if controller.events is not None:
        _add_progress(app, controller.events)
    for extend in controller.extend:
        extend(app, controller)
    return app


def _add_webhook(app: FastAPI, controller: Controller) -> None:
    metrics, limit = controller.metrics, controller.settings.max_review

    def injected(pod: dict[str, Any]) -> dict[str, Any]:
        return inject(pod, controller.inject)

    @app.post("/mutate", tags=["admission"])
    async def mutate(request: Request) -> Response:
        """Answers an AdmissionReview. Always allows; the pod goes through as it came on any doubt."""
        began = time.perf_counter()
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                break
        # A few milliseconds of work, done here: a thread pool full of leases must not delay a launch.
        answer = webhook.too_large(bytes(body[:4096])) if len(body) > limit else webhook.review(bytes(body), injected)
        metrics.admission_seconds.observe(time.perf_counter() - began)
        if answer is None:
            metrics.admissions.labels("unreadable").inc()
            error = UsageError("the body is not an AdmissionReview with a uid.", who="the hub's operator")
            return problems.reply(error.problem())
        metrics.admissions.labels(answer.outcome).inc()
        if answer.outcome == "injected":
            metrics.launches.inc()
        # ASCII, because a uid may hold what UTF-8 cannot.
        return Response(json.dumps(answer.body), media_type="application/json")


def _add_leases(app: FastAPI, controller: Controller, leases: Leases) -> None:
    # Plain functions: FastAPI runs them in worker threads, because databases and STS are slow.
    @app.post("/v1/leases", status_code=201, response_model_exclude_none=True, tags=["leases"])
    def give(session: Session, wanted: LeaseRequest, response: Response) -> LeaseAnswer:
        """A credential for one dataset of the session that asks."""
        response.headers["Cache-Control"] = "no-store"
        return leases.give(session, wanted)

    @app.post("/v1/leases/{lease}/renew", response_model_exclude_none=True, tags=["leases"])
    def renew(session: Session, lease: LeaseId, response: Response) -> LeaseAnswer:
        """The lease, longer; with `credential` where it is a new one. `lease` in the answer replaces the old id."""
        response.headers["Cache-Control"] = "no-store"
        return leases.renew(session, lease)

    @app.post("/v1/leases/{lease}/reads", tags=["leases"])
    def reads(session: Session, lease: LeaseId, wanted: Reads, response: Response) -> SignedReads:
        """Presigned URLs of objects and lists, for a lease whose credential says `presigned`."""
        response.headers["Cache-Control"] = "no-store"
        return leases.reads(session, lease, wanted)

    @app.delete("/v1/leases/{lease}", status_code=204, tags=["leases"])
    def revoke(session: Session, lease: LeaseId) -> None:
        """End the lease now, where its source can. Ending it twice is no error."""
        leases.revoke(session, lease)

    @app.get("/v1/session", tags=["session"])
    def about(session: Session) -> dict[str, Any]:
        """What the controller knows about the session that asks."""
        return {
            "user": session.user,
            "namespace": session.namespace,
            "pod": session.pod,
            "image": session.image,
            "course": session.course_identity,
            "credentials": leases.allowed(session),
            "limits": controller.settings.limits,
            "saves": controller.settings.store is not None,
        }


def _add_progress(app: FastAPI, events: ProgressEvents) -> None:
    @app.post("/v1/progress", status_code=202, tags=["session"])
    def progress(session: Session, told: Progress) -> dict[str, bool]:
        """Show the state of a dataset on the launch page. `shown` is false where the limits forbid one more."""
        return {"shown": events.tell(session, told)}


def add_service(app: FastAPI, controller: Controller) -> None:
    """The routes for probes. Metrics are on a port of their own (`MetricsServer`)."""

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Answers while the process can answer at all."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    async def readyz() -> dict[str, str]:
        """Answers 200 when this replica should get traffic, else 503 with the reasons."""
        reasons = [reason for check in controller.not_ready if (reason := check())]
        if reasons:
            raise NotReady(" ".join(reasons))
        return {"status": "ok"}


class NotReady(DatamountError):
    http_status = 503
    title = "Not ready"
