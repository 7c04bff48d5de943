"""The sidecar's API under thousands of odd requests (schemathesis): no crash, nothing undocumented, no file lost.

DATAMOUNT_FUZZ_STEPS requests an operation; the CI's default is small.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import uvicorn
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sidecar.__main__ import make_session
from sidecar.app import create_app
from sidecar.settings import Settings

STEPS = int(os.environ.get("DATAMOUNT_FUZZ_STEPS", "60"))
TOKEN = "t" * 43
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PATHS = ["report.ipynb", "notes/a b.txt", "gone.txt", "notes", "bad.ipynb", "../store", "/etc/passwd", "a\0b", "\ud800"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass
class Api:
    url: str
    folder: Path
    ids: list[str]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A sidecar with a short history, and files next to its folder that nobody may reach."""
    base = tmp_path_factory.mktemp("fuzz")
    for name in ("work/notes", "run", "state"):
        (base / name).mkdir(parents=True)
    work = base / "work"
    cells = [{"cell_type": "code", "id": "a1", "metadata": {}, "source": "x", "outputs": [], "execution_count": None}]
    (work / "report.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    (work / "bad.ipynb").write_text('{"cells": [1, {"source": 5}]}')
    (work / "notes/a b.txt").write_text("first\n")
    (work / "gone.txt").write_text("gone\n")
    session = make_session(
        Settings(
            folder=work,
            run=base / "run",
            state=base / "state",
            store=(base / "store").as_uri(),
            owner="ada",
            course="c",
            autosave=False,
        )
    )
    ids = []
    for text in ("first\n", "second\n", "third\n"):
        (work / "notes/a b.txt").write_text(text)
        saved = session.save(message=text).result(60)
        assert saved.version
        ids.append(saved.version.id)
        (work / "gone.txt").unlink(missing_ok=True)
    app = create_app(session, TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield Api(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", work, ids)
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def operations(api: Api) -> Iterator[Any]:
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path != "/api/v1/events":  # it does not end; the unit tests have it
            yield operation


def aim(case: Any, api: Api, data: st.DataObject) -> None:
    """Let about half of the requests reach something: a version, a file, or a place that must not be reached."""
    parameters = case.path_parameters or {}
    if "id" in parameters and data.draw(st.booleans()):
        parameters["id"] = data.draw(st.sampled_from(["latest", *api.ids]))
    if "path" in parameters and data.draw(st.booleans()):
        parameters["path"] = data.draw(st.sampled_from(PATHS[:-1]))
    if isinstance(case.body, dict) and "paths" in case.body and data.draw(st.booleans()):
        case.body["paths"] = data.draw(st.lists(st.sampled_from(PATHS[:-1]), max_size=3))
    if isinstance(case.body, dict) and "into" in case.body and data.draw(st.booleans()):
        case.body["into"] = data.draw(st.sampled_from(["old", "..", "/etc", "notes/../..", "a\0", "report.ipynb"]))


def test_every_operation_keeps_to_its_contract(api: Api) -> None:
    """Whatever is sent: no 5xx, every answer documented in the OpenAPI document, and nothing outside is written. After
    all of it every version of the beginning still reads back as it was."""
    outside = sorted(path.name for path in api.folder.parent.iterdir())
    count = 0
    for operation in operations(api):

        @hypothesis.settings(
            max_examples=STEPS,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(), data=st.data())
        def run(case: Any, data: st.DataObject) -> None:
            nonlocal count
            count += 1
            aim(case, api, data)
            case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=CHECKS, timeout=120)

        run()
    assert count >= STEPS
    assert sorted(path.name for path in api.folder.parent.iterdir()) == outside
    assert not (api.folder.parent / "old").exists()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=api.url, headers=headers, trust_env=False, timeout=120) as client:
        for id, text in zip(api.ids, ("first\n", "second\n", "third\n"), strict=True):
            assert client.get(f"/api/v1/snapshots/{id}/files/notes/a%20b.txt").text == text
        assert client.get("/api/v1/status").json()["save"]["saving"] is False


def test_without_the_token_nothing_is_told(api: Api) -> None:
    """Every operation but health refuses with 401, whatever else is sent."""
    for operation in operations(api):

        @hypothesis.settings(
            max_examples=max(5, STEPS // 10),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def run(case: Any) -> None:
            answer = case.call(headers={"Authorization": "Bearer x"}, timeout=120)
            assert answer.status_code in (401, 413), answer.content

        if operation.path != "/healthz":
            run()
