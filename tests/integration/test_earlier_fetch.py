"""What a fetch finds of an earlier one where the source cannot tell that nothing changed: databases and archives."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamount.course import read_course
from datamount.credentials import Credential
from datamount.drivers import Driver, Item, mysql, open_driver
from datamount.drivers.base import Buffer
from datamount.errors import NotFound, Unavailable
from datamount.fetch import fetch
from datamount.fetch.cache import Cache
from datamount.fetch.lock import check, lock
from datamount.status import DatasetStatus
from tests.servers import HTTPServer, MariaDBServer


class Site:
    """A course of one dataset, its credential, and a source of which single objects can be made to fail."""

    def __init__(self, folder: Path, dataset: dict[str, Any], credential: Credential | None = None) -> None:
        self.folder, self.dataset, self.credential = folder, dataset, credential
        self.opened: list[str] = []
        self.broken: set[str] = set()
        (folder / "course").mkdir()
        self.course = folder / "course/datamount.yaml"
        self.course.write_text(json.dumps({"version": 1, "datasets": {"db": dataset}}))

    def get(self, name: str, *, dataset: str) -> Credential:
        assert self.credential
        return self.credential

    def open_driver(self, name: str, dataset: Any, credential: Credential | None = None) -> Driver[Any]:
        driver = open_driver(name, dataset, credential)
        opened = driver.open

        def open_item(item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
            self.opened.append(item.path)
            if item.path in self.broken:
                raise Unavailable("broken on purpose")
            return opened(item, start, stop)

        driver.open = open_item  # type: ignore[method-assign]
        return driver

    def fetch(self) -> DatasetStatus:
        """The status of a fetch; `opened` are then the objects that it asked for."""
        self.opened.clear()
        course = read_course(self.folder / "course")
        data, run = self.folder / "data", self.folder / "run"
        return fetch(course, data, run, credentials=self, opener=self.open_driver).datasets["db"]

    def lock(self) -> None:
        self.opened.clear()
        lock(read_course(self.folder / "course"), self.folder / "data", credentials=self, opener=self.open_driver)

    def value(self, table: str) -> Any:
        return pq.read_table(io.BytesIO((self.folder / f"data/db/{table}.parquet").read_bytes()))["n"].to_pylist()[0]


@pytest.fixture
def database(mariadb: MariaDBServer) -> str:
    name = mariadb.make_database()
    for table in "ab":
        mariadb.execute(f"CREATE TABLE {name}.{table} (n INT PRIMARY KEY)", f"INSERT INTO {name}.{table} VALUES (1)")
    return name


@pytest.fixture
def site(mariadb: MariaDBServer, database: str, tmp_path: Path) -> Site:
    user, password = mariadb.make_user(database)
    source = {"host": mariadb.host, "port": mariadb.port, "database": database, "credential": "reader"}
    dataset = {"mysql": source | {"tables": {"a": {}, "b": {}}}}
    return Site(tmp_path, dataset, Credential(user=user, password=password))


def test_a_table_is_kept_after_a_fetch_that_did_not_end(site: Site, mariadb: MariaDBServer, database: str) -> None:
    """The next fetch reads what is missing, and says that the rest is older; one after a complete fetch reads all."""
    site.broken = {"b.parquet"}
    assert site.fetch().state == "partial"
    mariadb.execute(f"UPDATE {database}.a SET n = 2", f"UPDATE {database}.b SET n = 2")
    site.broken.clear()

    status = site.fetch()
    assert (status.state, site.opened) == ("ready", ["b.parquet"])
    assert (site.value("a"), site.value("b")) == (1, 2)
    assert [w for w in status.warnings if w.startswith("a shows the database as it was at ")], status.warnings

    status = site.fetch()
    assert (status.state, sorted(site.opened), status.warnings) == ("ready", ["a.parquet", "b.parquet"], [])
    assert (site.value("a"), site.value("b")) == (2, 2)


def test_a_kept_table_has_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is older than an hour, or of another declaration, is read anew with the rest."""
    site.broken = {"b.parquet"}
    site.fetch()
    site.dataset["mysql"]["tables"]["a"] = {"where": "n > 0"}
    site.course.write_text(json.dumps({"version": 1, "datasets": {"db": site.dataset}}))
    site.fetch()
    assert "a.parquet" in site.opened
    monkeypatch.setattr(mysql, "KEPT", timedelta(0))
    site.broken.clear()
    assert (site.fetch().warnings, sorted(site.opened)) == ([], ["a.parquet", "b.parquet"])


