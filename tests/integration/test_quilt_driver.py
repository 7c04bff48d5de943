"""The quilt driver against packages that quilt3 pushed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from datamount.drivers import open_driver
from datamount.drivers.quilt import ABOUT
from datamount.drivers.quilt_manifest import Manifest
from datamount.errors import Refused, UsageError, VerificationFailed
from datamount.manifest import Dataset
from tests import servers

META: dict[str, dict[str, Any]] = {"": {"b": 1.5, "a": ["é", None]}, "a/x.csv": {"rows": 1}, "a": {"kept": "by quilt3"}}
FILES = {"a/x.csv": b"1", "a.csv": b"2", "a/b/y.csv": b"3", "é.txt": b"4", "big.bin": b"0" * (9 << 20)}


@pytest.fixture(scope="module")
def package(s3: servers.S3Server) -> tuple[str, str]:
    """Bucket and top hash of a pushed package."""
    bucket = s3.make_bucket(versioned=True)
    return bucket, servers.push_package("stat/labels", f"s3://{bucket}", FILES, env=s3.env(), meta=META)


@pytest.fixture(autouse=True)
def _signed_in(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)


def quilt(bucket: str, **more: Any) -> Any:
    source = {"package": "stat/labels", "registry": f"s3://{bucket}"} | more
    return open_driver("labels", Dataset.model_validate({"quilt": source}))


def test_the_top_hash_is_quilts(package: tuple[str, str]) -> None:
    """`latest`, a short and a full top hash all resolve to the hash that quilt3 printed, and we compute the same."""
    bucket, pushed = package
    for asked in ({}, {"top_hash": pushed[:8]}, {"top_hash": pushed}):
        driver = quilt(bucket, **asked)
        assert {"top_hash": pushed} == driver.resolve()
        assert [".quilt.json", *sorted(FILES)] == sorted(item.path for item in driver.plan(driver.resolve()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a", ["b/y.csv", "x.csv"]), ("a/", ["b/y.csv", "x.csv"]), ("a/b", ["y.csv"]), ("a.csv", ["a.csv"])],
)
def test_path_chooses_a_folder_or_a_file(package: tuple[str, str], path: str, expected: list[str]) -> None:
    """`path` delivers what is below that folder, or that file, at paths relative to it."""
    driver = quilt(package[0], path=path)
    assert expected == sorted(item.path for item in driver.plan(driver.resolve()) if item.path != ABOUT)


def test_a_changed_manifest_is_refused(s3: servers.S3Server, package: tuple[str, str]) -> None:
    """A manifest whose content does not have the hash that names it is never used."""
    bucket, pushed = package
    key, other = f".quilt/packages/{pushed}", s3.make_bucket()
    manifest = s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    s3.put(other, {key: manifest.replace(b'"size": 1', b'"size": 2', 1)})
    driver = quilt(other, top_hash=pushed)
    with pytest.raises(VerificationFailed, match="changed"):
        list(driver.plan(driver.resolve()))
    s3.put(other, {key: b"not JSON"})
    driver = quilt(other, top_hash=pushed)
    with pytest.raises(VerificationFailed, match="cannot be read"):
        list(driver.plan(driver.resolve()))


def test_a_bucket_cannot_point_at_this_machines_files(s3: servers.S3Server) -> None:
    """A package in a bucket whose entry lies at file:///etc/passwd is refused: its top hash does not cover places."""
    rows: list[dict[str, Any]] = [
        {"version": "v0"},
        {
            "logical_key": "x",
            "physical_keys": ["file:///etc/passwd"],
            "size": 1,
            "hash": {"type": "SHA256", "value": "0" * 64},
            "meta": {},
        },
    ]
    manifest = "\n".join(json.dumps(row) for row in rows).encode()
    name = Manifest(manifest, dataset="labels").top_hash()
    bucket = s3.make_bucket()
    s3.put(bucket, {f".quilt/packages/{name}": manifest})
    driver = quilt(bucket, top_hash=name)
    with pytest.raises(UsageError, match="file address"):
        list(driver.plan(driver.resolve()))


