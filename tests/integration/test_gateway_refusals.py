"""What the gateway refuses: forged ids, guessed keys, incomplete versions, too much, what is there already."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import re
import secrets
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from datamount.controller_client import ControllerClient
from datamount.errors import Conflict, DatamountError, NotFound, QuotaExceeded, Refused, Unauthenticated, UsageError
from datamount.snapshots import Workspace
from datamount.snapshots.versionfile import Entry, Location, Version, VersionInfo, dump
from tests import servers
from tests.gateway import COURSE, GatewaySite, running_gateway

EMPTY_MD5 = base64.b64encode(hashlib.md5(b"").digest()).decode()
DIGEST = "ab" * 32


@pytest.fixture
def gateway(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, review_seconds=0) as site:
        yield site


@pytest.fixture
def anonymous(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True) as site:
        yield site


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.txt").write_text("some text")
    (folder / "b.bin").write_bytes(secrets.token_bytes(5 << 20))
    return folder


def batch(client: ControllerClient, *operations: dict[str, Any]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = client.call("POST", "/v1/store/batch", {"operations": operations})["results"]
    return results


def put(key: str = f"blobs/{DIGEST}", body: bytes = b"", **more: Any) -> dict[str, Any]:
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    return {"method": "PUT", "key": key, "size": len(body), "md5": md5} | more


def send(signed: dict[str, Any], body: bytes | None = None, **headers: str) -> int:
    """The status of a signed request, made as it stands but for these headers."""
    parts = urlsplit(signed["url"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    connection.request(signed["method"], f"{parts.path}?{parts.query}", body, signed.get("headers", {}) | headers)
    return connection.getresponse().status


def version(*entries: Entry, seq: int = 1) -> Version:
    info = VersionInfo(
        id=f"{seq:08d}-{secrets.token_hex(6)}",
        seq=seq,
        created=datetime.now(UTC),
        reason="manual",
        message="",
        author="",
        course_ref="",
        image="",
        parent=None,
        writer="w",
        files=len(entries),
        bytes=sum(e.size for e in entries),
        skipped=0,
        tree="",
    )
    return Version(info, entries)


def last_refusal(site: GatewaySite) -> dict[str, Any]:
    return next(line for line in reversed(site.site.audit()) if line["event"] == "refused")


# --- Whose --------------------------------------------------------------------------------------------------------


def test_tokens_that_are_not_a_sessions_own_get_nothing(gateway: GatewaySite, tmp_path: Path, work: Path) -> None:
    """An expired token, one for another audience, one without a pod, one of a pod that is gone or was made anew, and
    none at all: refused and audited, and no URL is signed."""
    client = gateway.client()
    gateway.workspace(client).save(work)
    kube = gateway.site.kube
    pod = next(iter(kube.objects["pods"].values()))
    tokens = {
        "expired": kube.token(pod, seconds=-10),
        "audience": kube.token(pod, audiences=("https://kubernetes.default.svc",)),
        "unbound": kube.token(pod, bound=False),
        "garbage": "a.b.c",
        "none": "",
    }
    for name, token in tokens.items():
        (tmp_path / name).write_text(token)
        with pytest.raises((Unauthenticated, Refused)):
            batch(ControllerClient(gateway.url, tmp_path / name, tries=1), {"method": "GET", "key": f"blobs/{DIGEST}"})
        assert last_refusal(gateway)["what"] == "authentication", name
    kube.remove("pods", "hub", pod["metadata"]["name"])
    with pytest.raises(Unauthenticated):
        batch(client, {"method": "GET", "key": f"blobs/{DIGEST}"})
    kube.add_pod(
        {k: v for k, v in pod.items() if k != "status"}
        | {"metadata": {**pod["metadata"], "uid": "another", "resourceVersion": None}}
    )
    with pytest.raises(Unauthenticated):
        batch(client, {"method": "GET", "key": f"blobs/{DIGEST}"})


@pytest.mark.parametrize(
    "key",
    [
        "workspaces/ada/course/versions/00000001-aaaaaaaaaaaa.json",
        "../../../restore.py",
        "blobs/../../../../restore.py",
        "blobs/./x",
        "blobs//x",
        "/etc/passwd",
        "blobs",
        "shares/v/x",
        "work-keys/x",
        "links/x",
        "blobs/a b",
        "blobs/%2e%2e/x\n",
    ],
)
def test_no_key_leads_out_of_the_workspace(gateway: GatewaySite, key: str) -> None:
    """Keys with other folders, traversal or odd characters are refused for every method."""
    client = gateway.client()
    for method in ("GET", "HEAD", "PUT", "CREATE"):
        with pytest.raises((Refused, UsageError)):
            batch(client, put(key) | {"method": method})
    with pytest.raises((Refused, UsageError)):
        client.call("POST", "/v1/store/delete", {"key": key})
    with pytest.raises((Refused, UsageError)):
        client.call("POST", f"/v1/store/commit?key={key.strip().replace(' ', '%20')}", {})
    assert gateway.objects() == []


def test_a_list_shows_the_own_workspace_only(gateway: GatewaySite, work: Path) -> None:
    """Whatever prefix is asked for, only what lies in the session's workspace is listed."""
    gateway.workspace(gateway.client()).save(work)
    eve = gateway.client(user="eve")
    for prefix in ("", "versions/", "v", "workspaces/", "workspaces/ada/"):
        assert list(eve.lines(f"/v1/store/list?prefix={prefix}")) == [b'{"end": 0}']
    for prefix in ("../", "../../ada", "..", "/"):
        with pytest.raises((UsageError, Refused)):
            list(eve.lines(f"/v1/store/list?prefix={prefix}"))


