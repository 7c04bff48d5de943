"""A real Jupyter server saves a 20 MB notebook in a loop while its folder is saved over and over.

DATAMOUNT_TORN_SAVES sets how many saves Jupyter makes.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace
from tests.servers import Process, free_port

SAVES = int(os.environ.get("DATAMOUNT_TORN_SAVES", "30"))
MEGABYTES = 20


class Jupyter:
    """jupyter_server over one folder."""

    def __init__(self, work: Path, log: Path) -> None:
        self.port, self.token = free_port(), secrets.token_hex(8)
        command = [sys.executable, "-m", "jupyter_server", f"--ServerApp.port={self.port}", "--ServerApp.ip=127.0.0.1"]
        command += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={work}", "--allow-root"]
        self.process = Process([*command, "--no-browser", "--ServerApp.max_body_size=1000000000"], log=log)

    def start(self) -> None:
        self.process.start()
        self.process.wait_ready(lambda: self.request("GET", "/api/status") == 200, seconds=240)

    def request(self, method: str, path: str, body: bytes | None = None) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, body, {"Authorization": f"token {self.token}"})
            answer = connection.getresponse()
            answer.read()
        except OSError:
            return None
        finally:
            connection.close()
        return answer.status


def notebook(number: int) -> dict[str, Any]:
    """About 20 MB; its number stands in the first and the last cell."""
    cell = {"cell_type": "markdown", "metadata": {}, "source": "x" * (1 << 20)}
    mark = {"cell_type": "markdown", "metadata": {}, "source": f"number {number}"}
    cells = [mark, *[cell] * MEGABYTES, mark]
    return {
        "cells": [c | {"id": f"c{n}"} for n, c in enumerate(cells)],
        "metadata": {},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def body(number: int) -> bytes:
    return json.dumps({"type": "notebook", "format": "json", "content": notebook(number)}).encode()


@pytest.fixture
def jupyter(tmp_path: Path) -> Iterator[Jupyter]:
    (tmp_path / "work").mkdir()
    server = Jupyter(tmp_path / "work", tmp_path / "jupyter.log")
    server.start()
    yield server
    server.process.stop()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_no_torn_notebook_is_ever_stored(jupyter: Jupyter, tmp_path: Path) -> None:
    """Every version made while Jupyter saves holds the notebook whole, as one of its saves left it, and in order."""
    assert jupyter.request("PUT", "/api/contents/big.ipynb", body(0)) in (200, 201)
    workspace = Workspace(FolderStore(tmp_path / "store"), "ann", "course")
    ended = threading.Event()
    answers: list[int | None] = []

    def edit() -> None:
        try:
            answers.extend(jupyter.request("PUT", "/api/contents/big.ipynb", body(n)) for n in range(1, SAVES + 1))
        finally:
            ended.set()

    editor = threading.Thread(target=edit)
    editor.start()
    numbers: list[int] = []
    versions = 0
    last = False
    while not last:
        last = ended.is_set()
        result = workspace.save(tmp_path / "work", reason="auto", state_dir=tmp_path / "state")
        assert result.version
        if not result.created:
            continue
        versions += 1
        assert "big.ipynb" not in {s.path for s in result.skipped}
        content = json.loads(b"".join(workspace.read(result.version.id, "big.ipynb")))
        first, *middle, end = ["".join(c["source"]) for c in content["cells"]]
        assert first == end and len("".join(middle)) == MEGABYTES << 20
        numbers.append(int(first.removeprefix("number ")))
        for old in workspace.versions()[2:]:  # twenty megabytes each
            workspace.store.delete(workspace.key(old.id))
    editor.join()
    assert answers == [200] * SAVES
    assert numbers == sorted(numbers) and numbers[-1] == SAVES
    print(f"{SAVES} saves of Jupyter, {versions} versions, {len(set(numbers))} different")
