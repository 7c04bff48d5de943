"""MySQL and MariaDB: a connection for every program, and tables as Parquet files read in one consistent snapshot."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pymysql
from pymysql.converters import encoders

from datamount.credentials import Credential
from datamount.drivers import mysql_query as query
from datamount.drivers.base import Buffer, Connection, Driver, Item, Pin, safe_path
from datamount.drivers.mysql_errors import named
from datamount.drivers.mysql_options import TOOL_GROUPS, option_file, sqlalchemy_url
from datamount.drivers.mysql_parquet import parquet
from datamount.drivers.mysql_types import Column, column
from datamount.errors import UsageError, VerificationFailed
from datamount.manifest import Dataset, MySQL, Table
from datamount.names import MYSQL_DIR, variable

CONNECT_TIMEOUT = 10
"""Seconds to reach and greet the server."""
READ_TIMEOUT = 300
"""Seconds without a byte: a `where` without an index may search for minutes before its first row."""

MOST_PARTITIONS = 10_000

KEPT = timedelta(hours=1)
"""How long the tables of a fetch that did not end are good for the next one."""

WRITING = frozenset(
    ["ALL PRIVILEGES", "ALTER", "CREATE", "CREATE USER", "DELETE", "DROP", "FILE", "INSERT", "SUPER", "UPDATE"]
)
"""Rights that a course's reader should not have."""

_SESSION = (
    # What the bytes depend on must not depend on the server's settings.
    "SET SESSION time_zone = '+00:00', sql_mode = '', net_write_timeout = 600",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)


