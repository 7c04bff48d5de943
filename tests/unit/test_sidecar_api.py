"""The sidecar's API over a folder store: who may call, what it saves, and how it says no."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from datamount.errors import TooMany, Unavailable
from datamount.merge import FileChange, MergeReport
from datamount.objectstore import Body
from datamount.objectstore.folder import FolderStore
from datamount.session.homecoming import MERGE_FILE
from datamount.snapshots import Workspace, saving
from datamount.status import Status, StatusFile
from sidecar.__main__ import TOKEN_FILE, keep_token, make_session, read_settings
from sidecar.app import STREAMS, create_app
from sidecar.session import WAITING, Session
from sidecar.settings import Settings

TOKEN = "t" * 43
API = "/api/v1"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("work", "run", "state"):
        (tmp_path / name).mkdir()
    (tmp_path / "work/report.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    (tmp_path / "work/notes").mkdir()
    (tmp_path / "work/notes/a b.txt").write_text("first")
    return Settings(
        folder=tmp_path / "work",
        run=tmp_path / "run",
        state=tmp_path / "state",
        store=(tmp_path / "store").as_uri(),
        owner="ada",
        course="https://example.org/course",
        autosave=False,
    )


@pytest.fixture
def session(settings: Settings) -> Session:
    return make_session(settings)


@pytest.fixture
def api(session: Session) -> Iterator[httpx.Client]:
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(session, TOKEN), port=0, log_level="critical", lifespan="on", timeout_graceful_shutdown=2
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=100) as client:
        yield client
    server.should_exit = True
    thread.join(100)
    assert not thread.is_alive()


def problem(answer: Any, status: int) -> dict[str, Any]:
    """The problem document of an answer, checked for the shape that every error has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert {"type", "title", "detail"} <= document.keys()
    return document


def test_nobody_without_the_token(api: httpx.Client) -> None:
    """Without the exact token nothing but health and documentation is answered."""
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer x"}, {"Authorization": f"bearer {TOKEN}x"}):
        answer = api.get(f"{API}/status", headers=headers)
        problem(answer, 401)
        assert "Bearer" in answer.headers["www-authenticate"]
        problem(api.post(f"{API}/snapshots", json={}, headers=headers), 401)
    assert api.get("/healthz", headers={"Authorization": ""}).json()["status"] == "ok"


