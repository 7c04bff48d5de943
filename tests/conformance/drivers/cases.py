"""One case a driver: how to publish something on its real server, and how to break it.

A new driver inherits the whole suite from one subclass of DriverCase, added to CASES. Servers come from the fixtures
of tests/conftest.py: `request.getfixturevalue("s3")`.
"""

from __future__ import annotations

import io
import json
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from datamount.credentials import Credential
from datamount.drivers import Driver, open_driver
from datamount.manifest import Dataset
from tests import servers

TREE: dict[str, bytes] = {
    "a.csv": b"id,name\n1,Ada\n",
    "empty.txt": b"",
    "images/one.bin": bytes(range(256)) * 40,
    "images/deep/er/two.bin": b"\x00" * 4097,
    "Ünïcode né.txt": "naïve ☃\n".encode(),
    "odd +&%20=~,'()[].txt": b"odd",
    "large.bin": secrets.token_bytes(5 << 20),
}
"""A tree of files for sources of files: empty, nested, non-ASCII, with signs that URLs escape, over several chunks."""


@dataclass(frozen=True)
class Published:
    """A dataset as a manifest has it (`source` is what stands below its name), and what it must deliver."""

    source: Mapping[str, Any]
    credential: Credential | None = None
    expected: Mapping[str, bytes] = field(default_factory=dict)
    handle: Any = None
    """The case's own, for `move_on`."""

    def driver(self) -> Driver[Any]:
        return open_driver("sample", Dataset.model_validate(dict(self.source)), self.credential)


class DriverCase(ABC):
    """What the suite must know of one driver."""

    keeps_versions: ClassVar[bool] = True
    """Whether an Item planned before the source moved on still yields the old bytes. If not, the suite wants
    VerificationFailed or bytes that its digest gives away."""

    has: ClassVar[frozenset[str]] = frozenset({"ranges", "credentials", "moves"})
    """What the source has, of: ranges, digests, credentials, a server, and moves that a running driver sees. A test
    of what it has not (`@pytest.mark.needs`) is not made at all: a skip would look like something left undone."""

    _shared: ClassVar[dict[type[DriverCase], Published]] = {}

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.request = request
        self.folder = folder

    def shared(self) -> Published:
        """One publication for all tests that only read."""
        kind = type(self)
        if kind not in self._shared:
            self._shared[kind] = self.publish()
        return self._shared[kind]

    @abstractmethod
    def publish(self) -> Published:
        """Something new on the server, with a credential that may read it."""

    @abstractmethod
    def move_on(self, published: Published) -> None:
        """Change every file of it at the source, as its owner would."""

    @abstractmethod
    def missing(self) -> list[Published]:
        """Datasets that name what is not there (bucket, object, branch, database…)."""

    @abstractmethod
    def refused(self) -> list[Published]:
        """Datasets whose credential is wrong, absent, or not allowed."""

    @abstractmethod
    def down(self) -> Published:
        """A dataset at a server that does not answer, or on a disk that fails."""

    def assert_content(self, path: str, expected: bytes, received: bytes) -> None:
        """Overridden where the bytes are the driver's own making (a table as Parquet)."""
        assert expected == received, path


def s3_credential(identity: servers.Identity, endpoint_url: str | None = None) -> Credential:
    return Credential(
        access_key_id=identity.access_key_id,
        secret_access_key=SecretStr(identity.secret_access_key),
        endpoint_url=endpoint_url,
    )


UNREADABLE = Path("/proc/self/mem")
"""A file that opens, and whose reading ends with EIO as that of a failing disk does."""
WRONG = servers.Identity("AKNOBODY", "wrong-" + secrets.token_hex(16))


class S3Case(DriverCase):
    """A prefix of a bucket with versions."""

    versioned = True

    @property
    def server(self) -> servers.S3Server:
        server: servers.S3Server = self.request.getfixturevalue("s3")
        return server

    def source(self, url: str, **more: Any) -> dict[str, Any]:
        return {"s3": {"url": url, "endpoint_url": self.server.endpoint_url, "credential": "c"} | more}

    def publish(self) -> Published:
        bucket = self.server.make_bucket(versioned=self.versioned)
        self.server.put(bucket, {f"course/{path}": body for path, body in TREE.items()})
        self.server.put(bucket, {"other/x": b"not asked for", "course2/x": b"not asked for", "course/folder/": b""})
        admin = s3_credential(self.server.identities["admin"])
        return Published(self.source(f"s3://{bucket}/course/"), admin, TREE, bucket)

    def move_on(self, published: Published) -> None:
        self.server.put(published.handle, {f"course/{path}": body + b"new" for path, body in TREE.items()})

    def missing(self) -> list[Published]:
        bucket, admin = self.server.make_bucket(), s3_credential(self.server.identities["admin"])
        places = (f"s3://no-such-{bucket}/", f"s3://{bucket}/nothing/", f"s3://{bucket}/none.csv")
        return [Published(self.source(place), admin) for place in places]

    def refused(self) -> list[Published]:
        published = self.shared()
        reader = self.server.identities["reader"]
        unsigned = {"s3": {k: v for k, v in published.source["s3"].items() if k != "credential"} | {"anonymous": True}}
        return [
            Published(published.source, s3_credential(WRONG)),
            Published(published.source, s3_credential(servers.Identity(reader.access_key_id, WRONG.secret_access_key))),
            Published(published.source, s3_credential(reader)),
            Published(unsigned),
        ]

    def down(self) -> Published:
        endpoint = f"http://127.0.0.1:{servers.free_port()}"
        return Published(self.source("s3://course-data/x/", endpoint_url=endpoint), s3_credential(WRONG))


