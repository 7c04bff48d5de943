"""A real JupyterHub with KubeSpawner: its own process, its own proxy, a login."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests import servers
from tests.pod.kubelet import Kubelet

_CONFIG = """\
from datamount.kubespawner import make_hook, saving

c.JupyterHub.spawner_class = saving("kubespawner.KubeSpawner")
c.KubeSpawner.cmd = ["python", "-m", "jupyterhub.singleuser"]
c.KubeSpawner.namespace = "hub"
c.KubeSpawner.image = given["image"]
c.KubeSpawner.port = given["port"]
c.KubeSpawner.uid = 1000
c.KubeSpawner.fs_gid = 100
c.KubeSpawner.modify_pod_hook = make_hook(given["settings"])
"""


class JupyterHub(servers.JupyterHubServer):
    """A hub whose pods are of `image`, injected with the settings of a file, on a node; its proxy with it."""

    def __init__(self, kubelet: Kubelet, image: str, settings: Path) -> None:
        self.server_port = servers.free_port()
        super().__init__(_CONFIG, {"image": image, "port": self.server_port, "settings": str(settings)})
        self._kubeconfig = self.folder / "kubeconfig"
        self._kubeconfig.write_text(json.dumps(kubelet.kubeconfig()))

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "KUBECONFIG": str(self._kubeconfig)}

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
        fields = {"username": self.user, "password": servers.JupyterHubServer.password, "_xsrf": token[1]}
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
