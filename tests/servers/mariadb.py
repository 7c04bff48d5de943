"""MariaDB, private to a test."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import Server
from tests.servers.process import ServerFailed, free_port, program


class MariaDBServer(Server):
    """A private MariaDB: own data folder, Unix socket and TCP port, `root` with a random password."""

    connection_admin = "CONNECTION ADMIN"
    """The right to end connections of others, as GRANT spells it here."""

    def __init__(self, folder: Path | None = None, *, port: int | None = None, options: Sequence[str] = ()) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self.host = "127.0.0.1"
        self.root_password = secrets.token_hex(16)
        self.socket = self.folder / "mysqld.sock"
        self.options = tuple(options)

    @property
    def _user(self) -> list[str]:
        # mariadbd refuses to run as root unless told so; our folder is private to the caller.
        return ["--user=root"] if os.geteuid() == 0 else []

    def start(self) -> None:
        (self.folder / "tmp").mkdir(exist_ok=True)
        if not (self.folder / "data" / "mysql").is_dir():
            self._install()
        super().start()

    def _install(self) -> None:
        install = program("mariadb-install-db", hint="apt-get install mariadb-server")
        command = [
            install,
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *self._user,
        ]
        # Its temporary tables are named by the process id, which is not unique in /tmp where containers share it.
        environment = os.environ | {"TMPDIR": str(self.folder / "tmp")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
        if done.returncode:
            raise ServerFailed(f"mariadb-install-db ended with {done.returncode}\n{done.stdout}{done.stderr}")
        accounts = [
            f"CREATE OR REPLACE USER root@'{host}' IDENTIFIED BY '{self.root_password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO root@'{host}' WITH GRANT OPTION;\n"
            for host in ("localhost", self.host)
        ]
        init = self.folder / "init.sql"
        init.touch(mode=0o600)
        init.write_text("".join(accounts))

    def command(self) -> Sequence[str | Path]:
        return [
            program("mariadbd", hint="apt-get install mariadb-server"),
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'mysqld.pid'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--innodb-flush-log-at-trx-commit=0",  # durable enough for a test
            "--performance-schema=OFF",
            "--skip-log-bin",
            *self._user,
            *self.options,
        ]

    def ready(self) -> bool:
        import pymysql

        try:
            self.connect().close()
        except pymysql.err.OperationalError:
            return False
        return True

    def connect(self, *, user: str = "root", password: str | None = None, database: str | None = None) -> Any:
        """A pymysql connection over TCP, autocommit; as root when no user is given."""
        import pymysql

        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=user,
            password=self.root_password if password is None else password,
            database=database,
            autocommit=True,
            charset="utf8mb4",
            connect_timeout=5,
        )

    def execute(self, *statements: str) -> None:
        """Run statements as root, one after the other."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def make_database(self, name: str | None = None) -> str:
        """The name of a new, empty database."""
        name = name or f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return name

    def make_user(self, database: str, *, user: str | None = None) -> tuple[str, str]:
        """User and password of a new account that may only SELECT from `database`."""
        user, password = user or f"reader_{secrets.token_hex(4)}", secrets.token_hex(12)
        self.execute(
            f"CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'", f"GRANT SELECT ON `{database}`.* TO '{user}'@'%'"
        )
        return user, password


def numbers(count: int) -> str:
    """A table for FROM, of one column `seq`: the numbers from 1 to `count`. MariaDB's sequences, for MySQL too."""
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    places = range(len(str(count)))
    value = "1 + " + " + ".join(f"d{place}.d * {10**place}" for place in places)
    tables = ", ".join(f"({digits}) AS d{place}" for place in places)
    return f"(SELECT {value} AS seq FROM {tables} HAVING seq <= {count}) AS numbers"
