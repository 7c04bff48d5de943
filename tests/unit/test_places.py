"""Where a course's data, run files and state are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from datamount.session import places as module
from datamount.session.places import HOME_VARIABLE, places


@dataclass(frozen=True)
class Named:
    identity: str
    name: str


COURSE = Named("https://github.com/org/Course 101", "Course 101")


def test_each_course_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two courses of one name do not share data; one course always has the same places."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    one, other = places(COURSE), places(Named("https://gitlab.com/x/course-101", "Course 101"))
    assert one.data.parent.parent == tmp_path / "courses"
    assert one.data.parent.name.startswith("course-101-")
    assert one == places(COURSE)
    assert {one.data, one.run, one.state}.isdisjoint({other.data, other.run, other.state})
    assert not (tmp_path / "courses").exists()


def test_given_folders_win(tmp_path: Path) -> None:
    """--data and --run are used as given, made absolute."""
    found = places(COURSE, tmp_path / "d", Path("r"))
    assert (found.data, found.run) == (tmp_path / "d", Path.cwd() / "r")


def test_a_pod_has_the_contracts_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod whose volumes can be written they are the places; without them, or with $DATAMOUNT_HOME, not."""
    data, run = tmp_path / "data", tmp_path / "run"
    monkeypatch.setattr(module.names, "DATA_DIR", str(data))
    monkeypatch.setattr(module.names, "RUN_DIR", str(run))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert places(COURSE).data != data
    data.mkdir()
    run.mkdir()
    assert (places(COURSE).data, places(COURSE).run) == (data, run)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    assert places(COURSE).data != data
