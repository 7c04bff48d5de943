"""The command line of the light installation, which lacks the packages of some commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# None in sys.modules is what Python itself writes for "must not be imported".
LIGHT = "import sys; sys.modules.update(dict.fromkeys({missing!r})); from datamount.cli import main; main()"
HEAVY = ["obstore", "zstandard", "pathspec", "fastapi", "uvicorn", "httpx", "kubernetes", "pymysql", "fsspec"]


def light(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`datamount ARGUMENTS` where nothing but the base is installed."""
    command = [sys.executable, "-c", LIGHT.format(missing=HEAVY), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("command", "extra"),
    [("save {folder} {store}", "store"), ("history {store}", "store"), ("up {folder} --no-browser", "local")],
)
def test_a_missing_package_names_the_extra(command: str, extra: str, tmp_path: Path) -> None:
    """A command whose packages are not installed ends with 2 and says what to install."""
    (tmp_path / "datamount.yaml").write_text("version: 1\n")
    store = f"--store {(tmp_path / 'store').as_uri()} --owner ann --course stat-101"
    done = light(*command.format(folder=tmp_path, store=store).split())
    assert done.returncode == 2, done.stderr
    assert f"pip install 'datamount[{extra}]'" in done.stderr
    assert "should not happen" not in done.stderr


def test_a_missing_package_is_a_problem_document_with_json(tmp_path: Path) -> None:
    """A program that asks for JSON gets the missing package as a problem document."""
    done = light("history", "--store", tmp_path.as_uri(), "--owner", "ann", "--course", "stat-101", "--json")
    assert done.returncode == 2
    assert "datamount[store]" in json.loads(done.stdout)["hint"]


def test_the_base_validates(tmp_path: Path) -> None:
    """`datamount validate` needs nothing but the base."""
    (tmp_path / "datamount.yaml").write_text('version: 1\ndatasets:\n  a: {s3: {url: "s3://bucket/a/"}}\n')
    done = light("validate", tmp_path)
    assert done.returncode == 0, done.stderr
