"""datamount.lock as a file: what is read of it, and that reading it takes little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamount.errors import ManifestError
from datamount.fetch.locked import PAGE, LockedObject, LockedObjects
from datamount.fetch.pins import LockEntry, LockFile, dump, read_lock, write_lock


def locked(count: int) -> LockedObjects:
    return LockedObjects.of(
        LockedObject(f"d/f{n:06} ü", n, f"{n:064x}", f"etag-{n}:", {"key": f"in/d/f{n:06} ü", "etag": f"etag-{n}"})
        for n in range(count)
    )


def lock_of(count: int) -> LockFile:
    """Datasets of several kinds, one of them with so many objects."""
    return LockFile(
        datasets={
            "codes": LockEntry(kind="s3", declaration="a" * 64, pin={"bucket": "b"}, objects=locked(count)),
            "labels": LockEntry(kind="quilt", declaration="b" * 64, pin={"top_hash": "c" * 64}),
            "none": LockEntry(kind="s3", declaration="d" * 64, pin={"bucket": "b"}, objects=LockedObjects()),
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "datamount.lock"


@pytest.mark.parametrize("count", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_what_is_written_is_read(path: Path, count: int) -> None:
    """A lock read back is the lock that was written, and JSON with a line for each object."""
    lock = lock_of(count)
    write_lock(path, lock)
    assert read_lock(path) == lock
    text = path.read_text()
    assert sum('"path"' in line for line in text.splitlines()) == count
    assert b"".join(dump(read_lock(path))).decode() == text
    rows = json.loads(text)["datasets"]["codes"]["objects"]
    assert [row["path"] for row in rows] == [found.path for found in locked(count)]


@pytest.mark.parametrize(
    "write",
    [
        lambda lock: json.dumps(lock),
        lambda lock: json.dumps(lock, indent=2),
        lambda lock: json.dumps(lock, indent=4, ensure_ascii=False).replace("\n", "\r\n"),
        lambda lock: json.dumps({"datasets": lock["datasets"], "version": 1}, indent=1),
    ],
)
def test_any_json_will_do(path: Path, write: Callable[[Any], str]) -> None:
    """A lock that a formatter or an author has written otherwise, in any order, says the same."""
    write_lock(path, lock_of(3))
    document = json.loads(path.read_text())
    document["datasets"]["codes"]["objects"].reverse()
    path.write_text(write(document))
    assert read_lock(path) == lock_of(3)


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ('"size": 1}', '"size": -1}', r"datasets\.codes\.objects\.1\.size: .* greater than or equal to 0"),
        ('"size": 1}', '"size": 1, "more": 2}', r"datasets\.codes\.objects\.1\.more"),
        ('"identity": "etag-1:", ', "", r"datasets\.codes\.objects\.1\.identity: Field required"),
        ("f000001", "f000000", r"datasets\.codes\.objects: .*stands twice"),
        ("},\n    {", "}\n    {", "Invalid JSON"),
        ("}\n   ]", "},\n   ]", "Invalid JSON"),
        ("    {", "<<<<<<< HEAD\n    {", "Invalid JSON"),
        ('"objects": [\n', '"objects": 0, "x": [\n', r"datasets\.codes\.objects: Input should be a valid"),
        ("\n  }", "", "Invalid JSON"),
        ('"top_hash": ', '"hash": ', r'datasets\.labels: .*its pin has no "top_hash"'),
        (f'{{"top_hash": "{"c" * 64}"}}', "{}", r'datasets\.labels: .*its pin has no "top_hash"'),
        (',\n   "objects": []', "", r'datasets\.none: .*it has no "objects"'),
    ],
)
def test_what_is_wrong_is_named(path: Path, wrong: str, right: str, said: str) -> None:
    """A lock that cannot be read says where and why, whatever its form."""
    write_lock(path, lock_of(3))
    text = path.read_text()
    assert wrong in text
    path.write_text(text.replace(wrong, right))
    with pytest.raises(ManifestError, match=said):
        read_lock(path)


MEASURE = """
import sys
from pathlib import Path
from datamount.fetch.pins import read_lock
def most():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))
before = most()
lock = read_lock(Path(sys.argv[1]))
print(most() - before, len(lock.datasets["codes"].objects))
"""


def test_a_large_lock_takes_little_memory(path: Path) -> None:
    """Reading the lock of 30,000 objects, 6 MB of text, takes less memory than its text."""
    write_lock(path, lock_of(30_000))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    grown, count = map(int, done.stdout.split())
    assert count == 30_000
    assert grown << 10 < path.stat().st_size
