"""Coming back without an account, and links to a version, in the panel: with the controller's gateway and a real S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import servers
from tests.browser.environments import LAB, Pod, environment
from tests.browser.session import Student, notebook
from tests.gateway import COURSE, GatewaySite, running_gateway
from tests.integration.test_gateway_sidecar import sidecar

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def anonymous(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    addresses = {"public_url": "https://hub.example.edu/dm", "hub_url": "https://hub.example.edu"}
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True, **addresses) as site:
        yield site


def pods(folder: Path) -> tuple[Pod, Pod]:
    """Two sessions of one course."""
    found = Pod(folder / "one"), Pod(folder / "two")
    for pod in found:
        (pod.work / "lesson.ipynb").write_text(notebook("answer = 1"))
    return found


def test_resume_in_another_browser(
    anonymous: GatewaySite,
    tmp_path: Path,
    student: Callable[..., Student],
    violations: Callable[..., list[str]],
) -> None:
    """The first save gives a link, kept by the browser too. In another browser it shows what it would change; nothing
    happens until that is confirmed, then the work is here, and Undo gives back what was. The key is gone from the
    address."""
    python = environment(*LAB)
    one, two = pods(tmp_path)
    (one.work / "made.txt").write_text("of the session before")
    with sidecar(one.folder, anonymous, "org-course-x1"), one.jupyter(python, "jupyterlab") as jupyter:
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        ada.type("\n# mine")
        ada.save()
        kept = "() => Object.entries(localStorage).find(([name]) => name.startsWith('datamount:work-key:'))?.[1]"
        ada.page.wait_for_function(kept)
        key = ada.page.evaluate(kept)
        ada.history()
        ada.page.get_by_role("button", name="Copy the link to your work").wait_for()
        ada.page.locator("#datamount-history").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
        ada.shot("link")
    (two.work / "own.txt").write_text("of this session")
    with sidecar(two.folder, anonymous, "org-course-x2"), two.jupyter(python, "jupyterlab") as jupyter:
        other = student(jupyter)
        # As from a hub's form to sign in, which keeps the query only.
        other.open("lab/tree/lesson.ipynb?datamount=link")
        other.page.get_by_text("Open it once more, the whole of it").wait_for()
        other.shot("key-lost")
        other.open("lab/tree/lesson.ipynb?datamount=link", key=key)
        other.dialog().get_by_text("Replaced by what they were then (1)").wait_for()
        expect(other.dialog().get_by_role("list", name="Stay as they are")).to_contain_text("own.txt")
        assert key not in other.page.url
        other.shot("question")
        assert violations(other, ".jp-Dialog") == []
        other.dialog().get_by_role("button", name="Not now").click()
        assert "# mine" not in (two.work / "lesson.ipynb").read_text()
        # The browser that saved asks by itself: here it is told what that one remembers.
        other.page.evaluate(f"localStorage.setItem('datamount:work-key:{COURSE}', '{key}')")
        other.open("lab/tree/lesson.ipynb")
        other.page.get_by_text("This browser remembers earlier work").wait_for()
        other.shot("remembered")
        other.page.get_by_role("button", name="Show what it holds").first.click()
        other.dialog().get_by_role("button", name="Not now").click()
        panel = other.history_panel()
        field = panel.get_by_label("This browser has a key of earlier work")
        assert field.input_value() == key
        field.fill(f"https://hub.example.edu/lab#datamount={key}")
        panel.get_by_role("button", name="Show what it holds").click()
        other.dialog().get_by_role("button", name="Bring it here").click()
        expect(other.page.locator(".jp-Notebook .cm-content").first).to_contain_text("# mine")
        expect(other.dialog()).to_have_count(0)
        other.shot("resumed")
        assert "# mine" in (two.work / "lesson.ipynb").read_text()
        assert (two.work / "own.txt").read_text() == "of this session"
        other.page.get_by_role("button", name="Undo", exact=True).click()
        other.page.get_by_text("Undone: 1 file is as it was. 1 file that was not there before stays.").wait_for()
        assert "# mine" not in (two.work / "lesson.ipynb").read_text()
        assert (two.work / "made.txt").read_text() == "of the session before"


def test_the_browser_forgets_no_work(
    anonymous: GatewaySite,
    tmp_path: Path,
    student: Callable[..., Student],
    violations: Callable[..., list[str]],
) -> None:
    """Who begins anew without looking at the work that the browser remembers can still bring it, though the new work
    has a key of its own by then; and the new work is remembered from there on."""
    python = environment(*LAB)
    one, two = pods(tmp_path)
    (one.work / "lesson.ipynb").write_text(notebook("answer = 'of old'"))
    with sidecar(one.folder, anonymous, "org-course-x1") as api:
        api.post("/snapshots", json={})
        old = api.get("/resume").json()["key"]
    with sidecar(two.folder, anonymous, "org-course-x2") as api, two.jupyter(python, "jupyterlab") as jupyter:
        ada = student(jupyter)
        ada.open("lab", wait=".dm-State")
        ada.page.evaluate(f"localStorage.setItem('datamount:work-key:{COURSE}', '{old}')")
        ada.open("lab/tree/lesson.ipynb")
        ada.type("\n# begun anew")
        ada.save()
        ada.page.wait_for_function(f"localStorage.getItem('datamount:work-key:{COURSE}') !== '{old}'")
        new = api.get("/resume").json()["key"]
        panel = ada.history_panel()
        others = panel.get_by_role("list", name="This browser remembers other work of yours in this course:")
        expect(others.locator("li")).to_have_count(1)
        others.scroll_into_view_if_needed()
        ada.shot("remembered")
        assert violations(ada, "#datamount-history") == []
        others.get_by_role("button", name="Show what it holds").click()
        ada.dialog().get_by_role("button", name="Bring it here").click()
        expect(ada.page.locator(".jp-Notebook .cm-content").first).to_contain_text("of old")
        ada.page.wait_for_function(f"localStorage.getItem('datamount:work-key:{COURSE}') === '{old}'")
        assert new in ada.page.evaluate(f"localStorage.getItem('datamount:earlier-keys:{COURSE}')")
        expect(others.locator("li")).to_have_count(1)


def test_a_share_is_read_only(
    anonymous: GatewaySite,
    tmp_path: Path,
    student: Callable[..., Student],
    violations: Callable[..., list[str]],
) -> None:
    """A share link is made, listed and ended. Opened in another session it is shown after a question; Save is off and
    says why; and the way back gives one's own files, also in the open document."""
    python = environment(*LAB)
    one, two = pods(tmp_path)
    with sidecar(one.folder, anonymous, "org-course-x1"), one.jupyter(python, "jupyterlab") as jupyter:
        ada = student(jupyter)
        ada.open("lab/tree/lesson.ipynb")
        ada.type("\n# of Ada")
        ada.save()
        ada.history()
        ada.page.get_by_role("button", name="Make a link").click()
        links = ada.page.get_by_role("list", name="Links that are valid")
        expect(links.locator("li")).to_have_count(1)
        expect(ada.page.get_by_text("https://hub.example.edu/dm/s/dms_")).to_be_visible()
        link = ada.page.get_by_text(
            "https://hub.example.edu/hub/user-redirect/lab?datamount=link#datamount=dms_"
        ).inner_text()
        ada.page.locator("#datamount-history").evaluate("panel => panel.scrollTo(0, panel.scrollHeight)")
        ada.shot("link")
        assert violations(ada, "#datamount-history") == []
        with sidecar(two.folder, anonymous, "org-course-x2"), two.jupyter(python, "jupyterlab") as other_jupyter:
            dark = {"raw": '{"theme": "JupyterLab Dark"}'}
            other_jupyter.http.put("/lab/api/settings/@jupyterlab/apputils-extension:themes", json=dark)
            bob = student(other_jupyter)
            bob.open("lab/tree/lesson.ipynb", key=link.rpartition("=")[2])
            bob.dialog().get_by_text("In place of my files").wait_for()
            bob.shot("question")
            assert violations(bob, ".jp-Dialog") == []
            bob.dialog().get_by_role("button", name="Show it").click()
            expect(bob.page.locator(".jp-Notebook .cm-content").first).to_contain_text("# of Ada")
            expect(bob.page.locator(".dm-State")).to_have_text("Read-only share")
            expect(bob.page.locator(".dm-Save")).to_be_disabled()
            assert "nothing is saved" in (bob.page.locator(".dm-Save").get_attribute("title") or "")
            bob.type("\n# tried by Bob")
            bob.history_panel()
            bob.shot("shown")
            assert violations(bob, ".dm-TopBar", "#datamount-history") == []
            bob.page.get_by_role("button", name="Back to my own files").click()
            expect(bob.page.locator(".dm-Save")).to_be_enabled()
            expect(bob.page.locator(".jp-Notebook .cm-content").first).not_to_contain_text("# of Ada")
            expect(bob.dialog()).to_have_count(0)
            assert "# of Ada" not in (two.work / "lesson.ipynb").read_text()
            tried = next(version for version in bob.versions() if "with changes made here" in version["message"])
            stored = bob.jupyter.datamount("GET", f"snapshots/{tried['id']}/files/lesson.ipynb")
            assert "# tried by Bob" in stored.text
            bob.shot("back")
            # Where a sign-in lost the key on the way, the link can be pasted.
            field = bob.history_panel().get_by_label("Link that somebody gave you")
            field.fill(link)
            bob.page.get_by_role("button", name="Show what it holds").click()
            bob.dialog().get_by_text("In place of my files").wait_for()
            bob.dialog().get_by_role("button", name="Not now").click()
        links.get_by_role("button", name="End the link").click()
        expect(links).to_have_count(0)


