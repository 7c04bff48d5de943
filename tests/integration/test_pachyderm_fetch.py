"""A course with a Pachyderm dataset, from `datamount lock` and `datamount fetch` on the command line."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).resolve().parents[2]


def course(folder: Path, server: servers.PachydermServer, repo: str) -> Path:
    where = folder / "course"
    where.mkdir()
    settings = f"{{repo: {repo}, path: /png, address: '{server.address}'}}"
    (where / "datamount.yaml").write_text(f"version: 1\ndatasets:\n  images:\n    pachyderm: {settings}\n")
    return where


def datamount(*arguments: str | Path, expect: int = 0) -> str:
    command = [sys.executable, "-m", "datamount", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert expect == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


def fetch(where: Path, *more: str, expect: int = 0) -> str:
    folder = where.parent
    return datamount("fetch", where, "--data", folder / "data", "--run", folder / "run", *more, expect=expect)


def delivered(where: Path) -> dict[str, bytes]:
    root = where.parent / "data" / "images"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def put(server: servers.PachydermServer, repo: str, files: Mapping[str, bytes]) -> str:
    return server.put(repo, {f"/png/{path}": body for path, body in files.items()})


FILES = {
    f"{number:03}/{name}": f"{number} {name}".encode() for number in range(40) for name in ("a", "b\\c", "d e")
} | {
    "empty": b"",
    "large.bin": os.urandom(3_000_000),
}


def test_a_lock_pins_the_commit(pachyderm: servers.PachydermServer, tmp_path: Path) -> None:
    """With a lock, a later commit changes nothing; without one, the newest commit is delivered, and what went goes."""
    repo = f"radiology-{secrets.token_hex(4)}"
    commit = put(pachyderm, repo, FILES)
    where = course(tmp_path, pachyderm, repo)
    datamount("lock", where)
    assert commit in (where / "datamount.lock").read_text()
    client = pachyderm.client()
    with client.commit(repo, "master", project_name="default") as change:
        client.delete_file(change, "/png/empty")
        client.put_file_bytes(change, "/png/000/a", b"changed")
    fetch(where)
    assert delivered(where) == FILES
    (where / "datamount.lock").unlink()
    fetch(where)
    assert delivered(where) == {path: body for path, body in FILES.items() if path != "empty"} | {"000/a": b"changed"}


def test_a_locked_fetch_needs_its_commit(pachyderm: servers.PachydermServer, tmp_path: Path) -> None:
    """When the pinned commit is gone, nothing else is delivered in its place."""
    repo = f"radiology-{secrets.token_hex(4)}"
    put(pachyderm, repo, {"a": b"old"})
    where = course(tmp_path, pachyderm, repo)
    datamount("lock", where)
    pachyderm.client().delete_repo(repo, project_name="default")
    put(pachyderm, repo, {"a": b"new"})
    assert "not found" in fetch(where, expect=5)
    assert delivered(where) == {}


def test_nothing_of_an_open_commit(pachyderm: servers.PachydermServer, tmp_path: Path) -> None:
    """An open commit is told in one sentence, in status.json too, and no file of it is delivered."""
    repo = f"radiology-{secrets.token_hex(4)}"
    put(pachyderm, repo, {"a": b"old"})
    client = pachyderm.client()
    change = client.start_commit(repo, "master", project_name="default")
    where = course(tmp_path, pachyderm, repo)
    assert "pachctl finish commit" in fetch(where, expect=5)
    assert "still open" in json.dumps(json.loads((tmp_path / "run" / "status.json").read_text()))
    client.finish_commit(change)
    fetch(where)
    assert delivered(where) == {"a": b"old"}


@pytest.mark.parametrize("after", [0.6, 0.9, 1.2])
def test_a_killed_fetch_goes_on(pachyderm: servers.PachydermServer, tmp_path: Path, after: float) -> None:
    """Killed at some instant, a fetch leaves only right files, and the next one completes them."""
    repo = f"radiology-{secrets.token_hex(4)}"
    put(pachyderm, repo, FILES)
    where = course(tmp_path, pachyderm, repo)
    command = [
        sys.executable,
        "-m",
        "datamount",
        "fetch",
        where,
        "--data",
        tmp_path / "data",
        "--run",
        tmp_path / "run",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            running.wait(after)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
    if (tmp_path / "data" / "images").exists():
        assert delivered(where).items() <= FILES.items()
    fetch(where)
    assert delivered(where) == FILES
