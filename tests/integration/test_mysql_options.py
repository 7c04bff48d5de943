"""The connection files and URLs of a database, read by the programs that students use: clients, PyMySQL, R."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest
import sqlalchemy
from pydantic import SecretStr

from datamount.credentials import Credential
from datamount.drivers.base import Connection
from datamount.drivers.mysql import MySQLDriver
from datamount.drivers.mysql_options import spell
from datamount.manifest import Dataset
from tests import servers
from tests.servers import MariaDBServer

PASSWORDS = {
    "plain": "s3cret",
    "empty": "",
    "comment": "a#b # c",
    "leading comment": "#;x",
    "spaces": "  two  ",
    "single quote": "it's",
    "double quote": 'say "hi"',
    "both quotes": "a'b\"c",
    "both quotes and a comment": "'#\"",
    "quoted": "'whole'",
    "backslash": "a\\x\\y",
    "percent": "100%(x)s%20",
    "url": "a:b@c/d?e=f&g+h",
    "bracket": "[client]",
    "equals": "=x=",
    "braces": "{x}{",
    "escape": "a\\nb",
    "backslashes": "\\\\host\\share\\",
    "line break": "a\nb",
}
ONLY_CLIENTS = {"escape", "backslashes", "line break", "both quotes and a comment"}
"""Passwords without a spelling that PyMySQL's reader of option files shares with the clients (see `spell`)."""

Deliver = Callable[..., tuple[Path, str]]


@pytest.fixture
def deliver(mariadb: MariaDBServer, tmp_path: Path) -> Deliver:
    """The option file and URL of a dataset "course-db" whose account has this password, as the engine delivers them."""
    database = mariadb.make_database()
    mariadb.execute(
        f"CREATE TABLE {database}.word (text VARCHAR(20))", f"INSERT INTO {database}.word VALUES ('naïve 😀')"
    )

    def deliver(password: str, name: str = "course-db") -> tuple[Path, str]:
        user, _ = mariadb.make_user(database)
        with contextlib.closing(mariadb.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("ALTER USER %s@'%%' IDENTIFIED BY %s", (user, password))
        connection = _driver(mariadb, database, name, Credential(user=user, password=password)).connect()
        for file, text in connection.files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text)
        variable = name.upper().replace("-", "_")
        values = {key: value.replace("{run}", str(tmp_path)) for key, value in connection.variables.items()}
        assert set(values) == {f"{variable}_URL", f"{variable}_CNF"}
        return Path(values[f"{variable}_CNF"]), values[f"{variable}_URL"]

    return deliver


def _driver(server: MariaDBServer, database: str, name: str, credential: Credential | None) -> MySQLDriver:
    source = {"host": server.host, "port": server.port, "database": database}
    dataset = Dataset.model_validate({"mysql": source})
    return MySQLDriver(name, dataset, dataset.mysql, credential)


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | (env or {})
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", PASSWORDS)
def test_client_reads_the_file(deliver: Deliver, kind: str) -> None:
    """`mariadb --defaults-file=$NAME_CNF` is in the database, whatever is in the password."""
    file, _ = deliver(PASSWORDS[kind])

    assert run("mariadb", f"--defaults-file={file}", "-N", "-e", "SELECT text FROM word").strip() == "naïve 😀"


@pytest.mark.parametrize("kind", PASSWORDS)
def test_url_opens(deliver: Deliver, kind: str) -> None:
    """SQLAlchemy connects with the URL, whatever is in the password."""
    _, url = deliver(PASSWORDS[kind])

    with contextlib.closing(sqlalchemy.create_engine(url).connect()) as connection:
        assert connection.execute(sqlalchemy.text("SELECT text FROM word")).scalar() == "naïve 😀"
        connection.engine.dispose()


@pytest.mark.parametrize("kind", sorted(set(PASSWORDS) - ONLY_CLIENTS))
def test_pymysql_reads_the_file(deliver: Deliver, kind: str) -> None:
    """`pymysql.connect(read_default_file=…, read_default_group="course-db")` is in the database."""
    file, _ = deliver(PASSWORDS[kind])

    connection = pymysql.connect(read_default_file=str(file), read_default_group="course-db")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT text FROM word")
        assert cursor.fetchone() == ("naïve 😀",)


