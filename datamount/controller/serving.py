"""How the application is served: bounded before anything is parsed, and to the last request of a roll-out.

Kubernetes tells a pod to end and the Services to forget it at the same time, so requests go on coming for a moment.
One that is turned away costs a session its data: the API server launches what the webhook does not answer unchanged.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
import threading
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from datamount.controller.certificates import Served
from datamount.controller.listening import Door, Leave, Places, listen

BESIDE_BODY = 512 << 10
"""Bytes of one request that are not its body: address, headers, framing. uvicorn's fast parser knows no bound."""


REQUEST_SECONDS = 60.0
"""How long a request may take to come, and a connection to say its first one; the API server asks within two."""


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP, without requests that never end: too much beside a body, or too late, closes the connection."""

    leave: Leave | None = None
    """Called when the connection is lost."""
    _beside = 0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._came()
        super().connection_lost(exc)
        if self.leave is not None:
            self.leave()

    def data_received(self, data: bytes) -> None:
        if self._late is None:
            self._wait()
        self._beside += len(data)
        super().data_received(data)
        if self._beside > BESIDE_BODY:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._came()
        self._beside = 0
        super().on_message_complete()

    def _wait(self) -> None:
        self._late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


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
    """uvicorn behind a `Door`, which goes on serving for `seconds` after the first SIGTERM; a second one ends that."""

    def __init__(self, config: uvicorn.Config, leaving: Leaving, seconds: float, places: Places | None = None) -> None:
        super().__init__(config)
        self._places = places or Places()
        self._leaving = leaving
        self._seconds = seconds
        self._told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        context = self.config.ssl
        assert context is None or isinstance(context, ssl.SSLContext)
        self._doors = [Door(listener, self._protocol, context, self._places) for listener in sockets or ()]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for door in self._doors:
            door.close()
        await super().shutdown(sockets)

    def _protocol(self, leave: Leave) -> Protocol:
        made = Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        made.leave = leave
        return made

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
    """Serve until SIGTERM, and a little longer. Raises Unavailable where nothing can listen there."""
    listener = listen(host, port)
    config = server_config(app, served, host=host, port=port)
    asyncio.run(Server(config, app, drain_seconds).serve([listener]))


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
