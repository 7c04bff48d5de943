"""Coming back without an account, and links to a version, in the panel: with the controller's gateway and a real S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import servers
from tests.browser.environments import Pod, environment
from tests.browser.session import Student, notebook
from tests.gateway import GatewaySite, running_gateway
from tests.integration.test_gateway_sidecar import sidecar

pytestmark = pytest.mark.slow


@pytest.fixture
def anonymous(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True, public_url="https://hub.example.edu/dm") as site:
        yield site


def test_resume_in_another_browser_and_share(
    anonymous: GatewaySite,
    tmp_path: Path,
    student: Callable[..., Student],
    violations: Callable[..., list[str]],
) -> None:
    """The first save gives a key, which brings the work back in another browser; a link is made, listed and ended."""
    python = environment("jupyterlab>=4")
    one, two = Pod(tmp_path / "one"), Pod(tmp_path / "two")
    for pod in (one, two):
        (pod.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    with sidecar(one.folder, anonymous, "org-course-x1"), one.jupyter(python, "jupyterlab") as jupyter:
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        ada.type("\n# mine")
        ada.save()
        ada.history()
        ada.page.get_by_role("button", name="Copy the key of your work").wait_for()
        key = ada.page.evaluate("Object.entries(localStorage).find(([k]) => k.startsWith('datamount:work-key:'))[1]")
        ada.page.get_by_role("button", name="Make a link").click()
        links = ada.page.get_by_role("list", name="Links that are valid")
        expect(links.locator("li")).to_have_count(1)
        expect(ada.page.get_by_text("https://hub.example.edu/dm/s/dms_")).to_be_visible()
        ada.page.locator("#datamount-history").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
        ada.shot("link")
        assert violations(ada, "#datamount-history") == []
        links.get_by_role("button", name="End the link").click()
        expect(links).to_have_count(0)
    with sidecar(two.folder, anonymous, "org-course-x2"), two.jupyter(python, "jupyterlab") as jupyter:
        other = student(jupyter)
        other.open("lab/tree/lesson.ipynb")
        other.history_panel()
        other.page.get_by_label("Key of earlier work in this course").fill(key)
        other.shot("key")
        other.page.get_by_role("button", name="Go on with it").click()
        expect(other.page.locator(".jp-Notebook .cm-content").first).to_contain_text("# mine")
        expect(other.dialog()).to_have_count(0)
        other.shot("resumed")
        assert "# mine" in (two.work / "lesson.ipynb").read_text()
