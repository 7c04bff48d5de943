"""How the application is served: bounded before anything is parsed, and to the last request of a roll-out.

Kubernetes tells a pod to end and the Services to forget it at the same time, so requests go on coming for a moment.
One that is turned away costs a session its data: the API server launches what the webhook does not answer unchanged.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from datamount.controller.certificates import Served

BESIDE_BODY = 512 << 10
"""Bytes of one request that are not its body: address, headers, framing. uvicorn's fast parser knows no bound."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, without requests whose headers never end: the connection is closed."""

    _beside = 0

    def data_received(self, data: bytes) -> None:
        self._beside += len(data)
        super().data_received(data)
        if self._beside > BESIDE_BODY:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside = 0
        super().on_message_complete()


class Leaving:
    """ASGI middleware: once `set`, each answer asks its client to open another connection, to another replica."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._leaving = False

    def set(self) -> None:
        self._leaving = True

    def why_not_ready(self) -> str:
        return "This replica is ending." if self._leaving else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if self._leaving and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, closing)


class Server(uvicorn.Server):
    """uvicorn, which goes on serving for `seconds` after the first SIGTERM; a second one ends that."""

    def __init__(self, config: uvicorn.Config, leaving: Leaving, seconds: float) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._seconds = seconds
        self._told = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self._told or sig != signal.SIGTERM:
            super().handle_exit(sig, frame)
            return
        self._told = True
        self._leaving.set()
        later = threading.Timer(self._seconds, super().handle_exit, (sig, None))
        later.daemon = True
        later.start()


def serve(app: Leaving, served: Served | None, *, host: str, port: int, drain_seconds: float) -> None:
    """Serve until SIGTERM, and a little longer."""
    config = server_config(app, served, host=host, port=port)
    asyncio.run(Server(config, app, drain_seconds).serve())


def server_config(app: ASGIApp, served: Served | None, *, host: str, port: int) -> uvicorn.Config:
    """TLS from `served`, no access log, connections kept for the API server."""
    # Leases run in threads beside the event loop; with Python's 5 ms each would hold up every admission so long.
    sys.setswitchinterval(0.0005)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        access_log=False,  # it would hold clients' addresses, and lease ids
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    config.load()
    if served is not None:
        config.ssl = served.context
    return config