def test_the_users_quilt_configuration_is_left_alone(package: tuple[str, str], _own_home: Path) -> None:
    """Resolving, planning and reading writes nothing into the home folder."""
    driver = quilt(package[0])
    for item in driver.plan(driver.resolve()):
        assert item.path == ABOUT or FILES[item.path] == b"".join(bytes(chunk) for chunk in driver.open(item))
    assert list(_own_home.rglob("*")) == []


def test_metadata_is_delivered(package: tuple[str, str]) -> None:
    """What the author told quilt3 of the package and its files stands in .quilt.json, by the delivered paths."""
    driver = quilt(package[0], path="a")
    (item,) = (item for item in driver.plan(driver.resolve()) if item.path == ABOUT)
    content = b"".join(driver.open(item))
    assert json.loads(content) == {
        "package": "stat/labels",
        "top_hash": package[1],
        "message": "test",
        "user_meta": META[""],
        "files": {"x.csv": {"rows": 1}},
    }
    assert item.digest is not None
    assert (len(content), hashlib.sha256(content).hexdigest()) == (item.size, item.digest.value)
    assert b"".join(driver.open(item, 3, 9)) == content[3:9]


class Catalog(BaseHTTPRequestHandler):
    """The two calls of a Quilt catalog's registry that quilt3 makes for keys; no such service can be installed."""

    keys: dict[str, str]
    calls: list[str]

    def do_POST(self) -> None:
        self.answer({"refresh_token": "r2", "access_token": "a2", "expires_at": time.time() + 3600})

    def do_GET(self) -> None:
        self.answer(self.keys)

    def answer(self, body: dict[str, Any]) -> None:
        self.calls.append(self.path)
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_keys_of_a_quilt_login(
    s3: servers.S3Server, package: tuple[str, str], _own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private registry is read with `quilt3 login`'s keys, renewed by quilt3 where they ended; never elsewhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    folder = _own_home / ".local/share/Quilt"
    folder.mkdir(parents=True)
    kept = folder / "credentials.json"
    identity = s3.identities["admin"]
    right = {"access_key": identity.access_key_id, "secret_key": identity.secret_access_key, "token": None}
    kept.write_text(json.dumps(right | {"expiry_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}))
    assert quilt(package[0]).resolve() == {"top_hash": package[1]}
    with pytest.raises(Refused):
        quilt(package[0], endpoint_url=s3.endpoint_url).resolve()
    with monkeypatch.context() as pod, pytest.raises(Refused):
        pod.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        quilt(package[0]).resolve()

    ended = {"access_key": "AKENDED", "secret_key": "x", "token": "x", "expiry_time": "2020-01-01T00:00:00+00:00"}
    kept.write_text(json.dumps(ended))
    with pytest.raises(Refused, match="login at the Quilt catalog"):
        quilt(package[0]).resolve()

    Catalog.calls = []
    Catalog.keys = {
        "AccessKeyId": identity.access_key_id,
        "SecretAccessKey": identity.secret_access_key,
        "SessionToken": "",
        "Expiration": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Catalog) as catalog:
        threading.Thread(target=catalog.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{catalog.server_address[1]}"
        (folder / "config.yml").write_text(f"registryUrl: {url}\nnavigator_url: {url}\n")
        (folder / "auth.json").write_text(
            json.dumps({url: {"refresh_token": "r", "access_token": "a", "expires_at": 1}})
        )
        program = (
            "import sys; from tests.integration.test_quilt_driver import quilt; print(quilt(sys.argv[1]).resolve())"
        )
        command = [sys.executable, "-c", program, package[0]]  # quilt3 finds its folder when it is imported
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        catalog.shutdown()
    assert package[1] in done.stdout, done.stderr
    assert Catalog.calls == ["/api/token", "/api/auth/get_credentials"]
    assert json.loads(kept.read_text())["access_key"] == identity.access_key_id
