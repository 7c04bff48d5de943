"""Behind a real JupyterHub: its sign-in, its check of who asks, and its end of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import servers
from tests.browser.environments import Pod
from tests.browser.hub import Hub
from tests.browser.session import notebook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KEY = "dms_" + "A" * 43


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    found = Pod(tmp_path / "pod")
    (found.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    with found.sidecar():
        yield found


@pytest.fixture
def hub(pod: Pod) -> Iterator[Hub]:
    yield from servers.running(Hub(pod))


@pytest.fixture
def page(browser: Browser) -> Iterator[Callable[[], Page]]:
    """Opens tabs of one browser profile."""
    context = browser.new_context(viewport={"width": 1360, "height": 850})
    context.set_default_timeout(60_000)
    yield context.new_page
    context.close()


def test_a_hub_from_its_link_to_its_end(hub: Hub, page: Callable[[], Page]) -> None:
    """A link whose key the hub's form to sign in lost is said to have no key. Lab and the page without it save; a
    server that the hub has stopped is not said to have saved anything more."""
    lab, other, home = page(), page(), page()
    hub.sign_in(lab, f"user-redirect/lab?datamount=link#datamount={KEY}")
    lab.get_by_text("Open it once more, the whole of it").wait_for()
    assert "datamount" not in lab.url
    lab.locator(".dm-Save").click()
    lab.locator('.dm-State[data-mood="good"]').wait_for()
    lab.locator(".dm-State").click()
    lab.locator(".dm-Version-head").first.click()
    with lab.expect_download() as download:
        lab.get_by_role("button", name="Download as zip").click()
    assert download.value.path().read_bytes()[:2] == b"PK"

    other.goto(f"{hub.url}/user/ada/datamount/")
    expect(other.locator("#state")).to_contain_text("Saved to storage")
    other.get_by_label("Note for this version").fill("by the page")
    other.get_by_role("button", name="Save now").click()
    expect(other.locator("#history tbody tr").first).to_contain_text("by the page")

    home.goto(f"{hub.url}/hub/home")
    home.locator("#stop").click()
    expect(lab.locator(".dm-State")).to_have_text("Connection lost")
    expect(other.locator("#state")).to_contain_text("The Jupyter server does not answer")