class S3PlainCase(S3Case):
    """A prefix of a bucket that keeps no versions: the ETag is all there is."""

    keeps_versions = False
    versioned = False


class S3ObjectCase(S3Case):
    """One object of a bucket with versions."""

    def publish(self) -> Published:
        published = super().publish()
        url = f"s3://{published.handle}/course/large.bin"
        expected = {"large.bin": TREE["large.bin"]}
        return Published(self.source(url), published.credential, expected, published.handle)


class QuiltCase(DriverCase):
    """A package that quilt3 pushed to a bucket with versions, in a process of its own (quilt3's state is global)."""

    has = DriverCase.has | {"digests"}

    @property
    def server(self) -> servers.S3Server:
        server: servers.S3Server = self.request.getfixturevalue("s3")
        return server

    def push(self, registry: str, files: Mapping[str, bytes]) -> None:
        servers.push_package("course/sample", registry, files, env=self.server.env())

    def source(self, registry: str, **more: Any) -> dict[str, Any]:
        settings = {"package": "course/sample", "registry": registry, "endpoint_url": self.server.endpoint_url}
        return {"quilt": settings | {"credential": "c"} | more}

    def publish(self) -> Published:
        bucket = self.server.make_bucket(versioned=True)
        self.push(f"s3://{bucket}", TREE)
        admin = s3_credential(self.server.identities["admin"])
        return Published(self.source(f"s3://{bucket}"), admin, TREE, f"s3://{bucket}")

    def move_on(self, published: Published) -> None:
        self.push(published.handle, {path: body + b"new" for path, body in TREE.items()})

    def missing(self) -> list[Published]:
        published = self.shared()
        source = dict(published.source)["quilt"]
        changes: list[dict[str, Any]] = [
            {"registry": "s3://no-such-bucket-here"},
            {"package": "course/other"},
            {"tag": "1234567890"},
            {"top_hash": "0" * 64},
            {"top_hash": "0" * 8},
            {"path": "nothing"},
        ]
        return [Published({"quilt": source | change}, published.credential) for change in changes]

    def refused(self) -> list[Published]:
        published = self.shared()
        reader = self.server.identities["reader"]
        return [Published(published.source, s3_credential(identity)) for identity in (WRONG, reader)]

    def down(self) -> Published:
        endpoint = f"http://127.0.0.1:{servers.free_port()}"
        return Published(self.source("s3://course-data", endpoint_url=endpoint), s3_credential(WRONG))


class QuiltFolderCase(QuiltCase):
    """A package in a file:// registry."""

    has = QuiltCase.has - {"credentials"}

    keeps_versions = False

    def push(self, registry: str, files: Mapping[str, bytes]) -> None:
        servers.push_package("course/sample", registry, files, env={}, tree=self.folder / "tree")

    def publish(self) -> Published:
        registry = (self.folder / secrets.token_hex(4)).as_uri()
        self.push(registry, TREE)
        source = {"quilt": {"package": "course/sample", "registry": registry}}
        return Published(source, None, TREE, registry)

    def missing(self) -> list[Published]:
        published = self.shared()
        source = dict(published.source)["quilt"]
        changes = [{"registry": (self.folder / "none").as_uri()}, {"package": "course/other"}, {"top_hash": "0" * 8}]
        return [Published({"quilt": source | change}) for change in changes]

    def refused(self) -> list[Published]:
        return []

    def down(self) -> Published:
        registry = self.folder / secrets.token_hex(4)
        latest = registry / ".quilt" / "named_packages" / "course" / "sample" / "latest"
        latest.parent.mkdir(parents=True)
        latest.symlink_to(UNREADABLE)
        return Published({"quilt": {"package": "course/sample", "registry": registry.as_uri()}})


