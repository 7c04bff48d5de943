"""Course images that know nothing of datamount: both extensions come in by JUPYTER_CONFIG_PATH alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.environments import EARLY_LAB, EARLY_NOTEBOOK, LAB, NOTEBOOK, OLD, Pod, environment
from tests.browser.session import Student, notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Students = Callable[..., Student]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    found = Pod(tmp_path / "pod")
    (found.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    with found.sidecar():
        yield found


@pytest.mark.parametrize(
    ("packages", "module", "path"),
    [
        (LAB, "jupyterlab", "lab/tree/lesson.ipynb"),
        (NOTEBOOK, "notebook", "notebooks/lesson.ipynb"),
        (EARLY_LAB, "jupyterlab", "lab/tree/lesson.ipynb"),
        (EARLY_NOTEBOOK, "notebook", "notebooks/lesson.ipynb"),
    ],
    ids=["jupyterlab", "notebook", "jupyterlab-4.0", "notebook-7.0"],
)
def test_save_button_in_an_unchanged_environment(
    packages: tuple[str, ...], module: str, path: str, pod: Pod, student: Students
) -> None:
    """In an environment with nothing but Jupyter, the newest or an old one, the Save button saves; history restores."""
    with pod.jupyter(environment(*packages), module) as jupyter:
        ada = student(jupyter)
        ada.open(path)
        ada.type("\n# mine")
        ada.save()
        ada.type("\n# later")
        ada.save()
        assert "# later" in (pod.work / "lesson.ipynb").read_text()
        version = ada.version(len(ada.versions()) - 1)
        version.get_by_role("button", name="Restore all").click()
        ada.dialog().get_by_role("button", name="Restore").click()
        ada.page.get_by_role("button", name="Undo", exact=True).wait_for()
        expect(ada.page.locator(".jp-Notebook .cm-content").first).not_to_contain_text("# later")
        expect(ada.dialog()).to_have_count(0)
        ada.shot("restored")
        assert jupyter.run("import os; print(os.environ['COURSE_PATH'])") == "/data/course\n"


def test_the_page_in_jupyterlab_3(pod: Pod, student: Students, violations: Callable[..., list[str]]) -> None:
    """With JupyterLab 3.6 on jupyter_server 1.x the page saves, restores and undoes; Lab itself opens undisturbed."""
    with pod.jupyter(environment(*OLD), "jupyterlab") as jupyter:
        ada = student(jupyter)
        ada.open("datamount/", wait="#state")
        expect(ada.page.locator("#state")).not_to_have_text("Asking …")
        (pod.work / "lesson.ipynb").write_text(notebook("answer = 2"))
        (pod.work / "notes.txt").write_text("mine")
        ada.page.get_by_label("Note for this version").fill("by the page")
        ada.page.get_by_role("button", name="Save now").click()
        ada.page.get_by_text("Saved.", exact=True).wait_for()
        expect(ada.page.locator("#state")).to_contain_text("Saved to storage")
        assert ada.versions()[0]["message"] == "by the page"
        ada.shot("page")
        assert violations(ada) == []
        (pod.work / "lesson.ipynb").write_text(notebook("answer = 3"))
        (pod.work / "notes.txt").unlink()
        ada.page.on("dialog", lambda dialog: dialog.accept())
        ada.page.locator("#history").get_by_role("button", name="Restore").first.click()
        ada.page.get_by_role("button", name="Undo").wait_for()
        assert (pod.work / "lesson.ipynb").read_text() == notebook("answer = 2")
        ada.shot("page-restored")
        ada.page.get_by_role("button", name="Undo").click()
        ada.page.get_by_text("Undone: 1 file as before. 1 file that was not there before stays.").wait_for()
        assert (pod.work / "lesson.ipynb").read_text() == notebook("answer = 3")
        assert jupyter.run("import os; print(os.environ['COURSE_PATH'])") == "/data/course\n"
        ada.page.goto(f"{jupyter.url}/lab")
        ada.page.locator(".jp-Launcher").first.wait_for()
        expect(ada.dialog()).to_have_count(0)
        ada.shot("lab-3")


def test_the_page_in_the_dark(pod: Pod, student: Students, violations: Callable[..., list[str]]) -> None:
    """The page is readable on dark screens and narrow ones: nothing serious for axe-core, no sideways scrolling."""
    with pod.jupyter(environment(*LAB), "jupyterlab") as jupyter:
        ada = student(jupyter, color_scheme="dark", viewport={"width": 400, "height": 800})
        ada.open("datamount/", wait="#state")
        ada.page.get_by_role("button", name="Save now").click()
        ada.page.locator("#history tbody tr").first.wait_for()
        ada.shot("dark")
        assert violations(ada) == []


def test_warnings_before_loss(tmp_path: Path, student: Students, violations: Callable[..., list[str]]) -> None:
    """What a save had no room for is named beside the state; a limit that is reached and a session that ends soon are
    told, and stay visible in JupyterLab and on the page."""
    pod = Pod(tmp_path / "pod")
    (pod.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    (pod.work / "model.bin").write_bytes(bytes(2_000_000))
    python = environment(*LAB)
    ends = (datetime.now(UTC) + timedelta(minutes=9)).isoformat()
    with (
        pod.sidecar("--max-bytes", "1000000", "--ends-at", ends),
        pod.jupyter(python, "jupyterlab") as jupyter,
    ):
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        ada.page.locator(".dm-Save").click()
        # First what stays for seconds only.
        expect(ada.page.locator(".Toastify__toast", has_text="model.bin: over the limit")).to_be_visible()
        assert "without 1 file" in ada.state("bad")
        expect(ada.page.locator(".dm-Ends")).to_contain_text(re.compile(r"Session ends in \d minutes?"))
        expect(ada.page.locator(".Toastify__toast", has_text="This session ends at")).to_be_visible()
        ada.history_panel()
        ada.shot("warnings")
        panel = ada.page.locator("#datamount-history")
        expect(panel).to_contain_text("of the 1.0 MB that the course allows")
        expect(panel).to_contain_text("There is no room for: model.bin")
        assert violations(ada, ".dm-TopBar", "#datamount-history") == []
        ada.open("datamount/", wait="#quota:not([hidden])")
        expect(ada.page.locator("#ends")).to_contain_text("This session ends at")
        expect(ada.page.locator("#state")).to_contain_text("without 1 file")
        ada.shot("page")


def _python38() -> str | None:
    """A Python 3.8, if this machine has one: named, on the PATH, or beside the Python that runs this (pyenv)."""
    beside = sorted(map(str, Path(sys.base_prefix).parent.glob("3.8.*/bin/python")))
    for name in (os.environ.get("DATAMOUNT_PYTHON38"), shutil.which("python3.8"), *beside):
        if name and subprocess.run([name, "-c", ""], capture_output=True, check=False).returncode == 0:
            return name
    return None


# Debian has no Python 3.8 any more, so this one is an extra where there is one, neither skipped nor required:
# test_old_python.py holds the syntax to 3.8 everywhere.
PYTHON38 = _python38()
if PYTHON38:

    def test_python_3_8(pod: Pod) -> None:
        """The server extension runs on Python 3.8 with jupyter_server 1.x: a save goes through."""
        with pod.jupyter(environment(*OLD, python=PYTHON38), "jupyterlab") as jupyter:
            assert jupyter.run("import sys; print(sys.version_info[:2])") == "(3, 8)\n"
            saved = jupyter.datamount("POST", "snapshots", json={"message": "from 3.8"})
            assert saved.status_code == 201, saved.text
            with jupyter.http.stream("GET", "/datamount/api/v1/events") as stream:
                assert next(stream.iter_lines()) == "event: state"