def test_other_host_names_are_refused(api: httpx.Client) -> None:
    """A page whose name points to loopback (DNS rebinding) gets nothing, token or not."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]:80"):
        problem(api.get(f"{API}/status", headers={"Host": host}), 421)
        problem(api.get("/healthz", headers={"Host": host}), 421)
    for host in ("localhost:99", "127.0.0.1", "[::1]:80"):
        assert api.get(f"{API}/status", headers={"Host": host}).status_code == 200


def test_no_other_origin_is_allowed(api: httpx.Client) -> None:
    """No answer carries a CORS header."""
    answer = api.options(f"{API}/snapshots", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_error_is_a_problem_document(api: httpx.Client) -> None:
    """Unknown paths, methods, versions, files and bodies that are not valid answer RFC 9457."""
    problem(api.get("/nowhere"), 404)
    problem(api.delete(f"{API}/snapshots"), 405)
    problem(api.get(f"{API}/snapshots/00000009-abc"), 404)
    found = problem(api.post(f"{API}/snapshots", json={"mesage": "x"}), 422)
    assert found["errors"][0]["where"] == "body.mesage"
    problem(api.post(f"{API}/snapshots", content=b"{", headers={"Content-Type": "application/json"}), 422)
    problem(api.post(f"{API}/snapshots", json={"message": "x" * 3000}), 422)
    api.post(f"{API}/snapshots", json={})
    problem(api.get(f"{API}/snapshots/latest/files/none.txt"), 404)
    problem(api.post(f"{API}/snapshots/latest/restore", json={"into": "../out"}), 400)
    problem(api.post(f"{API}/snapshots/latest/restore", json={"paths": ["none.txt"]}), 404)
    assert api.get(f"{API}/status").json()["save"]["saving"] is False


def test_large_bodies_are_refused(api: httpx.Client) -> None:
    """A body over the limit is refused by its announced length, and while it comes when none is announced."""
    problem(api.post(f"{API}/snapshots", content=b"x" * 70_000), 413)
    problem(api.post(f"{API}/snapshots", content=iter([b"x" * 40_000] * 3)), 413)


def test_a_save_is_durable_when_it_is_answered(api: httpx.Client, settings: Settings) -> None:
    """A fresh reader of the store finds the version that the answer names; an unchanged tree makes no second one."""
    answer = api.post(f"{API}/snapshots", json={"message": "Exercise 1"})
    assert answer.status_code == 201
    saved = answer.json()["snapshot"]
    assert (saved["reason"], saved["message"], saved["files"]) == ("manual", "Exercise 1", 2)
    other = make_session(settings).workspace()
    assert [info.id for info in other.versions()] == [saved["id"]]
    assert b"".join(other.read(saved["id"], "notes/a b.txt")) == b"first"
    assert answer.headers["location"].endswith(saved["id"])
    again = api.post(f"{API}/snapshots", json={})
    assert (again.status_code, again.json()["snapshot"]["id"]) == (200, saved["id"])
    state = api.get(f"{API}/status").json()["save"]
    assert (state["state"], state["last"]["id"]) == ("saved", saved["id"])


def test_a_repeated_key_saves_once(api: httpx.Client, settings: Settings) -> None:
    """The same Idempotency-Key answers with the first version, even after a change; with another body it is refused."""
    key = {"Idempotency-Key": "k1"}
    first = api.post(f"{API}/snapshots", json={"message": "m"}, headers=key).json()
    (settings.folder / "new.txt").write_text("x")
    assert api.post(f"{API}/snapshots", json={"message": "m"}, headers=key).json() == first
    problem(api.post(f"{API}/snapshots", json={"message": "other"}, headers=key), 422)
    assert len(api.get(f"{API}/snapshots").json()) == 1


def test_history_and_content(api: httpx.Client, settings: Settings) -> None:
    """Versions are listed newest first; one can be inspected, compared and downloaded file by file."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    (settings.folder / "notes/a b.txt").write_text("second!")
    (settings.folder / "c.txt").write_text("new")
    two = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    assert [s["id"] for s in api.get(f"{API}/snapshots").json()] == [two, one]
    detail = api.get(f"{API}/snapshots/{one}")
    assert [e["path"] for e in detail.json()["entries"]] == ["notes", "notes/a b.txt", "report.ipynb"]
    unchanged = api.get(f"{API}/snapshots/{one}", headers={"If-None-Match": detail.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    expected = [
        {"path": "c.txt", "kind": "added", "before": None, "after": 3},
        {"path": "notes/a b.txt", "kind": "changed", "before": 5, "after": 7},
    ]
    assert api.get(f"{API}/snapshots/{two}/diff").json() == expected
    assert api.get(f"{API}/snapshots/{two}/diff", params={"against": two}).json() == []
    assert [d["kind"] for d in api.get(f"{API}/snapshots/{one}/diff").json()] == ["added"] * 3
    file = api.get(f"{API}/snapshots/{one}/files/notes/a%20b.txt")
    assert file.content == b"first"
    assert file.headers["content-disposition"].startswith("attachment")
    assert file.headers["x-content-type-options"] == "nosniff"


def test_a_version_whose_parent_was_thinned_out(api: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    """What a version changed is told against the newest older one where its parent is no longer there."""
    saved = []
    for text in ("one", "two", "three"):
        (settings.folder / "notes/a b.txt").write_text(text)
        saved.append(api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"])
    next((tmp_path / "store").rglob(f"{saved[1]}.json")).unlink()
    expected = [{"path": "notes/a b.txt", "kind": "changed", "before": 3, "after": 5}]
    assert api.get(f"{API}/snapshots/{saved[2]}/diff").json() == expected
    lines = api.get(f"{API}/snapshots/{saved[2]}/diff/notes/a%20b.txt").json()["lines"]
    assert [line for line in lines if line[0] in "-+"] == ["-one", "+three"]
    next((tmp_path / "store").rglob(f"{saved[0]}.json")).unlink()
    assert [found["kind"] for found in api.get(f"{API}/snapshots/{saved[2]}/diff").json()] == ["added"] * 3


def test_the_zip_holds_the_version(api: httpx.Client, settings: Settings) -> None:
    """The streamed archive is a sound zip with every file of the version, and an executable stays one."""
    (settings.folder / "big.bin").write_bytes(bytes(range(256)) * 8192)
    (settings.folder / "run.sh").write_text("#!/bin/sh\n")
    (settings.folder / "run.sh").chmod(0o755)
    (settings.folder / "empty").mkdir()
    api.post(f"{API}/snapshots", json={})
    answer = api.get(f"{API}/snapshots/latest/archive.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as zipped:
        assert zipped.testzip() is None
        assert zipped.read("big.bin") == (settings.folder / "big.bin").read_bytes()
        assert "empty/" in zipped.namelist()
        assert zipped.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755


def test_restore_can_be_undone(api: httpx.Client, settings: Settings) -> None:
    """A restore names the version of what was there, and restoring that brings everything back."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    notes = settings.folder / "notes/a b.txt"
    notes.write_text("unsaved edit")
    done = api.post(f"{API}/snapshots/{one}/restore", json={}).json()
    assert notes.read_text() == "first"
    assert (done["restored"], done["failed"]) == (["notes/a b.txt"], [])
    newest = api.get(f"{API}/snapshots").json()[0]
    assert (newest["id"] != done["undo"], newest["parent"]) == (True, done["undo"])
    assert api.get(f"{API}/status").json()["save"]["state"] == "saved"
    api.post(f"{API}/snapshots/{done['undo']}/restore", json={})
    assert notes.read_text() == "unsaved edit"


def test_restore_of_one_file_beside(api: httpx.Client, settings: Settings) -> None:
    """Chosen paths go to a folder of their own and leave the work alone."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    (settings.folder / "notes/a b.txt").write_text("edited")
    api.post(f"{API}/snapshots/{one}/restore", json={"paths": ["notes/a b.txt"], "into": "old"})
    assert (settings.folder / "old/notes/a b.txt").read_text() == "first"
    assert (settings.folder / "notes/a b.txt").read_text() == "edited"
    assert not (settings.folder / "old/report.ipynb").exists()


def test_restore_can_be_tried_first(api: httpx.Client, settings: Settings) -> None:
    """A dry run says what would be new, replaced and kept, writes nothing and saves nothing."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    (settings.folder / "notes/a b.txt").write_text("edited")
    (settings.folder / "report.ipynb").unlink()
    (settings.folder / "later.txt").write_text("made since")
    found = api.post(f"{API}/snapshots/{one}/restore", json={"dry_run": True}).json()
    expected = {"dry_run": True, "new": ["report.ipynb"], "replaced": ["notes/a b.txt"], "kept": ["later.txt"]}
    assert found == expected | {"merged": [], "unchanged": 0, "not_stored": []}
    assert (settings.folder / "notes/a b.txt").read_text() == "edited"
    assert not (settings.folder / "report.ipynb").exists()
    assert len(api.get(f"{API}/snapshots").json()) == 1
    problem(api.post(f"{API}/snapshots/{one}/restore", json={"dry_run": True, "paths": ["none"]}), 404)
    problem(api.post(f"{API}/snapshots/{one}/restore", json={"dry_run": True, "into": "/etc"}), 400)


def test_a_repeated_key_restores_once(api: httpx.Client, settings: Settings) -> None:
    """The same Idempotency-Key answers as the first restore did, and does not undo what was written since."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    notes = settings.folder / "notes/a b.txt"
    notes.write_text("edited")
    key = {"Idempotency-Key": "r1"}
    first = api.post(f"{API}/snapshots/{one}/restore", json={}, headers=key).json()
    notes.write_text("later")
    assert api.post(f"{API}/snapshots/{one}/restore", json={}, headers=key).json() == first
    assert notes.read_text() == "later"
    problem(api.post(f"{API}/snapshots", json={}, headers=key), 422)


def test_what_changed_in_a_notebook(api: httpx.Client, settings: Settings) -> None:
    """A notebook's difference is told cell by cell: changed lines, added, removed, moved, only run."""
    document = json.loads((settings.folder / "report.ipynb").read_text())

    def write(*cells: tuple[str, str, str]) -> None:
        made = [
            {"cell_type": "code", "id": id, "metadata": {}, "source": text, "execution_count": None}
            | {"outputs": [{"output_type": "stream", "name": "stdout", "text": out}] if out else []}
            for id, text, out in cells
        ]
        (settings.folder / "report.ipynb").write_text(json.dumps(document | {"cells": made}))

    write(("aaa", "x = 1\ny = 2", ""), ("bbb", "gone", ""), ("ccc", "run me", ""), ("ddd", "last", ""))
    api.post(f"{API}/snapshots", json={})
    write(("ddd", "last", ""), ("aaa", "x = 1\ny = 3", ""), ("new", "new", ""), ("ccc", "run me", "4"))
    two = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    found = api.get(f"{API}/snapshots/{two}/diff/report.ipynb").json()
    assert (found["format"], found["kind"]) == ("notebook", "changed")
    cells = [(c["kind"], c["index"], c["moved"], c["before"], c["after"]) for c in found["cells"]]
    assert cells == [
        ("results", 0, True, "last", "last"),
        ("changed", 1, False, "x = 1\ny = 2", "x = 1\ny = 3"),
        ("added", 2, False, None, "new"),
        ("removed", 1, False, "gone", None),
        ("results", 3, False, "run me", "run me"),
    ]
    assert found["cells"][1]["lines"] == [" x = 1", "-y = 2", "+y = 3"]


def test_what_changed_in_other_files(api: httpx.Client, settings: Settings) -> None:
    """Text is told by lines, bytes and broken notebooks by what they are, large files by size."""
    folder = settings.folder
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "b.bin").write_bytes(b"\0\1")
    (folder / "bad.ipynb").write_text("{")
    (folder / "large.txt").write_text("x" * 3_000_000)
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    (folder / "a.txt").write_text("one\n2\n")
    for name in ("b.bin", "bad.ipynb", "large.txt"):
        (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    (folder / "c.txt").write_text("new\n")
    two = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]

    def diff(name: str, **query: str) -> dict[str, Any]:
        found: dict[str, Any] = api.get(f"{API}/snapshots/{two}/diff/{name}", params=query).json()
        return found

    assert diff("a.txt")["lines"] == ["@@ -1,2 +1,2 @@", " one", "-two", "+2"]
    assert [diff(name)["format"] for name in ("b.bin", "bad.ipynb", "large.txt")] == ["binary", "text", "large"]
    assert (diff("c.txt")["kind"], diff("c.txt")["lines"][-1]) == ("added", "+new")
    assert diff("a.txt", against=two)["kind"] == "same"
    back = api.get(f"{API}/snapshots/{one}/diff/c.txt", params={"against": two}).json()
    assert (back["kind"], back["before"], back["after"]) == ("removed", 4, None)
    problem(api.get(f"{API}/snapshots/{two}/diff/none.txt"), 404)


def test_etags_save_the_second_answer(api: httpx.Client, settings: Settings) -> None:
    """What has not changed is answered 304 to the ETag; a new version changes the list's."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    paths = ["snapshots", f"snapshots/{one}", f"snapshots/{one}/diff", f"snapshots/{one}/files/notes/a%20b.txt"]
    for path in [*paths, f"snapshots/{one}/diff/report.ipynb"]:
        tag = api.get(f"{API}/{path}").headers["etag"]
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = api.get(f"{API}/{path}", headers={"If-None-Match": given})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    tag = api.get(f"{API}/snapshots").headers["etag"]
    (settings.folder / "new.txt").write_text("x")
    api.post(f"{API}/snapshots", json={})
    assert api.get(f"{API}/snapshots", headers={"If-None-Match": tag}).status_code == 200
    assert len(api.get(f"{API}/snapshots", params={"limit": 1}).json()) == 1


def test_what_the_launch_merged_is_told(api: httpx.Client, settings: Settings) -> None:
    """/merge has the report of the launch as data and as text, and /status its summary; both null without one."""
    assert api.get(f"{API}/merge").json() == {"report": None, "markdown": None}
    assert api.get(f"{API}/status").json()["merge"] is None
    files = [FileChange(path="a.txt", kind="beside", beside="a.course-1234567.txt")]
    report = MergeReport(version="00000001-ab", files=files)
    (settings.state / MERGE_FILE).write_text(report.model_dump_json())
    found = api.get(f"{API}/merge").json()
    assert found["report"]["files"][0]["beside"] == "a.course-1234567.txt"
    assert "a.course-1234567.txt" in found["markdown"]
    assert api.get(f"{API}/status").json()["merge"]["to_look_at"] == 1


def test_too_much_at_once_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves beyond the limit are refused with TooMany, and those before it are all done."""
    go_on = threading.Event()
    original = Workspace.save

    def slow(self: Workspace, *args: Any, **kwargs: Any) -> Any:
        go_on.wait(200)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Workspace, "save", slow)
    waiting = [session.save() for _ in range(WAITING)]
    with pytest.raises(TooMany):
        session.save()
    go_on.set()
    assert [future.result(100).created for future in waiting] == [True] + [False] * (WAITING - 1)
    assert not session.save().result(100).created
    session.close()


def test_streams_of_events(api: httpx.Client) -> None:
    """A stream begins with the state; only so many may be open, and a closed one makes room."""
    lines: list[Iterator[str]] = []  # one that is forgotten is closed
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            lines.append(stack.enter_context(api.stream("GET", f"{API}/events")).iter_lines())
            assert next(lines[-1]) == "event: state"
        refused = api.get(f"{API}/events")
        problem(refused, 429)
        assert int(refused.headers["retry-after"]) > 0
    until = time.monotonic() + 100
    while time.monotonic() < until:
        with api.stream("GET", f"{API}/events") as answer:
            if answer.status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail("closed streams still count")


def test_a_store_that_is_down_is_said_and_then_forgotten(api: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    """A failed save says so with a problem document and in the state, restores nothing, and the next one succeeds."""
    one = api.post(f"{API}/snapshots", json={}).json()["snapshot"]["id"]
    (settings.folder / "notes/a b.txt").write_text("edited")
    shutil.move(tmp_path / "store", tmp_path / "away")
    (tmp_path / "store").write_text("in the way")
    answer = api.post(f"{API}/snapshots", json={}, headers={"Idempotency-Key": "k"})
    assert answer.status_code >= 400
    problem(answer, answer.status_code)
    assert api.get(f"{API}/status").json()["save"]["state"] == "failed"
    assert api.post(f"{API}/snapshots/{one}/restore", json={}).status_code >= 400
    assert (settings.folder / "notes/a b.txt").read_text() == "edited"
    (tmp_path / "store").unlink()
    shutil.move(tmp_path / "away", tmp_path / "store")
    assert api.post(f"{API}/snapshots", json={}, headers={"Idempotency-Key": "k"}).status_code == 201
    state = api.get(f"{API}/status").json()["save"]
    assert (state["state"], state["error"]) == ("saved", None)


def test_saved_is_not_said_before_it_is_true(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store works the state is "saving" with the old version, and two saves never run at once."""
    going_on, go_on, running, most = threading.Event(), threading.Event(), [], []
    original = Workspace.save

    def slow(self: Workspace, *args: Any, **kwargs: Any) -> Any:
        running.append(1)
        most.append(len(running))
        going_on.set()
        go_on.wait(200)
        try:
            return original(self, *args, **kwargs)
        finally:
            running.pop()

    monkeypatch.setattr(Workspace, "save", slow)
    first, second = session.save(), session.save()
    assert going_on.wait(100)
    assert (session.state().state, session.state().last) == ("saving", None)
    go_on.set()
    assert first.result(100).created
    assert not second.result(100).created
    assert (session.state().state, max(most)) == ("saved", 1)
    session.close()


@pytest.mark.parametrize("path", ["late.txt", "notes/a b.txt"])
@pytest.mark.parametrize("moment", ["before the version", "after it"])
def test_changes_during_a_save_stay_unsaved(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str, moment: str
) -> None:
    """A file that is written once a save has read the folder, also while the version is on its way to the store,
    counts as changed, not as saved; the next save has it."""
    put, late = FolderStore.put, ["edited while it saved"]

    def then_edit(self: FolderStore, key: str, body: Body, *, if_absent: bool = False) -> None:
        is_version = "/versions/" in key and late
        if is_version and moment == "before the version":
            (settings.folder / path).write_text(late.pop())
        put(self, key, body, if_absent=if_absent)
        if is_version and late:
            (settings.folder / path).write_text(late.pop())

    monkeypatch.setattr(FolderStore, "put", then_edit)
    first = session.save().result(20).version
    assert first
    assert (session.state().state, session.state().changed) == ("changed", [path])
    session.close()
    workspace = make_session(settings).workspace()
    assert [info.reason for info in workspace.versions()] == ["exit", "manual"]
    assert b"".join(workspace.read("latest", path)) == b"edited while it saved"


@pytest.mark.parametrize("into", [None, "copy/of"])
def test_what_is_written_during_a_restore_stays(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch, into: str | None
) -> None:
    """A restore replaces what was saved before it, and nothing that a program has written since."""
    target = settings.folder / (into or "")
    target.mkdir(parents=True, exist_ok=True)
    late, other = target / "late.txt", target / "other.txt"
    for name in ("late.txt", "other.txt"):
        (settings.folder / name).write_text("first")
    first = session.save().result(100).version
    assert first
    for path in (late, other):
        path.write_text("second")
    original = Workspace.restore

    def meanwhile(self: Workspace, *args: Any, **kwargs: Any) -> Any:
        late.write_text("a result of hours")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Workspace, "restore", meanwhile)
    undo, report = session.restore(first.id, ["late.txt", "other.txt"], into).result(100)
    assert (late.read_text(), other.read_text()) == ("a result of hours", "first")
    assert (set(report.failed), report.again) == ({"late.txt"}, ("late.txt",))
    assert session.workspace().version(undo).info.message == f"Before going back to {first.id}"
    kept = session.workspace().read("latest", late.relative_to(settings.folder).as_posix())
    assert b"".join(kept) == b"a result of hours"
    assert session.close()


def test_the_end_saves_what_is_unsaved(api: httpx.Client, session: Session, settings: Settings) -> None:
    """Closing saves changes with the reason "exit", makes no version without a change, and refuses new saves."""
    api.post(f"{API}/snapshots", json={})
    (settings.folder / "last.txt").write_text("x")
    assert session.close()
    problem(api.post(f"{API}/snapshots", json={}), 400)
    versions = make_session(settings).workspace().versions()
    assert [info.reason for info in versions] == ["exit", "manual"]
    unchanged = make_session(settings)
    assert unchanged.close()
    assert len(unchanged.workspace().versions()) == 2


def test_a_failed_last_save_is_reported(settings: Settings) -> None:
    """Closing returns False when the last save failed."""

    def down() -> Workspace:
        raise Unavailable("the store is down.")

    session = Session(settings, down)
    (settings.folder / "last.txt").write_text("x")
    assert session.close() is False


def test_autosave_and_edits_of_a_killed_session(settings: Settings) -> None:
    """Edits that a killed session left unsaved are saved when the next one starts."""
    session = make_session(settings)
    session.save().result(100)
    session.close()
    (settings.folder / "left.txt").write_text("x")
    following = make_session(settings)
    following.start()
    following.close()
    assert [info.reason for info in following.workspace().versions()] == ["auto", "manual"]


def test_the_last_version_is_looked_for_now_and_then(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing was saved for `check_every`, the store is asked; a version that is gone there is made again, and
    before the first save nothing is made."""
    monkeypatch.setattr(saving, "TRUST", 0.0)
    checks = threading.Semaphore(0)
    check = Session._check_once

    def counted(session: Session) -> None:
        check(session)
        checks.release()

    monkeypatch.setattr(Session, "_check_once", counted)
    session = make_session(settings.model_copy(update={"autosave": True, "check_every": 1.0}))
    session.start()
    assert checks.acquire(timeout=100)
    assert session.workspace().versions() == []
    saved = session.save().result(100).version
    assert saved is not None
    next(Path(settings.store.removeprefix("file://")).rglob(f"{saved.id}.json")).unlink()
    until = time.monotonic() + 200
    while not (found := session.workspace().ids()):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert saved.id not in found
    assert session.close()


def test_what_is_near_its_limit_is_told(settings: Settings) -> None:
    """The status tells how much of the limit is taken, what did not fit, and when the session ends."""
    ends = datetime(2030, 1, 1, 12, tzinfo=UTC)
    session = make_session(settings.model_copy(update={"max_bytes": 1000, "ends_at": ends}))
    assert session.save().result().created
    quota = session.state().quota
    assert quota is not None
    assert (quota.limit, quota.near, quota.per) == (1000, False, "version")
    assert quota.used == sum(path.stat().st_size for path in settings.folder.rglob("*") if path.is_file())
    (settings.folder / "large.bin").write_bytes(bytes(5000))
    session.save().result()
    state = session.state()
    assert state.quota is not None
    assert state.quota.near
    assert state.last is not None
    assert state.last.too_large == ["large.bin"]
    session.close()


def test_the_status_has_the_datasets(api: httpx.Client, settings: Settings) -> None:
    """/status repeats status.json; before there is one, data is null."""
    assert api.get(f"{API}/status").json()["data"] is None
    StatusFile(settings.run / "status.json", Status(course="c")).write()
    assert api.get(f"{API}/status").json()["data"]["course"] == "c"


def test_the_documentation_needs_no_network(api: httpx.Client) -> None:
    """The page names every operation and loads nothing."""
    text = api.get("/docs").text
    for path in api.get("/openapi.json").json()["paths"]:
        assert path in text
    assert "<script" not in text
    assert "src=" not in text
    assert "Exercise 2 done" in text


def test_the_guide_is_complete_and_true(api: httpx.Client) -> None:
    """docs/students/api.md names every call and no other, and its examples are accepted as they stand."""
    guide = (Path(__file__).parents[2] / "docs/students/api.md").read_text()
    told = set(re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", guide))
    operations = api.get("/openapi.json").json()["paths"]
    assert told == {(method.upper(), path) for path, methods in operations.items() for method in methods}
    api.post(f"{API}/snapshots", json={})
    examples = re.findall(r"```json (\w+) (\S+)\n(.*?)```", guide, re.DOTALL)
    assert len(examples) >= 4
    for method, path, body in examples:
        assert api.request(method, path, json=json.loads(body)).is_success, body


def test_the_token_is_private_and_kept(tmp_path: Path) -> None:
    """The token's file is readable by its owner only, and a restart keeps the token."""
    token = keep_token(tmp_path / TOKEN_FILE)
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
    assert len(token) >= 32
    assert keep_token(tmp_path / TOKEN_FILE) == token


def test_settings_of_a_file_and_of_the_command_line(tmp_path: Path) -> None:
    """The command line wins over the file, and both are checked."""
    file = tmp_path / "s.json"
    base = {"folder": "/w", "run": "/r", "state": "/s", "store": "file:///x", "owner": "o", "course": "c"}
    file.write_text(json.dumps(base | {"quiet": 3, "exclude": ["*.h5"]}))
    found = read_settings(["--settings", str(file), "--owner", "ada", "--no-autosave"])
    assert (found.owner, found.quiet, found.autosave, found.exclude) == ("ada", 3, False, ("*.h5",))
    file.write_text(json.dumps(base | {"quit": 3}))
    with pytest.raises(Exception, match="quit"):
        read_settings(["--settings", str(file)])
