"""Programs in the session put links where folders were, while we write there with rights that they do not have."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from datamount.errors import Refused
from datamount.objectstore.folder import FolderStore
from datamount.session import changing
from datamount.snapshots import Workspace
from sidecar.session import Session
from sidecar.settings import Settings
from sidecar.showing import remove_added


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("work/old", "run", "state"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work/usercustomize.py").write_text("the student's own code")
    return Settings(
        folder=tmp_path / "work",
        run=tmp_path / "run",
        state=tmp_path / "state",
        store="",
        owner="ada",
        course="c",
        autosave=False,
    )


def swap(folder: Path, target: Path) -> None:
    folder.rmdir()
    folder.symlink_to(target)


def test_a_restore_stays_in_the_folder_that_was_checked(settings: Settings, tmp_path: Path) -> None:
    """A folder that becomes a link between the request and its turn leads no restored file out of the student's: not
    to the sidecar's state, where a program of theirs would run beside its token."""
    workspace = Workspace(FolderStore(tmp_path / "store"), "ada", "c")
    saved = workspace.save(settings.folder)
    turn = threading.Event()

    def opened() -> Workspace:
        assert turn.wait(100)
        return workspace

    session = Session(settings, opened)
    assert saved.version is not None
    future = session.restore(saved.version.id, (), "old/beside")
    before = set(settings.state.rglob("*"))
    swap(settings.folder / "old", settings.state)
    turn.set()
    with pytest.raises(Refused, match="old is a link"):
        future.result(100)
    assert session.close()
    added = {path.name for path in set(settings.state.rglob("*")) - before}
    assert not added & {"beside", "usercustomize.py"}


def test_a_link_that_stays_is_a_folder_like_any(settings: Settings, tmp_path: Path) -> None:
    """A restore into a link of the student's to another folder of theirs works."""
    (settings.folder / "short").symlink_to("old")
    workspace = Workspace(FolderStore(tmp_path / "store"), "ada", "c")
    session = Session(settings, lambda: workspace)
    saved = session.save().result(100)
    assert saved.version is not None
    _, report = session.restore(saved.version.id, ("usercustomize.py",), "short").result(100)
    assert report.restored == ("usercustomize.py",)
    assert (settings.folder / "old/usercustomize.py").read_text() == "the student's own code"
    session.close()


def test_what_comes_home_late_follows_no_link(tmp_path: Path) -> None:
    """While work comes home into a running session, a folder that became a link leads no change out, and nothing in."""
    home, token = tmp_path / "home", tmp_path / "secrets/token"
    home.mkdir()
    token.parent.mkdir()
    token.write_text("the sidecar's")
    (home / "own.txt").write_text("mine")
    (home / "x").symlink_to(token.parent)
    (home / "y").symlink_to(token)
    for path in ("x/token", "y"):
        with pytest.raises(OSError):
            changing.read(home, path)
    with pytest.raises(OSError):
        changing.copy(home, "x/token", "copy")
    with pytest.raises(Refused):
        changing.copy(home, "own.txt", "x/token")
    with pytest.raises(Refused):
        changing.write(home, "x/token", b"theirs", 0o644)
    with pytest.raises(Refused):
        changing.remove(home, "x/token")
    assert sorted(path.name for path in home.iterdir()) == ["own.txt", "x", "y"]
    changing.copy(home, "y", "z/y")
    changing.write(home, "y", b"mine now", 0o644)
    changing.remove(home, "z/y")
    assert (token.read_text(), (home / "y").read_text()) == ("the sidecar's", "mine now")
    assert list(token.parent.iterdir()) == [token]
    assert not (home / "z").exists()


def test_the_list_of_what_was_shown_removes_nothing_elsewhere(tmp_path: Path) -> None:
    """The student's own list of a shared version's files, whatever it says, removes only files of theirs."""
    for path in ("home/a/shown.txt", "home/own.txt", "outside.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "home/x").symlink_to(tmp_path)
    added = ["a/shown.txt", "../outside.txt", "x/outside.txt", "a/../../outside.txt", "none.txt", "/outside.txt", ""]
    assert remove_added(tmp_path / "home", added) == ["a/shown.txt"]
    assert (tmp_path / "outside.txt").exists()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["own.txt", "x"]
