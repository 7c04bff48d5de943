"""The history of a long time: many versions, many files, names and notes that try to be more than text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.session import Session, Student

pytestmark = pytest.mark.slow
Up = Callable[..., Session]
Students = Callable[..., Student]
HOSTILE = "<img src=x onerror=hacked=1>"
LONG = "a" * 200
LONG_REFUSAL = {"type": "urn:datamount:problem:disk-full", "detail": "no room " * 30 + "and this is told to its end."}


def test_undo_of_a_restore_that_brought_many_files_back(course: Path, up: Up, student: Students) -> None:
    """Undo takes back a restore of more files than one request can name, and one that brought a deleted file back: that
    file stays, which is said."""
    ada = student(up(course, "--save-after", "600").open())
    many = [course / f"many/{number:04}.txt" for number in range(1100)]
    (course / "many").mkdir()
    for path in many:
        path.write_text("first\n")
    ada.open("lab/tree/lesson.ipynb")
    ada.save()
    for path in many:
        path.write_text("second\n")
    (course / "notes.txt").unlink()
    ada.version(0).get_by_role("button", name="Restore all").click()
    ada.dialog().get_by_role("button", name="Restore").click()
    ada.page.get_by_text("1101 files restored.").wait_for()
    assert many[-1].read_text() == "first\n"
    ada.page.get_by_role("button", name="Undo", exact=True).click()
    ada.page.get_by_text("Undone: 1100 files").wait_for()
    expect(ada.page.get_by_text("1 file that was not there before stays.")).to_be_visible()
    assert {path.read_text() for path in many} == {"second\n"}
    assert (course / "notes.txt").read_text() == "notes of the course\n"
    ada.shot("undone")


def test_a_long_history_of_hostile_names(course: Path, up: Up, student: Students) -> None:
    """Of many versions the newest are shown, older ones on demand. Markup in notes, names and contents is text, and
    names of any length stay in the panel. A version can be compared also when the one before was thinned out. Why
    something is not restored is told whole."""
    session = up(course, "--save-after", "600")
    jupyter = session.open()
    (course / f"{HOSTILE}.txt").write_text(f"{HOSTILE}\n")
    (course / f"{LONG}.txt").write_text("long\n")
    for number in range(101):
        jupyter.datamount("POST", "snapshots", json={"message": f"{HOSTILE} {number}"}).raise_for_status()
    ids = [version["id"] for version in jupyter.datamount("GET", "snapshots").json()]
    for path in course.glob("*.txt"):
        path.write_text(f"changed {HOSTILE}\n")
    jupyter.datamount("POST", "snapshots", json={"message": LONG}).raise_for_status()
    next(session.store.rglob(f"{ids[0]}.json")).unlink()  # as thinning does
    ada = student(jupyter)
    ada.open("lab/tree/lesson.ipynb")
    version = ada.version(0)
    expect(version.locator(".dm-Files > li")).to_have_count(3)
    expect(version.locator(".dm-Fault")).to_have_count(0)
    expect(version.get_by_label("Compare with").locator("option").first).to_have_text("the version before")
    version.get_by_role("button", name=f"Differences in {HOSTILE}.txt").click()
    expect(version.locator(".dm-Diff [data-sign='+']")).to_contain_text(f"changed {HOSTILE}")
    panel = ada.page.locator("#datamount-history")
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    ada.shot("hostile")
    expect(ada.history()).to_have_count(100)
    panel.get_by_role("button", name="Show older versions").click()
    expect(ada.history()).to_have_count(101)
    expect(panel.get_by_role("button", name="Show older versions")).to_have_count(0)
    ada.page.route("**/restore*", lambda route: route.fulfill(status=507, json=LONG_REFUSAL))
    version.get_by_role("button", name="Restore all").click()
    ada.dialog().get_by_text("told to its end").wait_for()
    ada.page.keyboard.press("Escape")
    ada.page.unroute("**/restore*")
    version.get_by_role("button", name="Restore all").click()
    ada.dialog().get_by_text("All of that is in your folder").wait_for()
    ada.dialog().get_by_role("button", name="Close").click()
    ada.history().nth(1).locator(".dm-Version-head").click()
    ada.history().nth(1).get_by_role("button", name="Restore all").click()
    ada.dialog().get_by_text(f"{LONG}.txt").wait_for()
    ada.shot("question")
    assert ada.dialog().locator(".jp-Dialog-content").evaluate("content => content.scrollWidth <= content.clientWidth")
    ada.dialog().get_by_role("button", name="Restore").click()
    ada.page.get_by_text("3 files restored.").wait_for()
    ada.open("datamount/", wait="#history:not([hidden])")
    expect(ada.page.locator("#history tbody tr")).to_have_count(100)
    ada.page.get_by_role("button", name="Show older versions").click()
    expect(ada.page.locator("#history tbody tr")).to_have_count(102)
    assert ada.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ada.shot("page")
    assert ada.page.evaluate("window.hacked") is None
