"""Links and resume keys through the sidecar's API and the command line, with a gateway behind it and without."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr
from typer.testing import CliRunner

from datamount.cli import app as command_line
from datamount.errors import DatamountError
from datamount.snapshots import pristine
from sidecar.__main__ import make_session
from sidecar.app import create_app
from sidecar.settings import Settings
from tests import servers
from tests.browser.session import notebook
from tests.gateway import COURSE, GatewaySite, open_workspace, running_gateway

TOKEN = "t" * 43


@contextmanager
def sidecar(folder: Path, site: GatewaySite | None, user: str = "ada") -> Iterator[httpx.Client]:
    """A sidecar over folder/work, with the gateway's store or one of its own."""
    for name in ("work", "run", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    settings = Settings(
        folder=folder / "work",
        run=folder / "run",
        state=folder / "state",
        store=(folder / "store").as_uri(),
        owner="ada",
        course=COURSE,
        autosave=False,
    )
    pod = site.client(user=user) if site else None
    opener = (lambda _: open_workspace(pod, folder / "state/work-key.json")) if pod else None
    session = make_session(settings, opener)
    server = uvicorn.Server(uvicorn.Config(create_app(session, TOKEN), port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    (folder / "run/sidecar.json").write_text(json.dumps({"url": url, "token": TOKEN}))
    try:
        with httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False, timeout=200
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture
def anonymous(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True, public_url="https://hub.example.edu/dm") as site:
        yield site


def opened(site: GatewaySite, secret: str) -> httpx.Response:
    """What somebody with a link gets of the controller."""
    headers = {"Datamount-Share": secret}
    return httpx.get(f"{site.url}/v1/shared", headers=headers, trust_env=False, timeout=120)


def cli(run: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command_line, ["share", *arguments, "--run", str(run)])


def test_an_anonymous_student_comes_back_with_the_key(anonymous: GatewaySite, tmp_path: Path) -> None:
    """The panel shows no key before the first save and one after it; pasted into another session it brings the work
    back, what was in that session is kept as `undo`, and later saves go to the same work. A wrong key changes
    nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    with sidecar(one, anonymous, "org-course-x1") as api:
        assert api.get("/resume").json() == {"kind": "work-key", "key": None, "link": None}
        (one / "work/report.txt").write_text("hours of work")
        assert api.post("/snapshots", json={"message": "done"}).status_code == 201
        key = api.get("/resume").json()["key"]
        assert key.startswith("dmk_")
    with sidecar(two, anonymous, "org-course-x2") as api:
        (two / "work/report.txt").write_text("begun anew")
        refused = api.post("/resume", json={"key": "dmk_" + "A" * 43})
        assert refused.status_code == 403
        assert "no work is kept" in refused.json()["detail"]
        assert (two / "work/report.txt").read_text() == "begun anew"
        resumed = api.post("/resume", json={"key": key})
        assert resumed.status_code == 200, resumed.text
        assert resumed.json()["versions"] == 1
        assert resumed.json()["restored"]["restored"] == ["report.txt"]
        assert (two / "work/report.txt").read_text() == "hours of work"
        undo = resumed.json()["restored"]["undo"]
        assert api.get(f"/snapshots/{undo}/files/report.txt").text == "begun anew"
        (two / "work/report.txt").write_text("more work")
        api.post("/snapshots", json={})
        assert api.get("/resume").json()["key"] == key
    with sidecar(one, anonymous, "org-course-x1") as api:
        assert api.get("/snapshots/latest/files/report.txt").text == "more work"


def ship(folder: Path, files: dict[str, str]) -> Path:
    """A new pod's home: the course in it, and recorded as such."""
    work = folder / "work"
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    pristine.record(work, folder / "state")
    return work


FIRST = {
    "lesson.ipynb": notebook("task = 1", "print('first')"),
    "slides.md": "1\n",
    "old.txt": "old\n",
    "own.txt": "1\n",
}
SECOND = {"lesson.ipynb": notebook("task = 1", "print('second')"), "slides.md": "2\n", "new.txt": "new\n"}
SECOND["own.txt"] = "2\n"


def test_work_comes_back_to_a_course_that_has_moved_on(anonymous: GatewaySite, tmp_path: Path) -> None:
    """Brought into a session of a newer course, the work has the course's changes too: merged where both changed a
    notebook, beside where that cannot be, the course's own where the student changed nothing; what the session had is
    kept as `undo`. The question before says so and changes nothing. A session that was killed before it had brought
    the work does not stand for it."""
    one = ship(tmp_path / "one", FIRST)
    with sidecar(tmp_path / "one", anonymous, "org-course-x1") as api:
        (one / "lesson.ipynb").write_text(notebook("task = 1  # mine", "print('first')"))
        (one / "own.txt").write_text("mine\n")
        (one / "answer.txt").write_text("42\n")
        saved = api.post("/snapshots", json={}).json()["snapshot"]["id"]
        key = api.get("/resume").json()["key"]
    two = ship(tmp_path / "two", SECOND)
    (two / "begun.txt").write_text("begun")
    with sidecar(tmp_path / "two", anonymous, "org-course-x2") as api:
        asked = api.post("/resume", json={"key": key, "dry_run": True}).json()["preview"]
        assert asked["merged"] == ["lesson.ipynb"]
        assert asked["replaced"] == ["own.txt"]
        assert sorted(asked["kept"]) == ["begun.txt", "new.txt", "slides.md"]
        (beside,) = {*asked["new"]} - {"answer.txt"}
        assert beside.startswith("own.course-")
        assert {path.name: path.read_text() for path in two.iterdir()} == SECOND | {"begun.txt": "begun"}
        restored = api.post("/resume", json={"key": key}).json()["restored"]
        assert restored["failed"] == []
        assert sorted(restored["restored"]) == sorted(["answer.txt", "lesson.ipynb", "own.txt", beside])
        cells = ["".join(cell["source"]) for cell in json.loads((two / "lesson.ipynb").read_text())["cells"]]
        assert cells == ["task = 1  # mine", "print('second')"]
        texts = {path.name: path.read_text() for path in two.iterdir() if path.name != "lesson.ipynb"}
        expected = {"slides.md": "2\n", "new.txt": "new\n", "own.txt": "mine\n", beside: "2\n"}
        assert texts == expected | {"answer.txt": "42\n", "begun.txt": "begun"}
        assert "lesson.ipynb" in api.get("/merge").json()["markdown"]
        assert api.get(f"/snapshots/{restored['undo']}/files/lesson.ipynb").text == SECOND["lesson.ipynb"]
        assert api.get("/snapshots/latest/files/slides.md").text == "2\n"
    three = ship(tmp_path / "three", SECOND)
    client = anonymous.client(user="org-course-x3")
    client.work_key = SecretStr(key)
    before = anonymous.workspace(client).save(three, message=f"Before restoring {saved}", reason="auto").version
    assert before is not None
    with sidecar(tmp_path / "three", anonymous, "org-course-x4") as api:
        asked = api.post("/resume", json={"key": key, "dry_run": True}).json()
        assert asked["version"]["id"] == saved


@pytest.mark.parametrize("cut", [0, 1000])
def test_work_that_comes_back_in_part_is_saved_on(anonymous: GatewaySite, tmp_path: Path, cut: int) -> None:
    """A file of the work whose object is damaged is named by the resume and is in the versions that follow, which the
    controller takes; where bytes of it are gone, no version may name it, and saving goes on without."""
    one, two = ship(tmp_path / "one", FIRST), ship(tmp_path / "two", FIRST)
    with sidecar(tmp_path / "one", anonymous, "org-course-x1") as api:
        (one / "answer.txt").write_text("42\n")
        api.post("/snapshots", json={})
        (one / "figure.bin").write_bytes(secrets.token_bytes(5000))
        before = anonymous.objects()
        api.post("/snapshots", json={})
        key = api.get("/resume").json()["key"]
    (lost,) = {*anonymous.objects()} - {*before, *(name for name in anonymous.objects() if "/versions/" in name)}
    whole = anonymous.store.get(lost)
    anonymous.store.put(lost, bytes(byte ^ 1 for byte in whole[: len(whole) - cut]))
    with sidecar(tmp_path / "two", anonymous, "org-course-x2") as api:
        restored = api.post("/resume", json={"key": key}).json()["restored"]
        assert [found["path"] for found in restored["failed"]] == ["figure.bin"]
        (two / "more.txt").write_text("more")
        assert api.post("/snapshots", json={}).status_code == 201
        latest = {found["path"] for found in api.get("/snapshots/latest").json()["entries"]}
        assert latest - FIRST.keys() == {"answer.txt", "more.txt"} | (set() if cut else {"figure.bin"})


def test_a_link_is_given_listed_and_ended_from_the_command_line(anonymous: GatewaySite, tmp_path: Path) -> None:
    """`datamount share` prints a link once, --list shows that it is there but not its secret, --revoke ends it."""
    with sidecar(tmp_path / "one", anonymous) as api:
        run = tmp_path / "one/run"
        (tmp_path / "one/work/a.txt").write_text("a")
        nothing = cli(run)
        assert isinstance(nothing.exception, DatamountError)
        api.post("/snapshots", json={})
        given = json.loads(cli(run, "latest", "--days", "3", "--json").output)
        assert given["link"] == f"https://hub.example.edu/dm/s/{given['secret']}"
        listed = cli(run, "--list").output
        assert given["id"][:12] in listed
        assert given["secret"] not in listed
        assert [f["path"] for f in opened(anonymous, given["secret"]).json()["files"]] == ["a.txt"]
        assert "ended" in cli(run, "--revoke", given["id"][:8]).output
        assert opened(anonymous, given["secret"]).status_code == 404
        assert cli(run, "--list").output == "There is no link.\n"


def test_a_store_of_ones_own_says_that_it_has_no_links(tmp_path: Path) -> None:
    """Over a plain store, shares and resume answer a problem that says what to do instead; so does the command."""
    with sidecar(tmp_path, None) as api:
        for answer in (
            api.post("/shares", json={}),
            api.get("/shares"),
            api.delete(f"/shares/{'a' * 64}"),
            api.post("/resume", json={"key": "dmk_x"}),
        ):
            assert answer.status_code == 409
            assert "zip" in answer.json()["hint"]
        assert api.get("/resume").json() == {"kind": "store", "key": None, "link": None}
        refused = cli(tmp_path / "run")
        assert isinstance(refused.exception, DatamountError)
        assert "zip" in refused.exception.hint
    gone = cli(tmp_path / "nowhere")
    assert isinstance(gone.exception, DatamountError)
    assert "no running session" in gone.exception.message


def test_a_restore_replaces_nothing_that_could_not_be_saved(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the quota keeps out of the save before a restore is nowhere else: the restore that would replace it
    is refused and leaves everything as it is; once the file has another name, the restore goes on and keeps it."""
    with running_gateway(tmp_path, s3, monkeypatch, quota="8 MB") as site, sidecar(tmp_path / "one", site) as api:
        work = tmp_path / "one/work"
        (work / "data.bin").write_bytes(b"first")
        saved = api.post("/snapshots", json={"message": "first"}).json()["snapshot"]["id"]
        grown = secrets.token_bytes(9_000_000)
        (work / "data.bin").write_bytes(grown)
        (work / "note.txt").write_text("small")
        answer = api.post(f"/snapshots/{saved}/restore", json={})
        assert answer.status_code == 403
        assert "data.bin is too large to be saved" in answer.json()["detail"]
        assert (work / "data.bin").read_bytes() == grown
        (work / "data.bin").rename(work / "mine.bin")
        assert api.post(f"/snapshots/{saved}/restore", json={}).status_code == 200
        assert (work / "data.bin").read_bytes() == b"first"
        assert (work / "mine.bin").read_bytes() == grown
