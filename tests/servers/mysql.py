"""Oracle's MySQL, private to a test: what the MariaDB tests run on as well (`make test-mysql`)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.servers.mariadb import MariaDBServer
from tests.servers.process import Missing, ServerFailed


class MySQLServer(MariaDBServer):
    """A MySQL 5.7 to 9 whose programs are in `home`: an unpacked archive of Oracle's, or Debian packages' files."""

    connection_admin = "CONNECTION_ADMIN"

    def __init__(self, home: Path, folder: Path | None = None, *, options: Sequence[str] = ()) -> None:
        super().__init__(folder, options=options)
        self.home = home.resolve()

    def _program(self) -> list[str]:
        archive, packages = self.home / "bin/mysqld", self.home / "usr/sbin/mysqld"
        if archive.is_file():
            return [str(archive), "--no-defaults", f"--basedir={self.home}"]
        if not packages.is_file():
            raise Missing(f"no mysqld in {self.home}: run tests/mysql.sh {self.home}")
        # Packages of another Debian need its C library, too.
        libraries = next((self.home / "usr/lib").glob("*-linux-gnu"))
        loader = next(libraries.glob("ld-linux*.so.*"))
        started = [str(loader), "--library-path", f"{libraries}:{libraries / 'mysql'}", str(packages)]
        return [*started, "--no-defaults", f"--basedir={self.home / 'usr'}"]

    def _install(self) -> None:
        folders = [f"--datadir={self.folder / 'data'}", f"--tmpdir={self.folder / 'tmp'}"]
        done = subprocess.run(
            [*self._program(), "--initialize-insecure", *folders, *self._user],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"mysqld --initialize-insecure ended with {done.returncode}\n{done.stdout}{done.stderr}")
        init = self.folder / "init.sql"
        init.touch(mode=0o600)
        init.write_text(
            f"ALTER USER root@'localhost' IDENTIFIED BY '{self.root_password}';\n"
            f"CREATE USER root@'{self.host}' IDENTIFIED BY '{self.root_password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO root@'{self.host}' WITH GRANT OPTION;\n"
        )

    def start(self) -> None:
        super().start()
        (self.folder / "init.sql").write_text("")  # MySQL has no CREATE OR REPLACE USER: once is enough

    def command(self) -> Sequence[str | Path]:
        return [
            *self._program(),
            f"--datadir={self.folder / 'data'}",
            f"--tmpdir={self.folder / 'tmp'}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--socket={self.socket}",
            f"--pid-file={self.folder / 'mysqld.pid'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--secure-file-priv={self.folder / 'tmp'}",
            "--loose-mysqlx=OFF",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",  # durable enough for a test
            "--performance-schema=OFF",
            "--skip-log-bin",
            *self._user,
            *self.options,
        ]


def mariadb_or_mysql(options: Sequence[str] = ()) -> MariaDBServer:
    """MariaDB, or the MySQL whose folder TEST_MYSQL names."""
    home = os.environ.get("TEST_MYSQL")
    return MySQLServer(Path(home), options=options) if home else MariaDBServer(options=options)
