"""The controller as it is deployed: two processes behind TLS, one killed, and no secret in anything they leave."""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from tests import servers
from tests.kube.server import KubeServer, Object
from tests.kube.site import IMAGE, session_pod
from tests.servers import MariaDBServer, Server, free_port


class Replica(Server):
    """`datamount controller` in a process of its own."""

    start_seconds = 90.0

    def __init__(self, folder: Path, settings: dict[str, Any], kubeconfig: Path) -> None:
        super().__init__(folder)
        self.port, self.metrics_port = free_port(), free_port()
        self.kubeconfig = kubeconfig
        self.config = folder / "controller.yaml"
        self.config.write_text(yaml.safe_dump(settings | {"port": self.port, "metrics_port": self.metrics_port}))

    def command(self) -> list[str | Path]:
        return [sys.executable, "-m", "datamount", "controller", "--config", self.config]

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {"KUBECONFIG": str(self.kubeconfig)}

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.call("GET", "/readyz")[0] == 200
        return False

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=120) as answer:
            return str(answer.read().decode())

    def call(self, method: str, path: str, body: Any = None, *, token: str = "") -> tuple[int, Any]:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"https://localhost:{self.port}{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        trust = ssl.create_default_context(cafile=str(self.kubeconfig.parent / "ca.crt"))
        try:
            with urllib.request.urlopen(request, timeout=120, context=trust) as answer:
                text = answer.read().decode()
                return answer.status, json.loads(text) if text.startswith(("{", "[")) else text
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    with KubeServer() as kube:
        config = {"url": "https://localhost/mutate"}
        hook = {
            "name": "m.datamount.dev",
            "clientConfig": config,
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        }
        kube.add("mutatingwebhookconfigurations", {"metadata": {"name": "datamount"}, "webhooks": [hook]})
        yield kube


@pytest.fixture
def replicas(tmp_path: Path, kube: KubeServer, mariadb: MariaDBServer) -> Iterator[list[Replica]]:
    mariadb.make_database("course")
    mariadb.execute("CREATE TABLE course.notes (id INT)", "INSERT INTO course.notes VALUES (1)")
    secret = tmp_path / "password"
    secret.write_text(mariadb.root_password)
    grant = {
        "host": mariadb.host,
        "port": mariadb.port,
        "admin_user": "root",
        "admin_password_file": str(secret),
        "grants": {"course": ["*"]},
    }
    fixed = tmp_path / "fixed"
    fixed.write_text("planted-static-secret")
    credentials = {
        "course": {"mysql": grant, "allow": [{"images": [IMAGE], "users": ["ada"]}]},
        "web": {
            "static": True,
            "secret": {"token_file": str(fixed), "urls": ["https://x.example/"]},
            "allow": [{"any_image": True}],
        },
        "down": {"mysql": grant | {"port": 1}, "allow": [{"any_image": True}]},
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump({"credentials": credentials}))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(kube.kubeconfig()))
    settings = {
        "namespaces": ["hub"],
        "service": "localhost",
        "host": "127.0.0.1",
        "policy": str(tmp_path / "policy.yaml"),
        "policy_seconds": 0.2,
        "reaper_seconds": 0.5,
        "review_seconds": 0,
        "drain_seconds": 0,
    }
    authority = tmp_path / "ca.crt"
    started: list[Replica] = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            replica = Replica(tmp_path / name, settings, kubeconfig)
            started.append(replica)
            with _authority_follows(kube, authority):
                replica.start()
        yield started
    except servers.Missing as missing:
        servers.require(str(missing))
    finally:
        for replica in started:
            replica.close()
        mariadb.execute("DROP DATABASE course")


