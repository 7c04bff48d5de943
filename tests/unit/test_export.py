"""Saved work as plain files, with its history."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace
from datamount.snapshots.export import write_history, write_history_zip

LARGE = os.urandom(5 << 20)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three versions: a file that changes, a large and a small one that do not, a link, and an odd name."""
    workspace = Workspace(FolderStore(tmp_path / "store"), "ann", "course")
    work = tmp_path / "work"
    (work / "deep" / "empty").mkdir(parents=True)
    (work / "deep" / "large.bin").write_bytes(LARGE)
    (work / os.fsdecode(b"odd\xff")).write_text("odd")
    (work / "link").symlink_to("/etc")
    for n in range(3):
        (work / "a.txt").write_text(str(n))
        workspace.save(work, message=f"number {n}")
    return workspace


def versions(into: Path) -> list[Path]:
    return [into / v["folder"] for v in json.loads((into / "history.json").read_text())["versions"]]


def test_every_version_is_a_folder(workspace: Workspace, tmp_path: Path) -> None:
    """Each version is there whole, oldest first, described, and what did not change is one file on the disk."""
    assert write_history(workspace, tmp_path / "out") == {}
    folders = versions(tmp_path / "out")
    assert [folder.name[19:] for folder in folders] == [v.id for v in reversed(workspace.versions())]
    assert [(folder / "a.txt").read_text() for folder in folders] == ["0", "1", "2"]
    for folder in folders:
        assert (folder / "deep/large.bin").read_bytes() == LARGE
        assert (folder / os.fsdecode(b"odd\xff")).read_text() == "odd"
        assert (folder / "deep/empty").is_dir() and os.readlink(folder / "link") == "/etc"  # noqa: PTH115
    assert len({(folder / "deep/large.bin").stat().st_ino for folder in folders}) == 1
    assert len({(folder / "a.txt").stat().st_ino for folder in folders}) == 3


def test_what_is_damaged_is_named_and_the_rest_is_there(workspace: Workspace, tmp_path: Path) -> None:
    """A file that cannot be read is missing in the versions that have it, with the reason; so is a whole version."""
    newest, middle, oldest = workspace.versions()
    blob = next(o.key for o in workspace.store.list(workspace.prefix) if "/blobs/" in o.key)
    workspace.store.put(blob, b"damaged")
    workspace.store.put(workspace.key(middle.id), b"{")
    missing = write_history(Workspace(workspace.store, "ann", "course"), tmp_path / "out")
    lost = [path for path in missing if path.endswith("deep/large.bin")]
    assert len(lost) == 2 and set(missing) - set(lost) == {f"versions/{middle.id}"}
    told = json.loads((tmp_path / "out/history.json").read_text())["versions"]
    assert [(v["id"], list(v["missing"])) for v in told] == [(v.id, ["deep/large.bin"]) for v in (oldest, newest)]
    assert [(folder / "a.txt").read_text() for folder in versions(tmp_path / "out")] == ["0", "2"]


def test_a_link_of_the_student_leads_nowhere(workspace: Workspace, tmp_path: Path) -> None:
    """A version in which a folder's place is taken by a link to elsewhere writes nothing there."""
    work, outside = tmp_path / "work", tmp_path / "outside"
    outside.mkdir()
    raw = workspace.store.get(workspace.key(workspace.versions()[0].id))
    evil = raw.replace(b'"path":"deep/large.bin"', b'"path":"link/large.bin"')
    evil = evil.replace(b'"/etc"', f'"{outside}"'.encode())
    assert evil.count(b"outside") == 1 and b"link/large.bin" in evil
    workspace.store.put(workspace.key(workspace.versions()[0].id), evil)
    write_history(workspace, tmp_path / "out")
    assert list(outside.iterdir()) == [] and work.is_dir()


def test_the_zip_holds_the_same(workspace: Workspace, tmp_path: Path) -> None:
    """The zip has the same folders, files and description."""
    write_history(workspace, tmp_path / "out")
    assert write_history_zip(workspace, tmp_path / "all.zip") == {}
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("history.json") == (tmp_path / "out/history.json").read_bytes()
        for folder in versions(tmp_path / "out"):
            name = f"versions/{folder.name}"
            assert archive.read(f"{name}/a.txt") == (folder / "a.txt").read_bytes()
            assert archive.read(f"{name}/deep/large.bin") == LARGE
