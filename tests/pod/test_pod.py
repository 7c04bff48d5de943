"""A session from end to end in real containers: KubeSpawner's pod, what inject makes of it, two launches.

Real: the containers and images, the S3 server with STS, the controller (leases and gateway), Jupyter and its kernel.
A stand-in: the API server (`tests/kube`), which makes the pod's token. The kubelet's part is `runner.py`'s.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import SecretStr

from datamount import names
from datamount.controller import s3_leases
from datamount.credentials import Credential
from datamount.inject import InjectSettings, inject
from tests import servers
from tests.gateway import COURSE, COURSE_IMAGE, serving
from tests.jupyter_client import Jupyter
from tests.kube.site import Site, running_site
from tests.pod import engine as engines
from tests.pod import images
from tests.pod.runner import Cluster, Object, RunningPod

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(600)]
OURS = "registry.example.edu/datamount/session:1"
COMMIT = "4c1e9f0000000000000000000000000000000000"
CODES = "".join(f"{number},code {number}\n" for number in range(50_000))
INIT = (names.SEED_CONTAINER, names.FETCH_CONTAINER)
NOTEBOOK = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


def course_files(s3: servers.S3Server) -> dict[str, str]:
    """What repo2docker copies into the image: a repo with a manifest, a good dataset of each kind and a broken one."""
    codes = {"url": f"s3://{s3.reader_bucket}/icd/", "endpoint_url": s3.endpoint_url, "credential": "icd"}
    public = {"url": f"s3://{s3.public_bucket}/small/", "endpoint_url": s3.endpoint_url, "anonymous": True}
    gone = {"url": "s3://no-such-bucket/x/", "endpoint_url": s3.endpoint_url, "anonymous": True}
    datasets = {"codes": {"s3": codes}, "small": {"s3": public}, "gone": {"s3": gone}}
    return {
        "binder/datamount.yaml": yaml.safe_dump({"version": 1, "datasets": datasets}),
        "lesson.ipynb": NOTEBOOK,
        "notes/.hidden": "kept\n",
        "a b/ü.txt": "odd names\n",
    }


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Engine]:
    try:
        with engines.Engine() as made:
            yield made
    except servers.Missing as missing:
        servers.require(str(missing))


def serialised(pod: Any) -> Object:
    """What KubeSpawner's client sends to the API server."""
    from kubernetes_asyncio.client import ApiClient

    async def run() -> Object:
        async with ApiClient() as client:
            made: Object = client.sanitize_for_serialization(pod)
            return made

    return asyncio.run(run())


class Session:
    """A pod that runs, and the browser's way to its Jupyter server."""

    def __init__(self, pod: RunningPod, jupyter: Jupyter) -> None:
        self.pod, self.jupyter = pod, jupyter

    def file(self, path: str) -> str:
        """A text file as Jupyter's contents API gives it."""
        answer = self.jupyter.http.get(f"/api/contents/{path}", params={"type": "file", "format": "text"})
        answer.raise_for_status()
        return str(answer.json()["content"])

    def write(self, path: str, content: str) -> None:
        body = {"type": "file", "format": "text", "content": content}
        self.jupyter.http.put(f"/api/contents/{path}", json=body).raise_for_status()

    def status(self) -> Any:
        return json.loads((self.pod.volume(names.RUN_VOLUME) / names.STATUS_FILE).read_bytes())

    def save(self) -> Any:
        """Press Save: the call that the button makes."""
        answer = self.jupyter.datamount("POST", "snapshots", json={"message": "from the pod"})
        assert answer.status_code in (200, 201), answer.text + self.pod.logs(names.SIDECAR_CONTAINER)
        return answer.json()


