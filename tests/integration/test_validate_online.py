"""`datamount validate --online`: each source is asked, nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers


def validate(course: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "datamount", "validate", str(course), "--online", *more],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )


@pytest.fixture
def course(tmp_path: Path, http: servers.HTTPServer) -> Path:
    """A course with one dataset that is there (5 bytes) and one that is not."""
    (http.root / "g.csv").write_text("a,b\n\n")
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "datamount.yaml").write_text(
        f"version: 1\ndatasets:\n  good: {{url: '{http.url}/g.csv'}}\n  gone: {{url: '{http.url}/gone.csv'}}\n"
    )
    return folder


def test_each_dataset_gets_a_line(course: Path) -> None:
    """A dataset that is there is counted, one that is not says why, and the exit code is 3."""
    done = validate(course)
    assert done.returncode == 3, done
    good, gone = done.stdout.splitlines()[1:]
    assert good.split()[:4] == ["good", "url", "1", "file,"]
    assert gone.split()[:2] == ["gone", "url"]
    assert "does not exist" in gone
    assert sorted(path.name for path in course.iterdir()) == ["datamount.yaml"], "something was fetched"


def test_the_report_for_programs(course: Path) -> None:
    """--json gives the count, the bytes and the pin of what is there, and a problem document for what is not."""
    report = json.loads(validate(course, "--json").stdout)
    good, gone = report["datasets"]["good"], report["datasets"]["gone"]
    assert (good["files"], good["bytes"], good["kind"]) == (1, 5, "url")
    assert gone["error"]["type"] == "urn:datamount:problem:not-found"


def test_all_broken_ends_with_the_reason(course: Path) -> None:
    """When no source answers, the exit code is that of the reason: 4 without the credential."""
    (course / "datamount.yaml").write_text(
        "version: 1\ndatasets:\n  db: {mysql: {host: 127.0.0.1, database: d, credential: nobody-has-it}}\n"
    )
    done = validate(course)
    assert done.returncode == 4, done
    assert "nobody-has-it" in done.stdout
    with (course / "datamount.yaml").open("a") as manifest:
        manifest.write("  gone: {url: file:///nowhere/x.csv}\n  more: {url: file:///nowhere/y.csv, optional: true}\n")
    assert validate(course).returncode == 4
    places = ("--data", str(course / "d"), "--run", str(course / "r"))
    fetch = [sys.executable, "-m", "datamount", "fetch", str(course), *places]
    assert subprocess.run(fetch, check=False, capture_output=True, timeout=60).returncode == 4
    (course / "datamount.yaml").write_text("version: 1\n")
    assert validate(course).returncode == 0
