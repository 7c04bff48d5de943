"""A Jupyter server as a browser sees it: REST, and code run in a kernel over its websocket."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import httpx
import websocket


class Jupyter:
    """A running server at `url` (with its base path), entered by token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.token = token
        headers = {"Authorization": f"token {token}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=120)

    def datamount(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call of the sidecar's API through the server extension."""
        return self.http.request(method, f"/datamount/api/v1/{path}", **options)

    def run(self, code: str, *, seconds: float = 200) -> str:
        """What `code` prints in a new Python kernel; the kernel is shut down."""
        made = self.http.post("/api/kernels", json={"name": "python3"})
        made.raise_for_status()
        kernel = made.json()["id"]
        address = f"{self.url.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels?token={self.token}"
        socket = websocket.create_connection(address, timeout=seconds)
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "username": "", "session": "s", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        request = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        socket.send(json.dumps(request | {"channel": "shell", "buffers": []}))
        printed = ""
        try:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                answer = json.loads(socket.recv())
                if answer["parent_header"].get("msg_id") != message:
                    continue
                if answer["msg_type"] == "stream":
                    printed += answer["content"]["text"]
                elif answer["msg_type"] == "error":
                    raise AssertionError("\n".join([printed, *answer["content"]["traceback"]]))
                elif answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
                    return printed
        finally:
            socket.close()
            self.http.delete(f"/api/kernels/{kernel}")
        raise AssertionError(f"the kernel did not finish within {seconds} s; it printed {printed!r}")