class Hub:
    """Launches pods as BinderHub's spawner does, on a machine with a controller."""

    def __init__(self, engine: engines.Engine, site: Site, url: str, courses: Mapping[str, str]) -> None:
        self.site, self.url = site, url
        self.leased: list[str] = []
        """Every secret of a credential that the controller leased."""
        self.log = io.StringIO()
        """The controller's log, all levels."""
        self.settings = InjectSettings(controller_url=url, image=OURS, ca_config_map=None, fetch_seconds=60)
        self.seen: list[str] = []
        """What operators and students can read of the pods so far: specs, variables, logs."""
        self.tokens: list[str] = []
        """Every projected token."""
        self._number = 0
        self.cluster = Cluster(engine, {**courses, OURS: images.session_image(engine)}, token=self._token)

    def _token(self, pod: Object, audience: str, seconds: int) -> str:
        self.tokens.append(self.site.kube.token(pod, audiences=(audience,), seconds=seconds))
        return self.tokens[-1]

    def pod(self, user: str, port: int, token: str, *, image: str = f"{COURSE_IMAGE}:{COMMIT}") -> Object:
        """What KubeSpawner would send, with the variables of BinderHub's launch."""
        from kubespawner.objects import make_pod

        from tests.unit import kubespawner_pods

        self._number += 1
        variables = {
            "JUPYTER_TOKEN": token,
            "BINDER_REPO_URL": COURSE,
            "BINDER_PERSISTENT_REQUEST": f"v2/gh/org/course/{COMMIT}",
            "BINDER_CLIENT_IP": "203.0.113.77",
        }
        command = ["python", "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.base_url=/user/{user}/"]
        made = make_pod(
            name=f"jupyter-{user}-{self._number}",
            cmd=command,
            port=port,
            image=image,
            image_pull_policy="IfNotPresent",
            uid=1000,
            fs_gid=100,
            env=variables,
            labels=kubespawner_pods.LABELS,
            annotations=kubespawner_pods.ANNOTATIONS | {names.ANNOTATION_USERNAME: user},
            mem_limit="1073741824",
        )
        found = serialised(made)
        found["metadata"]["namespace"] = "hub"
        return found

    @contextmanager
    def launch(self, user: str = "ada", *, injected: bool = True, **options: Any) -> Iterator[Session]:
        """A session whose Jupyter server answers; the pod is gone at the end."""
        port, token = servers.free_port(), secrets.token_hex(16)
        pod = self.pod(user, port, token, **options)
        if injected:
            pod = inject(pod, self.settings)
        stored = self.site.kube.add_pod(pod)
        with self.cluster.run(stored) as running:
            jupyter = Jupyter(f"http://127.0.0.1:{port}/user/{user}/", token)
            try:
                wait_for_jupyter(running, jupyter)
                yield Session(running, jupyter)
            finally:
                jupyter.http.close()
                self._keep(running)
        self.site.kube.remove("pods", "hub", running.name)

    def _keep(self, running: RunningPod) -> None:
        self.seen.append(json.dumps(running.pod))
        for container in [*running.spec.get("initContainers", []), *running.spec["containers"]]:
            self.seen.append(running.logs(container["name"]))
            self.seen.append(running.engine.text("inspect", running.container(container["name"])))


def wait_for_jupyter(running: RunningPod, jupyter: Jupyter) -> None:
    until = time.monotonic() + 90
    while True:
        try:
            if jupyter.http.get("/api/status").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, running.logs(names.NOTEBOOK_CONTAINER)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hub(engine: engines.Engine, s3: servers.S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"icd/codes.csv": CODES.encode(), "private/key.txt": b"not for courses"})
    s3.put(s3.make_bucket(s3.public_bucket), {"small/a.csv": b"x\n1\n"})
    folder = tmp_path_factory.mktemp("hub")
    store = {"url": f"s3://{s3.make_bucket()}/work", "endpoint_url": s3.endpoint_url}
    courses = {
        f"{COURSE_IMAGE}:{COMMIT}": images.course_image(engine, "course", course_files(s3)),
        f"{COURSE_IMAGE}:broken": images.course_image(
            engine, "broken", {"datamount.yaml": "version: 1\ndatasets: [", "lesson.ipynb": NOTEBOOK}
        ),
    }
    with pytest.MonkeyPatch.context() as patch, running_site(folder, store=store) as site:
        give_keys(s3, patch)
        site.write_policy({"credentials": {"icd": credential(site, s3, bucket)}})
        with serving(site) as url:
            made = Hub(engine, site, url, courses)
            patch.setattr(s3_leases, "Credential", recording(made.leased))
            with logged(made.log):
                yield made


def recording(leased: list[str]) -> Callable[..., Credential]:
    """The controller's own Credential, whose secrets are noted."""

    def make(**fields: Any) -> Credential:
        leased.extend(value.get_secret_value() for value in fields.values() if isinstance(value, SecretStr))
        leased.append(fields["access_key_id"])
        return Credential(**fields)

    return make


