"""A student's session for the browser tests: `datamount up` on a course, and the page that a student works with."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from datetime import time as clock
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page
from playwright.sync_api import TimeoutError as Timeout

from tests import servers
from tests.jupyter_client import Jupyter

STARTED = re.compile(r"(http://127\.0\.0\.1:\d+\S*?/)lab\?token=([\w-]+)")


class Session:
    """One `datamount up`. `name` is the laptop: what is there besides the course's folder and the store."""

    def __init__(self, folder: Path, course: Path, *options: str, name: str = "home") -> None:
        self.home = folder / name
        self.course = course
        self.store = folder / "store"
        self.log = folder / f"{name}.log"
        self._command = [
            *(sys.executable, "-m", "datamount", "up", str(course), "--no-browser", "--owner", "ada"),
            # Not "0": until Jupyter has it, seconds later, somebody else may.
            *("--port", str(servers.free_port()), "--store", self.store.as_uri(), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def open(self, *, seconds: float = 200) -> Jupyter:
        """Start it; the server, once its URL is printed."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"DATAMOUNT_HOME": str(self.home)} | own_settings(self.home),
                start_new_session=True,
                preexec_fn=servers.dying_with_us(signal.SIGKILL),
            )
        until = time.monotonic() + seconds
        while not (found := STARTED.search(self.log.read_text())):
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)
        return Jupyter(found[1], found[2])

    def break_store(self) -> None:
        """Take the storage away: every access fails until `mend_store`."""
        self.store.rename(self.store.with_name("store-away"))
        self.store.write_text("a file where the store should be")

    def mend_store(self) -> None:
        self.store.unlink()
        self.store.with_name("store-away").rename(self.store)

    def kill(self) -> None:
        """SIGKILL to everything of this session, as when a machine is lost."""
        mark = f"DATAMOUNT_HOME={self.home}".encode()
        while found := _with_variable(mark):
            for number in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            if self._process is not None:
                self._process.wait(60)
            time.sleep(0.05)


def own_settings(folder: Path) -> dict[str, str]:
    """Variables that keep Jupyter's own settings apart from those of whoever runs the tests; no news are fetched."""
    notification = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    notification.parent.mkdir(parents=True, exist_ok=True)
    notification.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    return {
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }


def wait_for_a_new_day() -> None:
    """Returns when the day lasts longer than a test looks at it: what is of today now is not yesterday's soon."""
    now = datetime.now()
    left = (datetime.combine(now.date() + timedelta(days=1), clock.min) - now).total_seconds()
    if left < 120:
        time.sleep(left + 1)


def _with_variable(mark: bytes) -> list[int]:
    """Process ids of what has this variable in its environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


class Student:
    """Someone at a browser tab with JupyterLab, Notebook 7 or the page without either."""

    def __init__(self, page: Page, jupyter: Jupyter, shots: Path) -> None:
        self.page = page
        self.jupyter = jupyter
        self._shots = shots

    def open(self, path: str, *, wait: str = ".dm-State", key: str = "") -> None:
        """Open a path below the base URL, such as "lab/tree/lesson.ipynb", and wait until it is usable. `key` is that
        of a link, as BinderHub and JupyterHub hand it on."""
        sign = "&" if "?" in path else "?"
        link = f"#datamount={key}" if key else ""
        self.page.goto(f"{self.jupyter.url}/{path}{sign}token={self.jupyter.token}{link}")
        self.page.locator(wait).first.wait_for(timeout=60_000)
        if path.endswith(".ipynb"):
            self.page.locator(".jp-Notebook .cm-content").first.wait_for(timeout=60_000)
            # The kernel's language arrives late and makes the document dirty by itself.
            self.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(timeout=60_000)

    def type(self, text: str, *, cell: int = 0) -> None:
        """Type at the end of a cell."""
        self.page.locator(".jp-Notebook .cm-content").nth(cell).click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.type(text)

    def cell(self, number: int = 0) -> str:
        """The text of a cell as the page shows it."""
        return self.page.locator(".jp-Notebook .cm-content").nth(number).inner_text().strip()

    def save(self) -> None:
        """Press Save, and wait until it says that all is saved.

        A kernel that tells its language late makes the notebook unsaved again: then once more, as a student would.
        """
        for seconds in (10, 90):
            self.page.locator(".dm-Save").click()
            with contextlib.suppress(Timeout):
                self.state("good", seconds=seconds)
                return
        raise AssertionError(self.page.locator(".dm-State").inner_text())

    def state(self, mood: str, *, seconds: float = 60) -> str:
        """The state beside the Save button, once it is of this mood."""
        found = self.page.locator(f'.dm-State[data-mood="{mood}"]')
        try:
            found.wait_for(timeout=seconds * 1000)
        except Timeout:
            self.shot("timeout")
            raise
        return found.inner_text().strip()

    def history_panel(self) -> Locator:
        """The History panel, opened where it is not."""
        panel = self.page.locator("#datamount-history")
        if not panel.is_visible():
            self.page.locator(".dm-State").click()
            panel.locator("h2").first.wait_for()
        return panel

    def history(self) -> Locator:
        """The versions in the History panel, newest first."""
        return self.history_panel().locator(".dm-Version")

    def version(self, number: int) -> Locator:
        """One version of the history, opened."""
        found = self.history().nth(number)
        head = found.locator(".dm-Version-head")
        if head.get_attribute("aria-expanded") == "false":
            head.click()
        found.locator(".dm-Version-content .dm-Row").first.wait_for()
        return found

    def versions(self) -> list[dict[str, Any]]:
        """What the API lists, newest first."""
        answer = self.jupyter.datamount("GET", "snapshots")
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def dialog(self) -> Locator:
        """A dialog of Jupyter that is open."""
        return self.page.locator(".jp-Dialog")

    def shot(self, name: str) -> None:
        """Keep a picture of what the student sees."""
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self._shots / f"{name}.png")


LANGUAGE = {
    "name": "python",
    "version": platform.python_version(),
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}


def notebook(*cells: str) -> str:
    """A notebook as a course has it: with its kernel's language, as the kernel would add it, so that opening it is no
    change."""
    made = [
        {
            "cell_type": "code",
            "id": f"cell-{at}",
            "metadata": {},
            "source": text,
            "outputs": [],
            "execution_count": None,
        }
        for at, text in enumerate(cells)
    ]
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": LANGUAGE}
    return json.dumps({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
