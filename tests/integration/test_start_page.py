"""docs/authors/start.md, gone through as an instructor would, with addresses of real servers in place of the page's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from datamount.fetch.environment import read_environment
from tests import servers

PAGE = (Path(__file__).parents[2] / "docs/authors/start.md").read_text(encoding="utf-8")


def block(kind: str, having: str = "") -> str:
    """The page's only block of this kind with this text in it."""
    (found,) = [text for text in re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S) if having in text]
    return found


@pytest.fixture
def course(tmp_path: Path, s3: servers.S3Server, mariadb: servers.MariaDBServer, http: servers.HTTPServer) -> Path:
    """The course of the page, in a repo of git, and the data that it declares."""
    database = mariadb.make_database()
    user, password = mariadb.make_user(database)
    mariadb.execute(
        f"CREATE TABLE `{database}`.visits (id INT PRIMARY KEY, reason TEXT)",
        f"INSERT INTO `{database}`.visits VALUES (1, 'cough'), (2, 'fever')",
    )
    s3.put(s3.make_bucket(s3.public_bucket), {"scans/scans.csv": b"id,kind\n1,ct\n", "scans/notes.txt": b"not wanted"})
    (http.root / "glossary.csv").write_text("word,meaning\nct,a scan\n")
    manifest = block("yaml")
    for there, here in {
        "host: db.example.edu": f"host: {mariadb.host}\n      port: {mariadb.port}",
        "database: clinic": f"database: {database}",
        "s3://course-data": f"s3://{s3.public_bucket}",
        "https://s3.example.edu": s3.endpoint_url,
        "https://example.edu": http.url,
    }.items():
        assert there in manifest
        manifest = manifest.replace(there, here)
    folder = tmp_path / "my course – Übung"
    folder.mkdir()
    (folder / "datamount.yaml").write_text(manifest, encoding="utf-8")
    secrets = tmp_path / "credentials.yaml"
    secrets.touch(0o600)
    secrets.write_text(block("yaml credentials").replace("reader,", f"{user},").replace("…", password))
    run(folder, "git init -q && git config user.name ada && git config user.email ada@example.edu")
    return folder


def run(course: Path, script: str, **more: str) -> str:
    """What a shell prints for these lines; every one of them must end with 0."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "DATAMOUNT_CREDENTIALS": str(course.parent / "credentials.yaml")}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=course, env=os.environ | given | more, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_page_holds(course: Path, tmp_path: Path) -> None:
    """The page's manifest is valid and its sources answer; its commands deliver and pin; its cells read all of it."""
    run(course, block("sh", "validate"))
    said = run(course, block("sh", "datamount lock"))
    assert run(course, "git show --stat --format=%s").startswith("Declare the course's data")
    run(course, "datamount validate --online && datamount fetch --frozen")
    variables = read_environment(Path(re.findall(r"set -a; \. '?(.+)/env", said)[-1]))
    cells = block("python") + "print(len(visits), list(scans.kind), list(glossary.word))"
    assert run(course, f"python -c '{cells}'", **variables).split("\n")[-2] == "2 ['ct'] ['ct']"
    assert run(course, f"Rscript -e '{block('r')}cat(nrow(visits))'", **variables).endswith("2")
