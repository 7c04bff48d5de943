"""Make the pictures of the README and of the pages for students again, docs/images/*.png: a session of the example.

    python tests/screenshots.py

Starts what `make demo` starts, runs the notebook in a real browser, and saves, so that they show what a student sees.
Links to work are of hubs only: for their pictures two sessions run on a controller's gateway. Needs Debian's chromium.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Browser, FloatRect, Page, ViewportSize, sync_playwright  # noqa: E402
from playwright.sync_api import TimeoutError as Timeout  # noqa: E402

from tests.browser.environments import LAB, Pod, environment  # noqa: E402
from tests.browser.session import Student, notebook  # noqa: E402
from tests.demo_jupyter import Jupyter  # noqa: E402
from tests.demo_session import Session  # noqa: E402
from tests.demo_site import Site  # noqa: E402
from tests.gateway import running_gateway  # noqa: E402
from tests.integration.test_gateway_sidecar import sidecar  # noqa: E402
from tests.servers import S3Server, program  # noqa: E402

IMAGES = ROOT / "docs" / "images"
FAILED = ROOT / "tests" / "output" / "screenshots-failed.png"
SIZE: ViewportSize = {"width": 1360, "height": 850}


def open_notebook(page: Page, server: Jupyter) -> None:
    """Open the notebook and run all of it."""
    page.goto(f"{server.base}lab/tree/reports.ipynb?reset&token={server.token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    # "Idle" is also said before there is a kernel; running then would ask for one.
    page.locator(".jp-KernelName", has_text="Python 3").first.wait_for(timeout=60_000)
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    page.locator(".jp-Notebook").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_selector('.jp-OutputArea-output:has-text("not answered yet")', timeout=180_000)
    news = page.get_by_role("button", name="No", exact=True)
    if news.is_visible():
        news.click()


def save(page: Page, note: str) -> None:
    """Save with a note, in the panel that this opens; then close messages that would cover something."""
    if not page.locator("#datamount-history").is_visible():
        page.locator(".dm-State").click()
    page.get_by_label("Note for this version").fill(note)
    page.get_by_role("button", name="Save now").click()
    page.locator(".dm-Version", has_text=note).first.wait_for(timeout=60_000)
    page.locator('.dm-State[data-mood="good"]').wait_for(timeout=60_000)
    for message in page.locator(".Toastify__close-button").all():
        message.click()


def show_session(page: Page) -> None:
    """The data beside the pictures of the notebook, and the Save button with "Saved"."""
    page.locator('[data-id="datamount-history"]').first.click()  # folds the panel away
    page.locator(".jp-DirListing-item", has_text="data").first.dblclick()
    page.wait_for_selector(".jp-DirListing-item >> text=mimic2")
    page.locator(".jp-RenderedImage").first.evaluate("image => image.scrollIntoView({block: 'start'})")


def answer(page: Page) -> None:
    """Write something into the last cell, as a student does."""
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").last.click()
    page.keyboard.press("Control+End")
    page.keyboard.type("\n# My answer: the effusion is new since the last report.")


def show_history(page: Page) -> None:
    """The differences of the newest version, cell by cell."""
    page.locator(".dm-Version-head").first.click()
    page.get_by_role("button", name="Differences in reports.ipynb").first.click()
    page.locator(".dm-Diff h4").first.wait_for(timeout=60_000)


def picture(page: Page, name: str, *, clip: FloatRect | None = None) -> None:
    """Keep what is seen, in 256 colours: a repository keeps every version of its pictures."""
    page.wait_for_timeout(1500)
    shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    target = IMAGES / f"{name}.png"
    shot.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
    print(target)


def take(page: Page, server: Jupyter) -> None:
    """All pictures, as one session goes on."""
    open_notebook(page, server)
    save(page, "First run")
    show_session(page)
    picture(page, "session")
    picture(page, "saved", clip={"x": 680, "y": 0, "width": 680, "height": 120})
    answer(page)
    save(page, "Exercise 1 done")
    show_history(page)
    picture(page, "history")
    page.locator('[data-id="datamount-data"]').first.click()
    page.locator("#datamount-data .dm-Dataset").first.wait_for()
    picture(page, "data")


def take_sharing(browser: Browser, folder: Path) -> None:
    """A link to one's work, and what who follows it sees."""
    addresses = {"public_url": "https://hub.example.edu/dm", "hub_url": "https://hub.example.edu"}
    pods = Pod(folder / "ada"), Pod(folder / "bob")
    for pod in pods:
        (pod.work / "reports.ipynb").write_text(notebook("question = 'Is the effusion new?'"))
    python = environment(*LAB)
    with (
        pytest.MonkeyPatch.context() as patch,
        S3Server() as s3,
        running_gateway(folder, s3, patch, anonymous=True, **addresses) as site,
    ):
        with sidecar(pods[0].folder, site, "course-1"), pods[0].jupyter(python, "jupyterlab") as jupyter:
            ada = Student(browser.new_page(viewport=SIZE), jupyter, FAILED.parent)
            ada.open("lab/tree/reports.ipynb")
            ada.type("\nanswer = 'Yes, since the last report.'")
            ada.save()
            ada.history()
            ada.page.get_by_role("button", name="Make a link").click()
            link = ada.page.get_by_text("user-redirect").inner_text()
            ada.page.locator("#datamount-history").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
            picture(ada.page, "share", clip={"x": 1000, "y": 150, "width": 328, "height": 676})
        with sidecar(pods[1].folder, site, "course-2"), pods[1].jupyter(python, "jupyterlab") as jupyter:
            bob = Student(browser.new_page(viewport=SIZE), jupyter, FAILED.parent)
            bob.open("lab/tree/reports.ipynb", key=link.rpartition("=")[2])
            bob.dialog().get_by_text("In place of my files").wait_for()
            picture(bob.page, "look", clip={"x": 280, "y": 230, "width": 800, "height": 400})
            bob.dialog().get_by_role("button", name="Show it").click()
            bob.page.locator(".dm-State", has_text="Read-only share").wait_for()
            bob.history_panel()
            picture(bob.page, "shared", clip={"x": 290, "y": 0, "width": 1070, "height": 430})


def main() -> int:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="datamount-shots-") as name, Site(Path(name) / "site", say=print) as site:
        folder = Path(name)
        course = site.write_course(folder / "mimic-radiology")
        env = site.environment() | {"DATAMOUNT_HOME": str(folder / "home")}
        session = Session(course, site.store, env=env, log=folder / "up.log")
        try:
            server = session.open()
            chromium = program("chromium", hint="apt-get install chromium")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport=SIZE)
                try:
                    take(page, server)
                except Timeout:
                    page.screenshot(path=FAILED)
                    print(f"timed out at {FAILED}", file=sys.stderr)
                    raise
                take_sharing(browser, folder / "sharing")
                browser.close()
            session.interrupt()
        finally:
            session.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
