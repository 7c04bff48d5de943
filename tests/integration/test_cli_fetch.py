"""`datamount fetch` and `datamount status` as a person or a program runs them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import S3Server


class Shell:
    """A course folder and the command line run on it."""

    def __init__(self, folder: Path, s3: S3Server) -> None:
        self.folder, self.s3 = folder, s3
        self.course = folder / "course"
        self.course.mkdir()
        self.data, self.run = folder / "data", folder / "run"
        self.identity = "admin"

    def declare(self, **datasets: dict[str, Any]) -> None:
        (self.course / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": datasets}))

    def source(self, bucket: str, prefix: str = "in/") -> dict[str, Any]:
        place = {"url": f"s3://{bucket}/{prefix}", "endpoint_url": self.s3.endpoint_url, "region": self.s3.region}
        return {"s3": place}

    def __call__(self, *arguments: str, interpreter: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *interpreter, "-m", "datamount", *arguments],
            env=os.environ | self.s3.env(self.identity),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def fetch(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self("fetch", str(self.course), "--data", str(self.data), "--run", str(self.run), *options, **more)


@pytest.fixture
def shell(tmp_path: Path, s3: S3Server) -> Shell:
    return Shell(tmp_path, s3)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    name = s3.make_bucket()
    s3.put(name, {"in/a.csv": b"a,b\n", "in/sub/b.csv": b"1,2\n"})
    return name


def test_all_is_there(shell: Shell, bucket: str) -> None:
    """Exit code 0; on stderr one line a dataset, and where to find it; nothing on stdout, the files in place."""
    shell.declare(codes=shell.source(bucket))
    done = shell.fetch()
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    ready, where = done.stderr.splitlines()
    assert ready.startswith("codes: ready (2 files, 8 B")
    assert str(shell.data) in where
    assert shlex.quote(str(shell.run / "env")) in where
    assert (shell.data / "codes/sub/b.csv").read_bytes() == b"1,2\n"


def test_some_of_several_failed(shell: Shell, bucket: str) -> None:
    """One broken dataset of two gives 3; the other is delivered and the sentence names the broken one."""
    shell.declare(codes=shell.source(bucket), gone=shell.source(bucket, "nothing/"))
    done = shell.fetch()
    assert done.returncode == 3
    assert "gone: failed: " in done.stderr
    assert (shell.data / "codes/a.csv").exists()


def test_an_unavailable_source_alone_gives_5(shell: Shell, bucket: str) -> None:
    """When nothing was delivered and all failed one way, the exit code is that error's."""
    shell.declare(gone=shell.source(bucket, "nothing/"), lost=shell.source(bucket, "nowhere/"))
    assert shell.fetch().returncode == 5


def test_a_refusing_source_alone_gives_4(shell: Shell, bucket: str) -> None:
    """A bucket that refuses this identity is a refusal."""
    shell.identity = "reader"
    shell.declare(codes=shell.source(bucket))
    assert shell.fetch().returncode == 4


def test_optional_failures_give_0(shell: Shell, bucket: str) -> None:
    """An optional dataset that fails is told, and does not fail the command."""
    shell.declare(codes=shell.source(bucket), gone=shell.source(bucket, "nothing/") | {"optional": True})
    done = shell.fetch()
    assert done.returncode == 0
    assert "gone: failed" in done.stderr


def test_json_is_the_status(shell: Shell, bucket: str) -> None:
    """--json prints what status.json holds, problem documents included, and the exit code is the same."""
    shell.declare(codes=shell.source(bucket), gone=shell.source(bucket, "nothing/"))
    done = shell.fetch("--json")
    assert done.returncode == 3
    shown = json.loads(done.stdout)
    assert shown == json.loads((shell.run / "status.json").read_text())
    assert shown["datasets"]["gone"]["error"]["type"] == "urn:datamount:problem:not-found"
    assert shown["datasets"]["codes"]["state"] == "ready"


def test_only_names_a_dataset(shell: Shell, bucket: str) -> None:
    """--only leaves the other datasets alone; an unknown name is a usage error."""
    shell.declare(codes=shell.source(bucket), gone=shell.source(bucket, "nothing/"))
    assert shell.fetch("--only", "codes").returncode == 0
    assert shell.fetch("--only", "nope").returncode == 2


def test_only_ends_with_what_was_asked_for(shell: Shell, bucket: str) -> None:
    """What an earlier fetch left undone does not count in the exit code of --only another dataset."""
    shell.declare(codes=shell.source(bucket), gone=shell.source(bucket, "nothing/"))
    assert shell.fetch().returncode == 3
    assert shell.fetch("--only", "codes").returncode == 0
    assert shell.fetch("--only", "gone").returncode == 5


def test_frozen_needs_a_lock(shell: Shell, bucket: str) -> None:
    """--frozen without a lock entry is exit code 2 and names the dataset; env is written all the same."""
    shell.declare(codes=shell.source(bucket))
    done = shell.fetch("--frozen")
    assert done.returncode == 2
    assert 'dataset "codes" is not in the lock' in done.stderr
    assert (shell.run / "env").exists()
    assert shell("lock", str(shell.course), "--data", str(shell.data)).returncode == 0
    assert shell.fetch("--frozen").returncode == 0


def test_status_shows_state_and_lock(shell: Shell, bucket: str) -> None:
    """`datamount status` tells state, files and lock of each dataset, for people and for programs."""
    shell.declare(codes=shell.source(bucket) | {"license": "CC0-1.0"}, gone=shell.source(bucket, "nothing/"))
    places = ["--data", str(shell.data), "--run", str(shell.run)]
    assert "pending" in shell("status", str(shell.course), *places).stdout
    shell.fetch()
    shell("lock", str(shell.course), "--data", str(shell.data))
    table = shell("status", str(shell.course), *places).stdout
    assert "CC0-1.0" in table
    rows = json.loads(shell("status", str(shell.course), *places, "--json").stdout)["datasets"]
    assert {n: (r["state"], r["files_done"], r["lock"]) for n, r in rows.items()} == {
        "codes": ("ready", 2, "locked"),
        "gone": ("failed", 0, "not locked"),
    }


def test_an_s3_course_imports_no_other_sdk(shell: Shell, bucket: str) -> None:
    """A fetch of S3 only imports neither boto3 nor any other source's packages."""
    shell.declare(codes=shell.source(bucket))
    done = shell.fetch(interpreter=("-X", "importtime"))
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    heavy = {"boto3", "botocore", "quilt3", "sqlalchemy", "pandas", "pyarrow", "fsspec", "pymysql", "grpc", "fastapi"}
    assert "obstore" in imported
    assert imported & heavy == set()


@pytest.mark.parametrize("command", ["validate", "lock", "fetch", "status"])
def test_a_folder_without_a_manifest_gives_2(shell: Shell, command: str) -> None:
    """A folder that is no course is the caller's mistake (2), not a source that failed (5), and the place is named."""
    done = shell(command, str(shell.course))
    assert done.returncode == 2
    assert str(shell.course / "datamount.yaml") in done.stderr


@pytest.mark.parametrize("command", ["fetch", "lock", "status"])
def test_help_has_an_example(shell: Shell, command: str) -> None:
    """--help shows an example."""
    assert "Example" in shell(command, "--help").stdout
