"""How `datamount up` finds its course."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datamount.errors import UsageError
from datamount.session.opening import open_leniently


def publish(folder: Path, text: str) -> str:
    """The URL of a new repo named "course"."""
    repo = folder / "course"
    repo.mkdir(parents=True)
    (repo / "datamount.yaml").write_text("version: 1\n")
    (repo / "lesson.txt").write_text(text)
    for step in (["init", "-q"], ["add", "."], ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "1"]):
        subprocess.run(["git", "-C", str(repo), *step], check=True)
    return repo.as_uri()


def test_a_clone_of_another_course_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second `up URL` finds its clone again, with the work in it; a URL of another repo of that name never does."""
    ours, others = publish(tmp_path / "ours", "ours"), publish(tmp_path / "others", "others")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    said: list[str] = []
    course, fault = open_leniently(ours, said.append)
    assert fault is None
    (here / "course/lesson.txt").write_text("my answer")
    assert open_leniently(ours, said.append)[0] == course
    assert (here / "course/lesson.txt").read_text() == "my answer"
    assert [line.split()[0] for line in said] == ["cloning", "found"]
    with pytest.raises(UsageError, match="no clone of"):
        open_leniently(others, said.append)


def test_a_clone_that_was_killed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a SIGKILL in the middle of a clone the next `up URL` opens the whole course."""
    url = publish(tmp_path / "ours", "ours")
    deadly = tmp_path / "bin/git"
    deadly.parent.mkdir()
    deadly.write_text(
        f'#!/bin/sh\ncase "$*" in *checkout*) kill -9 $PPID; exit 1; esac\nexec {shutil.which("git")} "$@"\n'
    )
    deadly.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    program = "import sys; from datamount.session.opening import open_leniently as o; o(sys.argv[1], print)"
    environment = os.environ | {"PATH": f"{deadly.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", program, url], cwd=here, env=environment, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL
    monkeypatch.chdir(here)
    course, fault = open_leniently(url, print)
    assert fault is None
    assert (course.folder / "lesson.txt").read_text() == "ours"
