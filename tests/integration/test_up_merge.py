"""`datamount up` of a course that has changed: new data, new files, and the student's work, all there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_up import Up

MANIFEST = 'version: 1\ndatasets:\n  glossary: {{url: "file://{source}/{name}"}}\n'


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path, tmp_path / "course"))
        return started[-1]

    yield start
    for session in started:
        session.kill_all()


def publish(folder: Path, files: dict[str, str]) -> None:
    """Commit to the course, and clone it anew as on another machine."""
    origin = folder / "origin"
    origin.mkdir(exist_ok=True)
    git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for path, text in files.items():
        (origin / path).write_text(text)
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *step], check=True)
    shutil.rmtree(folder / "course", ignore_errors=True)
    shutil.rmtree(folder / "home", ignore_errors=True)
    subprocess.run(["git", "clone", "-q", str(origin), str(folder / "course")], check=True)


def test_a_newer_course_brings_its_own_manifest(tmp_path: Path, up: Callable[[], Up]) -> None:
    """Data comes by the course's new manifest, not by the saved one; the report is in the API and is said."""
    source, course = tmp_path / "source", tmp_path / "course"
    source.mkdir()
    (source / "old.csv").write_text("old\n")
    (source / "new.csv").write_text("new\n")
    lines = "".join(f"line {n}\n" for n in range(9))
    publish(tmp_path, {"datamount.yaml": MANIFEST.format(source=source, name="old.csv"), "lesson.txt": lines})
    first = up()
    jupyter = first.open()
    (course / "lesson.txt").write_text(lines.replace("line 1\n", "my answer\n"))
    assert jupyter.datamount("POST", "snapshots", json={}).status_code == 201
    assert jupyter.datamount("GET", "merge").json() == {"report": None, "markdown": None}
    first.kill_all()

    manifest = MANIFEST.format(source=source, name="new.csv")
    publish(tmp_path, {"datamount.yaml": manifest, "lesson.txt": lines.replace("line 7\n", "line seven\n")})
    second = up()
    jupyter = second.open()
    assert (course / "datamount.yaml").read_text() == manifest
    assert (course / "data/glossary/new.csv").read_text() == "new\n"
    merged = lines.replace("line 1\n", "my answer\n").replace("line 7\n", "line seven\n")
    assert (course / "lesson.txt").read_text() == merged
    report: dict[str, Any] = jupyter.datamount("GET", "merge").json()["report"]
    assert {file["path"]: file["kind"] for file in report["files"]} == {
        "datamount.yaml": "updated",
        "lesson.txt": "merged",
    }
    assert "The course has changed since you saved" in second.text()
    assert second.stop() == 0
