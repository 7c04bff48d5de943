"""Where a course's data, run files and state are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from datamount.course import read_course
from datamount.session import places as module
from datamount.session.places import HOME_VARIABLE, apart, keep, places


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


def test_two_folders_of_one_name_are_two_courses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two plain folders of one name the first that was opened keeps it, wherever it moves; the other is numbered."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    for place in ("autumn", "spring"):
        (tmp_path / place / "homework").mkdir(parents=True)
        (tmp_path / place / "homework/datamount.yaml").write_text("version: 1\n")
    first, second = (read_course(tmp_path / place / "homework") for place in ("autumn", "spring"))
    assert first.identity == second.identity == apart(second).identity
    keep(first)
    assert apart(first) == first
    assert apart(second).identity == "homework (2)"
    assert places(apart(second)).data != places(first).data
    keep(apart(second))
    assert apart(second).identity == "homework (2)"
    (tmp_path / "winter").mkdir()
    (tmp_path / "autumn/homework").rename(tmp_path / "winter/homework")
    assert apart(second).identity == "homework (2)"
    assert apart(read_course(tmp_path / "winter/homework")).identity == "homework"
