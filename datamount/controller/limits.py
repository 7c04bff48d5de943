"""A bound on request bodies, held before anything is parsed or signed in."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datamount.problems import TooLarge, reply

SMALL = 256 << 10
BATCH = 2 << 20
_BATCH, _COMMIT = "/v1/store/batch", "/v1/store/commit"
"""Whose bodies are read when it is known who sends them. FastAPI reads all others before, and 1 MiB of JSON may take
30 MiB as objects."""


class BodyLimit:
    """ASGI middleware: 413 for a commit over `limit` bytes, a batch over 2 MiB, or another body over 256 KiB. /mutate
    has a bound of its own."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/mutate":
            await self._app(scope, receive, send)
            return
        limit = {_BATCH: BATCH, _COMMIT: self._limit}.get(scope["path"], SMALL)
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        size, refused = 0, False

        async def counted() -> Message:
            nonlocal size, refused
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def answer(message: Message) -> None:
            if not refused:
                await send(message)

        if declared.isdigit() and int(declared) > limit:
            refused = True
        else:
            try:
                await self._app(scope, counted, answer)
            except Exception:
                if not refused:
                    raise
        if refused:
            problem = TooLarge(f"the request has more than {limit} bytes.", who="you").problem()
            await reply(problem)(scope, receive, send)
