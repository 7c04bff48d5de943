"""What is said of the work when the server is not what it was: signed out, gone, another day."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route, expect

from tests.browser.environments import LAB, Pod, environment
from tests.browser.session import Session, Student, notebook

pytestmark = pytest.mark.slow
Up = Callable[..., Session]
Students = Callable[..., Student]
API = "**/datamount/api/**"


def test_signed_out_or_gone(course: Path, up: Up, student: Students) -> None:
    """After a logout the state says "Signed out"; where a hub answers for a server that is gone, "Connection lost".
    Both end by themselves."""
    ada = student(up(course, "--save-after", "600").open())

    def stranger(route: Route) -> None:
        answer = httpx.get(
            route.request.url, headers={"Accept": route.request.headers["accept"]}, trust_env=False, timeout=60
        )
        route.fulfill(status=answer.status_code, headers=dict(answer.headers), body=answer.content)

    ada.page.route(API, stranger)
    ada.open("lab/tree/lesson.ipynb")
    assert ada.state("bad") == "Signed out"
    ada.history()
    assert "Sign in again" in ada.page.locator("#datamount-history .dm-Now").inner_text()
    ada.shot("signed-out")
    ada.page.unroute(API)
    ada.save()

    ada.page.route(API, lambda route: route.fulfill(status=424, json={"message": "server no longer running"}))
    ada.open("lab/tree/lesson.ipynb?reset")
    assert ada.state("bad") == "Connection lost"
    ada.page.unroute(API)
    ada.state("good")


def test_the_next_day(course: Path, up: Up, student: Students) -> None:
    """A time of yesterday gets its date at midnight, in a tab where nothing happens. In a small window, too, nothing of
    the panel is cut off in Notebook 7."""
    ada = student(up(course, "--save-after", "600").open(), viewport={"width": 900, "height": 700})
    ada.page.clock.install()
    ada.open("notebooks/lesson.ipynb")
    ada.save()
    assert re.fullmatch(r"Saved to storage \d{1,2}:\d\d\s[AP]M", ada.state("good"))
    ada.page.clock.set_system_time(datetime.now() + timedelta(days=1))
    expect(ada.page.locator(".dm-State")).to_have_text(re.compile(r"Saved to storage \w+ \d{1,2}, \d{4}"))
    assert ada.history_panel().evaluate("panel => panel.getBoundingClientRect().right <= innerWidth")
    ada.shot("small")


def test_the_page_without_its_server(tmp_path: Path, student: Students) -> None:
    """The page does not go on saying "Saved" when the Jupyter server is gone."""
    pod = Pod(tmp_path / "pod")
    (pod.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    with pod.sidecar():
        with pod.jupyter(environment(*LAB), "jupyterlab") as jupyter:
            ada = student(jupyter)
            ada.open("datamount/", wait="#state")
            ada.page.get_by_role("button", name="Save now").click()
            expect(ada.page.locator("#state")).to_contain_text("Saved to storage")
        expect(ada.page.locator("#state")).to_contain_text("The Jupyter server does not answer")
        ada.shot("gone")


def test_a_session_that_keeps_no_work(tmp_path: Path, student: Students) -> None:
    """Where nothing can be saved and nothing is tried again, it is not said to be retried, but why and by whom."""
    pod = Pod(tmp_path / "pod")
    (pod.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    with (
        pod.sidecar("--no-autosave", "--store", ""),
        pod.jupyter(environment(*LAB), "jupyterlab") as jupyter,
    ):
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        expect(ada.page.locator(".dm-State")).to_have_text("Saving is not available")
        ada.history_panel()
        expect(ada.page.locator("#datamount-history .dm-Now")).to_contain_text("The store's URL is not one")
        ada.shot("no-store")
