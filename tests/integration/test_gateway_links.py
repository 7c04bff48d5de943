"""Resume and share links: where they open, in which sessions, and what becomes of wrong ones."""

from __future__ import annotations

import http.client
import io
import json
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from datamount.controller import auth, shares, work_keys
from datamount.controller_client import ControllerClient
from datamount.errors import NotFound, Refused, TooMany, Unauthenticated
from tests import servers
from tests.gateway import COURSE, GatewaySite, running_gateway

BINDER = {"BINDER_REQUEST": "v2/gh/org/course/main", "BINDER_LAUNCH_HOST": "https://binder.example.edu/"}
ELSEWHERE = {"image": "registry.example.edu/other:1", "repo": ""}


@pytest.fixture
def anonymous(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True) as site:
        yield site


@pytest.fixture
def doubting(tmp_path: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewaySite]:
    """The same, where each token is looked at anew, and no failure is forgiven while a test takes its time."""
    for limit in (auth, shares, work_keys):
        monkeypatch.setattr(limit, "FAILURE_SECONDS", 3600.0)
    with running_gateway(tmp_path, s3, monkeypatch, anonymous=True, review_seconds=0) as site:
        yield site


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.txt").write_text("some text")
    return folder


def events(site: GatewaySite, name: str) -> list[dict[str, Any]]:
    return [line for line in site.site.audit() if line["event"] == name]


def key_in(link: str) -> SecretStr:
    """What a panel takes out of the address that BinderHub's launch page leads to."""
    (urlpath,) = parse_qs(urlsplit(link).query)["urlpath"]
    return SecretStr(urlpath.partition("#datamount=")[2])


def test_a_resume_link_opens_the_work_in_a_new_session(anonymous: GatewaySite, work: Path, tmp_path: Path) -> None:
    """The link launches the course, and the key in it has the work in the session that it opens; in a session of
    another course the key is refused, and that session's own work stays."""
    first: Any = anonymous.workspace(anonymous.client(variables=BINDER), tmp_path / "key")
    saved = first.save(work).version
    link = first.store.link(first.store.work_key())
    assert link.startswith("https://binder.example.edu/v2/gh/org/course/main?urlpath=")
    fresh: Any = anonymous.workspace(anonymous.client(user="org-course-x2"), tmp_path / "key2")
    assert fresh.store.resume(key_in(link))["versions"] == 1
    fresh.restore("latest", tmp_path / "back")
    assert (tmp_path / "back/a.txt").read_text() == "some text"
    assert [v.id for v in fresh.versions()] == [saved.id]

    other: Any = anonymous.workspace(anonymous.client(**ELSEWHERE), tmp_path / "key3")
    other.save(work)
    mine = other.store.work_key()
    with pytest.raises(Refused, match="another course") as caught:
        other.store.resume(key_in(link))
    assert COURSE in caught.value.message
    assert events(anonymous, "refused")[-1]["what"] == "resume"
    assert other.store.work_key() == mine
    assert len(other.versions()) == 1


def test_a_share_opens_in_any_session_of_its_course(anonymous: GatewaySite, work: Path, tmp_path: Path) -> None:
    """A share link shows its version in somebody else's session of the course, which can read it and change nothing of
    it; in a session of another course, and with a token that is none, it is refused, and all of it is audited."""
    owner: Any = anonymous.workspace(anonymous.client(variables=BINDER), tmp_path / "key")
    saved = owner.save(work).version
    secret = key_in(owner.store.share("latest", 1)["session_link"])
    reader = anonymous.client(user="org-course-x2")
    shown = json.loads(b"".join(reader.chunks("/v1/shared", share=secret)))
    assert (shown["version"], shown["course"]) == (saved.id, COURSE)
    body = b"".join(reader.chunks("/v1/shared/archive.zip", share=secret))
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.read("a.txt") == b"some text"
    assert events(anonymous, "open-share")[-1]["user"] == "org-course-x2"
    reader.work_key = secret
    for method, path in (("GET", "/v1/shares"), ("GET", "/v1/store/list"), ("POST", "/v1/resume")):
        with pytest.raises(Refused):
            reader.call(method, path)

    for path in ("/v1/shared", "/v1/shared/archive.zip"):
        with pytest.raises(Refused, match="another course"):
            list(anonymous.client(**ELSEWHERE).chunks(path, share=secret))
        assert events(anonymous, "refused")[-1]["why"] == "another course"
    (tmp_path / "forged").write_text("a.b.c")
    with pytest.raises(Unauthenticated):
        list(ControllerClient(anonymous.url, tmp_path / "forged", tries=1).chunks("/v1/shared", share=secret))
    text = json.dumps(anonymous.site.audit())
    assert secret.get_secret_value() not in text


