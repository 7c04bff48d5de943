"""The Save button in a real JupyterLab, in a real browser: the one browser test of every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.browser.session import Session, Student


def test_save_in_the_browser(course: Path, up: Callable[..., Session], student: Callable[..., Student]) -> None:
    """Edits in the browser are not called saved; Save writes them to the file, and then to the store."""
    session = up(course, "--save-after", "600")
    ada = student(session.open())
    ada.open("lab/tree/lesson.ipynb")
    ada.type("\n# edited in the browser")
    assert ada.state("pending") == "Unsaved edits in 1 open document"
    ada.save()
    assert "Saved to storage" in ada.state("good")
    assert "edited in the browser" in (course / "lesson.ipynb").read_text()
    newest = ada.versions()[0]
    assert newest["reason"] == "manual"
    stored = ada.jupyter.datamount("GET", f"snapshots/{newest['id']}/files/lesson.ipynb")
    assert "edited in the browser" in stored.text
    ada.shot("saved")
