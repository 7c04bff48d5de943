"""A prefix of 100,000 objects, on a real S3 server: memory, with a lock and without, and when the first comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

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
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": admin.access_key_id,
        "AWS_SECRET_ACCESS_KEY": admin.secret_access_key,
    }

    def run(command: str, data: Path, *more: str) -> None:
        arguments = [command, str(course), "--data", str(data), *more]
        done = subprocess.run(
            [sys.executable, "-c", FETCH, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stderr.split()[-1]) << 10 <= MOST, arguments
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
