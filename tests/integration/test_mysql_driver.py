"""Tables of a MariaDB as Parquet: one snapshot, the same bytes, what the manifest selects, and what errors say."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pymysql
import pytest
import sqlalchemy
from pydantic import ValidationError

from datamount.credentials import Credential
from datamount.drivers.mysql import MySQLDriver
from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError, VerificationFailed
from datamount.manifest import Dataset
from tests import servers
from tests.servers import MariaDBServer
from tests.servers.mariadb import numbers

ROWS = 60_000


class Course:
    """A database, an account that may read it, and drivers for it."""

    def __init__(self, server: MariaDBServer) -> None:
        self.server = server
        self.database = server.make_database()
        user, password = server.make_user(self.database)
        self.credential = Credential(user=user, password=password)

    def execute(self, *statements: str) -> None:
        with contextlib.closing(self.server.connect(database=self.database)) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    def driver(self, tables: dict[str, Any], credential: Credential | None = None, **source: Any) -> MySQLDriver:
        place = {"host": self.server.host, "port": self.server.port, "database": self.database, "tables": tables}
        dataset = Dataset.model_validate({"mysql": place | source})
        assert dataset.mysql
        return MySQLDriver("course", dataset, dataset.mysql, credential or self.credential)

    def files(self, tables: dict[str, Any], **source: Any) -> dict[str, bytes]:
        with contextlib.closing(self.driver(tables, **source)) as driver:
            return {item.path: b"".join(driver.open(item)) for item in driver.plan(driver.resolve())}

    def rows(self, tables: dict[str, Any], **source: Any) -> list[dict[str, Any]]:
        [content] = self.files(tables, **source).values()
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
        return rows


@pytest.fixture(scope="module")
def notes(mariadb: MariaDBServer) -> Course:
    course = Course(mariadb)
    course.execute(
        "CREATE TABLE noteevents (row_id INT PRIMARY KEY, subject_id INT, category VARCHAR(40), text TEXT)",
        "INSERT INTO noteevents SELECT seq, seq MOD 100, IF(seq MOD 3, 'ECG', 'RADIOLOGY_REPORT'), "
        f"REPEAT(SHA2(seq, 256), 10) FROM {numbers(ROWS)}",
    )
    return course


@pytest.fixture
def course(mariadb: MariaDBServer) -> Course:
    return Course(mariadb)


def test_all_tables_show_one_instant(course: Course) -> None:
    """Tables that one transaction changes together arrive as they were together, while a writer keeps committing."""
    course.execute("CREATE TABLE a (id INT PRIMARY KEY, n INT)", "CREATE TABLE b (id INT PRIMARY KEY, n INT)")
    for table in "ab":
        course.execute(f"INSERT INTO {table} SELECT seq, 0 FROM {numbers(2000)}")
    stop, commits = threading.Event(), 0

    def write() -> None:
        nonlocal commits
        with contextlib.closing(course.server.connect(database=course.database)) as connection:
            connection.autocommit(False)
            while not stop.is_set():
                for table in "ab":
                    connection.cursor().execute(f"UPDATE {table} SET n = n + 1")
                connection.commit()
                commits += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            before = commits
            with contextlib.closing(course.driver({"a": {}, "b": {}})) as driver:
                seen = set()
                for item in driver.plan(driver.resolve()):
                    content = b"".join(driver.open(item))
                    seen |= set(pq.read_table(io.BytesIO(content))["n"].to_pylist())
                    while commits < before + 3:
                        time.sleep(0.01)
                    before = commits
                assert len(seen) == 1
                assert driver.warnings == []
    finally:
        stop.set()
        writer.join()


def test_same_rows_same_bytes(notes: Course, course: Course) -> None:
    """Two fetches of the same rows are byte for byte the same, also when the rows were written in another order."""
    course.execute(
        "CREATE TABLE noteevents (row_id INT PRIMARY KEY, subject_id INT, category VARCHAR(40), text TEXT)",
        f"INSERT INTO noteevents SELECT * FROM {notes.database}.noteevents ORDER BY SHA2(row_id, 256)",
    )

    first = notes.files({"noteevents": {}})

    assert first == notes.files({"noteevents": {}})
    assert first == course.files({"noteevents": {}})
    assert pq.ParquetFile(io.BytesIO(first["noteevents.parquet"])).num_row_groups > 1


def test_columns_and_where(notes: Course) -> None:
    """`columns` are delivered in the order they are asked for, of the rows that `where` selects, all of those."""
    where = "category = 'RADIOLOGY_REPORT' -- and a comment"
    rows = notes.rows({"noteevents": {"columns": ["text", "row_id"], "where": where}})

    assert [list(row) for row in rows[:1]] == [["text", "row_id"]]
    assert [row["row_id"] for row in rows] == list(range(3, ROWS + 1, 3))


def test_limit(notes: Course) -> None:
    """`limit` delivers the first rows by primary key of those that `where` selects."""
    rows = notes.rows({"noteevents": {"columns": ["row_id"], "where": "row_id > 10", "limit": 3}})

    assert [row["row_id"] for row in rows] == [11, 12, 13]


def test_query(notes: Course) -> None:
    """A `query` is delivered in its own order under its own name, with the types of its expressions."""
    sql = "SELECT category, COUNT(*) AS n, AVG(row_id) AS mean FROM noteevents GROUP BY 1 ORDER BY n DESC;"
    with contextlib.closing(notes.driver({"counts": {"query": sql}})) as driver:
        [item] = driver.plan(driver.resolve())
        table = pq.read_table(io.BytesIO(b"".join(driver.open(item))))
        assert driver.warnings == []

    assert item.path == "counts.parquet"
    assert table["n"].to_pylist() == [2 * ROWS // 3, ROWS // 3]
    assert [str(kind) for kind in table.schema.types] == ["string", "int64", "decimal128(14, 4)"]


@pytest.mark.parametrize(
    "table", [{"query": "SELECT 1", "where": "a = 1"}, {"limit": 3, "partition_by": "a"}, {"limit": 0}]
)
def test_settings_that_contradict(table: dict[str, Any]) -> None:
    """A table whose settings cannot stand together is a fault of the manifest."""
    source = {"host": "h", "database": "d", "tables": {"t": table}}
    with pytest.raises(ValidationError):
        Dataset.model_validate({"mysql": source})


def test_partitions(course: Course, tmp_path: Path) -> None:
    """`partition_by` gives a file a value, which Arrow reads back as one table: NULLs, odd text, case, spaces kept."""
    values = ["ECG", "ecg", "a/b", "", "x=y %", "größe", "it's", "back\\slash", "x", "x ", None]
    course.execute("CREATE TABLE t (id INT PRIMARY KEY, kind VARCHAR(20), n INT)")
    with contextlib.closing(course.server.connect(database=course.database)) as connection:
        connection.cursor().executemany("INSERT INTO t VALUES (%s, %s, %s)", [(i, v, i) for i, v in enumerate(values)])

    for path, content in course.files({"t": {"partition_by": "kind"}}).items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(content)

    got = pads.dataset(tmp_path / "t", partitioning="hive").to_table().sort_by("id")
    assert got["kind"].to_pylist() == values
    assert got["n"].to_pylist() == list(range(len(values)))


def test_partitions_of_numbers(notes: Course) -> None:
    """Partitions by a number hold each row once, and a column that has no exact text is refused."""
    files = notes.files({"noteevents": {"partition_by": "subject_id", "columns": ["row_id"], "where": "row_id < 500"}})

    rows = [pq.read_table(io.BytesIO(content))["row_id"].to_pylist() for content in files.values()]
    assert len(files) == 100
    assert sorted(itertools.chain(*rows)) == list(range(1, 500))
    assert "noteevents/subject_id=7/part.parquet" in files


def test_an_account_that_may_write_is_told(notes: Course) -> None:
    """The driver warns when the credential may do more than read, and is silent for a reader."""
    root = Credential(user="root", password=notes.server.root_password)
    for credential, warned in ((root, True), (notes.credential, False)):
        with contextlib.closing(notes.driver({}, credential)) as driver:
            driver.resolve()
            assert any("more than read" in warning for warning in driver.warnings) is warned


def test_odd_names(course: Course) -> None:
    """Columns may be called anything that the server allows, keywords and backticks too; tables as files may."""
    course.execute(
        "CREATE TABLE `order by` (`se``lect` INT PRIMARY KEY, `%s` INT, `ключ` INT)",
        "INSERT INTO `order by` VALUES (1, 2, 3)",
    )

    assert course.rows({"order by": {}}) == [{"se`lect": 1, "%s": 2, "ключ": 3}]
    assert course.rows({"order by": {"columns": ["%s", "se`lect"]}}) == [{"%s": 2, "se`lect": 1}]


def test_view_and_table_without_key(course: Course) -> None:
    """A view and a table without a primary key are delivered, with a warning that their order is the server's."""
    course.execute(
        "CREATE TABLE heap (n INT)",
        "INSERT INTO heap VALUES (3), (1), (2), (1)",
        "CREATE VIEW seen AS SELECT n FROM heap",
    )
    for table in ("heap", "seen"):
        with contextlib.closing(course.driver({table: {}})) as driver:
            [item] = driver.plan(driver.resolve())
            rows = pq.read_table(io.BytesIO(b"".join(driver.open(item))))["n"].to_pylist()
            assert sorted(rows) == [1, 1, 2, 3]
            assert any("primary key" in warning for warning in driver.warnings)


