"""The command line where this machine does not do as asked, or writes names as others do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def datamount(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "datamount", *map(str, arguments)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, timeout=100, check=False)


@pytest.fixture
def work(tmp_path: Path) -> list[str]:
    """The options that name somebody's saved work, of which there is a version."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work/a.txt").write_text("a")
    options = ["--store", (tmp_path / "store").as_uri(), "--owner", "ann", "--course", "stat-101"]
    assert datamount("save", tmp_path / "work", *options).returncode == 0
    return options


def test_a_place_that_cannot_be_written_is_no_bug(work: list[str], tmp_path: Path) -> None:
    """A file that cannot be made is named, with 2 for an exit code; with --json in a problem document."""
    target = tmp_path / "nowhere/work.zip"
    done = datamount("export", "--zip", target, *work)
    assert done.returncode == 2
    assert f"{target} cannot be used (No such file or directory)" in done.stderr.decode()
    done = datamount("export", "--zip", target, *work, "--json")
    assert (done.returncode, done.stderr) == (2, b"")
    assert str(target) in json.loads(done.stdout)["detail"]


def test_a_reader_that_has_gone_hears_nothing_more() -> None:
    """What writes to a pipe that nobody reads any more ends without a word, as other programs do."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "datamount", "schema"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=100, check=False)
    os.close(writing)
    assert done.stderr == b""


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """A course in a folder with a name of another encoding is a course; its data comes, and documents are JSON."""
    course = tmp_path / os.fsdecode(b"caf\xe9")
    course.mkdir()
    (tmp_path / "glossary.csv").write_text("x")
    (course / "datamount.yaml").write_text(
        f"version: 1\ndatasets:\n  a: {{url: '{(tmp_path / 'glossary.csv').as_uri()}'}}\n"
    )
    assert datamount("validate", course).returncode == 0
    done = datamount("fetch", course, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["datasets"]["a"]["state"] == "ready"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_knows_less_than_unicode(encoding: str, tmp_path: Path) -> None:
    """Where the terminal's encoding lacks a character, an escape is written, and JSON is the same everywhere."""
    course = tmp_path / "Übung"
    course.mkdir()
    (course / "datamount.yaml").write_text("version: 1\ndatasets: {a: {}}\n")
    done = datamount("validate", course, PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"https://\\u2026" in done.stderr
    (course / "datamount.yaml").write_text("version: 1\n")
    shown = json.loads(datamount("fetch", course, "--json", PYTHONIOENCODING=encoding).stdout.decode("utf-8"))
    assert shown["course"] == "Übung"


def test_a_controller_without_a_cluster_says_so(tmp_path: Path) -> None:
    """`datamount controller` on a machine that is no pod and has no kubeconfig ends with 2 and names what to set."""
    config = tmp_path / "controller.yaml"
    config.write_text(f"policy: {tmp_path / 'policy.yaml'}\n")
    done = datamount("controller", "--config", config, KUBECONFIG=str(tmp_path / "none"))
    assert done.returncode == 2
    assert b"KUBECONFIG" in done.stderr


@pytest.mark.parametrize("option", ["--port=99999", "--wait=-1", "--save-after=-1"])
def test_numbers_that_cannot_be_are_refused(option: str, tmp_path: Path) -> None:
    """`datamount up` refuses a number that no port or time can be before it does anything."""
    done = datamount("up", tmp_path, option)
    assert done.returncode == 2
    assert b"Invalid value" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("command", ["up", "fetch"])
def test_a_home_that_cannot_be_written(command: str, tmp_path: Path) -> None:
    """Where nothing can be kept in the folder for data and state, the message names it and the variable to set."""
    (tmp_path / "datamount.yaml").write_text("version: 1\n")
    done = datamount(command, tmp_path, DATAMOUNT_HOME="/dev/null/home")
    assert done.returncode == 2
    assert b"/dev/null/home" in done.stderr
    assert b"DATAMOUNT_HOME" in done.stderr.replace(b"/dev/null/home", b"")