def test_users_of_two_hubs_with_one_name_are_two(gateway: GatewaySite, work: Path) -> None:
    """A user of another session namespace has another workspace than the user of the same name here."""
    gateway.site.settings.namespaces.append("hub2")
    gateway.workspace(gateway.client()).save(work)
    assert gateway.workspace(gateway.client(namespace="hub2")).versions() == []


# --- Objects ------------------------------------------------------------------------------------------------------


def test_a_signed_put_takes_these_bytes_and_no_others(gateway: GatewaySite) -> None:
    """With a URL for some bytes, the store takes no longer body, no other body of that length, and no other key."""
    client = gateway.client()
    (signed,) = batch(client, put(body=b"12345"))
    assert send(signed, b"123456", **{"Content-Length": "6"}) == 403
    assert send(signed, b"12346") == 400
    other = signed | {"url": signed["url"].replace(DIGEST, "cd" * 32)}
    assert send(other, b"12345") == 403
    assert send(signed | {"method": "DELETE"}, b"12345") == 403
    assert gateway.objects() == []
    assert send(signed, b"12345") == 200


def test_nothing_that_is_there_is_replaced_or_removed(gateway: GatewaySite, work: Path) -> None:
    """A session cannot overwrite an object, not by a fresh URL, an old one, or several parts, and cannot delete one;
    of versions only an autosave without a note goes."""
    client = gateway.client()
    workspace = gateway.workspace(client)
    (first,) = batch(client, put(body=b"12345"))
    assert send(first, b"12345") == 200
    (again,) = batch(client, put(body=b"evil!"))
    assert send(again, b"evil!") == 412
    assert send(again, b"evil!", **{"If-None-Match": ""}) in (403, 400, 412)
    with pytest.raises(Conflict):
        workspace.store.put(f"{workspace.prefix}blobs/{DIGEST}", b"another length")
    with pytest.raises(Conflict):
        workspace.store.put(f"{workspace.prefix}blobs/{DIGEST}", bytes(20 << 20))
    assert workspace.store.get(f"{workspace.prefix}blobs/{DIGEST}") == b"12345"
    with pytest.raises(Refused):
        workspace.store.delete(f"{workspace.prefix}blobs/{DIGEST}")
    saved = workspace.save(work, reason="manual").version
    assert saved is not None
    with pytest.raises(Refused):
        workspace.store.delete(workspace.key(saved.id))
    (work / "new").write_text("x")
    auto = workspace.save(work, reason="auto").version
    assert auto is not None
    workspace.store.delete(workspace.key(auto.id))
    assert [v.id for v in workspace.versions()] == [saved.id]


