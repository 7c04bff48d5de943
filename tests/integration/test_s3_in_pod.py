"""S3 endpoints that a course names, read in a pod: the same bytes as elsewhere, and no redirect is followed."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from botocore.credentials import Credentials
from pydantic import SecretStr

from datamount import names
from datamount.controller.presign import presigned
from datamount.credentials import Credential
from datamount.drivers.s3_access import S3Access
from datamount.errors import NotFound, Refused, Unavailable, VerificationFailed
from tests import servers

KEYS = ["plain.csv", "a b+c&d=e.csv", "ünï/cödé.txt", "per%20cent", "tilde~(x)'!*.txt", "empty"]


class Presigned:
    """Signs as the controller does."""

    def __init__(self, s3: servers.S3Server) -> None:
        admin = s3.identities["admin"]
        self.endpoint, self._keys = s3.endpoint_url, Credentials(admin.access_key_id, admin.secret_access_key)

    def object(self, bucket: str, key: str, version_id: str | None) -> str:
        return self._url(f"{bucket}/{quote(key, safe='/-_.~')}", {"versionId": version_id} if version_id else {})

    def page(self, bucket: str, query: Mapping[str, str]) -> str:
        return self._url(bucket, query)

    def _url(self, path: str, query: Mapping[str, str]) -> str:
        return presigned("GET", f"{self.endpoint}/{path}", self._keys, "us-east-1", 60, query=query)


@pytest.fixture(params=["obstore", "plain", "presigned"])
def access(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, s3: servers.S3Server
) -> Callable[..., S3Access]:
    """Opens a bucket as on a laptop, as in a pod, and as in a pod whose lease has no key."""
    if request.param == "plain":
        monkeypatch.setenv(names.ENV_FOLDER, "/home/jovyan")
    admin = s3.identities["admin"]
    known = Credential(access_key_id=admin.access_key_id, secret_access_key=SecretStr(admin.secret_access_key))

    if request.param == "presigned":
        known = Credential(presigned=True, reads=Presigned(s3))

    def make(bucket: str, credential: Credential | None = known, **more: Any) -> S3Access:
        made = S3Access("x", bucket, credential=credential, endpoint_url=s3.endpoint_url, **more)
        assert (made._plain is not None) == (request.param == "plain" or made._presigned is not None)
        return made

    return make


def read(access: S3Access, key: str, **more: Any) -> bytes:
    return b"".join(access.read(key, **more))


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_read_whole_and_in_parts(s3: servers.S3Server, access: Callable[..., S3Access], key: str) -> None:
    """Signed reads of odd keys give the object, any range of it, and its size and ETag."""
    content = b"" if key == "empty" else bytes(range(256)) * 20_000
    bucket = s3.make_bucket()
    s3.put(bucket, {key: content})
    opened = access(bucket)
    assert read(opened, key) == content
    assert read(opened, key, start=100, stop=300) == content[100:300]
    assert read(opened, key, start=len(content)) == b""
    assert read(opened, key, start=5) == content[5:]
    found = opened.head(key)
    assert found.size == len(content)
    assert read(opened, key, etag=found.etag) == content


def test_versions_are_read(s3: servers.S3Server, access: Callable[..., S3Access]) -> None:
    """An old version is read by its id; another ETag than the object's is a failed verification."""
    bucket = s3.make_bucket(versioned=True)
    s3.put(bucket, {"k": b"old"})
    old = access(bucket).head("k")
    s3.put(bucket, {"k": b"new!"})
    assert old.version_id
    assert read(access(bucket), "k", version_id=old.version_id) == b"old"
    assert access(bucket).head("k", old.version_id).size == 3
    with pytest.raises(VerificationFailed, match="changed since"):
        read(access(bucket), "k", etag=old.etag)


def test_what_is_missing_or_refused_is_said(s3: servers.S3Server, access: Callable[..., S3Access]) -> None:
    """A missing key, a bucket that is not public, and a server that is down give the same errors either way."""
    bucket = s3.make_bucket()
    s3.put(bucket, {"k": b"x"})
    with pytest.raises(NotFound):
        read(access(bucket), "none")
    with pytest.raises(Refused):
        read(access(bucket, None, anonymous=True), "k")
    down = access(bucket)
    down.endpoint = f"http://127.0.0.1:{servers.free_port()}"
    if isinstance(down._presigned, Presigned):
        down._presigned = Presigned(s3)
        down._presigned.endpoint = down.endpoint
    with pytest.raises(Unavailable, match="did not answer"):
        read(down, "k")


@contextmanager
def server(status: int, headers: dict[str, str], body: bytes = b"") -> Iterator[tuple[str, list[str]]]:
    """A web server that answers everything so, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", asked
    finally:
        made.shutdown()
        made.server_close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_an_object_is_not_followed(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """An S3 server that a course names cannot have fetch read another address in a pod."""
    monkeypatch.setenv(names.ENV_FOLDER, "/home/jovyan")
    with (
        server(200, {"ETag": '"x"'}, b"node credentials") as (metadata, asked),
        server(status, {"Location": f"{metadata}/latest"}) as (endpoint, _),
    ):
        opened = S3Access("x", "bucket", endpoint_url=endpoint, anonymous=True)
        with pytest.raises(Unavailable):
            read(opened, "k")
        with pytest.raises(Unavailable):
            opened.head("k")
        assert asked == []


def test_the_operator_may_trust_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that the operator lists, or that comes with a credential, is read with the fast client."""
    monkeypatch.setenv(names.ENV_FOLDER, "/home/jovyan")
    monkeypatch.setenv(names.ENV_TRUSTED_ENDPOINTS, "https://other.example.edu, https://s3.example.edu/")
    assert S3Access("x", "bucket", endpoint_url="https://s3.example.edu", anonymous=True)._plain is None
    assert S3Access("x", "bucket", endpoint_url="https://s4.example.edu", anonymous=True)._plain is not None
    given = Credential(endpoint_url="https://inside.example.edu")
    assert S3Access("x", "bucket", endpoint_url="https://s4.example.edu", credential=given)._plain is None
