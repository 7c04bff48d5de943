"""A launch that could not bring the saved work back must not end in a newest version without it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from datamount.errors import Unavailable
from datamount.objectstore import ObjectStore, open_store
from datamount.session.homecoming import bring_home, newest_of
from datamount.session.settling import Settling
from datamount.snapshots import RestoreReport, Workspace, pristine
from sidecar.__main__ import HOME_TRIES, make_session
from sidecar.session import Session
from sidecar.settings import Settings
from tests.stores import Wrapped

T = TypeVar("T")


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
            session.save().result(100)
    result = session.save().result(100)
    assert result.version is not None
    kept = {entry.path for entry in workspace.version("latest").entries}
    assert {"course.txt", "notes.txt", "new.txt"} <= kept
    assert (tmp_path / "home" / "notes.txt").read_text() == "mine\n"
    assert (tmp_path / "home" / "new.txt").read_text() == "written in this session\n"
    session.close()


class Cut(Wrapped):
    """A store that answers about versions, and with no content after the first so many `pieces`."""

    def __init__(self, inner: ObjectStore, pieces: float) -> None:
        super().__init__(inner)
        self.pieces = pieces

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        if name in ("get", "stream") and "/versions/" not in key:
            if self.pieces <= 0:
                raise Unavailable("the store does not answer.", transient=True)
            self.pieces -= 1
        return do()


def paths(workspace: Workspace) -> dict[str, bytes]:
    version = workspace.version("latest")
    return {e.path: b"".join(workspace.read(version, e.path)) for e in version.entries}


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_store_that_goes_away_in_the_middle(tmp_path: Path, workspace: Workspace, pieces: int) -> None:
    """While part of the saved work has not come, no version is made that would lack it; it comes when the store is
    there again, beside what was written meanwhile."""
    (tmp_path / "earlier" / "large.bin").write_bytes(bytes(range(256)) * (20 << 10))
    (tmp_path / "earlier" / "course.txt").write_text("shipped, and worked on\n")
    workspace.save(tmp_path / "earlier", state_dir=tmp_path / "earlier-state")
    before = paths(workspace)
    cut = Cut(workspace.store, pieces)
    session = relaunched(tmp_path, Workspace(cut, workspace.owner, workspace.course), failures=0)
    pristine.record(tmp_path / "home", tmp_path / "state")
    for _ in range(2):
        with pytest.raises(Unavailable, match="not back yet"):
            session.save().result(100)
    (tmp_path / "home" / "meanwhile.txt").write_text("typed\n")
    cut.pieces = math.inf
    session.save().result(100)
    kept = paths(workspace)
    assert before.items() <= kept.items()
    assert (kept["new.txt"], kept["meanwhile.txt"]) == (b"written in this session\n", b"typed\n")
    session.close()


def test_a_session_that_ends_before_the_work_is_back(tmp_path: Path, workspace: Workspace) -> None:
    """What such a session found in its folder is a version, newer than the work. The next launch brings the work all
    the same, and says where the other is. Going back to a version by hand is not taken for that."""
    work = workspace.version("latest").info.id
    session = relaunched(tmp_path, Workspace(Cut(workspace.store, 0), workspace.owner, workspace.course), failures=0)
    with pytest.raises(Unavailable, match="not back yet"):
        session.save().result(100)
    found = workspace.version("latest").info.id
    assert found != work
    home = tmp_path / "another"
    home.mkdir()
    (home / "course.txt").write_text("shipped\n")
    pristine.record(home, tmp_path / "another-state")
    came = bring_home(workspace, home, tmp_path / "another-state", fresh=True)
    assert (came.version and came.version.info.id, came.cut_off) == (work, found)
    assert (home / "notes.txt").read_text() == "mine\n"
    (home / "notes.txt").write_text("edited\n")
    workspace.save(home, reason="auto", message=f"Before going back to {work}", state_dir=tmp_path / "another-state")
    assert newest_of(workspace).cut_off is None


def test_a_folder_that_has_the_work_already(tmp_path: Path, workspace: Workspace) -> None:
    """Where the work that comes home changes nothing, the folder as it is stays the newest, with what is only there."""
    home = tmp_path / "home"
    home.mkdir()
    files = {"course.txt": "shipped\n", "notes.txt": "mine\n", "new.txt": "only here\n"}
    for name, text in files.items():
        (home / name).write_text(text)
    assert bring_home(workspace, home, tmp_path / "state").saved_before
    newest = newest_of(workspace)
    assert newest.version and newest.cut_off is None
    assert newest.version.by_path().keys() == files.keys()


def test_what_never_comes_does_not_stop_saving(tmp_path: Path, workspace: Workspace) -> None:
    """After a few tries what came has to do, and new work is saved again."""
    session = relaunched(tmp_path, Workspace(Cut(workspace.store, 0), workspace.owner, workspace.course), failures=0)
    for _ in range(HOME_TRIES):
        with pytest.raises(Unavailable, match="not back yet"):
            session.save().result(100)
    session.save().result(100)
    assert paths(workspace)["new.txt"] == b"written in this session\n"
    session.close()


def test_saved_work_comes_without_being_asked_for(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose store did not answer at first brings the work back by itself, with nothing changed or clicked."""
    monkeypatch.setattr("sidecar.session.AGAIN", 0.05)
    session = relaunched(tmp_path, workspace, failures=2)
    session.start()
    until = time.monotonic() + 100
    while session.state().state != "saved" and time.monotonic() < until:
        time.sleep(0.02)
    assert (session.state().state, session.state().error) == ("saved", None)
    assert (tmp_path / "home" / "notes.txt").read_text() == "mine\n"
    session.close()


