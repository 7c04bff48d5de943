"""The sidecar is killed and starts again, as the kubelet does it, while a page repeats what it has asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

API = "/api/v1"


@contextmanager
def sidecar(folder: Path) -> Iterator[httpx.Client]:
    """A sidecar's process over folder/work, and SIGKILL at its end."""
    place = folder / "run/sidecar.json"
    place.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "sidecar", "--folder", folder / "work", "--run", folder / "run"),
        *("--state", folder / "state", "--store", (folder / "store").as_uri(), "--owner", "ada", "--course", "c"),
        # No save but those that are asked for.
        *("--quiet", "100000", "--at-most", "100000"),
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, env=dict(os.environ))
    try:
        yield client(process, place, folder / "log")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)


def client(process: subprocess.Popen[bytes], place: Path, log: Path) -> httpx.Client:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if place.exists():
            told = json.loads(place.read_text())
            headers = {"Authorization": f"Bearer {told['token']}"}
            made = httpx.Client(base_url=told["url"], headers=headers, trust_env=False, timeout=120)
            try:
                if made.get("/healthz").is_success:
                    return made
            except httpx.TransportError:
                pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def post(api: httpx.Client, path: str, key: str, **body: Any) -> Any:
    answer = api.post(API + path, json=body, headers={"Idempotency-Key": key})
    assert answer.is_success, answer.text
    return answer.json()


def test_what_is_repeated_after_a_restart_loses_nothing(tmp_path: Path) -> None:
    """A save that is repeated with its key after the sidecar was killed answers with the version that is there, and
    makes no second one; a restore is done again, and what was written in between is in its `undo`. The token stays."""
    for name in ("work", "run", "state"):
        (tmp_path / name).mkdir()
    notes = tmp_path / "work/notes.txt"
    notes.write_text("first")
    with sidecar(tmp_path) as api:
        saved = post(api, "/snapshots", "s", message="done")["snapshot"]["id"]
    with sidecar(tmp_path) as api:
        assert post(api, "/snapshots", "s", message="done")["snapshot"]["id"] == saved
        assert len(api.get(f"{API}/snapshots").json()) == 1
        notes.write_text("second")
        post(api, f"/snapshots/{saved}/restore", "r")
        assert notes.read_text() == "first"
        notes.write_text("written since")
        token = api.headers["Authorization"]
    with sidecar(tmp_path) as api:
        assert api.headers["Authorization"] == token
        again = post(api, f"/snapshots/{saved}/restore", "r")
        assert notes.read_text() == "first"
        assert api.get(f"{API}/snapshots/{again['undo']}/files/notes.txt").text == "written since"
