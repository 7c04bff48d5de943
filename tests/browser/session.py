"""A student's session for the browser tests: `datamount up` on a course, and what a browser needs to look at it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.jupyter_client import Jupyter

STARTED = re.compile(r"(http://127\.0\.0\.1:\d+\S*?/)lab\?token=([\w-]+)")


class Session:
    """One `datamount up`. `home` is the laptop: what is there besides the course folder and the store."""

    def __init__(self, folder: Path, course: Path, *options: str, store: str = "", name: str = "home") -> None:
        self.home = folder / name
        self.course = course
        self.log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "datamount", "up", str(course), "--no-browser", "--port", "0", "--owner", "ada"),
            *("--store", store or (folder / "store").as_uri(), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, *, seconds: float = 90) -> Jupyter:
        """Start it; the server, once its URL is printed."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"DATAMOUNT_HOME": str(self.home)},
                start_new_session=True,
            )
        until = time.monotonic() + seconds
        while not (found := STARTED.search(self.log.read_text())):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)
        return Jupyter(found[1], found[2])

    def kill(self) -> None:
        """SIGKILL to everything of this session, as when a machine is lost."""
        mark = f"DATAMOUNT_HOME={self.home}".encode()
        while found := _with_variable(mark):
            for number in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            if self._process is not None:
                self._process.wait(20)
            time.sleep(0.05)


def _with_variable(mark: bytes) -> list[int]:
    """Process ids of what has this variable in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found
