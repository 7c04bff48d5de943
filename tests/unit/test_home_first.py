"""A launch that could not bring the saved work back must not end in a newest version without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamount.errors import Unavailable
from datamount.objectstore import open_store
from datamount.snapshots import Workspace, pristine
from sidecar.__main__ import make_session
from sidecar.session import Session
from sidecar.settings import Settings


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace whose newest version has the student's notes beside the course's own file."""
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "course.txt").write_text("shipped\n")
    pristine.record(earlier, tmp_path / "earlier-state")
    (earlier / "notes.txt").write_text("mine\n")
    workspace = Workspace(open_store((tmp_path / "store").as_uri()), "ann", "course")
    workspace.save(earlier, state_dir=tmp_path / "earlier-state")
    return workspace


def relaunched(tmp_path: Path, workspace: Workspace, *, failures: int) -> Session:
    """The session of a new folder with the course alone, whose store fails so often before it answers."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "course.txt").write_text("shipped\n")
    (folder / "new.txt").write_text("written in this session\n")
    left = [failures]

    def opened(_: Settings) -> Workspace:
        if left[0]:
            left[0] -= 1
            raise Unavailable("the store did not answer.", transient=True)
        return workspace

    settings = Settings(
        folder=folder,
        run=tmp_path / "run",
        state=tmp_path / "state",
        store="file:///unused",
        owner="ann",
        course="course",
        autosave=False,
        home_first=True,
    )
    return make_session(settings, opened)


@pytest.mark.parametrize("failures", [0, 1])
def test_the_first_save_has_the_earlier_work(tmp_path: Path, workspace: Workspace, failures: int) -> None:
    """The version that follows holds what was saved before and what is new, and both are in the folder."""
    session = relaunched(tmp_path, workspace, failures=failures)
    for _ in range(failures):
        with pytest.raises(Unavailable):
            session.save().result(30)
    result = session.save().result(30)
    assert result.version is not None
    kept = {entry.path for entry in workspace.version("latest").entries}
    assert {"course.txt", "notes.txt", "new.txt"} <= kept
    assert (tmp_path / "home" / "notes.txt").read_text() == "mine\n"
    assert (tmp_path / "home" / "new.txt").read_text() == "written in this session\n"
    session.close()


def test_a_fault_of_ours_does_not_stop_saving(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that cannot be brought back for another reason than the store never keeps new work from being saved."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sidecar.__main__.bring_home", broken)
    session = relaunched(tmp_path, workspace, failures=0)
    session.save().result(30)
    assert "new.txt" in {entry.path for entry in workspace.version("latest").entries}
    session.close()
