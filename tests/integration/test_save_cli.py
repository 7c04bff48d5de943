"""The command line of saved work, on a folder and on a real S3 server, as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def run(*arguments: object, code: int = 0) -> str:
    """stdout of `datamount ARGUMENTS`; fails when the exit code is another."""
    command = [sys.executable, "-m", "datamount", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ), check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(params=["folder", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    who = ["--owner", "ann", "--course", "https://example.org/stat 101"]
    if request.param == "folder":
        return ["--store", (tmp_path / "store").as_uri(), *who]
    s3 = request.getfixturevalue("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.identities["admin"].access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.identities["admin"].secret_access_key)
    return ["--store", f"s3://{s3.make_bucket()}/work", "--endpoint-url", s3.endpoint_url, *who]


def test_save_history_diff_restore_export(where: list[str], tmp_path: Path) -> None:
    """Work saved twice is listed, compared, restored whole and by file, and exported as folder and zip."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "nb.ipynb").write_text('{"n": 1}')
    (work / ".env").write_text("SECRET=1")
    assert "not saved: .env (may hold a secret)" in run("save", work, *where, "-m", "one")
    assert "nothing changed" in run("save", work, *where)
    (work / "nb.ipynb").write_text('{"n": 2}')
    (work / "new.txt").write_text("new")
    assert json.loads(run("save", work, *where, "--json"))["created"]
    listed = json.loads(run("history", *where, "--json"))
    assert [(v["seq"], v["message"], v["files"]) for v in listed] == [(2, "", 2), (1, "one", 1)]
    changed = [("changed", "nb.ipynb"), ("added", "new.txt")]
    for versions in ([], ["1", "2"]):
        document = json.loads(run("diff", *versions, *where, "--json"))
        assert [(c["kind"], c["path"]) for c in document["changes"]] == changed
    out = tmp_path / "out"
    run("restore", "1", "nb.ipynb", "--into", out, *where)
    assert {p.name: p.read_text() for p in out.iterdir()} == {"nb.ipynb": '{"n": 1}'}
    assert "nb.ipynb" in run("restore", "--into", out, *where, code=2)
    assert (out / "nb.ipynb").read_text() == '{"n": 1}'
    run("export", "2", "--into", tmp_path / "plain", *where)
    assert (tmp_path / "plain/new.txt").read_text() == "new"
    run("export", "--into", tmp_path / "latest", *where)
    assert (tmp_path / "latest/nb.ipynb").read_text() == '{"n": 2}'
    run("export", "2", "--zip", tmp_path / "work.zip", *where)
    with zipfile.ZipFile(tmp_path / "work.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("nb.ipynb") == b'{"n": 2}'
    mine = (tmp_path / "work.zip").read_bytes()
    for version in (["2"], ["--history"]):
        assert "is there already" in run("export", *version, "--zip", tmp_path / "work.zip", *where, code=2)
    assert (tmp_path / "work.zip").read_bytes() == mine
    run("export", "--history", "--into", tmp_path / "all", *where)
    told = json.loads((tmp_path / "all/history.json").read_text())
    assert [(v["seq"], v["message"], v["not_saved"][0]["path"]) for v in told["versions"]] == [
        (1, "one", ".env"),
        (2, "", ".env"),
    ]
    texts = [(tmp_path / "all" / v["folder"] / "nb.ipynb").read_text() for v in told["versions"]]
    assert texts == ['{"n": 1}', '{"n": 2}']
    run("export", "--history", "--zip", tmp_path / "all.zip", *where)
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.read(f"{told['versions'][0]['folder']}/nb.ipynb") == b'{"n": 1}'
        assert json.loads(archive.read("history.json")) == told
    run("export", "2", "--history", "--into", tmp_path / "none", *where, code=2)


def test_overwriting_saves_what_was_there(where: list[str], tmp_path: Path) -> None:
    """restore --overwrite keeps the replaced state as a version, and the restored one is the latest."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "a").write_text("saved")
    run("save", work, *where)
    (work / "a").write_text("unsaved")
    run("restore", "1", "--overwrite", "--into", work, *where)
    assert (work / "a").read_text() == "saved"
    versions = json.loads(run("history", *where, "--json"))
    assert [v["seq"] for v in versions] == [3, 2, 1]
    for version, text in (("latest", "saved"), ("2", "unsaved")):
        run("export", version, "--into", tmp_path / version, *where)
        assert (tmp_path / version / "a").read_text() == text


def test_errors_have_their_exit_codes(where: list[str], tmp_path: Path) -> None:
    """No such version is 5, a wrong store or folder 2; with --json the error is a problem document."""
    assert "no version '7'" in run("restore", "7", "--into", tmp_path / "x", *where, code=5)
    run("save", tmp_path / "nothing", *where, code=2)
    run("history", "--store", "ftp://x", "--owner", "a", "--course", "b", code=2)
    problem = json.loads(run("diff", *where, "--json", code=5))
    assert problem["status"] == 404


@pytest.mark.parametrize("command", ["save", "history", "diff", "restore", "export"])
def test_every_command_has_an_example(command: str) -> None:
    """--help shows an example of each command."""
    assert "Example: datamount" in run(command, "--help")