@contextlib.contextmanager
def _authority_follows(kube: KubeServer, path: Path) -> Iterator[None]:
    """The ConfigMap as it would be mounted, once the controller has made it."""
    import threading

    stop = threading.Event()

    def follow() -> None:
        while not stop.is_set():
            found = kube.objects["configmaps"].get(("hub", "datamount-ca"))
            if found and not path.exists():
                new = path.with_suffix(".new")
                new.write_text(found["data"]["ca.crt"])
                new.replace(path)
            stop.wait(0.02)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def wait(condition: Any, seconds: float = 120) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_whole_life(kube: KubeServer, replicas: list[Replica], mariadb: MariaDBServer, tmp_path: Path) -> None:
    """Admission, lease, SIGKILL of the replica that gave it, renewal by the other, deletion of the pod: the account is
    gone within a pass, and logs, audit, metrics, Events and errors of it all hold no secret and no client's address."""
    one, two = replicas
    pod = session_pod("jupyter-ada")
    seen: list[Any] = []
    uid = "705ab4f5-6393-11e8-b7cc-42010a800002"
    fresh: Object = {"metadata": {**pod["metadata"], "annotations": {}}, "spec": pod["spec"]}
    request = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "object": fresh,
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    status, answer = one.call("POST", "/mutate", review)
    assert (status, answer["response"]["patchType"]) == (200, "JSONPatch")

    stored = kube.add_pod(pod)
    token = kube.token(stored)
    wanted = {"dataset": "mimic2", "kind": "mysql", "credential": "course", "source": {"database": "course"}}
    status, given = one.call("POST", "/v1/leases", wanted, token=token)
    assert status == 201, given
    secrets = [token, given["credential"]["password"], mariadb.root_password, "planted-static-secret", kube.caller]
    login = {"user": given["credential"]["user"], "password": given["credential"]["password"], "database": "course"}
    connection = mariadb.connect(**login)

    assert one.process is not None
    one.process.kill()
    status, renewed = two.call("POST", f"/v1/leases/{given['lease']}/renew", token=token)
    assert status == 200, renewed

    # Everything that goes wrong is told, by both kinds of errors.
    eve = kube.token(kube.add_pod(session_pod("jupyter-eve", user="eve")))
    odd_url = {"kind": "url", "credential": "web", "source": {"url": "https://evil.example/planted"}}
    for body, bearer, expected in (
        (wanted, eve, 403),
        (wanted | {"credential": "down"}, token, 503),
        (wanted | odd_url, token, 403),
        (wanted | {"source": {}}, token, 400),
        (wanted | {"secret": "x"}, token, 422),
        (wanted, token[:-6], 401),
    ):
        status, problem = two.call("POST", "/v1/leases", body, token=bearer)
        assert status == expected, problem
        seen.append(problem)
    secrets.append(eve)
    status, _ = two.call(
        "POST", "/v1/leases", wanted | odd_url | {"source": {"url": "https://x.example/a"}}, token=token
    )
    assert status == 201
    told = {"dataset": "mimic2", "state": "failed", "message": f"mysql://a:{login['password']}@db token={token}"}
    assert two.call("POST", "/v1/progress", told, token=token) == (202, {"shown": True})

    kube.remove("pods", "hub", "jupyter-ada")
    wait(lambda: "reaped" in two.process.log.read_text())  # type: ignore[union-attr]
    with pytest.raises(pymysql.err.Error), connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    with pytest.raises(pymysql.err.OperationalError):
        mariadb.connect(**login)

    (tmp_path / "policy.yaml").write_text("credentials: planted-static-secret")
    wait(lambda: "datamount_policy_valid 0.0" in two.metrics())
    assert two.call("GET", "/metrics")[0] == 404
    metrics = two.metrics()
    two.stop()
    logs = [(replica.folder / "server.log").read_text() for replica in (one, two)]
    kinds = {json.loads(line)["event"] for log in logs for line in log.splitlines() if line.startswith('{"time"')}
    assert kinds >= {"policy", "lease", "renewal", "refused", "failed", "reaped"}
    everything = "\n".join([*logs, metrics, json.dumps(seen), json.dumps(kube.events())])
    for secret in secrets:
        assert secret not in everything
    assert "203.0.113.77" not in everything
    assert not re.search(r"PRIVATE KEY|Traceback", everything)


def test_settings_can_be_checked_before_a_roll_out(tmp_path: Path) -> None:
    """`datamount controller --check` tells what is wrong, with the exit code of a usage error."""
    import subprocess

    policy, config = tmp_path / "policy.yaml", tmp_path / "controller.yaml"
    policy.write_text("version: 1")
    config.write_text(yaml.safe_dump({"policy": str(policy)}))
    command = [sys.executable, "-m", "datamount", "controller", "--check", "--config", str(config)]
    good = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    policy.write_text("credentials: {x: {secret: planted}}")
    bad = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert bad.returncode == 2
    assert "credentials.x" in bad.stderr
    assert "planted" not in bad.stderr
    config.write_text("naemspace: planted")
    bad = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert bad.returncode == 2
    assert "naemspace" in bad.stderr
    assert "planted" not in bad.stderr
