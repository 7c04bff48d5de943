"""The course site of the demo: real servers on 127.0.0.1, the synthetic data in them, the course with their addresses.

with Site(folder) as site:
    site.write_course(folder / "course")
    subprocess.run(["datamount", "up", folder / "course"], env=site.environment())
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import servers

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "mimic-radiology"
NOT_THE_COURSE = shutil.ignore_patterns("generate.py", "loaders.py", "__pycache__", ".ipynb_checkpoints")
DATABASE, IMAGES_REPO = "mimic2", "radiology"
LABELS_PACKAGE, CODES_PREFIX = "examples/radiology-labels", "icd9/"
WORK_BUCKET = "student-work"
TITLES = {"mysql": "MariaDB", "s3": "S3 (SeaweedFS)", "pachyderm": "Pachyderm", "web": "web server"}


def example_module(name: str) -> ModuleType:
    """generate.py or loaders.py of the example, which is a course and not a package."""
    spec = importlib.util.spec_from_file_location(f"mimic_radiology_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def git(*arguments: str | Path, cwd: Path) -> str:
    """What git prints; as nobody, and with no configuration of the machine's user."""
    who = {f"GIT_{role}_{what}": "demo@example.edu" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = inherited | who | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def commit(repo: Path, message: str) -> None:
    """Commit all that is in the work tree."""
    git("add", "--all", cwd=repo)
    git("commit", "--quiet", "--no-gpg-sign", "--message", message, cwd=repo)


@dataclass(frozen=True)
class Loaded:
    """What one server holds now."""

    server: str
    what: str
    size: int
    seconds: float


class Site:
    """All servers of the example, loaded. `close` stops every one of them, and so does the end of this process.

    `folder` holds the generated data and the credentials; the data of the S3 server, and with it the saved work,
    is kept there between runs when `keep_store` is set.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 7,
        patients: int = 240,
        keep_store: bool = False,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.generated = folder / "generated"
        self.credentials = folder / "credentials.yaml"
        self.loaded: list[Loaded] = []
        self._say = say
        self._seed, self._patients = seed, patients
        self._stack = contextlib.ExitStack()
        self._kept = folder / "s3" if keep_store else None

    def __enter__(self) -> Site:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start and load every server. Raises servers.Missing or servers.ServerFailed; none is left running then."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop the servers and remove their temporary folders."""
        self._stack.close()

    @property
    def store(self) -> str:
        """Where the demo's sessions save."""
        return f"s3://{WORK_BUCKET}/demo"

    def reports(self) -> dict[int, str]:
        """The radiology reports in the database, by their row_id."""
        with (self.generated / "mysql" / "noteevents.csv").open(newline="", encoding="utf-8") as stream:
            notes = list(csv.DictReader(stream))
        return {int(note["row_id"]): note["text"] for note in notes if note["category"] == "RADIOLOGY_REPORT"}

    def expected(self) -> dict[str, str]:
        """What the notebooks print of this data, by the ID of the cell."""
        reports = self.reports()
        normal = sum("No acute cardiopulmonary process" in text for text in reports.values())
        return {
            "parquet": f"{len(reports)} reports in the file, {len(reports)} in the database",
            "images": f"{len(list((self.generated / 'images').iterdir()))} pictures of 160 × 128",
            "lengths": f"{len(reports)} reports, {normal} of them without an acute finding",
        }

    def environment(self) -> dict[str, str]:
        """The variables that let `datamount` reach the store and find the credentials, and nothing else of AWS."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PACH", "DATAMOUNT_", "QUILT_"))}
        return kept | self.s3.env() | {"DATAMOUNT_CREDENTIALS": str(self.credentials)}

    def write_course(self, target: Path) -> Path:
        """The example as a git repo at `target` (which must not exist), with the addresses of these servers."""
        shutil.copytree(EXAMPLE, target, ignore=NOT_THE_COURSE)
        self.write_manifest(target)
        git("init", "--quiet", "--initial-branch=main", cwd=target)
        commit(target, "The course")
        return target

    def write_manifest(self, target: Path) -> None:
        """Only the manifest of a copy, for servers that listen elsewhere than at its last launch."""
        text = (EXAMPLE / "binder" / "datamount.yaml").read_text(encoding="utf-8")
        for example, local in (
            ("host: db.example.edu\n", f"host: {self.mysql.host}\n"),
            ("port: 3306\n", f"port: {self.mysql.port}\n"),
            ("https://s3.example.edu", self.s3.endpoint_url),
            ("grpc://pachd.example.edu:30650", self.pachyderm.address),
            ("https://example.edu", self.web.url),
        ):
            assert example in text, f"the example's manifest no longer says {example!r}"
            text = text.replace(example, local)
        (target / "binder" / "datamount.yaml").write_text(text, encoding="utf-8")

    def _start(self) -> None:
        generate, loaders = example_module("generate"), example_module("loaders")
        shutil.rmtree(self.generated, ignore_errors=True)
        generate.write(generate.generate(self._seed, self._patients), self.generated)
        # One after the other, and all from this thread: a server ends with the thread that started it.
        with self._loading("mysql", "tables", "mysql") as told:
            self.mysql = self._stack.enter_context(servers.MariaDBServer())
            with contextlib.closing(self.mysql.connect()) as connection:
                connection.begin()
                rows = loaders.load_mysql(connection, DATABASE, self.generated)
            user, password = self.mysql.make_user(DATABASE)
            told.append(f"{rows} rows of noteevents, icd9, admissions, d_patients")
        with self._loading("s3", "codes and labels", "codes", "labels") as told:
            self.s3 = self._stack.enter_context(servers.S3Server(self._kept))
            for bucket in (self.s3.reader_bucket, self.s3.public_bucket, WORK_BUCKET):
                self.s3.make_bucket(bucket)
            objects = loaders.load_s3(self.s3.client(), self.s3.public_bucket, CODES_PREFIX, self.generated)
            self._push_labels()
            told.append(f"{objects} code lists; Quilt package {LABELS_PACKAGE}")
        with self._loading("pachyderm", "images", "images") as told:
            self.pachyderm = self._stack.enter_context(servers.PachydermServer(root_token=secrets.token_hex(16)))
            images, token = self._load_images(loaders)
            told.append(f"commit {images[:8]} of {IMAGES_REPO}")
        with self._loading("web", "glossary", "glossary.csv") as told:
            self.web = self._stack.enter_context(servers.HTTPServer())
            shutil.copy(self.generated / "glossary.csv", self.web.root)
            told.append(f"{self.web.url}/glossary.csv")
        self._write_credentials(user, password, token)

    @contextlib.contextmanager
    def _loading(self, server: str, what: str, *parts: str) -> Iterator[list[str]]:
        self._say(f"{TITLES[server]}: starting, loading {what}")
        began = time.monotonic()
        told: list[str] = []
        yield told
        paths = [p for part in parts for p in (self.generated / part, *(self.generated / part).rglob("*"))]
        size = sum(path.stat().st_size for path in paths if path.is_file())
        self.loaded.append(Loaded(TITLES[server], told[0], size, time.monotonic() - began))

    def _push_labels(self) -> None:
        # A process of its own: quilt3 keeps its S3 clients, and the variables are not ours to change.
        command = [sys.executable, EXAMPLE / "loaders.py", "quilt", self.generated]
        command += ["--package", LABELS_PACKAGE, "--registry", f"s3://{self.s3.reader_bucket}"]
        home = {"XDG_DATA_HOME": str(self.folder / "quilt"), "XDG_CACHE_HOME": str(self.folder / "quilt")}
        environment = os.environ | self.s3.env() | home | {"QUILT_DISABLE_USAGE_METRICS": "true"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise servers.ServerFailed(f"pushing the Quilt package failed\n{done.stdout}{done.stderr}")

    def _load_images(self, loaders: ModuleType) -> tuple[str, str]:
        """The commit that holds the images, and the token of an account that may only read them."""
        from python_pachyderm.proto.v2.auth import auth_pb2

        client = self.pachyderm.client()
        commit: str = loaders.load_pachyderm(client, IMAGES_REPO, self.generated)
        repo = auth_pb2.Resource(type=auth_pb2.REPO, name=f"default/{IMAGES_REPO}")
        client.modify_role_binding(repo, "robot:course", ["repoReader"])
        return commit, client.get_robot_token("course")

    def _write_credentials(self, user: str, password: str, token: str) -> None:
        reader = self.s3.identities["reader"]
        found: dict[str, dict[str, Any]] = {
            "mimic2-reader": {"user": user, "password": password},
            "course-bucket": {
                "access_key_id": reader.access_key_id,
                "secret_access_key": reader.secret_access_key,
            },
            "pach": {"token": token},
        }
        self.credentials.unlink(missing_ok=True)
        self.credentials.touch(mode=0o600)
        # JSON is YAML.
        self.credentials.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
