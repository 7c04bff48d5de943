"""The example course, on real servers: what a student's programs read, and what the repo does not hold."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from datamount.fetch.environment import read_environment
from tests import servers
from tests.demo_session import datamount
from tests.demo_site import EXAMPLE, Site

SECRET = re.compile(
    r"""(password|passwd|secret|token|api_?key|access_key_id)["']?\s*[:=]\s*["']?(?!…|\{|None\b)[\w+/.-]{6,}"""
    r"""|AKIA[0-9A-Z]{16}|-----BEGIN|://[^/\s:]+:[^/\s@]+@""",
    re.IGNORECASE,
)


@dataclass
class Opened:
    """A course with its data, as a session has it."""

    site: Site
    course: Path
    env: dict[str, str]


def code_of(notebook: Path) -> str:
    """All code of a notebook, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The example's course with all five datasets fetched from real servers."""
    folder = tmp_path_factory.mktemp("example")
    site = Site(folder / "site")
    try:
        site.start()
    except servers.Missing as missing:
        servers.require(str(missing))
    with contextlib.closing(site):
        course = site.write_course(folder / "course")
        places = ("--data", folder / "data", "--run", folder / "run")
        datamount("fetch", course, *places, env=site.environment() | {"DATAMOUNT_HOME": str(folder / "home")})
        # Not site.environment(): what the notebook sees is no more than a person's shell and the course's variables.
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ} | {"HOME": str(folder)}
        yield Opened(site, course, kept | read_environment(folder / "run"))


def run(command: list[str | Path], opened: Opened, **more: str) -> str:
    done = subprocess.run(
        command, env=opened.env | more, cwd=opened.course, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_notebook_reads_all_five(opened: Opened) -> None:
    """The Python notebook's code runs as it stands and reads the database, its Parquet copy and the other four."""
    printed = run([sys.executable, "-c", code_of(opened.course / "reports.ipynb")], opened, MPLBACKEND="agg")
    assert opened.site.expected()["parquet"] in printed
    assert opened.site.expected()["images"] in printed
    assert re.findall(r"^(\w+) +(\d+) files", printed, re.MULTILINE) == [
        ("codes", "2"),
        ("glossary", "1"),
        ("images", "48"),
        ("labels", "3"),  # with the package's metadata, .quilt.json
        ("mimic2", "1"),
    ]


def test_r_notebook_reads_the_same_database(opened: Opened) -> None:
    """The R notebook's code runs as it stands: RMySQL takes everything from the option file."""
    if shutil.which("Rscript") is None:
        servers.require("Rscript is not installed: apt-get install r-base-core r-cran-rmysql")
    printed = run(["Rscript", "-e", code_of(opened.course / "reports-r.ipynb")], opened)
    assert opened.site.expected()["lengths"] in printed


def test_the_course_account_may_only_read(opened: Opened) -> None:
    """What the student's programs are given cannot change the shared database."""
    code = (
        "import os, sqlalchemy as s\n"
        "with s.create_engine(os.environ['MIMIC2_URL']).connect() as c:\n"
        "    try: c.execute(s.text('DELETE FROM noteevents'))\n"
        "    except s.exc.DBAPIError as e: print('refused', e.orig.args[0])\n"
    )
    assert run([sys.executable, "-c", code], opened) == "refused 1142\n"


def test_no_credential_of_the_servers_is_in_the_course(opened: Opened) -> None:
    """After a fetch the course folder holds none of the secrets that the fetch used."""
    credentials = yaml.safe_load(opened.site.credentials.read_text())
    secrets = [str(value).encode() for fields in credentials.values() for value in fields.values()]
    assert len(secrets) == 5
    for path in (path for path in opened.course.rglob("*") if path.is_file()):
        assert not [secret for secret in secrets if secret in path.read_bytes()], path


def test_the_example_holds_no_secret() -> None:
    """No file of the example in the repo looks like it holds a password, a key or a URL with one."""
    assert SECRET.search('password: "hunter22"') and SECRET.search("mysql://me:secret@db/x")
    for path in (path for path in EXAMPLE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        found = SECRET.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found[0] if found else ''}"


def test_the_example_needs_nothing_in_its_image() -> None:
    """The environment that Binder builds does not name datamount, and no notebook imports it."""
    environment = yaml.safe_load((EXAMPLE / "binder" / "environment.yml").read_text())
    assert not [package for package in environment["dependencies"] if "datamount" in str(package)]
    for notebook in EXAMPLE.glob("*.ipynb"):
        assert not re.search(r"import datamount|library\(datamount", code_of(notebook))


def test_notebooks_are_committed_without_outputs() -> None:
    """No notebook of the example carries an output, and none names a host."""
    for notebook in EXAMPLE.glob("*.ipynb"):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
        assert not re.search(r"https?://|127\.0\.0\.1|localhost|\.edu", code_of(notebook))
