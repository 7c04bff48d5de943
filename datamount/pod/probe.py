"""The sidecar's startup probe. The notebook waits for it, so it loads nothing that it can do without."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from datamount import names

READY_SECONDS = 5.0
"""How long a notebook waits for a sidecar that does not answer."""


def ready() -> int:
    """Wait for the sidecar to answer, or a few seconds. Always a success: a failure would keep the notebook closed."""
    place = Path(os.environ.get(names.ENV_RUN) or names.RUN_DIR) / names.SIDECAR_FILE
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if answers(json.loads(place.read_bytes())["url"]):
                return 0
        time.sleep(0.05)
    return 0


def answers(url: str) -> bool:
    """Whether the sidecar at this URL (http://HOST:PORT) says that it is well.

    A request by hand, because the standard library's client takes longer to load than the sidecar to answer.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=1) as connection:
        connection.sendall(f"GET /healthz HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        return b" 200 " in connection.recv(32)
