"""Connections of strangers who say nothing: how many they may hold, and for how long."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from datamount.controller import listening, serving
from datamount.controller.certificates import Served, make_authority, make_certificate
from datamount.controller.listening import Places, listen

PLACES = 16


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """Says "here" to every request."""
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"here"})


@contextmanager
def running(served: Served | None = None) -> Iterator[int]:
    """The controller's server over `answers`; its port."""
    listener = listen("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    config = serving.server_config(answers, served, host="127.0.0.1", port=port)
    server = serving.Server(config, serving.Leaving(answers), 0, Places(PLACES))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield port
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def pair() -> Served:
    authority = make_authority(datetime.now(UTC))
    made = make_certificate(authority, ["localhost"], datetime.now(UTC), 2)
    return Served(lambda: made, seconds=60)


def connect(port: int, address: str) -> socket.socket:
    """A connection from one of this machine's addresses."""
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))


def ask(port: int, address: str, *, tls: bool) -> bytes:
    """The answer to a request over a connection of its own."""
    with closing(connect(port, address)) as plain:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(plain) if tls else plain
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.read()


def wait_for_the_end(connection: socket.socket) -> None:
    """Returns when the other side has closed it, whatever it said before; TimeoutError where it does not."""
    with suppress(ConnectionError):
        while connection.recv(4096):
            pass


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_answered(port: int, address: str, *, tls: bool) -> bool:
    try:
        return ask(port, address, tls=tls) == b"here"
    except (OSError, http.client.HTTPException):
        return False


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long connections are waited for; for longer than any test at first."""

    def be(seconds: float) -> None:
        monkeypatch.setattr(serving, "REQUEST_SECONDS", seconds)
        monkeypatch.setattr(listening, "HANDSHAKE_SECONDS", seconds)

    be(600)
    return be


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("tls", [False, True])
def test_who_holds_all_connections_that_it_can_keeps_nobody_out(pair: Served, tls: bool) -> None:
    """An address that opens connections and says nothing, also before TLS has begun, gets half of the places; beyond
    that it is turned away, another address is answered, and what it closes it has again."""
    with running(pair if tls else None) as port, ExitStack() as stack:
        held = [stack.enter_context(closing(connect(port, "127.0.0.1"))) for _ in range(PLACES // 2)]
        for _ in range(3):
            wait_for_the_end(stack.enter_context(closing(connect(port, "127.0.0.1"))))
        assert ask(port, "127.0.0.2", tls=tls) == b"here"
        for connection in held:
            connection.close()
        until(lambda: is_answered(port, "127.0.0.1", tls=tls))


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_request_that_does_not_come_is_not_waited_for(patience: Callable[[float], None], sent: bytes) -> None:
    """A connection that says nothing, half a head or half a body is closed, at first and after an answer."""
    with running() as port:
        with closing(connect(port, "127.0.0.1")) as later:
            later.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = http.client.HTTPResponse(later)
            answer.begin()
            assert answer.read() == b"here"
            patience(0.2)
            if sent:
                later.sendall(sent)
                wait_for_the_end(later)
        with closing(connect(port, "127.0.0.1")) as first:
            with suppress(ConnectionError):
                first.sendall(sent)
            wait_for_the_end(first)


def test_tls_that_does_not_begin_is_not_waited_for(patience: Callable[[float], None], pair: Served) -> None:
    """A connection that does not begin TLS in time is closed, and gives its place back."""
    patience(0.2)
    with running(pair) as port, ExitStack() as stack:
        for connection in [stack.enter_context(closing(connect(port, "127.0.0.1"))) for _ in range(PLACES // 2)]:
            wait_for_the_end(connection)
        patience(600)
        until(lambda: is_answered(port, "127.0.0.1", tls=True))
