"""Jupyter as course images have it: environments without datamount, made once under .cache/ by uv.

Only the folder that JUPYTER_CONFIG_PATH names, and the run folder, reach into them, as in a pod.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from sidecar.jupyter import install
from tests import servers
from tests.browser.session import own_settings
from tests.jupyter_client import Jupyter

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "environments"
TOKEN = "y" * 20
BASE = "/user/ada/"
OLD = ("jupyterlab==3.6.*", "jupyter_server<2", "notebook<7")
"""The last JupyterLab on jupyter_server 1.x."""
LAB, NOTEBOOK = ("jupyterlab>=4",), ("notebook>=7",)
EARLY_LAB, EARLY_NOTEBOOK = ("jupyterlab==4.0.*", "jupyter_server<2.10"), ("notebook==7.0.*",)
USED = (LAB, NOTEBOOK, EARLY_LAB, EARLY_NOTEBOOK, OLD)
"""All that the tests ask for."""


def environment(*packages: str, python: str = sys.executable) -> Path:
    """The Python of an environment with these packages and nothing of ours; made where it is not there yet."""
    name = hashlib.sha256(" ".join([python, *packages]).encode()).hexdigest()[:12]
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            uv = str(Path(sys.executable).with_name("uv"))
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", python, str(folder)],
                [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *packages],
            ):
                subprocess.run(command, check=True, timeout=600)
            (folder / "complete").touch()
    return folder / "bin/python"


class Pod:
    """A Jupyter server of another environment, with a sidecar of ours beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work, self.run = folder / "work", folder / "run"
        for place in (self.work, self.run):
            place.mkdir(parents=True)
        self.extensions = folder / "extensions"
        install(self.extensions)
        (self.run / "env").write_text("COURSE_PATH=/data/course\n")
        self._log = folder / "log"

    @contextlib.contextmanager
    def sidecar(self, *options: str) -> Iterator[None]:
        """Running while the block runs."""
        place = self.run / "sidecar.json"
        command = [
            *(sys.executable, "-m", "sidecar", "--folder", self.work, "--run", self.run),
            *("--state", self.folder / "state", "--store", (self.folder / "store").as_uri()),
            *("--owner", "ada", "--course", "c", *options),
        ]
        with self._running(command, dict(os.environ)):
            self._wait(lambda: httpx.get(json.loads(place.read_text())["url"] + "/healthz", trust_env=False).is_success)
            yield

    @contextlib.contextmanager
    def jupyter(self, python: Path, *module: str) -> Iterator[Jupyter]:
        """`python -m module` with JUPYTER_CONFIG_PATH; nothing else of ours reaches it."""
        port = servers.free_port()
        given = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(self.folder / "home"), "JUPYTER_TOKEN": TOKEN}
        given |= {"JUPYTER_CONFIG_PATH": str(self.extensions), "DATAMOUNT_RUN": str(self.run)}
        given |= own_settings(self.folder / "home")
        command: Sequence[str | Path] = [
            *(python, "-m", *module, "--no-browser", "--allow-root", f"--ServerApp.port={port}"),
            *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.work}", f"--ServerApp.base_url={BASE}"),
        ]
        jupyter = Jupyter(f"http://127.0.0.1:{port}{BASE}", TOKEN)
        with self._running(command, given):
            self._wait(lambda: jupyter.http.get("/api/status").is_success)
            yield jupyter

    @contextlib.contextmanager
    def _running(self, command: Sequence[str | Path], variables: dict[str, str]) -> Iterator[None]:
        process = servers.Process(command, log=self._log, env=variables, cwd=None)
        process.start()
        try:
            yield
        finally:
            process.stop()

    def _wait(self, ready: object, *, seconds: float = 240) -> None:
        assert callable(ready)
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError, OSError, ValueError):
                if ready():
                    return
            assert time.monotonic() < until, self._log.read_text()[-4000:]
            time.sleep(0.1)
