"""Killing `datamount fetch` at random instants, against a real S3 server."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamount.fetch.ranges import MOST_READERS, RANGE
from tests.s3_proxy import S3Proxy
from tests.servers import S3Server

MIB = 1024 * 1024


@pytest.mark.timeout(900)
def test_after_ten_kills_all_is_complete_and_nothing_was_fetched_twice(s3: S3Server, tmp_path: Path) -> None:
    """SIGKILL at 10 random instants: every file is right afterwards, and no complete file was asked for again."""
    chance = random.Random(20)
    bucket = s3.make_bucket()
    files = {f"dir{n % 3}/f{n:03}.bin": chance.randbytes(chance.randrange(200_000)) for n in range(120)}
    files["big.bin"] = chance.randbytes(64 * MIB + 321)
    s3.put(bucket, {f"in/{key}": body for key, body in files.items()})
    course = tmp_path / "course"
    course.mkdir()
    data = tmp_path / "data"
    kills = 0
    # 64 KiB in 25 ms for each of two readers, of six later: no machine brings half of it between the kills.
    with S3Proxy(s3.endpoint_url, pause=0.025) as proxy:
        manifest = {
            "version": 1,
            "datasets": {
                "codes": {"s3": {"url": f"s3://{bucket}/in/", "endpoint_url": proxy.url, "region": s3.region}}
            },
        }
        (course / "datamount.yaml").write_text(json.dumps(manifest))
        command = [sys.executable, "-m", "datamount", "fetch", str(course)]
        command += ["--data", str(data), "--run", str(tmp_path / "run")]
        environment = os.environ | s3.env()
        for attempt in range(40):
            before = whole(data / "codes", files)
            proven, there = partial_bytes(data, at_least=2 * MIB)
            proxy.reset()
            process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            if kills < 10:
                # The clock starts at the first object, so that the kills fall into the work and not into the imports.
                patience = time.monotonic() + 240
                while not proxy.gets and process.poll() is None and time.monotonic() < patience:
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.6))
                while kills == 9 and process.poll() is None and time.monotonic() < patience:
                    if partial_bytes(data, at_least=4 * MIB)[0]:
                        break  # the last one falls into the large object, late enough to tell a resume
                    time.sleep(0.01)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
            code = process.wait(timeout=240)
            again = {key for key in before if proxy.gets[f"/{bucket}/in/{key}"]}
            assert again == set(), f"fetched again in attempt {attempt}"
            if code == 0:
                break
        assert code == 0
        if kills < 10:
            pytest.fail(f"only {kills} kills fell into the fetch: the source is too quick for this test")
        assert whole(data / "codes", files) == set(files)
        assert proven > 0, "no kill fell into the large object late enough to tell a resume from a new start"
        # A proxy thread may still count what it sent to a process that was killed.
        assert proxy.sent[f"/{bucket}/in/big.bin"] <= len(files["big.bin"]) - proven + MIB
        assert there - proven <= MOST_READERS * RANGE + MIB, "a kill cost more than the ranges in flight"
        assert list((data / ".datamount/partial/codes").iterdir()) == []
        proxy.reset()
        assert subprocess.run(command, env=environment, capture_output=True, timeout=240).returncode == 0
        assert not +proxy.gets


def whole(folder: Path, files: dict[str, bytes]) -> set[str]:
    """The files under their final names; each must be complete, at any instant."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()} if folder.exists() else {}
    for key, path in found.items():
        assert path.read_bytes() == files[key], f"{key} is not complete"
    return set(found)


def partial_bytes(data: Path, *, at_least: int) -> tuple[int, int]:
    """What a kill left of a large object: up to its last checkpoint, and on the disk; 0 for less than `at_least`."""
    folder = data / ".datamount/partial/codes"
    for progress in folder.glob("*.progress"):
        found = progress.with_suffix("").stat()
        marks = [json.loads(line)[0] for line in progress.read_text().splitlines() if line.endswith("]")]
        proven = max((mark for mark in marks if mark <= found.st_size), default=0)
        if proven >= at_least:
            return proven, min(found.st_size, found.st_blocks * 512)
    return 0, 0