def test_a_session_cannot_make_workspaces_without_end(anonymous: GatewaySite) -> None:
    """Each work key has a quota of its own, so one pod gets a few and then waits; another pod does not."""
    client = anonymous.client()
    keys = {client.call("POST", "/v1/work-keys")["work_key"] for _ in range(work_keys.MADE)}
    assert len(keys) == work_keys.MADE
    with pytest.raises(TooMany, match="several keys"):
        client.call("POST", "/v1/work-keys", tries=1)
    assert anonymous.client().call("POST", "/v1/work-keys")["work_key"]


def test_an_unconfirmed_repo_is_audited_once_a_pod(anonymous: GatewaySite) -> None:
    """A pod that says to be of a repo that its image does not confirm leaves one line, with both."""
    forged = anonymous.client(image="registry.example.edu/eve:1", repo=COURSE)
    for _ in range(3):
        forged.call("GET", "/v1/store")
    anonymous.client().call("GET", "/v1/store")
    (line,) = events(anonymous, "unconfirmed-repo")
    assert (line["repo"], line["course"], line["image"]) == (
        COURSE,
        "registry.example.edu/eve",
        "registry.example.edu/eve:1",
    )


def test_bad_tokens_keys_and_links_are_not_looked_at_for_ever(
    doubting: GatewaySite, tmp_path: Path, work: Path
) -> None:
    """After a burst of bad work keys a pod gets no more looked up, and its own key still works; after one of bad
    links an address is refused; after one of bad tokens the API server is not asked any more, but for a token that was
    good before. Each limit leaves one line in the audit."""
    kept = tmp_path / "key"
    own: Any = doubting.workspace(doubting.client(), kept)
    own.save(work)
    own.store.client._tries = 1
    for _ in range(work_keys.FAILURES):
        with pytest.raises(Refused):
            own.store.resume(SecretStr("dmk_" + secrets.token_urlsafe(32)))
    with pytest.raises(TooMany) as caught:
        own.store.resume(SecretStr("dmk_" + secrets.token_urlsafe(32)))
    assert caught.value.transient
    assert len(own.versions()) == 1

    def opened() -> tuple[int, str | None]:
        connection = http.client.HTTPConnection(urlsplit(doubting.url).netloc, timeout=120)
        connection.request("GET", f"/s/dms_{secrets.token_urlsafe(32)}")
        answer = connection.getresponse()
        return answer.status, answer.headers["Retry-After"]

    answers = [opened() for _ in range(shares.FAILURES + 5)]
    assert {status for status, _ in answers[: shares.FAILURES]} == {404}
    assert answers[-1][0] == 429
    assert answers[-1][1] is not None

    bad = tmp_path / "bad"
    bad.write_text("a.b.c")
    client = ControllerClient(doubting.url, bad, tries=1)
    for _ in range(auth.FAILURES):
        with pytest.raises(Unauthenticated):
            client.session()
    asked = len(doubting.site.kube.asked)
    with pytest.raises(TooMany):
        client.session()
    assert len(doubting.site.kube.asked) == asked
    asked = len(doubting.site.kube.asked)
    own.store.client.session()
    assert len(doubting.site.kube.asked) > asked, "looked at again, though others failed"
    assert [line["what"] for line in events(doubting, "limited")] == ["work-key", "share", "authentication"]


def test_an_expired_share_opens_in_no_session(anonymous: GatewaySite, work: Path, tmp_path: Path) -> None:
    """A share past its end opens nothing in a session of its course either."""
    owner: Any = anonymous.workspace(anonymous.client(), tmp_path / "key")
    owner.save(work)
    secret = SecretStr(owner.store.share("latest", 1)["secret"])
    for key in [k for k in anonymous.objects() if "links/" in k]:
        document = json.loads(anonymous.store.get(key)) | {"expires": "2020-01-01T00:00:00Z"}
        anonymous.store.put(key, json.dumps(document).encode())
    with pytest.raises(NotFound):
        list(anonymous.client().chunks("/v1/shared", share=secret))
    assert events(anonymous, "refused")[-1]["why"] == "expired"