def test_the_same_bytes_again_are_no_conflict(gateway: GatewaySite, work: Path, tmp_path: Path) -> None:
    """Content that an earlier, lost save left in the store is taken as it is: the next save succeeds."""
    workspace = gateway.workspace(gateway.client())
    saved = workspace.save(work, state_dir=tmp_path / "state").version
    assert saved is not None
    plain = Workspace(gateway.store, "ada", COURSE)
    gateway.store.delete(plain.key(saved.id))
    other = gateway.workspace(gateway.client()).save(work)
    assert other.created
    assert other.objects_uploaded > 1
    assert gateway.workspace(gateway.client()).restore("latest", tmp_path / "back").failed == {}


def test_an_expired_url_is_asked_for_again(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    """A URL that the store refuses as too old is replaced by a new one, and the read succeeds."""
    with running_gateway(tmp_path, s3, monkeypatch) as gateway:
        workspace = gateway.workspace(gateway.client())
        saved = workspace.save(work).version
        assert saved is not None
        store: Any = workspace.store
        key = workspace.key(saved.id)
        whole = store.get(key)
        known = store._objects.signer._known
        for name, signed in list(known.items()):
            stale = re.sub(r"X-Amz-Date=\d{8}", "X-Amz-Date=20200101", signed.url)
            known[name] = type(signed)(signed.method, stale, signed.headers, signed.until)
        assert store.get(key) == whole


# --- Commits ------------------------------------------------------------------------------------------------------


def test_a_version_is_not_committed_before_its_content(gateway: GatewaySite) -> None:
    """A version that names an object which is missing, too short, or no object for content is refused, and no version
    appears; its id must be that of its key."""
    client = gateway.client()
    workspace = gateway.workspace(client)
    missing = Entry("a", "file", 0o644, 0, 5, DIGEST, Location(f"blobs/{DIGEST}", 0, 5, "raw"))
    made = version(missing)
    with pytest.raises(DatamountError, match="not complete") as caught:
        workspace.store.put(workspace.key(made.info.id), dump(made))
    assert caught.value.who == "you"
    workspace.store.put(f"{workspace.prefix}blobs/{DIGEST}", b"1234")
    with pytest.raises(DatamountError, match="4 bytes of 5"):
        workspace.store.put(workspace.key(made.info.id), dump(made))
    base = version(Entry("a", "file", 0o644, 0, base=DIGEST, base_stored=True))
    with pytest.raises(DatamountError, match="not complete"):
        workspace.store.put(workspace.key(base.info.id), dump(base))
    for place in ("versions/x", "../blobs/x", "shares/x"):
        evil = version(Entry("a", "file", 0o644, 0, 1, DIGEST, Location(place, 0, 1, "raw")))
        with pytest.raises(DatamountError):
            workspace.store.put(workspace.key(evil.info.id), dump(evil))
    fine = version()
    with pytest.raises(UsageError):
        workspace.store.put(workspace.key("00000009-aaaaaaaaaaaa"), dump(fine))
    for body in (b"", b"{", b"[]", b'{"format": 9}'):
        with pytest.raises(DatamountError):
            workspace.store.put(workspace.key(fine.info.id), body)
    assert workspace.versions() == []
    assert last_refusal(gateway)["what"] == "commit"
    workspace.store.put(workspace.key(fine.info.id), dump(fine))
    workspace.store.put(workspace.key(fine.info.id), dump(fine))
    with pytest.raises(Conflict):
        workspace.store.put(workspace.key(fine.info.id), dump(fine) + b" ")
    assert len(workspace.versions()) == 1


def test_a_full_workspace_says_what_to_do(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    """What the gateway is asked for beyond the quota is refused and audited; the refusal says how much there is, how
    much is left, and what helps; notebooks and small files may use the reserve, and not more."""
    with running_gateway(tmp_path, s3, monkeypatch, quota="6 MB") as gateway:
        client = gateway.client()
        workspace = gateway.workspace(client)
        saved = workspace.save(work).version
        assert saved is not None
        usage = client.call("GET", "/v1/store/usage")
        assert usage == {"used": sum(o.size for o in gateway.store.list("workspaces/")), "quota": 6e6, "reserve": 6e5}
        part = put(f"blobs/{DIGEST}", bytes(900_000)) | {"method": "PART", "upload": "x", "part": 1}
        with pytest.raises(QuotaExceeded) as caught:
            batch(client, part)
        assert "of 6 MB" in caught.value.message
        assert "exclude" in caught.value.hint
        assert caught.value.left == 6e6 - usage["used"]
        assert last_refusal(gateway)["reason"] == "quota-exceeded"
        assert batch(client, put(f"bundles/{DIGEST}.zip", bytes(900_000)))
        with pytest.raises(QuotaExceeded):
            batch(client, put(f"bundles/{DIGEST}.zip", bytes(900_000)))


def test_a_save_shrinks_to_what_is_left(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    """Near the quota a save succeeds with notebooks and small files first, and names what it left out; a file that has
    grown keeps its saved content in the new version. Beyond the quota notebooks still fit into the reserve; when
    not even they do, the save fails instead of saying "saved"."""
    state = tmp_path / "state"
    with running_gateway(tmp_path, s3, monkeypatch, quota="12 MB") as gateway:
        workspace = gateway.workspace(gateway.client())
        first = workspace.save(work, state_dir=state)
        assert first.skipped == ()

        grown = (work / "b.bin").read_bytes()
        (work / "b.bin").write_bytes(secrets.token_bytes(9_000_000))
        (work / "z.ipynb").write_text(json.dumps({"cells": [], "metadata": {"x": secrets.token_hex(400_000)}}))
        (work / "large.bin").write_bytes(secrets.token_bytes(8_000_000))
        (work / "fits.bin").write_bytes(secrets.token_bytes(4_500_000))
        second = workspace.save(work, state_dir=state)
        assert second.created
        assert {s.path for s in second.skipped} == {"b.bin", "large.bin"} == set(second.too_large)
        assert all("quota of 12 MB" in s.reason for s in second.skipped)
        again = workspace.save(work, state_dir=state)
        assert (again.created, set(again.too_large)) == (False, {"b.bin", "large.bin"})

        fresh = tmp_path / "fresh"
        gateway.workspace(gateway.client()).restore("latest", fresh)
        assert {p.name for p in fresh.iterdir()} == {"a.txt", "b.bin", "z.ipynb", "fits.bin"}
        assert (fresh / "b.bin").read_bytes() == grown
        (fresh / "a.txt").write_text("an edit where no index is, and all is in the store already")
        (fresh / "more.bin").write_bytes(secrets.token_bytes(4_000_000))
        third = gateway.workspace(gateway.client()).save(fresh)
        assert third.too_large == ("more.bin",)
        (fresh / "more.bin").unlink()

        for number in range(9):
            (fresh / "n.ipynb").write_text(json.dumps({"cells": [number, secrets.token_hex(700_000)]}))
            try:
                made = gateway.workspace(gateway.client()).save(fresh)
            except QuotaExceeded as error:
                assert "n.ipynb could not be saved" in error.message
                break
            assert made.created
        assert 1 <= number < 8
        used = gateway.client().call("GET", "/v1/store/usage")["used"]
        assert 12e6 < used <= 13.2e6


def test_a_save_that_another_session_took_the_room_from_shrinks(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Path
) -> None:
    """A session that believes in more room than there is learns it from the refusal, and saves what fits."""
    with running_gateway(tmp_path, s3, monkeypatch, quota="12 MB") as gateway:
        mine, other = (gateway.workspace(gateway.client()) for _ in range(2))
        mine.save(work, state_dir=tmp_path / "state")
        (tmp_path / "taking").mkdir()
        (tmp_path / "taking/t.bin").write_bytes(secrets.token_bytes(6_000_000))
        other.save(tmp_path / "taking")
        (work / "c.bin").write_bytes(secrets.token_bytes(5_000_000))
        (work / "n.ipynb").write_text('{"cells": []}')
        result = mine.save(work, state_dir=tmp_path / "state")
        assert result.created
        assert result.too_large == ("c.bin",)
        assert "n.ipynb" in mine.version("latest").by_path()


KILLED = """
import os, signal, sys
from pathlib import Path
from datamount.controller_client import ControllerClient
from datamount.objectstore.gateway import GatewayStore
from datamount.snapshots import Workspace
class Killing(GatewayStore):
    def put(self, key, body, *, if_absent=False):
        if "/versions/" in key:
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(key, body, if_absent=if_absent)
url, token, work = sys.argv[1:]
Workspace(Killing(ControllerClient(url, Path(token))), "me", "course").save(Path(work))
"""


def test_a_kill_before_the_commit_leaves_only_content(gateway: GatewaySite, work: Path) -> None:
    """A sidecar that is killed between its content and its commit leaves objects and no version, and the next save
    works."""
    gateway.client()
    token = gateway.site.folder / "token-0"
    done = subprocess.run([sys.executable, "-c", KILLED, gateway.url, str(token), str(work)], timeout=200, check=False)
    assert done.returncode == -signal.SIGKILL
    parts = {key.split("/")[3] for key in gateway.objects()}
    assert parts <= {"blobs", "bundles"}
    assert parts
    assert gateway.workspace(gateway.client()).versions() == []
    assert gateway.workspace(gateway.client()).save(work).created


# --- Work keys ----------------------------------------------------------------------------------------------------


def test_an_anonymous_session_gets_a_key_with_its_first_save(
    anonymous: GatewaySite, work: Path, tmp_path: Path
) -> None:
    """Before the first save there is no key and no work; the save makes one; with the key another pod has the work,
    without it nobody; the bucket and the audit log never hold it."""
    kept = tmp_path / "key.json"
    workspace = anonymous.workspace(anonymous.client(user="org-course-x1"), kept)
    store: Any = workspace.store
    assert workspace.versions() == []
    assert store.work_key() is None
    assert anonymous.objects() == []
    saved = workspace.save(work).version
    assert saved is not None
    key = store.work_key()
    assert key is not None
    assert kept.stat().st_mode & 0o077 == 0
    restarted = anonymous.workspace(anonymous.client(user="org-course-x1"), kept)
    assert [v.id for v in restarted.versions()] == [saved.id]

    other = anonymous.workspace(anonymous.client(user="org-course-x2"), tmp_path / "other.json")
    assert other.versions() == []
    other_store: Any = other.store
    found = other_store.resume(key)
    assert (found["versions"], found["made_for"]) == (1, COURSE)
    assert [v.id for v in other.versions()] == [saved.id]
    secret = key.get_secret_value()
    assert all(secret not in object for object in anonymous.objects())
    everything = b"".join(anonymous.store.get(object) for object in anonymous.objects())
    assert secret.encode() not in everything
    assert secret not in json.dumps(anonymous.site.audit())


def test_a_guessed_key_opens_nothing(anonymous: GatewaySite, work: Path, tmp_path: Path) -> None:
    """Keys that no save has made, well-formed or not, are refused and audited, and change nothing; the hash that the
    bucket shows is no key either."""
    anonymous.workspace(anonymous.client(), tmp_path / "key").save(work)
    digest = next(k for k in anonymous.objects() if k.startswith("work-keys/")).split("/")[1].removesuffix(".json")
    mine = anonymous.workspace(anonymous.client(), tmp_path / "mine")
    store: Any = mine.store
    before = len(anonymous.objects())
    for guess in ("dmk_" + "A" * 43, "dmk_", "x", digest, "dmk_" + digest[:43], "dmk_" + "A" * 44):
        with pytest.raises(Refused):
            store.resume(SecretStr(guess))
        assert last_refusal(anonymous)["what"] == "workspace"
        assert store.work_key() is None
    assert len(anonymous.objects()) == before
    assert mine.save(work).created


def test_a_key_is_no_key_where_users_sign_in(gateway: GatewaySite) -> None:
    """On a hub with users a work key is neither made nor looked at."""
    client = gateway.client()
    with pytest.raises(UsageError):
        client.call("POST", "/v1/work-keys")
    client.work_key = SecretStr("dmk_" + "A" * 43)
    assert client.call("GET", "/v1/store")["user"] == "ada"


# --- Links --------------------------------------------------------------------------------------------------------


def shared(site: GatewaySite, secret: str, path: str = "/v1/shared") -> tuple[int, bytes]:
    parts = urlsplit(site.url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=120)
    connection.request("GET", path, headers={"Datamount-Share": secret})
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_a_link_shows_one_version_until_it_ends(gateway: GatewaySite, work: Path) -> None:
    """A link shows the files of its version, as a list and as a zip, to whoever has it; not another version, not after
    it was revoked or has expired, and not for a wrong secret: these look alike and are audited. The bucket holds
    no secret, and a version with a link is not thinned out."""
    workspace = gateway.workspace(gateway.client())
    store: Any = workspace.store
    first = workspace.save(work, reason="auto").version
    assert first is not None
    link = store.share(first.id, 1)
    (work / "later.txt").write_text("not shared")
    workspace.save(work)
    status, body = shared(gateway, link["secret"])
    assert status == 200
    assert [f["path"] for f in json.loads(body)["files"]] == ["a.txt", "b.bin"]
    for path in ("/v1/shared/archive.zip", f"/s/{link['secret']}"):
        status, body = shared(gateway, link["secret"], path)
        assert status == 200
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            assert archive.read("b.bin") == (work / "b.bin").read_bytes()
            assert archive.namelist() == ["a.txt", "b.bin"]
    assert workspace.shared() == {first.id}
    with pytest.raises(Refused):
        workspace.store.delete(workspace.key(first.id))
    everything = b"".join(gateway.store.get(key) for key in gateway.objects())
    assert link["secret"].encode() not in everything
    assert link["secret"] not in json.dumps(gateway.site.audit())

    for wrong in ("dms_" + "A" * 43, link["id"], "", "dms_" + link["id"][:43], "../x"):
        assert shared(gateway, wrong)[0] in (404, 422)
    assert [s["id"] for s in store.shares()] == [link["id"]]
    eve: Any = gateway.workspace(gateway.client(user="eve")).store
    assert list(eve.shares()) == []
    eve.revoke(link["id"])
    assert shared(gateway, link["secret"])[0] == 200
    store.revoke(link["id"])
    store.revoke(link["id"])
    assert shared(gateway, link["secret"])[0] == 404
    assert last_refusal(gateway)["why"] == "no such link"
    assert list(store.shares()) == []


def test_an_expired_link_opens_nothing(gateway: GatewaySite, work: Path) -> None:
    """After its end a link opens nothing and is not listed; one longer than the hub allows is not given."""
    workspace = gateway.workspace(gateway.client())
    store: Any = workspace.store
    workspace.save(work)
    link = store.share("latest", 1)
    for key in [k for k in gateway.objects() if "links/" in k or "/shares/" in k]:
        document = json.loads(gateway.store.get(key)) | {"expires": "2020-01-01T00:00:00Z"}
        gateway.store.put(key, json.dumps(document).encode())
    assert shared(gateway, link["secret"])[0] == 404
    assert last_refusal(gateway)["why"] == "expired"
    assert list(store.shares()) == []
    assert not [k for k in gateway.objects() if "links/" in k or "/shares/" in k]
    with pytest.raises(UsageError):
        store.share("latest", 1000)
    with pytest.raises(NotFound):
        store.share("00000009-aaaaaaaaaaaa", 1)


def test_urls_hold_no_key_of_the_bucket(gateway: GatewaySite, s3: servers.S3Server) -> None:
    """No answer of the gateway holds the bucket's secret key."""
    client = gateway.client()
    answers = [client.send("GET", "/v1/store"), json.dumps(batch(client, put(), {"method": "GET", "key": "base/x"}))]
    assert s3.identities["admin"].secret_access_key not in str(answers)