@contextmanager
def logged(to: io.StringIO) -> Iterator[None]:
    """What this process logs, from everyone."""
    handler, root = logging.StreamHandler(to), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    # At this level the AWS client writes the requests that it signs: not the controller's words, nor its level. The
    # others are the test's own.
    for name in ("botocore", "boto3", "urllib3", "httpcore", "httpx"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@pytest.fixture(autouse=True)
def _keys_of_the_controller(_own_home: Path, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller runs in this process; `_own_home` takes such variables away for each test."""
    give_keys(s3, monkeypatch)


def give_keys(s3: servers.S3Server, patch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env("admin").items():
        if not name.startswith("AWS_ENDPOINT"):
            patch.setenv(name, value)


def credential(site: Site, s3: servers.S3Server, bucket: str) -> Object:
    admin = s3.identities["admin"]
    grant = {
        "endpoint_url": s3.endpoint_url,
        "region": s3.region,
        "role_arn": s3.role_arn,
        "access_key_id_file": site.secret_file("s3-id", admin.access_key_id),
        "secret_access_key_file": site.secret_file("s3-key", admin.secret_access_key),
        "urls": [f"s3://{bucket}/icd/"],
    }
    return {"s3": grant, "allow": [{"images": [COURSE_IMAGE]}]}


READ_DATA = """
import csv, os
rows = list(csv.reader(open(os.path.join(os.environ["CODES_PATH"], "codes.csv"))))
print(len(rows), rows[-1][1], open(os.path.join(os.environ["SMALL_PATH"], "a.csv")).read().split())
"""


def test_work_and_data_survive_a_killed_pod(hub: Hub) -> None:
    """An unchanged Jupyter image gets the course, its data (leased and public) and Save; after SIGKILL of everything,
    the next pod has the saved work. A dataset that cannot be had is reported and keeps nobody from working."""
    with hub.launch() as session:
        assert session.jupyter.run("print(open('notes/.hidden').read())") == "kept\n\n"
        assert session.file("a b/ü.txt") == "odd names\n"
        assert session.jupyter.run(READ_DATA) == "50000 code 49999 ['x', '1']\n"
        found = session.status()["datasets"]
        assert {name: entry["state"] for name, entry in found.items()} == {
            "codes": "ready",
            "small": "ready",
            "gone": "failed",
        }, session.pod.logs(names.FETCH_CONTAINER)
        assert "no-such-bucket" in found["gone"]["error"]["detail"]
        session.write("answer.txt", "42\n")
        session.jupyter.run("open('from-kernel.txt', 'w').write('kernel\\n'); import os; os.remove('lesson.ipynb')")
        assert session.save()["created"] is True
        session.pod.kill()
    with hub.launch() as session:
        assert session.file("answer.txt") == "42\n"
        assert session.file("from-kernel.txt") == "kernel\n"
        assert session.jupyter.http.get("/api/contents/lesson.ipynb").status_code == 404
        assert session.jupyter.run(READ_DATA) == "50000 code 49999 ['x', '1']\n"


LAUNCHES = int(os.environ.get("DATAMOUNT_POD_LAUNCHES", "1"))
"""How often to measure; docs/benchmarks/pod.md has more than a test needs."""


def test_what_a_launch_costs(hub: Hub) -> None:
    """A warm launch, with saved work and data, opens as one without datamount does; prints what it took."""
    with hub.launch("edsger") as session:
        session.write("answer.txt", "45\n")
        session.save()
    for _ in range(LAUNCHES):
        began = time.monotonic()
        with hub.launch("edsger", injected=False) as session:
            plain = time.monotonic() - began
        began = time.monotonic()
        with hub.launch("edsger") as session:
            seconds = time.monotonic() - began
            assert session.file("answer.txt") == "45\n"
            print(f"\nplain {plain:.2f} s, injected {seconds:.2f} s; {times(session.pod)}")


def times(pod: RunningPod) -> str:
    """What our containers cost this launch: by their own clocks, so without the engine's start of each container."""
    ran = {name: pod.moment(name, "FinishedAt") - pod.moment(name, "StartedAt") for name in INIT}
    listens = (pod.volume(names.RUN_VOLUME) / names.SIDECAR_FILE).stat().st_mtime
    ready = listens - pod.moment(names.SIDECAR_CONTAINER, "StartedAt")
    parts = {"seed": ran[names.SEED_CONTAINER], "fetch": ran[names.FETCH_CONTAINER], "sidecar listens": ready}
    shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
    wall = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in pod.seconds.items())
    return f"{shown}, together {sum(parts.values()):.2f} s (with the engine: {wall})"


def test_a_manifest_that_cannot_be_read_opens(hub: Hub) -> None:
    """A course whose manifest is no YAML opens with its files, says what is wrong, and keeps work."""
    with hub.launch("grace", image=f"{COURSE_IMAGE}:broken") as session:
        assert session.jupyter.http.get("/api/contents/lesson.ipynb").status_code == 200
        said = session.jupyter.datamount("GET", "status").json()
        assert "datamount.yaml" in json.dumps(said)
        session.write("answer.txt", "43\n")
        assert session.save()["created"] is True


LOOK = f"""
import glob, json, os
def may_write(folder):
    try:
        open(folder + "/planted", "w").close()
    except OSError:
        return False
    return True
places = {[names.TOKEN_DIR, names.STATE_DIR, names.COURSE_DIR, names.CREDENTIALS_DIR, "/var/run/secrets"]}
print(json.dumps({{
    "uid": os.getuid(),
    "seen": [place for place in places if os.path.exists(place)],
    "writable": [place for place in {[names.DATA_DIR, names.RUN_DIR, names.JUPYTER_DIR]} if may_write(place)],
    "processes": [path for path in glob.glob("/proc/[0-9]*/cmdline") if b"datamount.pod" in open(path, "rb").read()],
    "variables": sorted(name for name in os.environ if name.startswith(("AWS_", "DATAMOUNT_"))),
}}))
"""


def test_the_notebook_is_kept_out(hub: Hub) -> None:
    """Code of the student, as the notebook's user: no token, no state, no process of ours, no bucket's key; data, run
    and Jupyter's folder are read-only. The sidecar holds the token, so the look would have found it."""
    with hub.launch() as session:
        assert json.loads(session.jupyter.run(LOOK)) == {
            "uid": 1000,
            "seen": [],
            "writable": [],
            "processes": [],
            "variables": [names.ENV_DATA, names.ENV_RUN],
        }
        shown = session.pod.exec(names.SIDECAR_CONTAINER, "cat", f"{names.TOKEN_DIR}/token").stdout.decode()
        assert shown == hub.tokens[-1]
        assert session.save()
        notebook = next(c for c in session.pod.spec["containers"] if c["name"] == names.NOTEBOOK_CONTAINER)
        readable = b"".join(
            path.read_bytes()
            for mount in notebook["volumeMounts"]
            for path in session.pod.volume(mount["name"]).rglob("*")
            if path.is_file()
        )
        assert CODES.encode() in readable
        assert hub.leased
        assert [secret for secret in all_secrets(hub) if secret.encode() in readable] == []


def all_secrets(hub: Hub) -> list[str]:
    """Everything planted, leased or projected."""
    return [*hub.site.secrets.values(), *hub.leased, *hub.tokens]


def test_no_secret_is_anywhere(hub: Hub) -> None:
    """After a launch with a lease, a save and a refusal, no pod spec, variable, log, Event, audit line or metric has
    a secret; ours do not have the visitor's address either, which BinderHub puts into the pod's variables."""
    hub.seen.clear()
    with hub.launch() as session:
        session.write("answer.txt", "44\n")
        session.save()
        session.jupyter.datamount("GET", "snapshots")
    audit, metrics = json.dumps(hub.site.audit()), httpx.get(f"{hub.url}/metrics", trust_env=False).text
    events = json.dumps(hub.site.kube.events())
    assert "icd" in audit
    assert "datamount_leases" in metrics
    assert any("codes" in event["message"] for event in hub.site.kube.events())
    assert hub.log.getvalue()
    by_controller = [audit, metrics, events, hub.log.getvalue()]
    everything = "\n".join([*by_controller, *hub.seen])
    assert names.SIDECAR_CONTAINER in everything
    assert [secret for secret in all_secrets(hub) if secret in everything] == []
    assert re.findall(r"eyJ[\w-]{10,}\.eyJ[\w-]+", everything) == [], "a token of any kind"
    assert "203.0.113.77" not in "\n".join(by_controller)


def test_a_removed_pod_leaves_nothing(hub: Hub, engine: engines.Engine) -> None:
    """After a pod is removed there is no process, mount, container or folder of it."""
    with hub.launch() as session:
        name = session.pod.name
        processes = [
            engine.process(session.pod.container(container))
            for container in (names.NOTEBOOK_CONTAINER, names.SIDECAR_CONTAINER)
        ]
        folder = session.pod.volume(names.RUN_VOLUME).parent
        assert str(folder) in Path("/proc/self/mounts").read_text()
    assert str(folder) not in Path("/proc/self/mounts").read_text()
    assert not folder.exists()
    assert not [process for process in processes if Path(f"/proc/{process}").exists()]
    assert name not in engine.text("ps", "--all", "--format", "{{.Names}}")