def test_a_lock_is_of_one_instant(site: Site, mariadb: MariaDBServer, database: str) -> None:
    """`lock` after a fetch that did not end reads every table; then a fetch resumes by table, whatever its age."""
    site.broken = {"b.parquet"}
    site.fetch()
    mariadb.execute(f"UPDATE {database}.a SET n = 2")
    site.broken.clear()
    site.lock()
    assert sorted(site.opened) == ["a.parquet", "b.parquet"]
    assert site.value("a") == 2

    (site.folder / "data/db/b.parquet").unlink()
    status = site.fetch()
    assert (status.state, site.opened, status.warnings) == ("ready", ["b.parquet"], [])


def test_a_locked_table_has_not_drifted_because_time_passed(site: Site, mariadb: MariaDBServer, database: str) -> None:
    """Asked without reading, a database says neither that its rows are the lock's nor that they are not."""
    site.lock()
    site.opened.clear()
    course = read_course(site.folder / "course")
    assert check(course, credentials=site, opener=site.open_driver) == {"db": None}
    mariadb.execute(f"DROP TABLE {database}.b")
    assert isinstance(check(course, credentials=site, opener=site.open_driver)["db"], NotFound)
    assert site.opened == []


def pack(**files: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return packed.getvalue()


def test_an_archive_that_is_the_same_is_not_read_again(http: HTTPServer, tmp_path: Path) -> None:
    """Unlocked: one request, of one byte, while the server's ETag or date is that of what is there; else all of it."""
    (http.root / "x.zip").write_bytes(pack(a="one", b="two"))
    site = Site(tmp_path, {"url": f"{http.url}/x.zip", "unpack": "zip"})
    assert (site.fetch().state, sorted(site.opened)) == ("ready", ["a", "b"])
    assert (site.fetch().state, site.opened) == ("ready", [])

    (tmp_path / "data/db/a").unlink()
    assert (site.fetch().state, site.opened) == ("ready", ["a"])

    (http.root / "x.zip").write_bytes(pack(a="another", c="three"))
    assert (site.fetch().state, sorted(site.opened)) == ("ready", ["a", "c"])
    assert sorted(path.name for path in (tmp_path / "data/db").iterdir()) == ["a", "c"]


def test_the_archive_of_a_lock_is_asked_for_its_version_only(http: HTTPServer, tmp_path: Path) -> None:
    """`check` reads one byte of an archive that is the lock's, and says of another in one line that it changed."""
    (http.root / "y.zip").write_bytes(pack(a="one", b="two"))
    site = Site(tmp_path, {"url": f"{http.url}/y.zip", "unpack": "zip"})
    site.lock()
    read: list[int] = []

    def opener(*arguments: Any) -> Driver[Any]:
        driver = open_driver(*arguments)
        read_place = driver.place.read
        driver.place.read = lambda *place: read.append(1) or read_place(*place)
        return driver

    course = read_course(tmp_path / "course")
    assert (check(course, credentials=site, opener=opener), read) == ({"db": []}, [])
    (http.root / "y.zip").write_bytes(pack(a="another", b="two"))
    found = check(course, credentials=site, opener=opener)["db"]
    assert isinstance(found, list)
    assert len(found) == 1
    assert found[0].startswith("the archive changed: size ")
    assert found[0].endswith("; of its 2 files: 1 of another size")


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder; `whole` are the requests for a whole file."""

    whole: list[str]

    def do_GET(self) -> None:
        if "Range" not in self.headers:
            self.whole.append(self.path)
        with suppress(OSError):  # a driver that wanted the head alone has gone
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


def test_sessions_of_a_machine_bring_an_archive_once(tmp_path: Path) -> None:
    """Eight sessions at once, no lock: one download; a damaged copy in the cache is noticed and fetched again."""
    (tmp_path / "served").mkdir()
    packed = pack(a="one" * 1000, b="two")
    (tmp_path / "served/z.zip").write_bytes(packed)
    Counting.whole = []
    cache = Cache(tmp_path / "cache")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(tmp_path / "served"))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        site = Site(tmp_path, {"url": f"http://127.0.0.1:{server.server_address[1]}/z.zip", "unpack": "zip"})
        course = read_course(tmp_path / "course")

        def session(number: int) -> bytes:
            at = tmp_path / f"session{number}"
            status = fetch(course, at / "data", at / "run", credentials=site, cache=cache)
            assert status.state == "ready", status
            return (at / "data/db/a").read_bytes()

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(session, range(8))) == {b"one" * 1000}
        assert Counting.whole == ["/z.zip"]

        sha256 = hashlib.sha256(packed).hexdigest()
        (kept,) = (path for path in (tmp_path / "cache").rglob(sha256) if path.is_file())
        kept.chmod(0o600)
        kept.write_bytes(packed[:-1] + b"x")
        assert session(9) == b"one" * 1000
        assert Counting.whole == ["/z.zip", "/z.zip"]
        assert kept.read_bytes() == packed
        server.shutdown()
