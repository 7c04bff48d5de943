"""Files of other tools become manifests, and what cannot is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datamount.cli import app
from datamount.convert import Conversion, convert
from datamount.errors import UsageError
from datamount.manifest.file import parse_manifest

SHA = "ab" * 32
REPO2DATA = {
    "src": "https://example.edu/files/scans.tar.gz",
    "dst": "./data",
    "projectName": "Brain Scans_1",
}
REPO2DATA_MANY = {
    "bucket": {"src": "s3://openneuro.org/ds000001", "projectName": "ds1"},
    "program": {"src": "import tensorflow\ntensorflow.keras.datasets.mnist.load_data()", "projectName": "mnist"},
    "drive": {"src": "https://drive.google.com/uc?id=1", "projectName": "drive"},
    "record": {"src": "https://zenodo.org/record/6482995", "projectName": "zenodo"},
    "file": {"src": "https://zenodo.org/record/6482995/files/x.csv", "projectName": "ds1"},
    "lad": {"src": "https://github.com/org/data.git", "projectName": "lad"},
    "doi": {"src": "10.5281/zenodo.6941758"},
    "osf": {"src": "https://osf.io/va2jw/download", "projectName": "osf"},
    "blank": {"src": ""},
    "empty": {"dst": "x"},
}
INTAKE = """
metadata: {version: 1}
sources:
  taxi:
    driver: csv
    description: Rides
    args: {urlpath: "s3://nyc/trip data/yellow_*.csv", storage_options: {anon: true}}
  private:
    driver: parquet
    args:
      urlpath: s3://course/x.parquet
      storage_options: {key: AKPLANTED, secret: planted-secret, client_kwargs: {endpoint_url: "https://s3.example.edu"}}
  two: {driver: csv, args: {urlpath: [https://example.edu/a.csv, https://example.edu/b.csv]}}
  near: {driver: csv, args: {urlpath: "{{ CATALOG_DIR }}/x.csv"}}
  years: {driver: netcdf, args: {urlpath: "simplecache::s3://era5/{{ year }}/x.nc"}}
  inner: {driver: intake.catalog.local.YAMLFileCatalog, args: {path: "{{ CATALOG_DIR }}/more.yml"}}
  cube: {driver: zarr, args: {urlpath: s3://cubes/rain.zarr, storage_options: {requester_pays: true}}}
  cloud: {driver: zarr, args: {urlpath: gs://cubes/rain.zarr}}
  kept: {driver: csv, args: {urlpath: "simplecache::s3://codes/icd.csv", storage_options: {anon: true}}}
  lake: {driver: csv, args: {urlpath: "hdfs://namenode/x.csv"}}
  sql: {driver: sql, args: {uri: "mysql://u:planted@h/db"}}
  leak: {driver: csv, args: {urlpath: "https://u:planted@example.edu/x.csv"}}
"""
DVC_URL = """
md5: abc
frozen: true
deps:
- {etag: '"x"', size: 3, path: https://example.edu/data.csv}
outs:
- {md5: d41d8cd98f00b204e9800998ecf8427e, size: 3, path: data.csv}
"""
DVC_FOLDER = """
deps:
- {path: s3://course/images, files: [{relpath: 1.png, etag: x, version_id: y}]}
- {path: s3://course/x.csv, etag: x, version_id: 3HL4kqt}
- {path: remote://course/y.csv, etag: x}
- {db: {query: SELECT 1}}
outs:
- {md5: d41d8cd98f00b204e9800998ecf8427e.dir, path: images}
- {md5: d41d8cd98f00b204e9800998ecf8427e, path: x.csv}
- {md5: d41d8cd98f00b204e9800998ecf8427e, path: y.csv}
- {md5: d41d8cd98f00b204e9800998ecf8427e, path: z.csv}
"""
DVC_ADD = "outs:\n- {md5: d41d8cd98f00b204e9800998ecf8427e.dir, path: images}\n"
DVC_REPO = """
deps:
- {path: data.csv, repo: {url: "https://u:planted@github.com/org/reg", rev_lock: abc}}
outs:
- {md5: d41d8cd98f00b204e9800998ecf8427e, path: data.csv}
"""
PACKAGE = {
    "name": "codes",
    "title": "Codes",
    "licenses": [{"name": "CC0-1.0"}],
    "resources": [
        {"name": "icd", "path": "https://example.edu/icd.csv", "hash": f"sha256:{SHA}", "description": "All."},
        {"name": "packed", "path": "https://example.edu/x.zip", "hash": "d41d8cd98f00b204e9800998ecf8427e"},
        {"name": "parts", "path": ["https://example.edu/1.csv", "https://example.edu/2.csv"]},
        {"name": "old", "url": "https://example.edu/old.csv", "licenses": {"id": "odc-pddl"}},
        {"name": "local", "path": "data/x.csv"},
        {"name": "inline", "data": [1, 2]},
    ],
}


def converted(tmp_path: Path, name: str, content: Any) -> Conversion:
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = convert(tmp_path / name)
    if found.datasets:
        assert sorted(parse_manifest(found.text().encode()).datasets) == sorted(found.datasets)
    assert "planted" not in found.text() + "".join(found.left_out)
    return found


@pytest.mark.parametrize(
    ("name", "content", "datasets", "left_out"),
    [
        (
            "data_requirement.json",
            REPO2DATA,
            {"brain-scans-1": {"url": "https://example.edu/files/scans.tar.gz", "unpack": "tar"}},
            [],
        ),
        (
            "data_requirement.json",
            REPO2DATA_MANY,
            {
                "ds1": {"s3": {"url": "s3://openneuro.org/ds000001/", "anonymous": True}},
                "ds1-2": {"url": "https://zenodo.org/record/6482995/files/x.csv"},
                "osf": {"url": "https://osf.io/va2jw/download"},
            },
            ["program: ", "drive: ", "zenodo: ", "lad: ", "doi: its `src` is a DOI", "blank: ", "empty: "],
        ),
        (
            "catalog.yml",
            INTAKE,
            {
                "taxi": {
                    "description": "Rides",
                    "s3": {"url": "s3://nyc/trip data/", "include": ["yellow_*.csv"], "anonymous": True},
                },
                "private": {"s3": {"url": "s3://course/x.parquet", "endpoint_url": "https://s3.example.edu"}},
                "two-1": {"url": "https://example.edu/a.csv"},
                "two-2": {"url": "https://example.edu/b.csv"},
                "cube": {"s3": {"url": "s3://cubes/rain.zarr/", "requester_pays": True}},
                "kept": {"s3": {"url": "s3://codes/icd.csv", "anonymous": True}},
            },
            [
                "private: its secret is not copied",
                "near: 'x.csv' is a file of the repo",
                "years: its address is a pattern",
                "inner: it is another catalog",
                "cloud: it is a folder at gs://",
                "lake: nothing reads hdfs://",
                "sql: ",
                "leak: a URL in a course must not hold",
            ],
        ),
        ("data.csv.dvc", DVC_URL, {"data": {"url": "https://example.edu/data.csv"}}, []),
        (
            "images.dvc",
            DVC_FOLDER,
            {
                "images": {"s3": {"url": "s3://course/images/"}},
                "x": {"s3": {"url": "s3://course/x.csv", "version_id": "3HL4kqt"}},
            },
            ["y.csv: its source is below a remote", "z.csv: it is what a database answered"],
        ),
        ("images.dvc", DVC_ADD, {}, ["images: DVC keeps it under its MD5"]),
        (
            "data.csv.dvc",
            DVC_REPO,
            {},
            ["data.csv: it is a file of another DVC repository, https://github.com/org/reg"],
        ),
        (
            "datapackage.json",
            PACKAGE,
            {
                "icd": {
                    "title": "Codes",
                    "description": "All.",
                    "license": "CC0-1.0",
                    "url": "https://example.edu/icd.csv",
                    "sha256": SHA,
                },
                "packed": {"title": "Codes", "license": "CC0-1.0", "url": "https://example.edu/x.zip"},
                "parts-1": {"title": "Codes", "license": "CC0-1.0", "url": "https://example.edu/1.csv"},
                "parts-2": {"title": "Codes", "license": "CC0-1.0", "url": "https://example.edu/2.csv"},
                "old": {"title": "Codes", "license": "odc-pddl", "url": "https://example.edu/old.csv"},
            },
            ["local: ", "inline: "],
        ),
    ],
)
def test_each_format(tmp_path: Path, name: str, content: Any, datasets: Any, left_out: list[str]) -> None:
    """The datasets of each format are those that a manifest can declare; every other part is named, no secret is."""
    found = converted(tmp_path, name, content)
    assert found.datasets == datasets
    assert len(found.left_out) == len(left_out), found.left_out
    for sentence, begin in zip(found.left_out, left_out, strict=True):
        assert sentence.startswith(begin)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("Ünï cödé", "n-c-d"),
        ("2020", "data-2020"),
        ("x" * 80, "x" * 34),
        ("path", "path"),
        ("ld-library", "course-ld-library"),
    ],
)
def test_names_are_made_to_fit(tmp_path: Path, wanted: str, given: str) -> None:
    """Whatever a dataset was called, its name here is valid, and no variable that programs obey."""
    requirement = {"src": "https://example.edu/x.csv", "projectName": wanted}
    assert list(converted(tmp_path, "data_requirement.json", requirement).datasets) == [given]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", "{"),
        ("x.json", "[1]"),
        ("x.json", '{"a": 1}'),
        ("x.yml", "a: [" * 500),
        ("x.dvc", "outs: [1]"),
        ("catalog.yml", "sources: {a: 1}"),
        ("datapackage.json", '{"resources": [1]}'),
    ],
)
def test_what_is_not_understood_is_said(tmp_path: Path, name: str, content: str) -> None:
    """A file of another kind, or a broken one, is an error that names it."""
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=name):
        convert(tmp_path / name)


def test_the_command(tmp_path: Path) -> None:
    """It writes beside the file, never over a manifest, names what it left out, and says so with its exit code."""
    file = tmp_path / "datapackage.json"
    file.write_text(json.dumps(PACKAGE))
    done = CliRunner().invoke(app, ["convert", str(file)])
    assert done.exit_code == 3, done.output
    assert "left out  local: " in done.output
    written = (tmp_path / "datamount.yaml").read_bytes()
    assert "icd" in parse_manifest(written).datasets
    again = CliRunner().invoke(app, ["convert", str(file)])
    assert isinstance(again.exception, UsageError)
    assert (tmp_path / "datamount.yaml").read_bytes() == written
    shown = CliRunner().invoke(app, ["convert", str(file), "--output", "-"])
    assert "icd:" in shown.output
    read = CliRunner().invoke(app, ["convert", str(file), "--json"])
    assert (read.exit_code, json.loads(read.stdout)["manifest"]) == (3, convert(file).document())
    file.write_text(json.dumps({"resources": [{"name": "x", "path": "x.csv"}]}))
    assert isinstance(CliRunner().invoke(app, ["convert", str(file), "-o", "-"]).exception, UsageError)
