"""A prefix of 100,000 objects on a real S3 server, and a package of so many: memory, and when the first comes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from datamount.drivers.quilt_manifest import Manifest
from tests.servers.versity import VersityServer

pytestmark = pytest.mark.slow

OBJECTS, FOLDERS = 100_000, 100
MOST = 150 << 20
"""Bytes of memory. What a fetch of one object takes is about 55 MiB of it."""

FETCH = """
import sys
from pathlib import Path
from datamount.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in status if line.startswith("VmHWM:")), file=sys.stderr)
"""
"""`datamount`, and at its end the most memory it had, in KiB, as the last line."""


class Logging(VersityServer):
    """With a line for each request."""

    @property
    def log(self) -> Path:
        return self.folder / "access.log"

    def command(self) -> Sequence[str | Path]:
        program, *options = super().command()
        return [program, "--access-log", self.log, *options]


@pytest.fixture
def server() -> Iterator[Logging]:
    with Logging() as made:
        yield made


def within_bounds(arguments: list[str], environment: dict[str, str]) -> None:
    """Run `datamount`, which must succeed in the memory that it may have."""
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stderr.split()[-1]) << 10 <= MOST, arguments


@pytest.mark.timeout(1200)
def test_a_hundred_thousand_objects(server: Logging, tmp_path: Path) -> None:
    """They are delivered in 150 MiB of memory, the first before the listing has ended, and found again in no more.
    So they are when they are locked, and by a fetch of the lock."""
    bucket = server.make_bucket()
    for folder in range(FOLDERS):
        place = server.folder / "data" / bucket / f"many/d{folder:03}"
        place.mkdir(parents=True)
        for number in range(OBJECTS // FOLDERS):
            (place / f"f{number:04}").touch()
            os.setxattr(place / f"f{number:04}", "user.etag", f'"{folder * 1000 + number:032x}"'.encode())
    source = {"url": f"s3://{bucket}/many/", "endpoint_url": server.endpoint_url, "region": "us-east-1"}
    course = tmp_path / "course"
    course.mkdir()
    (course / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"many": {"s3": source}}}))
    admin = server.identities["admin"]
    environment = {"AWS_ACCESS_KEY_ID": admin.access_key_id, "AWS_SECRET_ACCESS_KEY": admin.secret_access_key}

    def run(command: str, data: Path, *more: str) -> None:
        within_bounds([command, str(course), "--data", str(data), *more], environment)
        assert sum(len(files) for _, _, files in os.walk(data / "many")) == OBJECTS

    at = ("--run", str(tmp_path / "run"))
    run("fetch", tmp_path / "data", *at)
    lines = server.log.read_text().splitlines()
    reads = [number for number, line in enumerate(lines) if "/many/d" in line and "list-type" not in line]
    lists = [number for number, line in enumerate(lines) if "list-type=2" in line]
    assert len(reads) == OBJECTS
    assert len(lists) >= OBJECTS // 1000
    assert sum(number < lists[-1] for number in reads) > OBJECTS // 2, "the listing was read first"
    run("fetch", tmp_path / "data", *at)
    run("lock", tmp_path / "data")
    with (course / "datamount.lock").open() as lock:
        assert sum('"path"' in line for line in lock) == OBJECTS
    run("fetch", tmp_path / "locked", *at, "--frozen")
    run("fetch", tmp_path / "locked", *at, "--frozen")


@pytest.mark.timeout(600)
def test_a_package_of_a_hundred_thousand_files(tmp_path: Path) -> None:
    """A Quilt package, too, is delivered and found again in 150 MiB, though its manifest alone has 20."""
    registry = tmp_path / "registry"
    (registry / ".quilt/packages").mkdir(parents=True)
    (registry / "empty").touch()
    row = {"physical_keys": [(registry / "empty").as_uri()], "size": 0, "meta": {}}
    row |= {"hash": {"type": "SHA256", "value": hashlib.sha256(b"").hexdigest()}}
    names = (f"d{number // 1000:03}/f{number % 1000:04}" for number in range(OBJECTS))
    rows = ({"version": "v0", "message": None}, *(row | {"logical_key": name} for name in names))
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    top_hash = Manifest(text, dataset="many").top_hash()
    (registry / ".quilt/packages" / top_hash).write_bytes(text)
    source = {"package": "a/b", "registry": registry.as_uri(), "top_hash": top_hash}
    (tmp_path / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"many": {"quilt": source}}}))
    arguments = ["fetch", str(tmp_path), "--data", str(tmp_path / "data"), "--run", str(tmp_path / "run")]
    for _ in range(2):
        within_bounds(arguments, {})
        assert sum(len(files) for _, _, files in os.walk(tmp_path / "data/many")) == OBJECTS
