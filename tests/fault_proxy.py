"""An HTTP proxy in front of a real S3 server that refuses requests, or drops answers to requests that landed."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["drop answer", "drop request", "cut answer", "not implemented", "slow down"] | None
Rule = Callable[[str, str, Any], Fault]
"""(method, path, headers) → what goes wrong with this request."""
_HOP = ("transfer-encoding", "connection", "date", "server", "content-length")


class FaultProxy:
    """Forwards requests as they are (signatures hold: the Host header is passed on), but for what `rule` says.

    `seen` has every request as (method, path, fault). `with` starts and stops it.
    """

    def __init__(self, upstream: str, rule: Rule) -> None:
        self.upstream = urlsplit(upstream)
        self.rule = rule
        self.seen: list[tuple[str, str, Fault]] = []
        self._mutex = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._forward(self)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _forward(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._mutex:
            fault = self.rule(handler.command, handler.path, handler.headers)
            self.seen.append((handler.command, handler.path, fault))
        handler.close_connection = True
        if fault == "drop request":
            return
        if fault in ("not implemented", "slow down"):
            status, code = (501, "NotImplemented") if fault == "not implemented" else (503, "SlowDown")
            answer = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(answer)))
            handler.end_headers()
            handler.wfile.write(answer)
            return
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for key, value in handler.headers.items():
                connection.putheader(key, value)
            connection.endheaders(body)
            response = connection.getresponse()
            content = response.read()
            if fault == "drop answer":
                return
            handler.send_response(response.status)
            for key, value in response.getheaders():
                if key.lower() not in _HOP:
                    handler.send_header(key, value)
            length = response.getheader("Content-Length") if handler.command == "HEAD" else str(len(content))
            handler.send_header("Content-Length", length or "0")
            handler.send_header("Connection", "close")
            handler.end_headers()
            handler.wfile.write(content[: len(content) // 2] if fault == "cut answer" else content)
        except OSError:
            return
        finally:
            connection.close()
