"""What a bucket may ask of its readers: payment, an exact version, a name in the host; and a key that nobody has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from datamount import names
from datamount.course import read_course
from datamount.credentials import FileCredentials
from datamount.drivers import open_driver
from datamount.drivers.base import Buffer
from datamount.drivers.s3_access import S3Access
from datamount.errors import Refused
from datamount.fetch import fetch
from datamount.manifest import Dataset
from tests import servers


@pytest.fixture(params=["obstore", "plain"])
def as_where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As on a laptop, and as in a pod at an endpoint that the course names."""
    if request.param == "plain":
        monkeypatch.setenv(names.ENV_FOLDER, "/home/jovyan")
        monkeypatch.setenv(names.ENV_ALLOW_ADDRESSES, "127.0.0.0/8")
    return str(request.param)


def sign_in(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env().items():
        if not name.startswith("AWS_ENDPOINT"):
            monkeypatch.setenv(name, value)


def delivered(url: str, **more: Any) -> dict[str, bytes]:
    driver = open_driver("codes", Dataset.model_validate({"s3": {"url": url} | more}))
    items = list(driver.plan(driver.resolve()))
    return {item.path: b"".join(bytes(chunk) for chunk in driver.open(item)) for item in items}


def test_an_exact_version(s3: servers.S3Server, as_where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`version_id` delivers that version of an object, whatever came later, even its deletion."""
    sign_in(s3, monkeypatch)
    bucket = s3.make_bucket(versioned=True)
    old = s3.client().put_object(Bucket=bucket, Key="p/a", Body=b"old")["VersionId"]
    s3.put(bucket, {"p/a": b"new"})
    url = f"s3://{bucket}/p/a"
    assert delivered(url, endpoint_url=s3.endpoint_url) == {"a": b"new"}
    assert delivered(url, endpoint_url=s3.endpoint_url, version_id=old) == {"a": b"old"}
    s3.client().delete_object(Bucket=bucket, Key="p/a")
    assert delivered(url, endpoint_url=s3.endpoint_url, version_id=old) == {"a": b"old"}


@pytest.mark.parametrize("where", ["p/", "p/a"])
def test_files_without_etags(as_where: str, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A gateway over a file system gives no ETag for files put beside it: their time tells that they changed, and a
    large one is read in one, because nothing tells of which file a part of it is."""
    asked: list[tuple[int, int | None]] = []
    real = S3Access.read

    def read(self: S3Access, key: str, **part: Any) -> Iterator[Buffer]:
        asked.append((part["start"], part["stop"]))
        return real(self, key, **part)

    monkeypatch.setattr(S3Access, "read", read)
    with servers.VersityServer() as server:
        admin = server.identities["admin"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", admin.access_key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", admin.secret_access_key)
        bucket = server.make_bucket()
        file = server.folder / "data" / bucket / "p/a"
        file.parent.mkdir()
        source = {"url": f"s3://{bucket}/{where}", "endpoint_url": server.endpoint_url, "region": "us-east-1"}
        (tmp_path / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"d": {"s3": source}}}))
        course = read_course(tmp_path)
        for number, content in enumerate((b"one", b"two" * (4 << 20))):
            file.write_bytes(content)
            os.utime(file, (1_700_000_000 + 60 * number,) * 2)
            for _ in "twice":
                status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=FileCredentials())
                assert status.state == "ready", status
                assert (tmp_path / "data/d/a").read_bytes() == content
        assert asked == [(0, None)] * 2


