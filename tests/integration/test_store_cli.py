"""`datamount store` and `datamount doctor`, as an operator types them, on a folder and on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamount.objectstore.folder import FolderStore
from tests.integration.test_save_cli import run
from tests.servers import S3Server
from tests.stores import age

WHO = ["--owner", "ann", "--course", "c"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with two saved versions of one file."""
    (tmp_path / "work").mkdir()
    for text in ("one", "two"):
        (tmp_path / "work/a").write_text(text)
        run("save", tmp_path / "work", "--store", (tmp_path / "store").as_uri(), *WHO)
    return tmp_path / "store"


def test_check_names_what_is_damaged(root: Path) -> None:
    """check says that nothing is damaged, or names the object, version and file, with exit code 6."""
    where = ["--store", root.as_uri()]
    assert "2 versions, 2 objects (2 read): nothing damaged" in run("store", "check", *where)
    bundle = next(root.rglob("*.zip"))
    bundle.unlink()
    said = run("store", "check", *where, "--sample", "0", code=6)
    assert f"missing: workspaces/ann/c/bundles/{bundle.name}" in said and ": a\n" in said
    damage = json.loads(run("store", "check", *where, "--json", code=6).partition("\ndatamount:")[0])[0]["damage"]
    assert [(d["kind"], d["paths"]) for d in damage] == [("missing", ["a"])]


def test_gc_needs_two_runs_a_day_apart(root: Path) -> None:
    """gc marks, then removes a day later; in doubt it removes nothing, says why, with exit code 5."""
    where = ["--store", root.as_uri()]
    FolderStore(root).delete(str(next(root.rglob("00000001-*.json")).relative_to(root)))
    age(root, 25)
    assert "1 object would be marked" in run("store", "gc", *where, "--dry-run")
    assert "1 object marked, 0 removed" in run("store", "gc", *where)
    assert "0 objects marked, 0 removed" in run("store", "gc", *where)
    age(root, 25)
    assert "1 removed" in run("store", "gc", *where)
    next(root.rglob("00000002-*.json")).write_text("{")
    assert "left alone: workspaces/ann/c/" in run("store", "gc", *where, code=5)


def test_stats_and_purge(root: Path) -> None:
    """stats shows what a person keeps; purge-user says what would go, and with --yes nothing is left."""
    where = ["--store", root.as_uri()]
    (found,) = json.loads(run("store", "stats", *where, "--json"))
    assert (found["owner"], found["course"], found["versions"], found["latest_bytes"]) == ("ann", "c", 2, 3)
    assert "would delete (add --yes) 4 objects" in run("store", "purge-user", "--owner", "ann", *where)
    assert len(json.loads(run("history", *where, *WHO, "--json"))) == 2
    assert "deleted 4 objects" in run("store", "purge-user", "--owner", "ann", "--yes", *where)
    assert [p for p in root.rglob("*") if "ann" in p.name] == []


def test_doctor_proves_a_store(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """doctor finds all that saving needs in a folder and in S3; without permission it is exit code 4."""
    for key, value in s3.env().items():
        monkeypatch.setenv(key, value)
    for url in (tmp_path.as_uri(), f"s3://{s3.make_bucket()}/p"):
        document = json.loads(run("doctor", "--store", url, "--json"))
        assert document["usable"] and all(f["ok"] for f in document["findings"])
        assert {f["name"] for f in document["findings"]} >= {"conditional create", "range reads", "multipart", "clock"}
    for key, value in s3.env("reader").items():
        monkeypatch.setenv(key, value)
    assert "access is denied" in run("doctor", "--store", f"s3://{s3.make_bucket()}/p", code=4)
