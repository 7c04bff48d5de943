"""Looking before taking: the work behind a key or a link, previewed and shown through the sidecar, with a gateway."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from datamount.snapshots import Workspace
from sidecar.__main__ import make_session
from sidecar.errors import ReadOnly
from sidecar.session import Session
from sidecar.settings import Settings
from tests import servers
from tests.gateway import COURSE, GatewaySite, open_workspace, running_gateway
from tests.integration.test_gateway_sidecar import sidecar


@pytest.fixture
def site(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True, hub_url="https://hub.example.edu") as found:
        yield found


def begin(folder: Path, **files: str) -> Path:
    work = folder / "work"
    work.mkdir(parents=True)
    for name, text in files.items():
        (work / f"{name}.txt").write_text(text)
    return work


def read(work: Path) -> dict[str, str]:
    return {path.relative_to(work).as_posix(): path.read_text() for path in work.rglob("*.txt")}


def saved(api: httpx.Client) -> str:
    return str(api.post("/snapshots", json={}).json()["snapshot"]["id"])


def test_a_key_is_looked_at_before_it_is_taken(site: GatewaySite, tmp_path: Path) -> None:
    """A dry run of a resume key says which version would come and what it would change, and changes nothing: not the
    files, not the key that this session saves under. The key comes with a link."""
    begin(tmp_path / "one", report="hours of work", figures="new")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        version = saved(api)
        given = api.get("/resume").json()
        quota = api.get("/status").json()["save"]["quota"]
    assert (quota["per"], quota["near"], quota["used"] > 0) == ("work", False, True)
    assert given["link"] == f"https://hub.example.edu/hub/user-redirect/lab?datamount=link#datamount={given['key']}"
    work = begin(tmp_path / "two", report="begun anew", mine="mine")
    with sidecar(tmp_path / "two", site, "org-course-x2") as api:
        before = read(work)
        found = api.post("/resume", json={"key": given["key"], "dry_run": True}).json()
        assert found["version"]["id"] == version
        preview = found["preview"]
        assert (preview["new"], preview["replaced"], preview["kept"]) == (["figures.txt"], ["report.txt"], ["mine.txt"])
        assert read(work) == before
        assert api.get("/resume").json() == {"kind": "work-key", "key": None, "link": None}
        assert api.get("/snapshots").json() == []
        assert api.post("/resume", json={"key": "dmk_" + "A" * 43, "dry_run": True}).status_code == 403
        api.post("/resume", json={"key": given["key"]})
        assert read(work) == {"report.txt": "hours of work", "figures.txt": "new", "mine.txt": "mine"}


@pytest.mark.parametrize("changed", ["before it starts again", "after it"])
def test_a_share_is_shown_read_only_and_given_back(site: GatewaySite, tmp_path: Path, changed: str) -> None:
    """A link shows its version in place of one's own files; meanwhile nothing is saved or restored, also by the sidecar
    of a later session on the same home; at the end one's own files are back as they were, and what was changed is in
    the history."""
    shared = begin(tmp_path / "one", report="hours of work", figures="new")
    (shared / "sub").mkdir()
    (shared / "sub/deep.txt").write_text("deep")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        version = saved(api)
        secret = api.post("/shares", json={}).json()["secret"]
    work = begin(tmp_path / "two", report="my own", mine="mine")
    own = read(work)
    with sidecar(tmp_path / "two", site, "org-course-x2") as api:
        looked = api.post("/shared", json={"secret": secret, "dry_run": True}).json()
        assert looked["version"]["id"] == version
        assert (looked["preview"]["replaced"], looked["preview"]["kept"]) == (["report.txt"], ["mine.txt"])
        assert read(work) == own
        assert api.post("/shared", json={"secret": "dms_" + "A" * 43}).status_code == 404
        assert read(work) == own
        shown = api.post("/shared", json={"secret": secret})
        assert shown.status_code == 200, shown.text
        assert sorted(shown.json()["restored"]) == ["figures.txt", "report.txt", "sub/deep.txt"]
        assert read(work) == {
            "report.txt": "hours of work",
            "figures.txt": "new",
            "mine.txt": "mine",
            "sub/deep.txt": "deep",
        }
        state = api.get("/status").json()["save"]
        assert (state["state"], state["share"]["version"]) == ("read-only", version)
        for path, body in (("/snapshots", {}), ("/snapshots/latest/restore", {}), ("/resume", {"key": "dmk_x"})):
            refused = api.post(path, json=body)
            assert refused.status_code == 409
            assert refused.json()["title"] == "Read-only share"
    keys = (tmp_path / "two/state/work-key.json").read_bytes()
    shutil.rmtree(tmp_path / "two/state")
    (tmp_path / "two/state").mkdir()
    (tmp_path / "two/state/work-key.json").write_bytes(keys)
    if changed == "before it starts again":
        (work / "figures.txt").write_text("tried something")
    with sidecar(tmp_path / "two", site, "org-course-x2") as api:
        assert api.get("/status").json()["save"]["state"] == "read-only"
        if changed == "after it":
            (work / "figures.txt").write_text("tried something")
        ended = api.post("/shared/end", json={}).json()
        assert (ended["restored"], ended["removed"]) == (["report.txt"], ["figures.txt", "sub/deep.txt"])
        assert read(work) == own
        assert sorted(path.name for path in work.iterdir()) == ["mine.txt", "report.txt"]
        assert api.get("/status").json()["save"]["state"] == "saved"
        kept = next(v for v in api.get("/snapshots").json() if "with changes made here" in v["message"])
        assert api.get(f"/snapshots/{kept['id']}/files/figures.txt").text == "tried something"


def test_a_share_is_not_shown_through_a_link_of_the_student(site: GatewaySite, tmp_path: Path) -> None:
    """Where the mark that a share is shown would go elsewhere, nothing is written there, and nothing is shown."""
    begin(tmp_path / "one", report="hours of work")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        saved(api)
        secret = api.post("/shares", json={}).json()["secret"]
    work = begin(tmp_path / "two", report="my own")
    (tmp_path / "elsewhere").mkdir()
    (work / ".datamount").symlink_to(tmp_path / "elsewhere")
    with sidecar(tmp_path / "two", site, "org-course-x2") as api:
        refused = api.post("/shared", json={"secret": secret})
        assert refused.status_code == 503
        assert "folder beside" in refused.json()["hint"]
        assert api.get("/status").json()["save"]["state"] != "read-only"
    assert read(work) == {"report.txt": "my own"}
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_share_becomes_ones_own_or_comes_beside(site: GatewaySite, tmp_path: Path) -> None:
    """What is shown can be kept as one's own work, which is then saved; or comes into a folder beside, where nothing
    else changes and saving goes on."""
    begin(tmp_path / "one", report="hours of work")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        saved(api)
        secret = api.post("/shares", json={}).json()["secret"]
    work = begin(tmp_path / "two", report="my own")
    with sidecar(tmp_path / "two", site, "org-course-x2") as api:
        assert api.post("/shared", json={"secret": secret, "into": "shared"}).status_code == 200
        assert read(work) == {"report.txt": "my own", "shared/report.txt": "hours of work"}
        assert api.get("/status").json()["save"]["state"] != "read-only"
        assert api.post("/shared", json={"secret": secret, "into": "/etc"}).status_code == 400
        api.post("/shared", json={"secret": secret})
        assert api.post("/shared/end", json={"keep": True}).json() == {"restored": [], "removed": []}
        assert read(work)["report.txt"] == "hours of work"
        assert api.get("/snapshots/latest/files/report.txt").text == "hours of work"
        assert api.get("/status").json()["save"]["state"] == "saved"


def session_of(folder: Path, site: GatewaySite, max_bytes: int | None = None) -> Session:
    """A session over folder/work without its API."""
    for name in ("run", "state"):
        (folder / name).mkdir()
    settings = Settings(
        folder=folder / "work",
        run=folder / "run",
        state=folder / "state",
        store=(folder / "store").as_uri(),
        owner="ada",
        course=COURSE,
        max_bytes=max_bytes,
        autosave=False,
    )
    pod = site.client(user="org-course-x2")
    return make_session(settings, lambda _: open_workspace(pod, settings.state / "work-key.json"))


def test_what_no_save_could_keep_is_not_removed(site: GatewaySite, tmp_path: Path) -> None:
    """A file that came with a shared version, and that grew over the limit while it was shown, stays when one's own
    files come back: no version holds what became of it."""
    begin(tmp_path / "one", report="hours of work", figures="new", tables="small")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        saved(api)
        secret = SecretStr(api.post("/shares", json={}).json()["secret"])
    work = begin(tmp_path / "two", report="my own")
    session = session_of(tmp_path / "two", site, max_bytes=100_000)
    session.show(secret, None).result(60)
    results = random.Random(1).randbytes(300_000).hex()
    (work / "figures.txt").write_text(results)
    _, removed = session.end_show(keep=False).result(60)
    assert removed == ["tables.txt"]
    assert read(work) == {"report.txt": "my own", "figures.txt": results}
    assert session.state().last.too_large == ["figures.txt"]  # type: ignore[union-attr]
    session.close()


def test_what_waits_behind_a_share_does_not_save_it(
    site: GatewaySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save, a restore, an autosave and a resumption that were asked for while a shared version was on its way, and
    whose turn comes when it is shown, change nothing: somebody's files are not saved as the student's."""
    begin(tmp_path / "one", report="hours of work")
    with sidecar(tmp_path / "one", site, "org-course-x1") as api:
        saved(api)
        secret = SecretStr(api.post("/shares", json={}).json()["secret"])
    work = begin(tmp_path / "two", report="my own")
    session = session_of(tmp_path / "two", site)
    under_way, go_on, original = threading.Event(), threading.Event(), Workspace.save

    def slow(self: Workspace, *args: Any, **kwargs: Any) -> Any:
        under_way.set()
        assert go_on.wait(60)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Workspace, "save", slow)
    shown = session.show(secret, None)
    assert under_way.wait(60)
    late = [session.save(), session.restore("latest", (), None), session.resume(SecretStr("dmk_" + "A" * 43))]
    autosave = session._worker.submit(session._attempt, "auto")
    go_on.set()
    undo, _ = shown.result(60)
    for future in late:
        with pytest.raises(ReadOnly):
            future.result(60)
    assert autosave.result(60)
    assert session.state().state == "read-only"
    assert [info.id for info in session.workspace().versions()] == [undo]
    session.end_show(keep=False).result(60)
    assert (read(work), session.state().state) == ({"report.txt": "my own"}, "saved")
    assert session.close()
