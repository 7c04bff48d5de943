"""Programs in the session put links where folders were, while we write there with rights that they do not have."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from datamount.errors import Refused
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace
from sidecar.session import Session
from sidecar.settings import Settings


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
        assert turn.wait(30)
        return workspace

    session = Session(settings, opened)
    assert saved.version is not None
    future = session.restore(saved.version.id, (), "old/beside")
    before = set(settings.state.rglob("*"))
    swap(settings.folder / "old", settings.state)
    turn.set()
    with pytest.raises(Refused, match="old is a link"):
        future.result(30)
    assert session.close()
    added = {path.name for path in set(settings.state.rglob("*")) - before}
    assert not added & {"beside", "usercustomize.py"}


def test_a_link_that_stays_is_a_folder_like_any(settings: Settings, tmp_path: Path) -> None:
    """A restore into a link of the student's to another folder of theirs works."""
    (settings.folder / "short").symlink_to("old")
    workspace = Workspace(FolderStore(tmp_path / "store"), "ada", "c")
    session = Session(settings, lambda: workspace)
    saved = session.save().result(30)
    assert saved.version is not None
    _, report = session.restore(saved.version.id, ("usercustomize.py",), "short").result(30)
    assert report.restored == ("usercustomize.py",)
    assert (settings.folder / "old/usercustomize.py").read_text() == "the student's own code"
    session.close()