class URLCase(DriverCase):
    """A file on a web server that wants a token."""

    has = DriverCase.has - {"credentials"}

    keeps_versions = False
    token = "token-" + secrets.token_hex(16)
    name = "odd +&%20=~,'()é.csv"

    @property
    def server(self) -> servers.HTTPServer:
        server: servers.HTTPServer = self.request.getfixturevalue("http")
        return server

    def credential(self) -> Credential | None:
        return None

    def address(self, path: str) -> str:
        from urllib.parse import quote

        return f"{self.server.url}/{quote(path)}"

    def publish(self) -> Published:
        folder = self.server.root / secrets.token_hex(4)
        folder.mkdir()
        (folder / self.name).write_bytes(TREE["large.bin"])
        source = {"url": self.address(f"{folder.name}/{self.name}")}
        return Published(source, self.credential(), {self.name: TREE["large.bin"]}, folder / self.name)

    def move_on(self, published: Published) -> None:
        published.handle.write_bytes(b"new")

    def missing(self) -> list[Published]:
        return [Published({"url": self.address("nothing.csv")}, self.credential())]

    def refused(self) -> list[Published]:
        return []

    def down(self) -> Published:
        return Published({"url": f"http://127.0.0.1:{servers.free_port()}/x.csv"}, self.credential())


class URLTokenCase(URLCase):
    """The same behind a bearer token."""

    has = DriverCase.has

    @property
    def server(self) -> servers.HTTPServer:
        server: servers.HTTPServer = self.request.getfixturevalue("http_token")
        return server

    def credential(self) -> Credential | None:
        return Credential(token=SecretStr(self.token))

    def refused(self) -> list[Published]:
        published = self.shared()
        secret_query = {"url": f"{published.source['url']}?signature={WRONG.secret_access_key}"}
        wrong = Credential(token=SecretStr(WRONG.secret_access_key))
        return [Published(published.source), Published(published.source, wrong), Published(secret_query, wrong)]


class URLFileCase(URLCase):
    """A file:// URL."""

    def publish(self) -> Published:
        path = self.folder / secrets.token_hex(4) / self.name
        path.parent.mkdir()
        path.write_bytes(TREE["large.bin"])
        return Published({"url": path.as_uri()}, None, {self.name: TREE["large.bin"]}, path)

    def missing(self) -> list[Published]:
        return [Published({"url": (self.folder / "nothing.csv").as_uri()}), Published({"url": self.folder.as_uri()})]

    def down(self) -> Published:
        return Published({"url": UNREADABLE.as_uri()})


class URLFsspecCase(URLCase):
    """A file inside a zip on a web server: what the standard library does not read, fsspec does."""

    has = URLCase.has - {"moves", "ranges"}  # fsspec keeps what it has read of an archive

    def publish(self) -> Published:
        import zipfile

        archive = self.server.root / f"{secrets.token_hex(4)}.zip"
        with zipfile.ZipFile(archive, "w") as stream:
            stream.writestr("inner/data.csv", TREE["large.bin"])
        source = {"url": f"zip://inner/data.csv::{self.address(archive.name)}"}
        return Published(source, None, {"data.csv": TREE["large.bin"]}, archive)

    def missing(self) -> list[Published]:
        url = self.shared().source["url"]
        return [
            Published({"url": url.replace("inner/", "outer/")}),
            Published({"url": f"zip://a::{self.address('no.zip')}"}),
        ]

    def down(self) -> Published:
        return Published({"url": f"zip://a.csv::http://127.0.0.1:{servers.free_port()}/x.zip"})


class PachydermCase(DriverCase):
    """A folder of a repo of a pachd that has auth on, read by a robot with the role repoReader."""

    # pachd takes printable ASCII only, without the characters that mean something in its globs.
    tree: ClassVar[dict[str, bytes]] = {
        path: body for path, body in TREE.items() if re.fullmatch(r"[A-Za-z0-9_./-]+", path)
    } | {
        "odd &%20=~,'|<>$;#.txt": b"odd",
        "odd/ lead and trail ": b"spaces",
        "odd/back\\slash": b"not a separator",
    }

    @property
    def server(self) -> servers.PachydermServer:
        server: servers.PachydermServer = self.request.getfixturevalue("pachyderm_auth")
        return server

    def robot(self, repo: str = "") -> Credential:
        """The token of a new robot, which may read `repo`."""
        from python_pachyderm.proto.v2.auth import auth_pb2

        name = f"robot-{secrets.token_hex(4)}"
        client = self.server.client()
        if repo:
            resource = auth_pb2.Resource(type=auth_pb2.REPO, name=f"default/{repo}")
            client.modify_role_binding(resource, f"robot:{name}", roles=["repoReader"])
        token = client.get_robot_token(name, ttl=3600)
        return Credential(address=self.server.address, token=SecretStr(token))

    def source(self, repo: str, **more: Any) -> dict[str, Any]:
        return {"pachyderm": {"repo": repo, "path": "/png", "credential": "c"} | more}

    def publish(self) -> Published:
        repo = f"radiology-{secrets.token_hex(4)}"
        files = {f"/png/{path}": body for path, body in self.tree.items()}
        self.server.put(repo, files | {"/png2/x": b"not asked for", "/x": b"not asked for"})
        return Published(self.source(repo), self.robot(repo), self.tree, repo)

    def move_on(self, published: Published) -> None:
        self.server.put(published.handle, {f"/png/{path}": body + b"new" for path, body in self.tree.items()})

    def missing(self) -> list[Published]:
        published = self.publish()
        source = dict(published.source)["pachyderm"]
        changes: list[dict[str, Any]] = [
            {"repo": "no-such-repo"},
            {"project": "no-such-project"},
            {"branch": "no-such-branch"},
            {"commit": "0" * 12 + "4" + "0" * 19},
            {"path": "/nothing"},
            {"path": "/pn"},
            {"path": "/png/*.csv"},
        ]
        root = Credential(address=self.server.address, token=SecretStr(self.server.root_token))
        return [Published({"pachyderm": source | change}, root) for change in changes]

    def refused(self) -> list[Published]:
        published = self.publish()
        address = self.server.address
        credentials = [
            Credential(address=address),
            Credential(address=address, token=SecretStr(WRONG.secret_access_key)),
            self.robot(),
        ]
        return [Published(published.source, credential) for credential in credentials]

    def down(self) -> Published:
        address = f"grpc://127.0.0.1:{servers.free_port()}"
        return Published(self.source("radiology"), Credential(address=address))