def test_a_customers_key_is_named(s3: servers.S3Server, as_where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that only its owner's key opens is refused with that reason, alone and below a prefix."""
    sign_in(s3, monkeypatch)
    bucket = s3.make_bucket()
    key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    s3.client().put_object(Bucket=bucket, Key="p/x", Body=b"secret", **key)
    for url in (f"s3://{bucket}/p/x", f"s3://{bucket}/p/"):
        with pytest.raises(Refused, match="SSE-C") as error:
            delivered(url, endpoint_url=s3.endpoint_url)
        assert error.value.who == "the data's owner"


class Paid(BaseHTTPRequestHandler):
    """Passes signed requests to an S3 server, as a bucket whose requester pays: 403 without the header, signed."""

    target: str
    seen: list[str]

    def do_GET(self) -> None:
        signed = self.headers.get("Authorization", "")
        if self.headers.get("x-amz-request-payer") != "requester" or "x-amz-request-payer" not in signed:
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>", {})
            return
        self.seen.append(self.command)
        request = urllib.request.Request(self.target + self.path, headers=dict(self.headers), method=self.command)
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                self.answer(found.status, found.read(), dict(found.headers))
        except urllib.error.HTTPError as error:
            with error:
                self.answer(error.code, error.read(), dict(error.headers))

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def paid(s3: servers.S3Server) -> Iterator[str]:
    Paid.target, Paid.seen = s3.endpoint_url, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Paid) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_requester_pays(s3: servers.S3Server, paid: str, as_where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With requester_pays every request says so under its signature; without, none does and the bucket refuses."""
    sign_in(s3, monkeypatch)
    bucket = s3.make_bucket()
    s3.put(bucket, {"p/a": b"1", "p/b": b"2"})
    with pytest.raises(Refused):
        delivered(f"s3://{bucket}/p/", endpoint_url=paid)
    assert delivered(f"s3://{bucket}/p/", endpoint_url=paid, requester_pays=True) == {"a": b"1", "b": b"2"}
    assert delivered(f"s3://{bucket}/p/a", endpoint_url=paid, requester_pays=True) == {"a": b"1"}
    assert len(Paid.seen) >= 5


class Virtual(servers.S3Server):
    """An S3 server that finds the bucket in the host name."""

    def command(self) -> Sequence[str | Path]:
        return [*super().command(), "-s3.domainName=s3.test"]


def test_the_bucket_in_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `addressing: virtual` listings and reads go to BUCKET.ENDPOINT, correctly signed."""
    with Virtual() as s3:
        sign_in(s3, monkeypatch)
        bucket = s3.make_bucket()
        s3.put(bucket, {"p/a b": b"1", "p/sub/c": b"2"})
        # No name server here: the server itself is the proxy that knows where *.s3.test is.
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, s3.endpoint_url)
        monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
        found = delivered(f"s3://{bucket}/p/", endpoint_url="http://s3.test", addressing="virtual")
        assert found == {"a b": b"1", "sub/c": b"2"}
        assert delivered(f"s3://{bucket}/p/a b", endpoint_url="http://s3.test", addressing="virtual") == {"a b": b"1"}


@pytest.fixture(scope="module")
def tls() -> Iterator[servers.TLSS3Server]:
    with servers.TLSS3Server() as server:
        yield server


def test_tls(tls: servers.TLSS3Server, tmp_path: Path, as_where: str) -> None:
    """https:// works with the authority in SSL_CERT_FILE; without, it ends at once and says what to set."""
    bucket = tls.make_bucket()
    tls.put(bucket, {"p/a": b"1", "p/b": b"2" * 300_000})
    for key in ("p/", "p/a"):
        source = {"url": f"s3://{bucket}/{key}", "endpoint_url": tls.https_url}
        (tmp_path / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"codes": {"s3": source}}}))
        command = [sys.executable, "-m", "datamount", "fetch", tmp_path, "--json"]
        command += ["--data", tmp_path / key, "--run", tmp_path / "run"]
        environment = os.environ | tls.env() | {"AWS_ENDPOINT_URL": tls.https_url}
        environment.pop("SSL_CERT_FILE", None)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 5
        error = json.loads(done.stdout)["datasets"]["codes"]["error"]
        assert "certificate is not trusted" in error["detail"]
        assert "SSL_CERT_FILE" in error["hint"]
        trusting = environment | {"SSL_CERT_FILE": str(tls.authority)}
        done = subprocess.run(command, env=trusting, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout
        assert (tmp_path / key / "codes/a").read_bytes() == b"1"
