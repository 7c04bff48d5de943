"""An HTTP proxy in front of a real S3 server: it counts what is read, can be slow, and fails requests by a rule."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Fault = Literal["drop answer", "drop request", "cut answer", "not implemented", "slow down"] | None
Rule = Callable[[str, str, Any], Fault]
"""(method, path, headers) → what goes wrong with this request."""
_HOP = ("transfer-encoding", "connection", "date", "server", "content-length")
_REFUSALS = {"not implemented": (501, "NotImplemented"), "slow down": (503, "SlowDown")}


class S3Proxy:
    """Forwards requests as they are (signatures hold: the Host header is passed on), but for what `rule` says.

    `seen` has every request as (method, path, fault); `gets` counts the object reads by path ("/bucket/key"), `sent`
    the bytes of their bodies. `pause` seconds pass after each `chunk` bytes. `with` starts and stops it.
    """

    def __init__(self, upstream: str, rule: Rule | None = None, *, chunk: int = 64 * 1024, pause: float = 0.0) -> None:
        self.upstream = urlsplit(upstream)
        self.rule = rule
        self.chunk = chunk
        self.pause = pause
        self.seen: list[tuple[str, str, Fault]] = []
        self.gets: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._mutex = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._answer(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # of five, a client with more threads than that waits a second for its turn
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        """Count from 0 again."""
        with self._mutex:
            self.seen.clear()
            self.gets.clear()
            self.sent.clear()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(handler.path).path)
        read = path if handler.command == "GET" and path.count("/") > 1 and not path.endswith("/") else None
        with self._mutex:
            fault = self.rule(handler.command, handler.path, handler.headers) if self.rule else None
            self.seen.append((handler.command, handler.path, fault))
            if read:
                self.gets[read] += 1
        # A client may send again by itself what was lost on a connection that it had used before.
        handler.close_connection = self.rule is not None
        if fault == "drop request":
            return
        if fault in _REFUSALS:
            status, code = _REFUSALS[fault]
            answer = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
            return
        try:
            self._forward(handler, body, fault, read)
        except OSError:
            handler.close_connection = True

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes, fault: Fault, read: str | None) -> None:
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for key, value in handler.headers.items():
                connection.putheader(key, value)
            connection.endheaders(body)
            response = connection.getresponse()
            length = response.getheader("Content-Length")
            # Answers in chunks, such as lists, are small: they are passed on with a length.
            whole = response.read() if length is None or fault else None
            if fault == "drop answer":
                return
            handler.send_response(response.status)
            for key, value in response.getheaders():
                if key.lower() not in _HOP:
                    handler.send_header(key, value)
            handler.send_header("Content-Length", length or str(len(whole or b"")))
            if handler.close_connection:
                handler.send_header("Connection", "close")
            handler.end_headers()
            if whole is not None:
                handler.wfile.write(whole[: len(whole) // 2] if fault == "cut answer" else whole)
                return
            while block := response.read(self.chunk):
                handler.wfile.write(block)
                if read:
                    with self._mutex:
                        self.sent[read] += len(block)
                time.sleep(self.pause)
        finally:
            connection.close()
