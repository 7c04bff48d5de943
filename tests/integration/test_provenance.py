"""The record of a dataset: what a program reads about data that it did not fetch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from datamount.course import open_course
from datamount.credentials import FileCredentials
from datamount.fetch import fetch
from datamount.fetch.lock import lock
from datamount.fetch.provenance import path_of
from tests import servers

META = "title: Codes, license: CC BY 4.0, citation: 'https://doi.org/10.1/x'"


def course_of(folder: Path, source: str) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "datamount.yaml").write_text(f"version: 1\ndatasets:\n  codes: {{{META}, {source}}}\n")
    return open_course(str(folder))


def run(course: Any, tmp_path: Path) -> Any:
    status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=FileCredentials())
    file = path_of(tmp_path / "data", "codes")
    return status.datasets["codes"].state, json.loads(file.read_bytes()) if file.exists() else None


@pytest.fixture
def bucket(s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.env().items():
        monkeypatch.setenv(name, value)
    bucket = s3.make_bucket()
    s3.put(bucket, {"p/a.csv": b"1,2\n", "p/A.csv": b"3,4\n", "p/sub/ü 1": b"x"})
    return bucket


def test_the_record_is_a_data_package(bucket: str, tmp_path: Path) -> None:
    """It has title, licence, source, pin, and each file, found from where it stands, with its true size and digest."""
    course = course_of(tmp_path / "course", f"s3: {{url: 's3://{bucket}/p/'}}")
    lock(course, credentials=FileCredentials())
    state, record = run(course, tmp_path)
    assert state == "ready"
    assert (record["name"], record["title"]) == ("codes", "Codes")
    assert record["licenses"] == [{"name": "CC-BY-4.0", "title": "CC BY 4.0"}]
    assert record["datamount"]["citation"] == "https://doi.org/10.1/x"
    assert record["datamount"]["pin"]["bucket"] == bucket
    assert record["datamount"]["locked"] is True
    assert record["datamount"]["source"] == {"url": f"s3://{bucket}/p/"}
    assert [r["path"] for r in record["resources"]] == ["codes/A.csv", "codes/a.csv", "codes/sub/ü 1"]
    assert len({r["name"] for r in record["resources"]}) == 3
    for resource in record["resources"]:
        content = (tmp_path / "data" / resource["path"]).read_bytes()
        assert resource["bytes"] == len(content)
        assert resource["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_the_folder_is_the_objects_and_nothing_else(bucket: str, tmp_path: Path) -> None:
    """The record stands beside the dataset's folder, never in it, and a second fetch writes the same."""
    course = course_of(tmp_path / "course", f"s3: {{url: 's3://{bucket}/p/'}}")
    first = run(course, tmp_path)
    assert run(course, tmp_path) == first
    folder = tmp_path / "data/codes"
    found = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert found == ["A.csv", "a.csv", "sub/ü 1"]


def test_there_is_no_record_of_what_is_not_complete(bucket: str, tmp_path: Path, s3: servers.S3Server) -> None:
    """A dataset that fails after it was complete loses its record, and has it again when it is complete."""
    course = course_of(tmp_path / "course", f"s3: {{url: 's3://{bucket}/p/'}}")
    lock(course, credentials=FileCredentials())
    assert run(course, tmp_path)[1]
    s3.put(bucket, {"p/a.csv": b"other"})
    (tmp_path / "data/codes/a.csv").unlink()
    state, record = run(course, tmp_path)
    assert state != "ready"
    assert record is None
    s3.put(bucket, {"p/a.csv": b"1,2\n"})
    assert run(course, tmp_path)[1]


def test_no_secret_is_in_the_record(tmp_path: Path, http: servers.HTTPServer) -> None:
    """Names of credentials and users do not stand in the record; the address of a web page does."""
    (http.root / "x.csv").write_bytes(b"1")
    course = course_of(tmp_path / "course", f"url: {http.url}/x.csv")
    _, record = run(course, tmp_path)
    assert record["sources"] == [{"title": f"url: {http.url}/x.csv", "path": f"{http.url}/x.csv"}]
    from datamount.fetch.provenance import record as describe
    from datamount.manifest import Dataset

    declared = Dataset.model_validate({"url": "sftp://ada@files.example.edu/x", "credential": "reader"})
    text = json.dumps(describe("x", declared, pin={}, locked=False))
    assert "ada" not in text
    assert "reader" not in text
