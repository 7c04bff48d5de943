"""The code that the data panel offers, run as it stands: Python and R, and what Julia's MySQL.jl does with its call."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datamount.credentials import Credential
from datamount.drivers.mysql import MySQLDriver
from datamount.manifest import Dataset
from tests import servers
from tests.servers import MariaDBServer

SNIPPETS = Path(__file__).parents[2] / "sidecar/jupyter/lab/lib/snippets.js"


def snippet(kind: str, language: str, name: str = "course-db") -> str:
    """What the panel shows."""
    if not SNIPPETS.is_file():
        servers.require("the Lab extension is not built: make labextension")
    script = f"""
        const {{ snippet }} = await import({json.dumps(SNIPPETS.as_uri())});
        process.stdout.write(snippet({json.dumps(name)}, {{ kind: {json.dumps(kind)} }}, {json.dumps(language)}));
    """
    return run([servers.node(), "--input-type=module", "-e", script], {})


def run(command: list[str], variables: dict[str, str]) -> str:
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The variables of a dataset of files."""
    (tmp_path / "data/deep").mkdir(parents=True)
    (tmp_path / "data/deep/words.csv").write_text("term\n")
    return {"COURSE_DB_PATH": str(tmp_path / "data")}


@pytest.fixture
def database(mariadb: MariaDBServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a database with one table."""
    name = mariadb.make_database()
    mariadb.execute(f"CREATE TABLE `{name}`.admissions (id INT)")
    user, password = mariadb.make_user(name)
    dataset = Dataset.model_validate({"mysql": {"host": mariadb.host, "port": mariadb.port, "database": name}})
    connection = MySQLDriver("course-db", dataset, dataset.mysql, Credential(user=user, password=password)).connect()
    for file, text in connection.files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    return {key: value.replace("{run}", str(tmp_path)) for key, value in connection.variables.items()}


def printing(code: str, call: str) -> str:
    """The code with its last line, whose value a notebook shows, printed."""
    *lines, last = code.split("\n")
    return "\n".join([*lines, call.format(last)])


def test_python(files: dict[str, str], database: dict[str, str]) -> None:
    """The Python code lists the files, and the tables."""
    listed = run([sys.executable, "-c", printing(snippet("url", "python"), "print({})")], files)
    assert "words.csv" in listed
    assert "admissions" in run([sys.executable, "-c", printing(snippet("mysql", "python"), "print({})")], database)


def test_r(files: dict[str, str], database: dict[str, str]) -> None:
    """The R code lists the files, and the tables."""
    if not shutil.which("Rscript"):
        servers.require("Rscript is not installed: apt-get install r-base-core r-cran-rmysql")
    assert "deep/words.csv" in run(["Rscript", "-e", printing(snippet("url", "r"), "print({})")], files)
    assert "admissions" in run(["Rscript", "-e", printing(snippet("mysql", "r"), "print({})")], database)


def test_julia_reaches_the_database(database: dict[str, str]) -> None:
    """MySQL.jl hands an option file and group, empty host, user and database, no password and port 0 to MariaDB's
    C library (src/MySQL.jl, src/api/capi.jl): with these the library is in the database of the file. There is no
    Julia here, so this calls that library as MySQL.jl does."""
    code = snippet("mysql", "julia")
    for part in ('(MySQL.Connection, "", "";', "port = 0", 'ENV["COURSE_DB_CNF"]', 'option_group = "course-db"'):
        assert part in code
    found = ctypes.util.find_library("mariadb")
    if not found:
        servers.require("libmariadb is not installed: apt-get install libmariadb3")
        return
    library = ctypes.CDLL(found)
    for function in (library.mysql_init, library.mysql_real_connect, library.mysql_use_result):
        function.restype = ctypes.c_void_p
    library.mysql_error.restype = ctypes.c_char_p
    library.mysql_fetch_row.restype = ctypes.POINTER(ctypes.c_char_p)
    handle = ctypes.c_void_p(library.mysql_init(None))
    read_default_file, read_default_group = 4, 5
    library.mysql_options(handle, read_default_file, database["COURSE_DB_CNF"].encode())
    library.mysql_options(handle, read_default_group, b"course-db")
    connected = library.mysql_real_connect(
        handle, b"", b"", None, b"", ctypes.c_uint(0), b"/tmp/mysql.sock", ctypes.c_ulong(0)
    )
    assert connected, library.mysql_error(handle)
    try:
        assert library.mysql_query(handle, b"SHOW TABLES") == 0
        assert library.mysql_fetch_row(ctypes.c_void_p(library.mysql_use_result(handle)))[0] == b"admissions"
    finally:
        library.mysql_close(handle)
