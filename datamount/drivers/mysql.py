"""MySQL and MariaDB: a connection for every program, and tables as Parquet files read in one consistent snapshot."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pymysql
from pymysql.converters import encoders

from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Connection, Driver, Item, Pin, safe_path
from datamount.drivers.mysql_errors import named
from datamount.drivers.mysql_options import TOOL_GROUPS, option_file, sqlalchemy_url
from datamount.drivers.mysql_parquet import parquet
from datamount.drivers.mysql_types import Column, column
from datamount.errors import VerificationFailed
from datamount.manifest import Dataset, MySQL
from datamount.names import MYSQL_DIR, variable

CONNECT_TIMEOUT = 10
"""Seconds to reach and greet the server."""
READ_TIMEOUT = 300
"""Seconds without a byte: a `where` without an index may search for minutes before its first row."""

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

    def __init__(self, name: str, dataset: Dataset, source: MySQL, credential: Credential | None) -> None:
        super().__init__(name, dataset, source, credential)
        self.warnings: list[str] = []
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
        login = {"host": self._host, "port": str(self._port)}
        if self._user is not None:
            login["user"] = self._user
        if self._password is not None:
            login["password"] = self._password
        login["default-character-set"] = "utf8mb4"
        database = {"database": self.source.database}
        # Every tool reads [client], and most stop at `database` there; `mysql` and `mariadb` read [mysql] too.
        groups = {"client": login, "mysql": database}
        if self.name not in TOOL_GROUPS:
            groups[self.name] = login | database
        url = sqlalchemy_url(
            user=self._user,
            password=self._password,
            host=self._host,
            port=self._port,
            database=self.source.database,
            query={"charset": "utf8mb4"},
        )
        return Connection(
            files={file: option_file(groups)},
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
            for table in self.source.tables:
                self._describe(connection, table)
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
        for table, wanted in self.source.tables.items():
            yield Item(
                path=safe_path(f"{table}.parquet", dataset=self.name),
                size=None,
                identity=f"{pin.get('read', '')}:{_hash(wanted.model_dump(mode='json', exclude_none=True))}",
                ref={"table": table},
            )

    def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        table = item.ref["table"]
        doing = f'reading the table "{table}"'
        with self._turn:
            done = False
            impossible: Counter[str] = Counter()
            try:
                connection = self._snapshot()
                columns = self._describe(connection, table)
                sql = self._select(connection, table, columns)
                with named(self.name, doing, self._where):
                    yield from parquet(connection, sql, columns, impossible)
                done, self._delivered = True, table
                self.warnings += [
                    f"{table}.{name}: {count} dates that no calendar has (such as 0000-00-00) became null."
                    for name, count in impossible.items()
                ]
            finally:
                if not done:
                    self._drop()

    def close(self) -> None:
        with self._turn:
            self._drop()

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
                    connect_timeout=CONNECT_TIMEOUT,
                    read_timeout=CONNECT_TIMEOUT,
                    write_timeout=60,
                    program_name="datamount",
                )
                self._connection._read_timeout = READ_TIMEOUT
                for statement in _SESSION:
                    _rows(self._connection, statement)
        return self._connection

    def _snapshot(self) -> Any:
        connection = self._connected()
        if not self._in_snapshot:
            with named(self.name, "beginning a consistent snapshot", self._where):
                _rows(connection, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            self._in_snapshot = True
            self._begun.append(datetime.now(UTC))
            if self._delivered:
                self.warnings.append(
                    f"The connection was lost between two tables, so those after {self._delivered} show the database "
                    f"as it was at {self._begun[-1].isoformat(timespec='seconds')}, later than the others."
                )
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            # Not `close()`: in the middle of a result that would say goodbye and wait.
            with suppress(Exception):
                self._connection._force_close()
            self._connection, self._in_snapshot = None, False

    def _describe(self, connection: Any, table: str) -> list[Column]:
        wanted = self.source.tables[table]
        names = ", ".join(map(quoted, wanted.columns)) if wanted.columns else "*"
        with named(self.name, f'reading the columns of the table "{table}"', self._where):
            cursor = connection.cursor()
            cursor.execute(f"SELECT {names} FROM {quoted(table)} LIMIT 0")  # noqa: S608 (quoted)
            return [column(described) for described in cursor._result.fields]

    def _select(self, connection: Any, table: str, columns: list[Column]) -> str:
        wanted = self.source.tables[table]
        names = ", ".join(c.selected(quoted(c.name)) for c in columns)
        sql = f"SELECT {names} FROM {quoted(table)}"  # noqa: S608 (quoted; `where` is the author's to write)
        if wanted.where:
            sql += f" WHERE ({wanted.where}\n)"
        if key := self._key(connection, table):
            sql += f" ORDER BY {', '.join(f'{quoted(table)}.{quoted(part)}' for part in key)}"
        else:
            self.warnings.append(f"{table} has no primary key: its rows come in the server's order.")
        return sql

    def _key(self, connection: Any, table: str) -> list[str]:
        """The columns of the primary key, in its order; none where there is none."""
        with named(self.name, f'reading the key of the table "{table}"', self._where):
            found = _rows(connection, f"SHOW KEYS FROM {quoted(table)} WHERE Key_name = 'PRIMARY'")
        return [row[4].decode() for row in sorted(found, key=lambda row: int(row[3]))]


def quoted(identifier: str) -> str:
    """An identifier in backticks, whatever it holds."""
    return "`" + identifier.replace("`", "``") + "`"


def _rows(connection: Any, sql: str) -> tuple[tuple[Any, ...], ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        found: tuple[tuple[Any, ...], ...] = cursor.fetchall()
    return found


def _hash(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