def test_where_cannot_write(course: Course) -> None:
    """SQL in `where` that would write is refused, even for an account that may."""
    course.execute(
        "CREATE TABLE t (id INT PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "CREATE FUNCTION wipe() RETURNS INT BEGIN DELETE FROM t; RETURN 1; END",
    )
    root = Credential(user="root", password=course.server.root_password)
    for where in ("wipe() = 1", "1); DELETE FROM t; SELECT (1"):
        with contextlib.closing(course.driver({"t": {"where": where}}, root)) as driver, pytest.raises(DatamountError):
            [item] = driver.plan(driver.resolve())
            list(driver.open(item))
    assert course.rows({"t": {}}) == [{"id": 1}]


def test_an_early_end_is_cheap_and_honest(notes: Course) -> None:
    """Leaving a large table after its first chunk frees the server's query, and what comes later is told as later."""
    with contextlib.closing(notes.driver({"noteevents": {}})) as driver:
        [item] = driver.plan(driver.resolve())
        whole = b"".join(driver.open(item))
        half = driver.open(item)
        next(half)
        half.close()
        assert b"".join(driver.open(item)) == whole
        assert [w for w in driver.warnings if "connection was lost" in w]
    _wait_for_connections(notes, 0)
    assert not [thread for thread in threading.enumerate() if thread.name == "mysql-rows"]


