"""The node cache on a file system that shares blocks between files (XFS), as many nodes have one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamount.course import read_course
from datamount.credentials import FileCredentials
from datamount.fetch import fetch
from datamount.fetch.cache import Cache
from tests import servers
from tests.folder_driver import World

SIZE = 24 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted XFS of 400 MB, made for this test."""
    if os.geteuid() != 0:
        servers.require("a file system of its own needs root (mount)")
    make = shutil.which("mkfs.xfs", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if make is None:
        servers.require("mkfs.xfs: apt-get install xfsprogs")
    image, place = tmp_path / "image", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(400 << 20)
    subprocess.run([make, "-q", "-m", "reflink=1", image], check=True, timeout=120)
    done = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, check=False, timeout=120)
    if done.returncode:
        servers.require(f"a loop device cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=120)


def used(disk: Path) -> int:
    subprocess.run(["sync", "--file-system", disk], check=True, timeout=120)  # not what others have to write
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_sessions_share_the_blocks_of_the_cache(disk: Path, tmp_path: Path) -> None:
    """Three sessions and the cache take the room of one; what a session writes, no other sees; damage is mended."""
    world = World(tmp_path / "source")
    content = os.urandom(SIZE)
    world.put("codes", {"big": content, "small": b"1"})
    (tmp_path / "course").mkdir()
    manifest = {"version": 1, "datasets": {"codes": {"s3": {"url": "s3://bucket/codes/"}}}}
    (tmp_path / "course/datamount.yaml").write_text(json.dumps(manifest))

    def session(name: str) -> Path:
        status = fetch(
            read_course(tmp_path / "course"),
            disk / name,
            tmp_path / name,
            credentials=FileCredentials(),
            opener=world,
            cache=Cache(disk / "cache"),
        )
        assert status.state == "ready"
        return disk / name / "codes/big"

    before = used(disk)
    places = [session(name) for name in ("one", "two", "three")]
    assert used(disk) - before < 1.5 * SIZE
    assert world.opened["codes/big"] == 1
    places[0].chmod(0o644)
    with places[0].open("r+b") as stream:
        stream.write(b"mine")
    assert places[1].read_bytes() == places[2].read_bytes() == session("four").read_bytes() == content
    kept = next(path for path in (disk / "cache/scopes").rglob("objects/*/*") if path.stat().st_size == SIZE)
    with kept.open("r+b") as stream:
        stream.write(b"torn")
    assert session("five").read_bytes() == content
    assert world.opened["codes/big"] == 2
