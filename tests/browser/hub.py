"""A real JupyterHub for the browser tests: sign-in by its form, servers as processes of this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.environments import Pod
from tests.browser.session import own_settings
from tests.pod.jupyterhub import Proxy
from tests.servers import Server, answers, free_port

PASSWORD = "only-for-the-test"
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
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [given["python"], "-m", "jupyterhub.singleuser", "--allow-root"]
c.Spawner.environment = given["environment"]
c.Spawner.notebook_dir = given["work"]
c.SimpleLocalProcessSpawner.home_dir_template = given["home"]
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
"""


class Hub(Server):
    """A hub, and its proxy as a process of its own. Its servers have what a pod gets of us."""

    start_seconds = 60.0

    def __init__(self, pod: Pod) -> None:
        super().__init__()
        hub_url = f"http://127.0.0.1:{free_port()}"
        self.proxy = Proxy(hub_url)
        home = pod.folder / "home"
        home.mkdir()
        own = own_settings(home) | {"JUPYTER_CONFIG_PATH": str(pod.extensions), "DATAMOUNT_RUN": str(pod.run)}
        given = {
            "password": PASSWORD,
            "url": self.url,
            "hub_url": hub_url,
            "proxy_url": self.proxy.api_url,
            "python": sys.executable,
            "environment": own,
            "work": str(pod.work),
            "home": str(home),
        }
        (self.folder / "given.json").write_text(json.dumps(given))
        (self.folder / "config.py").write_text(_CONFIG.format(file=str(self.folder / "given.json")))

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
        return [sys.executable, "-m", "jupyterhub", "--config", self.folder / "config.py"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONFIGPROXY_AUTH_TOKEN": self.proxy.token}

    def ready(self) -> bool:
        return answers(f"{self.url}/hub/health") == 200

    def sign_in(self, page: Page, path: str) -> None:
        """Open a path of the hub; it asks for a name and a password first."""
        page.goto(f"{self.url}/hub/{path}")
        page.locator("#username_input").fill("ada")
        page.locator("#password_input").fill(PASSWORD)
        page.locator("#login_submit").click()
