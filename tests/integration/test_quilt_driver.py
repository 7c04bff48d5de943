"""The quilt driver against packages that quilt3 pushed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datamount.drivers import open_driver
from datamount.drivers.quilt import parse, top_hash
from datamount.errors import UsageError, VerificationFailed
from datamount.manifest import Dataset
from tests import servers

FILES = {"a/x.csv": b"1", "a.csv": b"2", "a/b/y.csv": b"3", "é.txt": b"4", "big.bin": b"0" * (9 << 20)}


@pytest.fixture(scope="module")
def package(s3: servers.S3Server) -> tuple[str, str]:
    """Bucket and top hash of a pushed package."""
    bucket = s3.make_bucket(versioned=True)
    return bucket, servers.push_package("stat/labels", f"s3://{bucket}", FILES, env=s3.env())


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
        assert sorted(FILES) == sorted(item.path for item in driver.plan(driver.resolve()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a", ["b/y.csv", "x.csv"]), ("a/", ["b/y.csv", "x.csv"]), ("a/b", ["y.csv"]), ("a.csv", ["a.csv"])],
)
def test_path_chooses_a_folder_or_a_file(package: tuple[str, str], path: str, expected: list[str]) -> None:
    """`path` delivers what is below that folder, or that file, at paths relative to it."""
    driver = quilt(package[0], path=path)
    assert expected == sorted(item.path for item in driver.plan(driver.resolve()))


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
    name = top_hash(*parse(manifest, dataset="labels"))
    bucket = s3.make_bucket()
    s3.put(bucket, {f".quilt/packages/{name}": manifest})
    driver = quilt(bucket, top_hash=name)
    with pytest.raises(UsageError, match="file address"):
        list(driver.plan(driver.resolve()))


def test_the_users_quilt_configuration_is_left_alone(package: tuple[str, str], _own_home: Path) -> None:
    """Resolving, planning and reading writes nothing into the home folder."""
    driver = quilt(package[0])
    for item in driver.plan(driver.resolve()):
        assert FILES[item.path] == b"".join(bytes(chunk) for chunk in driver.open(item))
    assert list(_own_home.rglob("*")) == []
