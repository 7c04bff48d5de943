"""What stands before every route: who may call, by which name, and how much they may send.

The API listens on loopback, which every page in the student's browser and every process of the machine can reach.
Hence a bearer token, a Host header that names loopback (a page of another site that made its own name point here
is refused: DNS rebinding), no CORS headers at all, and small bodies.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamount.errors import DatamountError, Unauthenticated
from datamount.problems import PROBLEM_TYPE, TooLarge
from sidecar.errors import Misdirected

OPEN_PATHS = ("/healthz", "/api/v1/healthz", "/docs", "/openapi.json")
HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """ASGI middleware; answers with problem documents itself."""

    def __init__(self, app: ASGIApp, token: str, max_body: int) -> None:
        self.app = app
        self._expected = f"Bearer {token}".encode()
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        refused = self._refuse(scope["path"], headers)
        if refused:
            await answer(send, refused)
            return
        started = over = False
        read = 0

        async def limited() -> Message:
            nonlocal over, read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_body:
                over = True
                raise self._too_large()
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # the framework's own words on a body that it could not read
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, limited, sending)
        except TooLarge:
            if started:
                raise
        if over and not started:
            await answer(send, self._too_large())

    def _refuse(self, path: str, headers: dict[bytes, bytes]) -> DatamountError | None:
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name.lower() not in HOSTS:
            return Misdirected("this service answers only to 127.0.0.1 and localhost.", who="you")
        if path not in OPEN_PATHS and not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            return Unauthenticated(
                "this request has no valid token.",
                hint='Send "Authorization: Bearer …" with the token of sidecar.json in the run folder.',
                who="you",
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._max_body:
            return self._too_large()
        return None

    def _too_large(self) -> TooLarge:
        return TooLarge(f"a request body may have {self._max_body} bytes at most.", who="you")


async def answer(send: Send, error: DatamountError) -> None:
    """Send an error as its problem document."""
    body = json.dumps(error.problem()).encode()
    headers: list[Any] = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if error.http_status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="datamount"'))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
