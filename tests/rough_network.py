"""A network that misbehaves, between a client and a real server: for HTTP request by request, else by connection.

    with RoughHTTP("http://127.0.0.1:8333") as proxy:
        proxy.weather = Weather("7", 0.3, ("reset", "corrupt"))

What meets a request is drawn from the weather's seed, its path and how often that was asked for, so that a run can be
repeated, in whatever order threads ask. `calm()` ends the bad weather, and every connection that hangs in it.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HTTP_FAULTS = (
    "latency",
    "reset",
    "reset midway",
    "truncated",
    "short",
    "corrupt",
    "429",
    "500",
    "503",
    "drip",
    "silence",
    "expired",
)
"""truncated: fewer bytes than announced; short: fewer bytes, and announced so; drip: a byte now and then."""
TCP_FAULTS = ("latency", "reset", "reset midway", "drip", "silence")
LONGEST = 600.0
"""Seconds after which a silent connection is closed: longer than a client may take to give it up."""
_CHANCE = re.compile(r"[0-9a-f]{8,}")
"""What names of buckets, versions and folders have that is another in each run."""
_HOP = ("transfer-encoding", "connection", "date", "server", "content-length")


@dataclass
class Weather:
    """`rate` of the requests (or connections) meet one of the `faults`."""

    seed: str
    rate: float
    faults: tuple[str, ...]
    spared: Callable[[str, str], bool] = lambda _path, _fault: False
    """(path, fault): whether a fault is not for this request."""
    met: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, path: str = "") -> tuple[str, float]:
        """A fault ("" for none), and a number from 0 to 1 for where it strikes."""
        same = _CHANCE.sub("*", path)
        with self.mutex:
            self.asked[same] += 1
            chance = random.Random(f"{self.seed} {same} {self.asked[same]}")
            struck, fault, where = chance.random() < self.rate, chance.choice(self.faults), chance.random()
            if not struck or self.spared(path, fault):
                return "", where
            self.met[fault] += 1
            return fault, where


CALM = Weather("", 0.0, ("latency",))


def reset(connection: socket.socket) -> None:
    """Close with RST, as a broken middlebox does."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # a thread that waits here for bytes would keep it open
        connection.close()
    except OSError:
        pass


class _Rough:
    def __init__(self) -> None:
        self.weather = CALM
        self._over = threading.Event()

    def calm(self) -> None:
        """From here on all is well."""
        self.weather = CALM
        self._over.set()
        self._over = threading.Event()

    def _meet(self, path: str = "") -> tuple[str, float, threading.Event]:
        """What `draw` says, and what is set when that weather ends: asked for first, or a calm in between is missed."""
        over = self._over
        return *self.weather.draw(path), over

    def _drip(self, connection: socket.socket, data: bytes, over: threading.Event) -> None:
        until = time.monotonic() + LONGEST
        for position in range(len(data)):
            if over.wait(0.1) or time.monotonic() > until:
                return
            connection.sendall(data[position : position + 1])


class RoughHTTP(_Rough):
    """In front of an HTTP server (signatures hold: the Host header is passed on)."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self.upstream = urlsplit(upstream)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                try:
                    proxy._answer(self)
                except OSError:
                    self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a connection that we broke

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> RoughHTTP:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.calm()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        fault, where, over = self._meet(handler.path)
        connection = handler.connection
        if fault == "latency":
            time.sleep(0.02 + 0.3 * where)
        elif fault == "reset":
            handler.close_connection = True
            return reset(connection)
        elif fault in ("429", "500", "503", "expired"):
            return self._refuse(handler, fault)
        status, headers, body = self._ask(handler)
        if fault == "short":
            body = body[: int(len(body) * where)]
        elif fault == "corrupt" and body:
            position = int(len(body) * where)
            body = body[:position] + bytes([body[position] ^ 0x20]) + body[position + 1 :]
        handler.send_response(status)
        for key, value in headers:
            handler.send_header(key, value)
        if handler.command != "HEAD":
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        cut = int(len(body) * where)
        if fault in ("reset midway", "truncated", "drip", "silence"):
            handler.close_connection = True
            connection.sendall(body[:cut])
            if fault == "reset midway":
                reset(connection)
            elif fault == "drip":
                self._drip(connection, body[cut:], over)
            elif fault == "silence":
                over.wait(LONGEST)
            return None
        if handler.command != "HEAD":
            connection.sendall(body)
        return None

    def _ask(self, handler: BaseHTTPRequestHandler) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for key, value in handler.headers.items():
                upstream.putheader(key, value)
            upstream.endheaders()
            answer = upstream.getresponse()
            body = answer.read()
            headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            if handler.command == "HEAD" and (length := answer.getheader("Content-Length")):
                headers.append(("Content-Length", length))
            return answer.status, headers, body
        finally:
            upstream.close()

    def _refuse(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        status = 403 if fault == "expired" else int(fault)
        code = {"429": "SlowDown", "500": "InternalError", "503": "SlowDown", "expired": "ExpiredToken"}[fault]
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        handler.send_response(status)
        if fault == "429":
            handler.send_header("Retry-After", "1")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


class RoughTCP(_Rough):
    """In front of any TCP server; a fault strikes a connection after some of the server's bytes.

    It never changes a byte: neither MySQL's protocol nor gRPC without TLS would notice, and nor can anybody above.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._upstream = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> RoughTCP:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.calm()
        self._upstream = ("", 0)
        with socket.create_connection(("127.0.0.1", self.port)):
            pass  # wakes the listener up, for the last time
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while self._upstream[0]:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        fault, where, over = self._meet()
        if fault == "reset" or not self._upstream[0]:
            return reset(client)
        if fault == "latency":
            time.sleep(0.05 + 0.5 * where)
        try:
            server = socket.create_connection(self._upstream, timeout=10)
        except OSError:
            return reset(client)
        server.settimeout(None)
        threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
        # Small numbers strike the handshake, large ones the data.
        left = int(10 ** (1 + 5.5 * where)) if fault in ("reset midway", "drip", "silence") else None
        try:
            while block := server.recv(64 * 1024):
                if left is not None and len(block) >= left:
                    client.sendall(block[:left])
                    if fault == "drip":
                        self._drip(client, block[left:], over)
                    elif fault == "silence":
                        over.wait(LONGEST)
                    break
                left = None if left is None else left - len(block)
                client.sendall(block)
        except OSError:
            pass
        reset(client)
        reset(server)
        return None

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(64 * 1024):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
