"""A real JupyterHub for the browser tests: its servers are processes of this machine."""

from __future__ import annotations

import sys

from playwright.sync_api import Page

from tests import servers
from tests.browser.environments import Pod
from tests.browser.session import own_settings

_CONFIG = """\
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [given["python"], "-m", "jupyterhub.singleuser", "--allow-root"]
c.Spawner.environment = given["environment"]
c.Spawner.notebook_dir = given["work"]
c.SimpleLocalProcessSpawner.home_dir_template = given["home"]
"""


class Hub(servers.JupyterHubServer):
    """A hub whose servers have what a pod gets of us."""

    def __init__(self, pod: Pod) -> None:
        home = pod.folder / "home"
        home.mkdir()
        own = own_settings(home) | {"JUPYTER_CONFIG_PATH": str(pod.extensions), "DATAMOUNT_RUN": str(pod.run)}
        given = {"python": sys.executable, "environment": own, "work": str(pod.work), "home": str(home)}
        super().__init__(_CONFIG, given)

    def sign_in(self, page: Page, path: str) -> None:
        """Open a path of the hub; it asks for a name and a password first."""
        page.goto(f"{self.url}/hub/{path}")
        page.locator("#username_input").fill("ada")
        page.locator("#password_input").fill(self.password)
        page.locator("#login_submit").click()
