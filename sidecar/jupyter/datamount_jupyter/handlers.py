"""The routes below <base_url>datamount/: the sidecar's API, and a page for interfaces without the Lab extension."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, List, Optional, Tuple

from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.iostream import StreamClosedError

from .forward import Answer, SidecarAbsent, Torn, pieces, send
from .run_folder import find_sidecar

SENT_ON = ("Content-Type", "Accept", "Idempotency-Key", "If-None-Match", "Last-Event-ID")
HANDED_BACK = (
    "content-type",
    "content-length",
    "content-disposition",
    "cache-control",
    "etag",
    "x-content-type-options",
)
STATIC = Path(__file__).parent / "static"
PAGE_FILES = {"page.js": "text/javascript; charset=utf-8", "page.css": "text/css; charset=utf-8"}
PAGE_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


class ForwardHandler(APIHandler):
    """Forwards to the sidecar with this server's login and XSRF check. Never counts as activity of the student."""

    _track_activity = False
    answer: Optional[Answer] = None

    @web.authenticated
    async def get(self, rest: str) -> None:
        """Forward a GET."""
        await self.forward()

    @web.authenticated
    async def post(self, rest: str) -> None:
        """Forward a POST."""
        await self.forward()

    @web.authenticated
    async def delete(self, rest: str) -> None:
        """Forward a DELETE."""
        await self.forward()

    async def forward(self) -> None:
        """Send the request on and pass the answer back as it comes."""
        sidecar = find_sidecar()
        if sidecar is None:
            self.absent()
            return
        # The raw target, so that an encoded "/" or "?" in a file's name stays encoded.
        target = "/api/" + (self.request.uri or "").split("datamount/api/", 1)[1]
        headers = {name: self.request.headers[name] for name in SENT_ON if name in self.request.headers}
        try:
            answer = await send(sidecar, self.request.method or "GET", target, headers, self.request.body)
        except SidecarAbsent:
            self.absent()
            return
        self.answer = answer
        try:
            self.set_status(answer.status)
            kind = answer.headers.get("content-type", "application/octet-stream")
            for name in HANDED_BACK:
                if name in answer.headers:
                    self.set_header(name, answer.headers[name])
            self.set_header("Content-Type", kind)
            self.set_header("X-Accel-Buffering", "no")
            await self.flush()
            async for piece in pieces(answer):
                self.write(piece)
                await self.flush()
            self.finish(set_content_type=kind)
        except StreamClosedError:
            pass  # the browser went away; there is nobody to tell
        except (Torn, ConnectionError):
            # Half a download must not look like a whole one.
            if self.request.connection is not None:
                self.request.connection.stream.close()  # type: ignore[attr-defined,unused-ignore]
        finally:
            answer.writer.close()

    def on_connection_close(self) -> None:
        """Let go of the sidecar when the browser goes away, which a quiet stream would not notice."""
        if self.answer is not None:
            self.answer.writer.close()
        super().on_connection_close()

    def absent(self) -> None:
        """Answer that this session has no sidecar."""
        self.set_status(503)
        kind = "application/problem+json"
        document = {
            "type": "urn:datamount:problem:unavailable",
            "title": "Unavailable",
            "status": 503,
            "detail": "saving is not available: the datamount service of this session does not answer.",
            "hint": "Your files are in this session; download what you need. It is tried again by itself.",
            "who": "the hub's operator",
        }
        self.finish(json.dumps(document), set_content_type=kind)


class PageHandler(JupyterHandler):
    """State, Save, history and data as a page of its own."""

    _track_activity = False

    @property
    def content_security_policy(self) -> str:
        return PAGE_POLICY

    @web.authenticated
    def get(self) -> None:
        """The page; the token that its requests need goes along in it."""
        text = (STATIC / "page.html").read_text(encoding="utf-8")
        xsrf = self.xsrf_token
        token = xsrf.decode("ascii") if isinstance(xsrf, bytes) else str(xsrf)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.finish(text.replace("{{xsrf}}", escape(token)).replace("{{base}}", escape(self.base_url)))


class PageFileHandler(JupyterHandler):
    """The page's script and style."""

    _track_activity = False

    @web.authenticated
    def get(self, name: str) -> None:
        """One of PAGE_FILES."""
        text = (STATIC / name).read_text(encoding="utf-8")
        self.set_header("Content-Type", PAGE_FILES[name])
        self.set_header("Cache-Control", "no-cache")
        self.finish(text)


class SlashHandler(JupyterHandler):
    """Adds the "/" that the page's relative links need."""

    _track_activity = False

    @web.authenticated
    def get(self) -> None:
        """Redirect."""
        self.redirect(url_path_join(self.base_url, "datamount/"))


def routes(base_url: str) -> List[Tuple[str, Any]]:
    """The handlers, for `web_app.add_handlers`."""
    return [
        (url_path_join(base_url, r"/datamount/api/(.*)"), ForwardHandler),
        (url_path_join(base_url, r"/datamount/(page\.js|page\.css)"), PageFileHandler),
        (url_path_join(base_url, r"/datamount/"), PageHandler),
        (url_path_join(base_url, r"/datamount"), SlashHandler),
    ]