def test_what_is_written_while_work_comes_back_stays(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the student saves between the decision and its replacement is not replaced: it is decided anew."""
    (tmp_path / "earlier" / "course.txt").write_text("mine, of the time before\n")
    workspace.save(tmp_path / "earlier", state_dir=tmp_path / "earlier-state")
    session = relaunched(tmp_path, workspace, failures=0)
    original, edits = Settling.run, ["mine, typed just now\n"]

    def meanwhile(self: Settling) -> RestoreReport:
        if edits:
            (tmp_path / "home" / "course.txt").write_text(edits.pop())
        return original(self)

    monkeypatch.setattr(Settling, "run", meanwhile)
    with pytest.raises(Unavailable, match=r"course\.txt is left as it is"):
        session.save().result(100)
    assert (tmp_path / "home" / "course.txt").read_text() == "mine, typed just now\n"
    session.save().result(100)
    kept = {path: data for path, data in paths(workspace).items() if path.startswith("course")}
    assert set(kept.values()) == {b"mine, of the time before\n", b"mine, typed just now\n"}
    session.close()


def test_a_fault_of_ours_does_not_stop_saving(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that cannot be brought back for another reason than the store never keeps new work from being saved."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("sidecar.__main__.bring_home", broken)
    session = relaunched(tmp_path, workspace, failures=0)
    session.save().result(100)
    assert "new.txt" in {entry.path for entry in workspace.version("latest").entries}
    session.close()


def test_what_is_written_while_the_work_is_looked_up_stays(tmp_path: Path, workspace: Workspace) -> None:
    """A course's file that the student changes while the store is asked is the student's by then: it is not taken for
    the course's, and not replaced without a version."""
    (tmp_path / "earlier" / "course.txt").write_text("mine, of the time before\n")
    workspace.save(tmp_path / "earlier", state_dir=tmp_path / "earlier-state")
    home = tmp_path / "home"
    typed = ["mine, typed just now\n"]

    class Typing(Wrapped):
        def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
            if name == "get" and "/versions/" in key and typed:
                (home / "course.txt").write_text(typed.pop())
            return do()

    home.mkdir()
    (home / "course.txt").write_text("shipped\n")
    pristine.record(home, tmp_path / "state")
    bring_home(Workspace(Typing(workspace.store), workspace.owner, workspace.course), home, tmp_path / "state")
    texts = {path.read_text() for path in home.glob("course*.txt")}
    assert texts == {"mine, of the time before\n", "mine, typed just now\n"}