class MySQLDriver(Driver[MySQL]):
    """A database. Without `tables` it delivers a connection only.

    All tables are read on one connection, in one read-only transaction with a consistent snapshot, one at a time:
    a second `open` waits until the first iterator is exhausted or closed, so do not interleave two of them in one
    thread. The snapshot begins with `resolve`. An iterator that ends early costs the connection; the next `open` then
    begins a new snapshot, and a warning says so where a table of the old one has been delivered.
    """

    keeps_versions = False

    def __init__(self, name: str, dataset: Dataset, source: MySQL, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self._user = credential.user if credential else None
        self._password = credential.password.get_secret_value() if credential and credential.password else None
        self._host = (credential and credential.host) or source.host
        self._port = (credential and credential.port) or source.port
        self._where = f"{self._host}:{self._port}"
        self._turn = threading.Lock()
        self._connection: Any = None
        self._in_snapshot = False
        self._begun: list[datetime] = []
        self._delivered = ""

    def connect(self) -> Connection:
        file = f"{MYSQL_DIR}/{self.name}.cnf"
        # To the clients "localhost" is a socket on this machine, unless told otherwise; MariaDB's C library, which R
        # uses, cannot be told in words that the clients take. A certificate, though, is for the name.
        host = "127.0.0.1" if self._host == "localhost" and not self.source.ssl_ca else self._host
        login = {"host": host, "port": str(self._port), "protocol": "tcp"}
        if self._user is not None:
            login["user"] = self._user
        if self._password is not None:
            login["password"] = self._password
        login["default-character-set"] = "utf8mb4"
        own = {"database": self.source.database}
        # Every tool reads [client], and most stop at `database` there; `mysql` and `mariadb` read [mysql] too.
        groups = {"client": login, "mysql": {"database": self.source.database}}
        files, parameters = {}, {"charset": "utf8mb4"}
        if self.source.ssl_ca:
            authority = f"{MYSQL_DIR}/{self.name}.pem"
            files[authority] = self.source.ssl_ca
            parameters["ssl_ca"] = f"{{run}}/{authority}"
            # MySQL's clients know ssl-mode, MariaDB's (and the library that R uses) the other; each stops at the
            # other's, but for the prefix and the group.
            login |= {"ssl-ca": f"{{run}}/{authority}", "loose-ssl-mode": "VERIFY_IDENTITY"}
            groups["client-mariadb"] = {"ssl-verify-server-cert": "1"}
            own["ssl-verify-server-cert"] = "1"
        if self.name not in TOOL_GROUPS:
            groups[self.name] = login | own
        url = sqlalchemy_url(
            user=self._user,
            password=self._password,
            host=self._host,
            port=self._port,
            database=self.source.database,
            query=parameters,
        )
        return Connection(
            files={**files, file: option_file(groups)},
            variables={variable(self.name, "URL"): url, variable(self.name, "CNF"): f"{{run}}/{file}"},
        )

    def resolve(self, pin: Pin | None = None) -> Pin:
        """{"read": when, "selection": hash of what is asked for}: the instant of the snapshot that `open` reads.

        Shows that the login works and that every table can be read. A database has no version to pin: what holds a
        locked table to its rows is the digest of its Parquet file.
        """
        with self._turn:
            connection = self._snapshot() if self.source.tables else self._connected()
            with named(self.name, f'opening the database "{self.source.database}"', self._where):
                _rows(connection, "SELECT 1")
            for table, wanted in self.source.tables.items():
                self._describe(connection, table, wanted)
            self._check_rights(connection)
        selection = _hash(self.source.model_dump(mode="json", exclude_none=True)["tables"])
        if pin is None:
            read = self._begun[-1].isoformat(timespec="microseconds") if self._begun else ""
            return {"read": read, "selection": selection}
        if pin.get("selection") != selection:
            raise VerificationFailed(
                f'dataset "{self.name}": the lock was made for other tables, columns or conditions.',
                hint=f"Run: datamount lock --upgrade {self.name}",
                who="the course's author",
            )
        return pin

    def plan(self, pin: Pin) -> Iterable[Item]:
        left = self.earlier.unfinished() if self.earlier else {}
        planned = {
            table: [(safe_path(path, dataset=self.name), ref) for path, ref in self._files(table, wanted)]
            for table, wanted in self.source.tables.items()
        }
        kept = {table: self._kept(table, [path for path, _ in files], left) for table, files in planned.items()}
        if all(kept.values()):
            kept = {}  # nothing is missing: it is read anew, all of it
        for table, files in planned.items():
            if kept.get(table):
                self._warn(f"{table} shows the database as it was at {kept[table]}: a fetch that did not end read it.")
            for path, ref in files:
                yield Item(path, None, f"{kept.get(table) or pin.get('read', '')}:{self._selection(table)}", ref=ref)

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        table = item.ref["table"]
        with self._turn:
            done = False
            impossible: Counter[str] = Counter()
            try:
                connection = self._snapshot()
                sql, columns = self._query(connection, table, item.ref)
                with named(self.name, f'reading the table "{table}"', self._where):
                    yield from parquet(connection, sql, columns, impossible)
                done, self._delivered = True, item.path
                for name, count in impossible.items():
                    self._warn(f"{item.path}: {count} dates in {name} that no calendar has (0000-00-00) became null.")
            finally:
                if not done:
                    self._drop()

    def close(self) -> None:
        with self._turn:
            self._drop()

    def _selection(self, table: str) -> str:
        """What tells the rows of a file apart, but for the time: where they are from, and what is asked for."""
        asked = self.source.tables[table].model_dump(mode="json", exclude_none=True)
        return _hash([self._host, self._port, self.source.database, table, asked])

    def _kept(self, table: str, paths: list[str], left: Mapping[str, tuple[str, int]]) -> str:
        """When an earlier fetch, which did not end, read all files of a table; "" where they are to be read now.

        A snapshot ends with its connection, so tables of two fetches never show one instant. But to export all of
        them again would bring a large database never to an end where each fetch is given a minute, so what is
        complete is kept for an hour, and said.
        """
        found = {left.get(path, ("", 0))[0] for path in paths}
        instant, _, selection = found.pop().rpartition(":") if len(found) == 1 else ("", "", "")
        oldest = (datetime.now(UTC) - KEPT).isoformat(timespec="microseconds")
        return instant if selection == self._selection(table) and instant >= oldest else ""

    def _connected(self) -> Any:
        if self._connection is None:
            with named(self.name, f'connecting to the database "{self.source.database}"', self._where):
                self._connection = pymysql.connect(
                    host=self._host,
                    port=self._port,
                    user=self._user,
                    # PyMySQL would encode text as Latin-1; the servers take UTF-8.
                    password=(self._password or "").encode(),
                    database=self.source.database,
                    charset="utf8mb4",
                    use_unicode=False,
                    conv=encoders,
                    autocommit=True,
                    ssl=self._verified_tls(),
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=CONNECT_TIMEOUT,
                    write_timeout=60,
                    program_name="datamount",
                )
                self._connection._read_timeout = READ_TIMEOUT
                for statement in _SESSION:
                    _rows(self._connection, statement)
        return self._connection

    def _verified_tls(self) -> ssl.SSLContext | None:
        if self.source.ssl_ca is None:
            return None  # PyMySQL encrypts where the server offers it, without asking who it is
        try:
            return ssl.create_default_context(cadata=self.source.ssl_ca)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(
                f'dataset "{self.name}": the text of `ssl_ca` holds no certificate.',
                hint="Paste the whole PEM file, from -----BEGIN CERTIFICATE----- on.",
                who="the course's author",
            ) from error

    def _snapshot(self) -> Any:
        connection = self._connected()
        if not self._in_snapshot:
            with named(self.name, "beginning a consistent snapshot", self._where):
                _rows(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            self._in_snapshot = True
            self._begun.append(datetime.now(UTC))
            if self._delivered:
                self._warn(
                    f"The connection was lost between two files, so those after {self._delivered} show the database "
                    f"as it was at {self._begun[-1].isoformat(timespec='seconds')}, later than the others."
                )
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            # Not `close()`: in the middle of a result that would say goodbye and wait.
            with suppress(Exception):
                self._connection._force_close()
            self._connection, self._in_snapshot = None, False

    def _check_rights(self, connection: Any) -> None:
        """Warn where the account may write: every student of the course has its password."""
        try:
            grants = " ".join(row[0].decode() for row in _rows(connection, "SHOW GRANTS"))
        except pymysql.err.Error:
            return  # nothing to say; a reader that may not ask for its grants is a reader still
        rights = {right.strip() for listed in re.findall(r"GRANT (.*?) ON ", grants) for right in listed.split(",")}
        if writing := sorted(right for right in rights if right.partition("(")[0].strip() in WRITING):
            self._warn(
                f"The account may do more than read ({', '.join(writing)}), and so may every notebook of this course. "
                "Ask the hub's operator for a credential with SELECT only."
            )

    def _files(self, table: str, wanted: Table) -> Iterator[tuple[str, dict[str, Any]]]:
        if wanted.partition_by is None:
            yield f"{table}.parquet", {"table": table}
            return
        with self._turn:
            connection = self._snapshot()
            by = self._partition_column(connection, table, wanted.partition_by)
            with named(self.name, f'reading the partitions of the table "{table}"', self._where):
                found = _rows(connection, query.partitions(table, wanted, by))
        if len(found) > MOST_PARTITIONS:
            raise UsageError(
                f'dataset "{self.name}": "{table}" has {len(found)} values of "{by.name}", which is too many files.',
                hint=f"Choose a column with at most {MOST_PARTITIONS} values.",
                who="the course's author",
            )
        for (raw,) in found:
            value = None if raw is None else raw.decode()
            yield f"{table}/{query.folder(by, value)}/part.parquet", {"table": table, "value": value}

    def _partition_column(self, connection: Any, table: str, name: str) -> Column:
        [by] = self._describe(connection, table, Table.model_validate({"columns": [name]}))
        if not query.can_partition(by):
            raise UsageError(
                f'dataset "{self.name}": "{table}" cannot be partitioned by "{name}", which is {by.type}.',
                hint="Choose a column of whole numbers, dates or text.",
                who="the course's author",
            )
        return by

    def _query(self, connection: Any, table: str, ref: Mapping[str, Any]) -> tuple[str, list[Column]]:
        """The SQL of one file, and the columns that it gives."""
        wanted = self.source.tables[table]
        columns = self._describe(connection, table, wanted)
        condition, key = "", []
        if wanted.query:
            for short in (c for c in columns if c.is_float):
                self._warn(f"{table}.{short.name} is a FLOAT, which a query gives to six digits: select it times 1e0.")
            if "order by" not in wanted.query.lower():
                self._warn(f"{table}: the query has no ORDER BY, so its rows come in the server's order.")
        elif not (key := self._key(connection, table)):
            self._warn(f"{table} has no primary key: its rows come in the server's order.")
        if wanted.partition_by is not None:
            by = self._partition_column(connection, table, wanted.partition_by)
            condition = query.has_value(by, ref["value"])
            columns = [c for c in columns if c.name != by.name]
        return query.select(table, wanted, columns, key, condition), columns

    def _describe(self, connection: Any, table: str, wanted: Table) -> list[Column]:
        with (
            named(self.name, f'reading the columns of the table "{table}"', self._where),
            connection.cursor() as cursor,
        ):
            cursor.execute(query.describe(table, wanted))
            return [column(described) for described in cursor._result.fields]

    def _key(self, connection: Any, table: str) -> list[str]:
        """The columns of the primary key, in its order; none where there is none."""
        with named(self.name, f'reading the key of the table "{table}"', self._where):
            found = _rows(connection, f"SHOW KEYS FROM {query.quoted(table)} WHERE Key_name = 'PRIMARY'")
        return [row[4].decode() for row in sorted(found, key=lambda row: int(row[3]))]

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)


def _rows(connection: Any, sql: str) -> tuple[tuple[Any, ...], ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found: tuple[tuple[Any, ...], ...] = cursor.fetchall()
    return found


def _hash(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