class PachydermFileCase(PachydermCase):
    """One file of a repo, by its path."""

    def publish(self) -> Published:
        published = super().publish()
        expected = {"large.bin": self.tree["large.bin"]}
        return Published(
            self.source(published.handle, path="/png/large.bin"), published.credential, expected, published.handle
        )


class MySQLCase(DriverCase):
    """Two tables of a database, read by an account that may SELECT from it. `expected` is each table's rows as JSON."""

    has = DriverCase.has - {"ranges"}

    tables: ClassVar[dict[str, list[list[Any]]]] = {
        "noteevents": [[number, f"naïve ☃ {number}", number / 4] for number in range(1, 3000)],
        "empty": [],
        "odd name": [[1, None, None]],
    }

    @property
    def server(self) -> servers.MariaDBServer:
        server: servers.MariaDBServer = self.request.getfixturevalue("mariadb")
        return server

    def source(self, database: str, **more: Any) -> dict[str, Any]:
        place = {"host": self.server.host, "port": self.server.port, "database": database, "credential": "c"}
        return {"mysql": place | {"tables": {table: {} for table in self.tables}} | more}

    def publish(self) -> Published:
        database = self.server.make_database()
        with closing(self.server.connect(database=database)) as connection, connection.cursor() as cursor:
            for table, rows in self.tables.items():
                cursor.execute(f"CREATE TABLE `{table}` (id INT PRIMARY KEY, word TEXT, number DOUBLE)")
                cursor.executemany(f"INSERT INTO `{table}` VALUES (%s, %s, %s)", rows)
        user, password = self.server.make_user(database)
        expected = {f"{table}.parquet": json.dumps(rows).encode() for table, rows in self.tables.items()}
        credential = Credential(user=user, password=SecretStr(password))
        return Published(self.source(database), credential, expected, database)

    def move_on(self, published: Published) -> None:
        for table in self.tables:
            self.server.execute(f"INSERT INTO `{published.handle}`.`{table}` VALUES (0, 'new', 0)")

    def missing(self) -> list[Published]:
        published = self.shared()
        root = Credential(user="root", password=SecretStr(self.server.root_password))
        return [
            Published(self.source("no_such_database"), root),
            Published(self.source(published.handle, tables={"no_such_table": {}}), published.credential),
        ]

    def refused(self) -> list[Published]:
        published = self.shared()
        assert published.credential
        other, password = self.server.make_user(self.server.make_database())
        wrong = SecretStr(WRONG.secret_access_key)
        return [
            Published(published.source, Credential(user=published.credential.user, password=wrong)),
            Published(published.source, Credential(user="nobody", password=wrong)),
            Published(published.source, Credential(user=other, password=SecretStr(password))),
        ]

    def down(self) -> Published:
        return Published(self.source("course", port=servers.free_port()), Credential(user="root"))

    def assert_content(self, path: str, expected: bytes, received: bytes) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(received))
        rows = [list(row.values()) for row in table.to_pylist()]
        assert table.column_names == ["id", "word", "number"]
        assert json.loads(expected) == rows, path


CASES: tuple[type[DriverCase], ...] = (
    S3Case,
    S3PlainCase,
    S3ObjectCase,
    QuiltCase,
    QuiltFolderCase,
    URLCase,
    URLTokenCase,
    URLFileCase,
    URLFsspecCase,
    PachydermCase,
    PachydermFileCase,
    MySQLCase,
)
