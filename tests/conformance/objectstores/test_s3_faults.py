"""The S3 store on a network that loses answers, and on servers that lack what AWS has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from datamount.errors import Conflict, Refused, Unavailable
from datamount.objectstore import ObjectStore, open_store
from datamount.snapshots import Workspace
from tests.s3_proxy import Fault, Rule, S3Proxy
from tests.servers import HTTPServer, S3Server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for key, value in s3.env().items():
        monkeypatch.setenv(key, value)
    return s3.make_bucket()


def opened(proxy: S3Proxy, bucket: str) -> ObjectStore:
    return open_store(f"s3://{bucket}/p", proxy.url)


def once(method: str, part: str, fault: Fault) -> Rule:
    """The fault at the first request of this method whose path has `part`."""
    left = [fault]

    def rule(found: str, path: str, headers: Any) -> Fault:
        return left.pop() if left and found == method and part in path else None

    return rule


def test_wrong_keys_are_refused_not_unavailable(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing, reading and writing with wrong keys each say that access is denied, not to try again in a while."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store = open_store(f"s3://{bucket}/p", s3.endpoint_url)
    for action in (lambda: list(store.list("")), lambda: store.get("k"), lambda: store.put("k", b"x")):
        with pytest.raises(Refused, match="access is denied"):
            action()


def test_without_any_keys_it_says_which_to_set(http: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no variable and no profile has keys, and the machine is no cloud's, the error tells how to give some."""
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", http.url)
    with pytest.raises(Refused, match="no keys") as caught:
        open_store("s3://some-bucket/p").put("k", b"x")
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    assert caught.value.who == "you"


def test_a_create_whose_answer_was_lost_is_ours(s3: S3Server, bucket: str) -> None:
    """A conditional create that landed without an answer is tried again, finds its own object, and has succeeded."""
    with S3Proxy(s3.endpoint_url, once("PUT", "/p/k", "drop answer")) as proxy:
        store = opened(proxy, bucket)
        store.put("k", b"mine", if_absent=True)
        assert store.get("k") == b"mine"
        puts = [fault for method, path, fault in proxy.seen if method == "PUT"]
        assert puts == ["drop answer", None]
        with pytest.raises(Conflict):
            store.put("k", b"again", if_absent=True)


def test_a_create_that_lost_to_another_is_a_conflict(s3: S3Server, bucket: str) -> None:
    """When the first try did not land and another writer came in between, the create is refused."""
    with S3Proxy(s3.endpoint_url, lambda *_: None) as proxy:
        store = opened(proxy, bucket)

        def rule(method: str, path: str, headers: Any) -> Fault:
            if method == "PUT" and len(proxy.seen) == 0:
                s3.put(bucket, {"p/k": b"theirs"})
                return "drop request"
            return None

        proxy.rule = rule
        with pytest.raises(Conflict):
            store.put("k", b"mine", if_absent=True)
        assert store.get("k") == b"theirs"


def test_a_store_without_conditional_create_is_checked_first(s3: S3Server, bucket: str) -> None:
    """Where If-None-Match is answered 501, a create looks first and then writes; conflicts are still found."""

    def rule(method: str, path: str, headers: Any) -> Fault:
        return "not implemented" if "If-None-Match" in headers else None

    with S3Proxy(s3.endpoint_url, rule) as proxy:
        store = opened(proxy, bucket)
        store.put("k", b"1", if_absent=True)
        with pytest.raises(Conflict):
            store.put("k", b"2", if_absent=True)
        assert store.get("k") == b"1"
        refused = [f for _, _, f in proxy.seen if f == "not implemented"]
        assert len(refused) == 1  # it is not asked again


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["drop answer", "drop request", "slow down"])
@pytest.mark.parametrize(
    ("method", "part"),
    [("PUT", "/bundles/"), ("PUT", "/versions/"), ("PUT", "partNumber=2"), ("POST", "uploadId="), ("GET", "list-type")],
)
def test_a_save_outlives_one_fault(
    s3: S3Server, bucket: str, tmp_path: Path, method: str, part: str, fault: Fault
) -> None:
    """Whichever request of a save is lost, refused or unanswered once: one version, whole."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "nb.ipynb").write_text("{}")
    (work / "large.bin").write_bytes(os.urandom(33 << 20))
    with S3Proxy(s3.endpoint_url, once(method, part, fault)) as proxy:
        workspace = Workspace(opened(proxy, bucket), "o", "c")
        version = workspace.save(work, state_dir=tmp_path / "state").version
        assert version and fault in [f for _, _, f in proxy.seen]
        assert [v.id for v in workspace.versions()] == [version.id]
        assert not workspace.restore(version.id, tmp_path / "out").failed
        assert (tmp_path / "out/large.bin").read_bytes() == (work / "large.bin").read_bytes()


@pytest.mark.parametrize("fault", ["drop answer", "cut answer", "slow down"])
def test_a_restore_outlives_one_fault(s3: S3Server, bucket: str, tmp_path: Path, fault: Fault) -> None:
    """An answer that is cut, lost or refused once during a restore costs a try, and the files are whole."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "nb.ipynb").write_text("{}")
    (work / "large.bin").write_bytes(os.urandom(40 << 20))
    with S3Proxy(s3.endpoint_url, lambda *_: None) as proxy:
        workspace = Workspace(opened(proxy, bucket), "o", "c")
        workspace.save(work)
        for part in ("/bundles/", "/blobs/", "/versions/"):
            proxy.rule = once("GET", part, fault)
            proxy.seen.clear()
            report = workspace.restore("latest", tmp_path / part.strip("/"))
            assert fault in [f for _, _, f in proxy.seen] and not report.failed
            assert (tmp_path / part.strip("/") / "large.bin").read_bytes() == (work / "large.bin").read_bytes()


def test_a_store_that_is_gone_is_said_so(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conditional create against a server that never answers ends in Unavailable, after a few tries."""
    monkeypatch.setattr("datamount.objectstore.remote._BACKOFF", 0.01)
    with S3Proxy(s3.endpoint_url, lambda *_: "drop request") as proxy:
        store = opened(proxy, bucket)
        with pytest.raises(Unavailable):
            store.put("k", b"1", if_absent=True)
        assert 2 <= len(proxy.seen) <= 10
