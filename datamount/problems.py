"""Every error of an API of ours, the controller's and the sidecar's, as an RFC 9457 problem document."""

from __future__ import annotations

import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from datamount.errors import DatamountError, UsageError

PROBLEM_TYPE = "application/problem+json"


class TooLarge(UsageError):
    http_status = 413
    title = "The request is too large"


def reply(document: dict[str, Any], headers: Any = None) -> JSONResponse:
    return JSONResponse(document, document["status"], headers, media_type=PROBLEM_TYPE)


def unexpected(error: Exception) -> dict[str, Any]:
    """The document of an error that is none of ours: its type only, as its text may hold anything."""
    return DatamountError(f"an error that should not happen ({type(error).__name__}).").problem()


def add_handlers(
    app: FastAPI, *, hint: str = "", document_of: Callable[[Exception], dict[str, Any]] = unexpected
) -> None:
    """Make the application answer every error as a problem document, none of which quotes the request.

    `hint` is what helps with a request that is not valid. `document_of` makes the document of an error that is none
    of ours; uvicorn logs its traceback.
    """

    @app.exception_handler(DatamountError)
    async def ours(_: Request, error: DatamountError) -> JSONResponse:
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))} if error.retry_after else None
        return reply(error.problem(), wait)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [{"where": ".".join(map(str, fault["loc"])), "detail": fault["msg"]} for fault in error.errors()[:20]]
        first = faults[0] if faults else {"where": "request", "detail": "not valid"}
        found = UsageError(f"{first['where']}: {first['detail']}.", hint=hint, who="you")
        return reply(found.problem() | {"status": 422, "errors": faults})

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        title = HTTPStatus(error.status_code).phrase
        document = {"type": "about:blank", "title": title, "status": error.status_code, "detail": str(error.detail)}
        return reply(document, error.headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        return reply(document_of(error))
