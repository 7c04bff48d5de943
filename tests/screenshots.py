"""Make the picture of the README again: docs/images/session.png, a running session with the example's notebook open.

    python tests/screenshots.py

Starts what `make demo` starts, runs the notebook in a real browser, and saves once, so that the picture shows what a
student sees. Needs Debian's chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, ViewportSize, sync_playwright  # noqa: E402

from tests.demo_jupyter import Jupyter  # noqa: E402
from tests.demo_session import Session  # noqa: E402
from tests.demo_site import Site  # noqa: E402
from tests.servers import program  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZE: ViewportSize = {"width": 1360, "height": 850}


def show_session(page: Page, server: Jupyter) -> None:
    """Open the notebook, run and save all of it, show the data beside it, and scroll to the pictures."""
    page.goto(f"{server.base}lab/tree/reports.ipynb?reset&token={server.token}")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").or_(page.locator(".jp-NotebookKernelStatus")).first.wait_for()
    page.locator(".jp-Notebook").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_selector('.jp-OutputArea-output:has-text("not answered yet")', timeout=90_000)
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_text("Save Notebook", exact=True).click()
    news = page.get_by_role("button", name="No", exact=True)
    if news.is_visible():
        news.click()
    page.locator(".jp-DirListing-item", has_text="data").first.dblclick()
    page.wait_for_selector(".jp-DirListing-item >> text=mimic2")
    page.locator(".jp-RenderedImage").first.evaluate("image => image.scrollIntoView({block: 'start'})")


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
                show_session(page, server)
                page.wait_for_timeout(1500)
                page.screenshot(path=IMAGES / "session.png")
                browser.close()
            session.interrupt()
        finally:
            session.kill()
    print(IMAGES / "session.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