def test_links_on_the_page(
    anonymous: GatewaySite,
    tmp_path: Path,
    student: Callable[..., Student],
    violations: Callable[..., list[str]],
) -> None:
    """The page without JupyterLab offers what a link holds, shows a share read-only, and goes back."""
    python = environment(*LAB)
    one, two = pods(tmp_path)
    (one.work / "lesson.ipynb").write_text(notebook("answer = 'of Ada'"))
    with sidecar(one.folder, anonymous, "org-course-x1") as api:
        api.post("/snapshots", json={"message": "Exercise 1"})
        secret = api.post("/shares", json={}).json()["secret"]
    with sidecar(two.folder, anonymous, "org-course-x2"), two.jupyter(python, "jupyterlab") as jupyter:
        bob = student(jupyter)
        bob.open("datamount/", wait="#question[open]", key=secret)
        assert secret not in bob.page.url
        bob.shot("question")
        assert violations(bob) == []
        bob.page.get_by_role("button", name="Show it").click()
        expect(bob.page.locator("#state")).to_contain_text("Read-only share")
        expect(bob.page.get_by_role("button", name="Save now")).to_be_hidden()
        assert "of Ada" in (two.work / "lesson.ipynb").read_text()
        bob.shot("shown")
        bob.page.get_by_role("button", name="Back to my own files").click()
        bob.page.get_by_text("Your own files are back.").wait_for()
        assert "of Ada" not in (two.work / "lesson.ipynb").read_text()
        bob.page.get_by_role("button", name="Make a read-only link").click()
        bob.page.get_by_text(
            "https://hub.example.edu/hub/user-redirect/datamount/?datamount=link#datamount=dms_"
        ).wait_for()
        bob.shot("given")
        assert violations(bob) == []
