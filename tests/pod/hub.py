"""Sessions in real containers: launches pods as a hub's spawner does, on a machine with a controller.

Real: the containers and images, the S3 server with STS, MariaDB, the controller (leases and gateway), Jupyter and its
kernel. A stand-in: the API server (`tests/kube`), which makes the pod's token. The kubelet's part is `runner.py`'s.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from datamount import names
from datamount.controller.kube import Kube
from datamount.controller.reaper import Reaper
from datamount.inject import InjectSettings, inject
from tests import servers
from tests.gateway import COURSE, COURSE_IMAGE
from tests.jupyter_client import Jupyter
from tests.kube.site import Site
from tests.pod import engine as engines
from tests.pod import images
from tests.pod.runner import Cluster, Object, RunningPod

OURS = "registry.example.edu/datamount/session:1"
COMMIT = "4c1e9f0000000000000000000000000000000000"


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
        self.secrets: dict[str, Mapping[str, str]] = {}
        """The Secrets of the cluster."""
        self._number = 0
        self.cluster = Cluster(
            engine,
            {**courses, OURS: images.session_image(engine)},
            secrets=self.secrets,
            claims=engine.folder / "claims",
            token=self._token,
        )

    def _token(self, pod: Object, audience: str, seconds: int) -> str:
        self.tokens.append(self.site.kube.token(pod, audiences=(audience,), seconds=seconds))
        return self.tokens[-1]

    def pod(self, user: str, port: int, token: str, image: str, **more: Any) -> Any:
        """KubeSpawner's V1Pod, with the variables of BinderHub's launch; `more` goes to its `make_pod`."""
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
        return make_pod(
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
            **more,
        )

    @contextmanager
    def launch(
        self,
        user: str = "ada",
        *,
        course: str = COMMIT,
        injected: bool = True,
        hook: Callable[[Any], Any] | None = None,
        settings: Mapping[str, Any] = {},
        **more: Any,
    ) -> Iterator[Session]:
        """A session whose Jupyter server answers; the pod is gone at the end.

        Injected with the hub's settings and these; or by `hook`, which gets the pod as KubeSpawner's hooks do.
        """
        port, token = servers.free_port(), secrets.token_hex(16)
        made = self.pod(user, port, token, f"{COURSE_IMAGE}:{course}", **more)
        pod = serialised(hook(made) if hook else made)
        pod["metadata"]["namespace"] = "hub"
        if injected and hook is None:
            pod = inject(pod, self.settings.model_copy(update=dict(settings)))
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

    def reap(self) -> int:
        """One pass of the controller's reaper; how many accounts it dropped."""
        replica = self.site.replica()
        policy = replica.leases._policy  # type: ignore[union-attr]
        policy.read()
        kube = Kube(self.site.kube.client())
        return Reaper(kube, policy, self.site.settings, replica.audit, replica.metrics).pass_once()

    def _keep(self, running: RunningPod) -> None:
        self.seen.append(json.dumps(running.pod))
        for container in [*running.spec.get("initContainers", []), *running.spec["containers"]]:
            self.seen.append(running.logs(container["name"]))
            self.seen.append(running.engine.text("inspect", running.container(container["name"])))


def wait_for_jupyter(running: RunningPod, jupyter: Jupyter) -> None:
    until = time.monotonic() + 240
    while True:
        try:
            if jupyter.http.get("/api/status").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, running.logs(names.NOTEBOOK_CONTAINER)
        time.sleep(0.05)
