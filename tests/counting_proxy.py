"""An HTTP proxy in front of a real S3 server that counts what is read, and can be slow."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class CountingProxy:
    """Forwards every request as it is (signatures hold: the Host header is passed on). `with` starts and stops it.

    `gets` counts the object reads by path ("/bucket/key"), `sent` the bytes of their bodies.
    """

    def __init__(self, upstream: str, *, chunk: int = 64 * 1024, pause: float = 0.0) -> None:
        self.upstream = urlsplit(upstream)
        self.chunk = chunk
        self.pause = pause
        self.gets: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.mutex = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy.forward(self)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> CountingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reset(self) -> None:
        with self.mutex:
            self.gets.clear()
            self.sent.clear()

    def forward(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        is_object = handler.command == "GET" and path.count("/") > 1 and not path.endswith("/")
        if is_object:
            with self.mutex:
                self.gets[path] += 1
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port, timeout=30)
        try:
            connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
            for key, value in handler.headers.items():
                connection.putheader(key, value)
            connection.endheaders()
            answer = connection.getresponse()
            handler.send_response(answer.status)
            length = answer.getheader("Content-Length")
            body = b"" if length is not None or handler.command == "HEAD" else answer.read()
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    handler.send_header(key, value)
            if length is None:
                handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            while handler.command != "HEAD" and (block := body or answer.read(self.chunk)):
                handler.wfile.write(block)
                if is_object:
                    with self.mutex:
                        self.sent[path] += len(block)
                if body:
                    break
                time.sleep(self.pause)
        except OSError:
            handler.close_connection = True
        finally:
            connection.close()