def test_killed_in_the_middle_is_transient(notes: Course) -> None:
    """A connection that the server kills while rows flow is Unavailable and transient; the next open has every row."""
    notes.execute(f"CREATE VIEW `long` AS SELECT n.* FROM noteevents n CROSS JOIN {numbers(6)}")
    with contextlib.closing(notes.driver({"long": {}})) as driver:
        [item] = driver.plan(driver.resolve())
        chunks = driver.open(item)
        next(chunks)
        # Those of tests before this one may be ending still: what ends by itself cannot be killed.
        _wait_for_connections(notes, 1)
        with contextlib.closing(notes.server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT id FROM information_schema.processlist WHERE user = '{notes.credential.user}'")
            for (number,) in cursor.fetchall():
                cursor.execute(f"KILL {number}")
        with pytest.raises(Unavailable) as caught:
            # What was in the network's buffers may still arrive; the end of the table never does.
            list(chunks)
        assert caught.value.transient
        content = b"".join(driver.open(item))
    assert pq.read_metadata(io.BytesIO(content)).num_rows == 6 * ROWS


def test_a_lock_for_other_tables_is_told(notes: Course) -> None:
    """A pin that was made for another selection is VerificationFailed, not other data under the same name."""
    with contextlib.closing(notes.driver({"noteevents": {}})) as driver:
        pin = json.loads(json.dumps(dict(driver.resolve())))
    other = notes.driver({"noteevents": {"where": "row_id < 9"}})
    with contextlib.closing(other), pytest.raises(VerificationFailed):
        other.resolve(pin)


def test_no_tables_is_a_login(notes: Course) -> None:
    """A dataset without tables resolves when the login works, and has nothing to deliver."""
    with contextlib.closing(notes.driver({})) as driver:
        assert list(driver.plan(driver.resolve())) == []


ERRORS: dict[str, tuple[type[DatamountError], bool, dict[str, Any]]] = {
    "unknown column": (UsageError, False, {"tables": {"noteevents": {"columns": ["nonsense"]}}}),
    "syntax": (UsageError, False, {"tables": {"noteevents": {"where": "1 = = 1"}}}),
    "unknown column in where": (UsageError, False, {"tables": {"noteevents": {"where": "nonsense = 1"}}}),
    "no such table": (NotFound, False, {"tables": {"nonsense": {}}}),
    "another database": (Refused, False, {"tables": {}, "database": "mysql"}),
    "no such host": (Unavailable, True, {"tables": {}, "host": "nowhere.invalid"}),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_error_by_number(notes: Course, kind: str) -> None:
    """Each mistake raises the error of its kind, says who can mend it, and never the password."""
    expected, transient, source = ERRORS[kind]
    with contextlib.closing(notes.driver(**source)) as driver, pytest.raises(DatamountError) as caught:
        for item in driver.plan(driver.resolve()):
            list(driver.open(item))
    error = caught.value
    assert type(error) is expected
    assert error.transient is transient
    assert error.who
    assert error.hint
    assert notes.credential.password is not None
    assert notes.credential.password.get_secret_value() not in error.sentence() + repr(error.__cause__)


def test_too_many_connections_may_pass(notes: Course) -> None:
    """An account at its limit of connections is told as such, and as something that may pass."""
    user, password = notes.server.make_user(notes.database)
    notes.execute(f"ALTER USER {user}@'%' WITH MAX_USER_CONNECTIONS 1")
    credential = Credential(user=user, password=password)
    with (
        contextlib.closing(notes.driver({}, credential)) as first,
        contextlib.closing(notes.driver({}, credential)) as second,
    ):
        first.resolve()
        with pytest.raises(Unavailable, match="too many connections") as caught:
            second.resolve()
    assert caught.value.transient


@pytest.fixture
def mute() -> Iterator[int]:
    """The port of a server that accepts and then says nothing."""
    with socket.create_server(("127.0.0.1", servers.free_port())) as listening:
        yield listening.getsockname()[1]


def test_a_mute_server_times_out(notes: Course, mute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and never greets is Unavailable after the time for connecting, not a hang."""
    monkeypatch.setattr("datamount.drivers.mysql.CONNECT_TIMEOUT", 1)
    with contextlib.closing(notes.driver({}, port=mute)) as driver, pytest.raises(Unavailable) as caught:
        driver.resolve()
    assert caught.value.transient


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MariaDBServer, str]]:
    """A server with a certificate for "localhost", and the certificate of the authority that signed it."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = servers.program("openssl", hint="apt-get install openssl")
    (folder / "name").write_text("subjectAltName=DNS:localhost")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile name -out server.pem",
    ):
        subprocess.run([openssl, *command.split()], cwd=folder, check=True, capture_output=True, timeout=60)
    options = [f"--ssl-cert={folder}/server.pem", f"--ssl-key={folder}/server.key", "--require-secure-transport=ON"]

    for server in servers.running(servers.mariadb_or_mysql(options)):
        yield server, (folder / "ca.pem").read_text()


def test_tls_is_verified(tls: tuple[MariaDBServer, str], tmp_path: Path) -> None:
    """With `ssl_ca`, driver, URL, PyMySQL and client connect encrypted to the named server, and to no other."""
    server, authority = tls
    course = Course(server)
    course.execute("CREATE TABLE t (id INT PRIMARY KEY)", "INSERT INTO t VALUES (7)")
    assert course.rows({"t": {}}, host="localhost", ssl_ca=authority) == [{"id": 7}]
    with pytest.raises(Unavailable, match="certificate") as caught:
        course.rows({"t": {}}, host="127.0.0.1", ssl_ca=authority)
    assert not caught.value.transient

    def delivered(host: str) -> tuple[str, str]:
        connection = course.driver({}, host=host, ssl_ca=authority).connect()
        for path, text in connection.files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text.replace("{run}", str(tmp_path)))
        return (
            connection.variables["COURSE_CNF"].replace("{run}", str(tmp_path)),
            connection.variables["COURSE_URL"].replace("{run}", str(tmp_path)),
        )

    def client(file: str) -> subprocess.CompletedProcess[str]:
        command = ["mariadb", f"--defaults-file={file}", "-N", "-e", "SHOW STATUS LIKE 'Ssl_cipher'"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    file, url = delivered("localhost")
    with contextlib.closing(sqlalchemy.create_engine(url).connect()) as connection:
        assert connection.execute(sqlalchemy.text("SELECT id FROM t")).scalar() == 7
        connection.engine.dispose()
    pymysql.connect(read_default_file=file, read_default_group="course").close()
    assert "TLS" in client(file).stdout

    file, url = delivered("127.0.0.1")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        sqlalchemy.create_engine(url).connect()
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(read_default_file=file, read_default_group="course")
    assert client(file).returncode


def _wait_for_connections(course: Course, count: int) -> None:
    deadline = time.monotonic() + 120
    while (there := _connections(course)) != count:
        assert time.monotonic() < deadline, there
        time.sleep(0.05)


def _connections(course: Course) -> int:
    with contextlib.closing(course.server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM information_schema.processlist WHERE user = %s", (course.credential.user,))
        [(count,)] = cursor.fetchall()
    return int(count)
