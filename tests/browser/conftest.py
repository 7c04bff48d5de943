"""Debian's Chromium, a published course, and sessions on it. Pictures of every state go to tests/output/browser/."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests import servers
from tests.browser.session import Session, Student, notebook

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "sidecar/jupyter/lab/node_modules/axe-core/axe.min.js"
# A busy machine takes its time; nothing here is a measurement.
expect.set_options(timeout=60_000)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
MANIFEST = """\
version: 1
datasets:
  glossary:
    title: Words of radiology
    license: CC-BY-4.0
    citation: https://doi.org/10.1000/glossary
    url: "file://{source}/glossary.csv"
  broken: {{url: "file://{source}/none.csv"}}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A running Chromium. Not of the whole run: Playwright's event loop would keep other tests from having theirs."""
    program = servers.program("chromium", hint="apt-get install chromium")
    if not (ROOT / "sidecar/jupyter/labextension/package.json").is_file():
        servers.require("the Lab extension is not built: make labextension")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield running
        running.close()


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A published course as a student clones it."""
    source, origin = tmp_path / "source", tmp_path / "origin"
    for folder in (source, origin):
        folder.mkdir()
    (source / "glossary.csv").write_text("term,meaning\n")
    (origin / "datamount.yaml").write_text(MANIFEST.format(source=source))
    (origin / "lesson.ipynb").write_text(notebook("answer = 1", "print('course')"))
    (origin / "notes.txt").write_text("notes of the course\n")
    publish(origin)
    return clone(tmp_path)


def publish(origin: Path) -> None:
    """Commit what is in the course's repository."""
    git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *step], check=True)


def clone(folder: Path, *, anew: bool = False) -> Path:
    """The course in an empty folder of its own."""
    target = folder / "course"
    if anew:
        shutil.rmtree(target)
    subprocess.run(["git", "clone", "-q", str(folder / "origin"), str(target)], check=True)
    return target


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Start sessions; whatever of them is left is killed at the end."""
    started: list[Session] = []

    def start(*arguments: Any, **options: Any) -> Session:
        started.append(Session(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for session in started:
        session.kill()


@pytest.fixture
def student(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Student]]:
    """Open tabs, each in a browser profile of its own unless a `context` is given; script errors fail the test."""
    shots = ROOT / "tests/output/browser" / re.sub(r"\W+", "-", request.node.name).strip("-")
    shots.mkdir(parents=True, exist_ok=True)
    faults: list[str] = []
    contexts = []

    def enter(jupyter: Any, *, context: Any = None, **options: Any) -> Student:
        if context is None:
            options = {"viewport": {"width": 1360, "height": 850}} | options
            context = browser.new_context(**options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        return Student(page, jupyter, shots)

    yield enter
    for context in contexts:
        context.close()
    assert not [fault for fault in faults if "datamount" in fault or "dm-" in fault], faults


@pytest.fixture
def violations() -> Callable[..., list[str]]:
    """Run axe-core over parts of a page: what it finds serious or critical."""

    def run(student: Student, *parts: str) -> list[str]:
        # Not a script tag: the page's own policy would refuse it, and should.
        student.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = student.page.evaluate("parts => axe.run(parts.length ? {include: parts} : document)", list(parts))
        return [
            json.dumps({"rule": item["id"], "nodes": [node["html"] for node in item["nodes"]], "help": item["help"]})
            for item in found["violations"]
            if item["impact"] in ("serious", "critical")
        ]

    return run
