"""What may be written where a volume of the pod is smaller than its disk: Kubernetes ends a pod that goes over it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from datamount import names, room
from datamount.errors import DiskFull
from datamount.fetch import space
from datamount.fetch.space import Space
from datamount.inject.settings import in_bytes
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace, pack

MIB = 1 << 20


def fill(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))


def test_a_volume_is_full_before_its_disk(tmp_path: Path) -> None:
    """What is free in a bounded volume is its size, less what is in it and a little; elsewhere what the disk has."""
    data, state = tmp_path / "data", tmp_path / "state"
    fill(data / "a/b", 3 * MIB)
    fill(state / "tmp/c", MIB)
    (data / "away").symlink_to("/")
    told = {names.ENV_DATA: str(data), names.ENV_STATE: str(state)}
    told |= {names.ENV_DATA_BYTES: str(32 * MIB), names.ENV_STATE_BYTES: "not known"}
    assert 27 * MIB < room.free(data / "a", told) < 29 * MIB
    assert room.free(state, told) > 100 * MIB
    told[names.ENV_STATE_BYTES] = str(MIB)
    assert room.free(state / "tmp", told) < 0
    assert room.free(tmp_path, told) > 100 * MIB


def test_data_that_goes_over_its_volume_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets whose sizes are known are refused before they are fetched, one whose size nobody knew while it comes: a
    pod that is ended for its data never opens."""
    monkeypatch.setenv(names.ENV_DATA, str(tmp_path))
    monkeypatch.setenv(names.ENV_DATA_BYTES, str(200 * MIB))
    monkeypatch.setattr(space, "LOOK_SECONDS", 0.0)
    known = Space(tmp_path)
    known.reserve("one", 100 * MIB)
    with pytest.raises(DiskFull, match="needs 105 MB"):
        known.reserve("two", 100 * MIB)
    monkeypatch.setattr(space, "LOOK_SECONDS", 1000.0)
    unknown = Space(tmp_path)
    unknown.reserve("table", 0)
    unknown.unplanned("table", 150 * MIB)
    unknown.unplanned("table", -150 * MIB)  # the connection broke, and it begins anew
    for _ in range(192):
        unknown.unplanned("table", MIB)
    with pytest.raises(DiskFull):
        for _ in range(8):
            unknown.unplanned("table", MIB)


def test_a_large_file_is_saved_without_a_copy_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would not fit beside it is not compressed on the way, and is saved all the same."""
    content = b"line\n" * (2 * MIB)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/log.txt").write_bytes(content)
    monkeypatch.setenv(names.ENV_STATE, str(tmp_path / "state"))
    monkeypatch.setenv(names.ENV_STATE_BYTES, str(16 * MIB))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(pack, "_compressible", lambda _: pytest.fail("it would be compressed into a copy"))
    workspace = Workspace(FolderStore(tmp_path / "store"), "ada", "c")
    version = workspace.save(tmp_path / "work").version
    assert version is not None
    assert b"".join(workspace.read(workspace.version(version.id), "log.txt")) == content


QUANTITIES = [("20Gi", 20 << 30), ("1.5G", 1_500_000_000), (100, 100), ("5m", 0), ("2e9", 2 * 10**9), ("x", None)]


@pytest.mark.parametrize(
    ("quantity", "size"), [*QUANTITIES, (None, None), ({}, None), ("-1", None), (-1, None), ("9" * 99, None)]
)
def test_a_quantity_in_bytes(quantity: object, size: int | None) -> None:
    """Sizes of volumes are counted as Kubernetes counts them."""
    assert in_bytes(quantity) == size
