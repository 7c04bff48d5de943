"""HTTP/1.1 over kept connections with nothing but the standard library, for what must start in milliseconds.

Bodies are bytes, so every request may be sent again. Redirects and proxies are not followed: the controller and the
store of a hub need neither, and a redirect would carry a token elsewhere.
"""

from __future__ import annotations

import http.client
import select
import ssl
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from datamount.errors import Unavailable

CHUNK = 256 << 10
_KEPT = 16
_DRAIN = 64 << 10
"""Bytes of an unread answer that are read to keep its connection; a longer one costs a new connection."""
Origin = tuple[str, str, int]


class Lost(Unavailable):
    """The connection was refused, timed out or broke. The request may have been carried out."""


class Answer:
    """Status, headers and body of one answer. Use it as a context: its connection is kept or closed at the end."""

    def __init__(self, pool: Connections, origin: Origin, connection: http.client.HTTPConnection) -> None:
        self._pool, self._origin, self._connection = pool, origin, connection
        self._raw = connection.getresponse()
        self.status = self._raw.status
        self.headers = self._raw.headers

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError, http.client.HTTPException):
            if kind is None and (self._raw.isclosed() or (len(self._raw.read(_DRAIN)) < _DRAIN)):
                self._pool.keep(self._origin, self._connection, closing=self._raw.will_close)
                return
        self._connection.close()

    def read(self) -> bytes:
        """The whole body. Lost when it ends before its length."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The body as it comes. Lost when it ends before its length."""
        try:
            while chunk := self._raw.read(CHUNK):
                yield chunk
            if self._raw.length:
                raise http.client.IncompleteRead(b"", self._raw.length)
        except (OSError, http.client.HTTPException) as error:
            raise self._pool.lost(self._origin, error) from error


class Connections:
    """Kept connections by origin; safe to use from several threads. `what` names the other side in messages."""

    def __init__(self, what: str, *, ca_file: Path | None = None, connect: float = 5.0, read: float = 60.0) -> None:
        self.what = what
        self._ca_file = ca_file
        self._connect, self._read = connect, read
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = defaultdict(list)
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def request(
        self, method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request. Raises Lost; a status is the caller's to judge."""
        parts = urlsplit(url)
        origin = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        while True:
            connection, kept = self._take(origin)
            try:
                try:
                    connection.request(method, target, body, dict(headers or {}))
                except (BrokenPipeError, ConnectionResetError):
                    # A server may answer and close before it has read all of a body that it refuses.
                    if kept or body is None:
                        raise
                return Answer(self, origin, connection)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # The other side may close a kept connection just as it is used again.
                if kept and not isinstance(error, TimeoutError):
                    continue
                raise self.lost(origin, error) from error

    def close(self) -> None:
        """Close what is kept. Requests may follow."""
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()

    def keep(self, origin: Origin, connection: http.client.HTTPConnection, *, closing: bool) -> None:
        with self._lock:
            if not closing and len(self._idle[origin]) < _KEPT:
                self._idle[origin].append(connection)
                return
        connection.close()

    def lost(self, origin: Origin, error: Exception) -> Lost:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Lost(f"{self.what} at {origin[1]}:{origin[2]} did not answer ({reason}).", transient=True)

    def _take(self, origin: Origin) -> tuple[http.client.HTTPConnection, bool]:
        while True:
            with self._lock:
                kept = self._idle[origin].pop() if self._idle[origin] else None
            if kept is None:
                return self._open(origin), False
            # Something to read before anything was asked: the other side has closed it.
            if kept.sock is not None and not select.select([kept.sock], [], [], 0)[0]:
                return kept, True
            kept.close()

    def _open(self, origin: Origin) -> http.client.HTTPConnection:
        scheme, host, port = origin
        made: http.client.HTTPConnection
        if scheme == "https":
            made = http.client.HTTPSConnection(host, port, timeout=self._connect, context=self._context())
        else:
            made = http.client.HTTPConnection(host, port, timeout=self._connect)
        try:
            made.connect()
        except OSError as error:
            made.close()
            raise self.lost(origin, error) from error
        made.sock.settimeout(self._read)
        return made

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                try:
                    self._tls = ssl.create_default_context(cafile=str(self._ca_file) if self._ca_file else None)
                except (OSError, ssl.SSLError) as error:
                    raise Unavailable(
                        f"the certificates that {self.what} is checked with cannot be read ({type(error).__name__}).",
                        who="the hub's operator",
                        transient=True,
                    ) from error
            return self._tls
