"""The injected containers with a real controller: leases on MariaDB, saved work through the gateway to a real S3.

The API server is the stand-in of `tests/kube`; the containers are processes (see `tests/pod_processes.py`).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest

from datamount import names
from datamount.fetch.environment import read_environment
from tests import servers
from tests.gateway import COURSE_IMAGE, serving
from tests.kube.site import Site, running_site, session_pod
from tests.pod_processes import Pod

pytestmark = pytest.mark.xdist_group("mysql-leases")
SCHEMA = "pod_course"


@pytest.fixture(scope="module")
def database(mariadb: servers.MariaDBServer) -> str:
    mariadb.make_database(SCHEMA)
    mariadb.execute(
        f"CREATE TABLE {SCHEMA}.notes (id INT, text TEXT)",
        f"INSERT INTO {SCHEMA}.notes VALUES (1, 'a note')",
        "CREATE USER IF NOT EXISTS podadmin@'%' IDENTIFIED BY 'planted-admin'",
        rf"GRANT SELECT ON `{SCHEMA.replace('_', chr(92) + '_')}`.* TO podadmin@'%' WITH GRANT OPTION",
        "GRANT SELECT (User, Host, max_updates) ON mysql.user TO podadmin@'%'",
        f"GRANT CREATE USER, PROCESS, {mariadb.connection_admin} ON *.* TO podadmin@'%'",
    )
    return SCHEMA


class Hub:
    """A controller at `url`, and pods that the API server knows."""

    def __init__(self, site: Site, url: str, make: Callable[..., Pod], folder: Path) -> None:
        self.site, self.url, self._make, self._folder = site, url, make, folder
        self._number = 0

    def launch(self, manifest: Any, *, user: str = "ada", **options: Any) -> Pod:
        self._number += 1
        made = self.site.kube.add_pod(
            session_pod(f"jupyter-{user}-{self._number}", user=user, image=f"{COURSE_IMAGE}:1")
        )
        token = self._folder / f"token-{self._number}"
        token.write_text(self.site.kube.token(made))
        return self._make(manifest, {names.ENV_TOKEN_FILE: str(token)}, controller_url=self.url, **options)


@pytest.fixture
def hub(
    tmp_path: Path,
    s3: servers.S3Server,
    mariadb: servers.MariaDBServer,
    database: str,
    pods: Callable[..., Pod],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Hub]:
    for name, value in s3.env("admin").items():
        if not name.startswith("AWS_ENDPOINT"):
            monkeypatch.setenv(name, value)
    store = {"url": f"s3://{s3.make_bucket()}/work", "endpoint_url": s3.endpoint_url}
    with running_site(tmp_path, store=store) as site:
        grant = {
            "host": mariadb.host,
            "port": mariadb.port,
            "admin_user": "podadmin",
            "admin_password_file": site.secret_file("admin", "planted-admin"),
            "grants": {database: ["*"]},
            "max_connections": 3,
        }
        allow = [{"images": [COURSE_IMAGE]}]
        site.write_policy({"credentials": {"reader": {"mysql": grant, "allow": allow, "ttl": 900, "max_ttl": 7200}}})
        with serving(site) as url:
            yield Hub(site, url, pods, tmp_path)


def manifest_of(mariadb: servers.MariaDBServer, **more: Any) -> Any:
    source = {"host": mariadb.host, "port": mariadb.port, "database": SCHEMA, "credential": "reader"}
    return {"version": 1, "datasets": {"notes": {"mysql": source}} | more}


def query(url: str) -> Any:
    """What a kernel reads with the variable that it was given."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    with (
        closing(
            pymysql.connect(host=parts.hostname, port=parts.port, user=user, password=password, database=SCHEMA)
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT text FROM notes")
        return cursor.fetchall()


def test_a_session_with_a_controller(hub: Hub, mariadb: servers.MariaDBServer) -> None:
    """Fetch takes a lease whose account works; the sidecar keeps that very account, saves through the gateway, and
    ends the account when it ends; the next launch has the work back, and nothing secret is in the pod's state that
    the notebook could see, in its logs or in its status."""
    pod = hub.launch(manifest_of(mariadb))
    log = pod.fetch()
    assert pod.status()["datasets"]["notes"]["state"] == "ready", log
    url = read_environment(pod.run)["NOTES_URL"]
    assert query(url) == (("a note",),)
    sidecar = pod.sidecar()
    pod.ready()
    (pod.home / "answer.txt").write_text("42\n")
    saved = pod.call("POST", "snapshots", {"message": ""})
    assert saved["created"] is True
    time.sleep(1)
    assert read_environment(pod.run)["NOTES_URL"] == url
    assert query(url) == (("a note",),)
    (pod.home / "last.txt").write_text("at the end\n")
    sidecar.send_signal(signal.SIGTERM)
    assert sidecar.wait(120) == 0
    with pytest.raises(pymysql.err.OperationalError):
        query(url)

    second = hub.launch(manifest_of(mariadb))
    second.fetch()
    assert (second.home / "answer.txt").read_text() == "42\n"
    assert (second.home / "last.txt").read_text() == "at the end\n"
    password = url.split(":")[2].partition("@")[0]
    shown = log + (pod.folder / "sidecar.log").read_text() + json.dumps(pod.status()) + pod.notes()
    assert password not in shown
    assert "planted-admin" not in shown


def test_another_user_has_other_work(hub: Hub) -> None:
    """Two users of one course do not meet."""
    first = hub.launch({"version": 1})
    first.fetch()
    first.sidecar()
    first.ready()
    (first.home / "answer.txt").write_text("42\n")
    first.call("POST", "snapshots", {"message": ""})
    other = hub.launch({"version": 1}, user="grace")
    other.fetch()
    assert not (other.home / "answer.txt").exists()


def test_a_refused_credential_is_told(hub: Hub, mariadb: servers.MariaDBServer) -> None:
    """A credential that the policy does not give: the student reads who can, and the notebook opens."""
    manifest = manifest_of(mariadb)
    manifest["datasets"]["notes"]["mysql"]["credential"] = "another"
    pod = hub.launch(manifest)
    pod.fetch()
    error = pod.status()["datasets"]["notes"]["error"]
    assert (error["status"], error["who"]) == (403, "the hub's operator")


PATIENT = "from datamount.pod import __main__, controller; controller.TOLD_SECONDS = 100; __main__.main()"
"""The container, but that it waits until all is told: for a busy controller a second is not enough."""


def test_progress_shows_on_the_launch_page(hub: Hub, mariadb: servers.MariaDBServer) -> None:
    """A launch leaves a few Events on its pod, one of them for each dataset that is ready."""
    hub.launch(manifest_of(mariadb)).fetch(program=("-c", PATIENT))
    events = [event for event in hub.site.kube.events() if "notes" in event["message"]]
    assert any("ready" in event["message"] for event in events)
    assert len(events) <= 3


def test_a_controller_that_is_away_costs_little(
    hub: Hub, pods: Callable[..., Pod], s3: servers.S3Server, mariadb: servers.MariaDBServer
) -> None:
    """With a controller that does not answer: public data is there, each other dataset says why it is not, the saved
    work is said to be missing, and the sidecar answers."""
    bucket = s3.make_bucket("public-data")
    s3.put(bucket, {"small/a.csv": b"x\n"})
    source = {"url": f"s3://{bucket}/small/", "endpoint_url": s3.endpoint_url, "anonymous": True}
    more = {f"db{n}": manifest_of(mariadb)["datasets"]["notes"] for n in range(5)}
    away = f"http://127.0.0.1:{servers.free_port()}"
    pod = pods(manifest_of(mariadb, small={"s3": source}, **more), controller_url=away)
    pod.fetch()
    found = pod.status()["datasets"]
    assert found["small"]["state"] == "ready"
    assert all("controller" in found[name]["error"]["detail"] for name in ("notes", "db0", "db4"))
    assert "saved work could not be brought back" in pod.notes()
    pod.sidecar()
    assert pod.ready() == 0
    assert pod.call("GET", "status")["save"]["store"] is not None


def test_the_notebook_sees_no_lease_and_no_key(hub: Hub, mariadb: servers.MariaDBServer) -> None:
    """What the notebook can see of a session (home, data, run, the Jupyter folder) holds no token and no lease."""
    pod = hub.launch(manifest_of(mariadb))
    pod.fetch()
    token = Path(pod.environment[names.ENV_TOKEN_FILE]).read_text()
    leases = [path.read_text() for path in (pod.state / "leases").iterdir()]
    assert leases
    for folder in (pod.home, pod.data, pod.run, pod.jupyter):
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes().decode("latin-1")
                assert token not in content
                assert not any(json.loads(lease)["lease"] in content for lease in leases), os.fspath(path)
