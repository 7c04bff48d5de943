"""A person at a browser, as a program: all goes through a running Jupyter server's own HTTP and websocket API."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import websocket

Json = dict[str, Any]


class CellFailed(AssertionError):
    """A cell raised; the text is the notebook's own traceback."""


@dataclass
class Output:
    """What one cell showed."""

    text: str = ""
    tables: list[str] = field(default_factory=list)
    images: int = 0


class Jupyter:
    """One server, addressed by the URL that it printed (with the token in it)."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.token = urllib.parse.parse_qs(parts.query).get("token", [""])[0]
        base = parts.path
        for page in ("/lab", "/tree", "/notebooks", "/doc"):
            base = base.partition(page)[0]
        self.base = f"{parts.scheme}://{parts.netloc}{base.rstrip('/')}/"

    def request(self, method: str, path: str, body: Any = None, *, timeout: float = 120, **headers: str) -> Any:
        """The JSON that the server answers (None: empty). AssertionError, with the answer, when it refuses."""
        data = None if body is None else json.dumps(body).encode()
        head = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        head |= {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.base + urllib.parse.quote(path, safe="/?=&"), data, head, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
        return json.loads(answer) if answer else None

    def answers(self) -> bool:
        """Whether the server is up."""
        try:
            self.request("GET", "api/status", timeout=30)
        except (OSError, AssertionError, ValueError):
            return False
        return True

    def datamount(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """A call of the sidecar's API through the Jupyter extension, as the Save button makes it."""
        return self.request(method, f"datamount/api/v1/{path}", body, timeout=120, **headers)

    def notebook(self, path: str) -> Json:
        """A notebook's document, by the contents API."""
        content: Json = self.request("GET", f"api/contents/{path}?content=1")["content"]
        return content

    def write_notebook(self, path: str, document: Json) -> None:
        """Save a notebook, as JupyterLab's own Save does."""
        self.request("PUT", f"api/contents/{path}", {"type": "notebook", "format": "json", "content": document})

    def kernels(self) -> set[str]:
        """The names of the kernels that notebooks may ask for."""
        return set(self.request("GET", "api/kernelspecs")["kernelspecs"])

    @contextlib.contextmanager
    def kernel(self, path: str, name: str) -> Iterator[Kernel]:
        """A session of a notebook with its kernel, ended on the way out."""
        wanted = {"path": path, "name": path, "type": "notebook", "kernel": {"name": name}}
        session = self.request("POST", "api/sessions", wanted)
        socket = self.base.replace("http", "ws", 1) + f"api/kernels/{session['kernel']['id']}/channels"
        channel = websocket.create_connection(
            f"{socket}?session_id={uuid.uuid4()}", header=[f"Authorization: token {self.token}"], timeout=120
        )
        try:
            yield Kernel(channel)
        finally:
            channel.close()
            # The server may be gone by now: some checks kill it.
            with contextlib.suppress(OSError, AssertionError):
                self.request("DELETE", f"api/sessions/{session['id']}", timeout=20)


class Kernel:
    """A kernel, through the server's websocket."""

    def __init__(self, channel: websocket.WebSocket) -> None:
        self._channel = channel
        self._session = uuid.uuid4().hex

    def run(self, code: str, *, seconds: float = 240) -> Output:
        """What a cell shows. CellFailed when it raises, TimeoutError when it does not end."""
        identity = uuid.uuid4().hex
        header = {"msg_id": identity, "msg_type": "execute_request", "session": self._session, "username": ""}
        header |= {"version": "5.3", "date": ""}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        self._channel.send(json.dumps(message | {"channel": "shell"}))
        output, idle, replied = Output(), False, False
        deadline = time.monotonic() + seconds
        # The reply and the end of the output come on two channels, in no fixed order.
        while not (idle and replied):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the cell did not end within {seconds} s:\n{code}")
            self._channel.settimeout(seconds)
            answer = json.loads(self._channel.recv())
            if answer.get("parent_header", {}).get("msg_id") != identity:
                continue
            kind, content = answer["msg_type"], answer["content"]
            if kind == "error":
                raise CellFailed(f"{content['ename']}: {content['evalue']}\n" + "\n".join(content["traceback"]))
            replied = replied or kind == "execute_reply"
            idle = idle or (kind == "status" and content["execution_state"] == "idle")
            _add(output, kind, content)
        return output


def _add(output: Output, kind: str, content: Json) -> None:
    if kind == "stream":
        output.text += content["text"]
    elif kind in ("display_data", "execute_result"):
        data = content["data"]
        output.text += data.get("text/plain", "") + "\n"
        output.images += "image/png" in data
        if "text/html" in data:
            output.tables.append(data["text/html"])
