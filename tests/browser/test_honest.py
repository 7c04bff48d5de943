"""What is said of the work when the server is not what it was: signed out, gone, another day."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Route, expect

from sidecar.app import STREAMS
from tests.browser.environments import LAB, Pod, environment
from tests.browser.session import Session, Student, notebook, wait_for_a_new_day

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
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
    wait_for_a_new_day()
    ada.page.clock.install()
    ada.open("notebooks/lesson.ipynb")
    ada.save()
    assert re.fullmatch(r"Saved to storage \d{1,2}:\d\d\s[AP]M", ada.state("good"))
    ada.page.clock.set_system_time(datetime.now() + timedelta(days=1))
    expect(ada.page.locator(".dm-State")).to_have_text(re.compile(r"Saved to storage \w+ \d{1,2}, \d{4}"))
    assert ada.history_panel().evaluate("panel => panel.getBoundingClientRect().right <= innerWidth")
    ada.shot("small")


def test_a_phone(course: Path, up: Up, student: Students) -> None:
    """Where Notebook 7 hides its header, in a narrow window or when it is told to, Save and the state are in the menu
    bar; where it shows the header, they are there only."""
    ada = student(up(course, "--save-after", "600").open())
    ada.open("notebooks/lesson.ipynb")
    page, menu, top = ada.page, ada.page.locator("#datamount-menubar"), ada.page.locator("#datamount-topbar")
    expect(menu).to_have_count(0)
    page.set_viewport_size({"width": 400, "height": 750})
    expect(menu).to_be_visible()
    expect(top).to_be_hidden()
    ada.type("\nmore = 2")
    expect(menu.locator(".dm-State")).to_have_attribute("data-mood", "pending")
    menu.get_by_role("button", name="Save", exact=True).click()
    expect(menu.locator('.dm-State[data-mood="good"]')).to_have_attribute("title", re.compile("Saved to storage"))
    assert menu.evaluate("bar => bar.getBoundingClientRect().right <= innerWidth")
    ada.shot("narrow")
    menu.locator(".dm-State").click()
    expect(page.locator("#datamount-history .dm-Version")).to_have_count(len(ada.versions()))
    ada.shot("narrow-history")
    page.set_viewport_size({"width": 1200, "height": 750})
    expect(top.locator(".dm-State")).to_be_visible()
    expect(menu).to_have_count(0)
    page.get_by_role("menuitem", name="View", exact=True).click()
    page.get_by_text("Show Header", exact=True).click()
    expect(menu.locator(".dm-State")).to_contain_text("Saved to storage")
    ada.shot("header-off")


def test_more_tabs_than_streams(course: Path, up: Up, student: Students) -> None:
    """Where no more tabs may listen to the sidecar, a tab asks it: state and Save go on, in Lab and on the page."""
    jupyter = up(course, "--save-after", "600").open()
    lines = []  # one that is forgotten is closed
    with contextlib.ExitStack() as others:
        for _ in range(STREAMS):
            lines.append(others.enter_context(jupyter.http.stream("GET", "/datamount/api/v1/events")).iter_lines())
            assert next(lines[-1]) == "event: state"
        assert jupyter.datamount("GET", "events").status_code == 429
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        ada.type("\nmore = 2")
        ada.save()
        jupyter.datamount("POST", "snapshots", json={"message": "of another tab"}).raise_for_status()
        expect(ada.history().first).to_contain_text("of another tab")
        ada.shot("many-tabs")
        ada.open("datamount/", wait="#state")
        expect(ada.page.locator("#state")).to_contain_text("Saved to storage")


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
        ada.open("datamount/", wait="#state")
        expect(ada.page.locator("#state")).to_contain_text("Saving is not available: The store's URL is not one")
