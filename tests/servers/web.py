"""An HTTP server of a folder."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.base import Server, answers
from tests.servers.process import free_port


class HTTPServer(Server):
    """aiohttp serving the folder `root`: GET and HEAD, ranges, ETag and Last-Modified.

    With `token`, or `user` and `password`, every request must carry it (else 401).
    """

    def __init__(
        self, root: Path | None = None, *, port: int | None = None, token: str = "", user: str = "", password: str = ""
    ) -> None:
        super().__init__()
        self.port = port or free_port()
        self.root = root or self.folder / "root"
        self.root.mkdir(exist_ok=True)
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._authorization = f"Bearer {token}" if token else f"Basic {basic}" if user else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-P", Path(__file__).resolve().with_name("serve_folder.py"), self.root, str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"DATAMOUNT_TEST_AUTHORIZATION": self._authorization}

    def ready(self) -> bool:
        return answers(f"{self.url}/") is not None
