"""A server on this machine, as far away as one in another city."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Process, free_port, program


@contextlib.contextmanager
def away(port: int, milliseconds: int) -> Iterator[str]:
    """An address from which every answer of the server at `port` comes `milliseconds` late. Raises Missing where Go is
    not installed."""
    if not milliseconds:
        yield f"http://127.0.0.1:{port}"
        return
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "latency"
        go = program("go", hint="the latency proxy is built with Go", folders=["/usr/local/go/bin"])
        subprocess.run([go, "build", "-o", str(binary), str(Path(__file__).with_name("latency.go"))], check=True)
        listening = free_port()
        proxy = Process(
            [binary, f"127.0.0.1:{listening}", f"127.0.0.1:{port}", str(milliseconds)], log=Path(folder) / "log"
        )
        proxy.start()
        time.sleep(0.3)
        try:
            yield f"http://127.0.0.1:{listening}"
        finally:
            proxy.stop()