@pytest.mark.parametrize("kind", PASSWORDS)
def test_r_reads_the_file(deliver: Deliver, kind: str) -> None:
    """RMySQL's `dbConnect(MySQL(), default.file=…, group=…)` is in the database, and text is UTF-8."""
    if not shutil.which("Rscript"):
        servers.require("Rscript is not installed: apt-get install r-base-core r-cran-rmysql")
    file, _ = deliver(PASSWORDS[kind])
    script = """
        library(RMySQL)
        db <- dbConnect(MySQL(), default.file = Sys.getenv("COURSE_DB_CNF"), group = "course-db")
        text <- dbGetQuery(db, "SELECT text FROM word")$text
        cat(paste(as.character(charToRaw(text)), collapse = ""))
        invisible(dbDisconnect(db))
    """

    assert bytes.fromhex(run("Rscript", "-e", script, env={"COURSE_DB_CNF": str(file)})).decode() == "naïve 😀"


@pytest.mark.parametrize("name", ["course-db", "mysql", "client", "mysqldump"])
def test_every_tool_takes_the_file(deliver: Deliver, name: str) -> None:
    """Tools without a `database` option take the file too, even when the dataset is called as one of their groups."""
    file, _ = deliver("s3cret", name)
    defaults = f"--defaults-file={file}"
    database = run("mariadb", defaults, "-N", "-e", "SELECT DATABASE()").strip()

    run("mysqladmin", defaults, "ping")
    run("mysqlshow", defaults, database)
    assert "naïve 😀" in run("mysqldump", defaults, "--single-transaction", database)


def test_spelling_is_shared_where_there_is_one(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Values of every combination of special characters read back from the file with the clients' own parser."""
    chance = random.Random(3)
    values = ["".join(letters) for letters in itertools.product("#\\\"'n ", repeat=3)]
    values += ["".join(chance.choices("a#;\\\"'n= \t[]%é", k=chance.randrange(1, 12))) for _ in range(300)]
    # my_print_defaults is the clients' own reader; it quotes nothing and prints a line an option.
    lines = [f"v{number}={spell(value)}" for number, value in enumerate(values)]
    file = tmp_path / "values.cnf"
    file.write_text("[probe]\n" + "\n".join(lines) + "\n")

    printed = run("my_print_defaults", f"--defaults-file={file}", "probe").splitlines()

    assert printed == [f"--v{number}={value}" for number, value in enumerate(values)]


def test_localhost_is_reached_over_tcp(mariadb: MariaDBServer, tmp_path: Path) -> None:
    """With `host: localhost` clients and R go to the port, not to a socket of this machine's own server."""
    database = mariadb.make_database()
    user, password = mariadb.make_user(database)
    source = {"host": "localhost", "port": mariadb.port, "database": database}
    dataset = Dataset.model_validate({"mysql": source})
    assert dataset.mysql
    credential = Credential(user=user, password=SecretStr(password))
    file = tmp_path / "course.cnf"
    file.write_text(MySQLDriver("course", dataset, dataset.mysql, credential).connect().files["mysql/course.cnf"])

    assert run("mariadb", f"--defaults-file={file}", "-N", "-e", "SELECT DATABASE()").strip() == database
    if shutil.which("Rscript"):
        script = 'library(RMySQL); invisible(dbConnect(MySQL(), default.file = commandArgs(TRUE), group = "course"))'
        run("Rscript", "-e", script, file)


def test_without_a_credential(mariadb: MariaDBServer) -> None:
    """A public database has neither user nor password in file and URL."""
    connection: Connection = _driver(mariadb, "pub", "pub", None).connect()

    assert connection.variables["PUB_URL"] == f"mysql+pymysql://127.0.0.1:{mariadb.port}/pub?charset=utf8mb4"
    assert "user" not in connection.files["mysql/pub.cnf"]
    assert "password" not in connection.files["mysql/pub.cnf"]
