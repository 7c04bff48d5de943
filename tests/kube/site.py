"""A controller with everything around it: the API server's stand-in, a policy file, planted secrets, sessions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fastapi.testclient import TestClient

from datamount.controller.app import Controller, create_app
from datamount.controller.assemble import controller
from datamount.controller.kube import Kube
from datamount.controller.settings import Settings
from tests.kube.server import KubeServer, Object
from tests.servers import S3Server

IMAGE = "registry.example.edu/binder/org-2dcourse"
REPO = "https://github.com/org/course"


def session_pod(
    name: str,
    *,
    user: str = "ada",
    image: str = f"{IMAGE}:abc123",
    repo: str = REPO,
    namespace: str = "hub",
    variables: dict[str, str] | None = None,
    **more: Any,
) -> Object:
    """A pod as BinderHub makes it and the webhook leaves it; `variables` are more of the notebook's."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "labels": {"app": "jupyterhub", "component": "singleuser-server"},
        "annotations": {"hub.jupyter.org/username": user, "datamount.dev/status": "injected"},
    }
    environment = [{"name": "BINDER_REPO_URL", "value": repo}] if repo else []
    environment.append({"name": "BINDER_CLIENT_IP", "value": "203.0.113.77"})
    environment += [{"name": name, "value": value} for name, value in (variables or {}).items()]
    notebook = {"name": "notebook", "image": image, "env": environment}
    return {"metadata": metadata | more, "spec": {"containers": [{"name": "other", "image": "x"}, notebook]}}


@dataclass
class Site:
    """What the tests of the controller stand on."""

    folder: Path
    kube: KubeServer
    settings: Settings
    secrets: dict[str, str] = field(default_factory=dict)
    """Everything that must stand nowhere: planted by name."""
    metrics: Callable[[], bytes] = bytes
    """What Prometheus would read of the latest replica."""

    def secret_file(self, name: str, value: str) -> str:
        self.secrets[name] = value
        path = self.folder / f"secret-{name}"
        path.write_text(value + "\n")
        return str(path)

    def s3_grant(self, s3: S3Server, *urls: str) -> Object:
        """What a policy says of keys of this server for reading these URLs."""
        admin = s3.identities["admin"]
        return {
            "endpoint_url": s3.endpoint_url,
            "region": s3.region,
            "role_arn": s3.role_arn,
            "access_key_id_file": self.secret_file("s3-id", admin.access_key_id),
            "secret_access_key_file": self.secret_file("s3-key", admin.secret_access_key),
            "urls": list(urls),
        }

    def write_policy(self, document: Any) -> None:
        new = self.folder / "policy.new"
        new.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        new.replace(self.settings.policy)

    def replica(self) -> Controller:
        """A controller of its own; nothing of it runs until it is served. Its policy is read."""
        made = controller(self.settings, Kube(self.kube.client()))
        self.metrics = made.metrics.text
        made.start.clear()
        made.stop.clear()
        return made

    @contextmanager
    def client(self, made: Controller | None = None) -> Iterator[TestClient]:
        """An HTTP client of a replica without its threads: passes and reads happen when a test wants them."""
        replica = made or self.replica()
        policy = replica.leases._policy  # type: ignore[union-attr]
        policy.read()
        with TestClient(create_app(replica), raise_server_exceptions=False) as client:
            client.policy = policy  # type: ignore[attr-defined]
            yield client

    def audit(self) -> list[Object]:
        assert self.settings.audit is not None
        if not self.settings.audit.exists():
            return []
        return [json.loads(line) for line in self.settings.audit.read_text().splitlines()]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def running_site(folder: Path, **settings: Any) -> Iterator[Site]:
    """A site with an empty policy and the session namespace "hub"."""
    with KubeServer() as kube:
        made = Settings(
            namespaces=["hub"],
            policy=folder / "policy.yaml",
            audit=folder / "audit.jsonl",
            review_seconds=0,
            tls={"mode": "off"},
            **settings,
        )
        site = Site(folder, kube, made)
        site.write_policy({"version": 1})
        yield site
