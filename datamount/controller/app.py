"""The HTTP API of the controller: one FastAPI application over the parts that `Controller` holds together."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response

import datamount
from datamount.controller import problems, webhook
from datamount.controller.audit import Audit
from datamount.controller.metrics import CONTENT_TYPE, Metrics
from datamount.controller.settings import Settings
from datamount.errors import DatamountError, UsageError
from datamount.inject import InjectSettings, inject


@dataclass
class Controller:
    """The parts of one replica, made by `assemble.controller` or by a test."""

    settings: Settings
    inject: InjectSettings
    metrics: Metrics = field(default_factory=Metrics)
    audit: Audit = field(default_factory=Audit)
    not_ready: list[Callable[[], str]] = field(default_factory=list)
    """Each tells why this replica should not get traffic; an empty text when it should."""
    start: list[Callable[[], None]] = field(default_factory=list)
    stop: list[Callable[[], None]] = field(default_factory=list)


def create_app(controller: Controller) -> FastAPI:
    """The application. Its parts are started and stopped with it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
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
    problems.add_handlers(app)
    _add_webhook(app, controller)
    add_service(app, controller)
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


def add_service(app: FastAPI, controller: Controller) -> None:
    """The routes for probes and Prometheus."""

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Answers while the process can answer at all."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["service"])
    def readyz() -> dict[str, str]:
        """Answers 200 when this replica should get traffic, else 503 with the reasons."""
        reasons = [reason for check in controller.not_ready if (reason := check())]
        if reasons:
            raise NotReady(" ".join(reasons))
        return {"status": "ok"}

    @app.get("/metrics", tags=["service"])
    def exposition() -> Response:
        return Response(controller.metrics.text(), media_type=CONTENT_TYPE)


class NotReady(DatamountError):
    http_status = 503
    title = "Not ready"
