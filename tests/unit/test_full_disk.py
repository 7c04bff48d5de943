"""Saving to, and restoring on, a file system that is really full: nothing torn, nothing lost, and it goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamount.errors import DiskFull
from datamount.objectstore.folder import FolderStore
from datamount.session.homecoming import bring_home
from datamount.snapshots import Workspace, pristine
from datamount.snapshots.care import check
from tests import servers

LARGE = os.urandom(6 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        servers.require("a real full disk needs root (mount)")
    place = tmp_path / "disk"
    place.mkdir()
    mount("size=4m", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(options: str, place: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        servers.require(f"tmpfs cannot be mounted here: {done.stderr.decode().strip()}")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_on_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """A save for which the store's disk has no room says so and makes no version; what was saved before is whole, no
    part of an object stays, and with room again the same save holds everything."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    (work / "nb.ipynb").write_text("{}")
    workspace = Workspace(FolderStore(disk / "store"), "ada", "c")
    first = workspace.save(work, state_dir=tmp_path / "state").version
    assert first
    (work / "large.bin").write_bytes(LARGE)
    (work / "nb.ipynb").write_text('{"n": 1}')
    for _ in range(2):
        with pytest.raises(DiskFull):
            workspace.save(work, state_dir=tmp_path / "state")
    assert [info.id for info in Workspace(workspace.store, "ada", "c").versions()] == [first.id]
    workspace.restore(first.id, out)
    assert files(out) == {"nb.ipynb": b"{}"}
    assert sum(path.stat().st_size for path in disk.rglob("*") if path.is_file()) < 1 << 20
    mount("remount,size=32m", disk)
    assert workspace.save(work, state_dir=tmp_path / "state").created
    workspace.restore("latest", tmp_path / "again")
    assert files(tmp_path / "again") == files(work)
    assert [damage for checked in check(workspace.store) for damage in checked.damage] == []


@pytest.fixture
def saved(tmp_path: Path) -> Workspace:
    """Work with a file that is larger than the disk."""
    work = tmp_path / "work"
    (work / "src").mkdir(parents=True)
    for name, data in {"a.txt": b"a", "large.bin": LARGE, "src/z.txt": b"z"}.items():
        (work / name).write_bytes(data)
    workspace = Workspace(FolderStore(tmp_path / "store"), "ada", "c")
    workspace.save(work)
    return workspace


def test_a_restore_to_a_full_disk(disk: Path, tmp_path: Path, saved: Workspace) -> None:
    """It says so; what is there is whole, and with room again the rest comes."""
    into = disk / "out"
    with pytest.raises(DiskFull, match=r"no room to restore large\.bin"):
        saved.restore("latest", into)
    whole = files(tmp_path / "work")
    assert files(into).items() <= {name: data for name, data in whole.items() if name != "large.bin"}.items()
    mount("remount,size=32m", disk)
    assert not saved.restore("latest", into).failed
    assert files(into) == whole


def test_a_launch_on_a_full_disk(disk: Path, tmp_path: Path, saved: Workspace) -> None:
    """What the disk has no room for is named, and the versions of that session hold it all the same."""
    home = disk / "home"
    home.mkdir()
    pristine.record(home, tmp_path / "state")
    came = bring_home(saved, home, tmp_path / "state", fresh=True)
    assert came.report and "no room to restore" in came.report.failed["large.bin"]
    (home / "new.txt").write_text("of this session")
    saved.save(home, state_dir=tmp_path / "state")
    saved.restore("latest", tmp_path / "later")
    assert files(tmp_path / "later") == files(tmp_path / "work") | {"new.txt": b"of this session"}
