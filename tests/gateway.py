"""A controller with a real S3 store behind it, served by uvicorn, and the pods of sessions that use it."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from datamount.controller.app import create_app
from datamount.controller_client import ControllerClient
from datamount.objectstore import Body, ObjectInfo, ObjectStore, open_store
from datamount.objectstore.gateway import GatewayStore
from datamount.snapshots import Workspace
from tests import servers
from tests.kube.site import Site, running_site, session_pod

COURSE_IMAGE = "registry.example.edu/binder/org-2dcourse-047402"
"""As BinderHub names the image of github.com/org/course: the slug "org-course" escaped, and six digits of its hash."""
COURSE = "https://github.com/org/course"


@dataclass
class GatewaySite:
    """`url` is a running replica; `bucket` holds the work."""

    site: Site
    url: str
    store: ObjectStore
    bucket: str
    _number: Iterator[int]

    def client(self, user: str = "ada", **pod: Any) -> ControllerClient:
        """The client of a new pod of this user."""
        number = next(self._number)
        made = self.site.kube.add_pod(
            session_pod(f"jupyter-{number}", user=user, **{"image": f"{COURSE_IMAGE}:1"} | pod)
        )
        token = self.site.folder / f"token-{number}"
        token.write_text(self.site.kube.token(made))
        return ControllerClient(self.url, token, tries=2)

    def workspace(self, client: ControllerClient, key_file: Path | None = None) -> Workspace:
        """The session's workspace, as its sidecar opens it."""
        return open_workspace(client, key_file)

    def objects(self) -> list[str]:
        return sorted(o.key for o in self.store.list(""))


def open_workspace(client: ControllerClient, key_file: Path | None = None) -> Workspace:
    return Workspace(GatewayStore(client, key_file=key_file), "me", "course")


@contextmanager
def running_gateway(
    folder: Path,
    s3: servers.S3Server,
    monkeypatch: pytest.MonkeyPatch,
    *,
    review_seconds: float = 10,
    **store: Any,
) -> Iterator[GatewaySite]:
    """A site whose store is a new bucket of `s3`."""
    for name, value in s3.env("admin").items():
        if not name.startswith("AWS_ENDPOINT"):
            monkeypatch.setenv(name, value)
    bucket = s3.make_bucket()
    url = f"s3://{bucket}/work"
    settings = {"url": url, "endpoint_url": s3.endpoint_url} | store
    with running_site(folder, store=settings) as site:
        site.settings = site.settings.model_copy(update={"review_seconds": review_seconds})
        with serving(site) as address:
            yield GatewaySite(site, address, open_store(url, s3.endpoint_url), bucket, itertools.count())


@contextmanager
def serving(site: Site) -> Iterator[str]:
    """The address of a replica that runs in a thread."""
    replica = site.replica()
    replica.leases._policy.read()  # type: ignore[union-attr]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(replica), log_level="critical", lifespan="on", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


class Below:
    """A store of any keys in one folder of a workspace: what the conformance suite needs."""

    def __init__(self, inner: ObjectStore, top: str) -> None:
        self.inner, self.url, self._top = inner, inner.url, top

    def _key(self, key: str) -> str:
        return self._top + key

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        self.inner.put(self._key(key), body, if_absent=if_absent)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.inner.get(self._key(key), start, stop)

    def stream(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        return self.inner.stream(self._key(key), start, stop)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        cut = len(self._key(""))
        return (ObjectInfo(o.key[cut:], o.size, o.modified) for o in self.inner.list(self._key(prefix)))

    def folders(self, prefix: str) -> Iterator[str]:
        return self.inner.folders(self._key(prefix))

    def delete(self, key: str) -> None:
        self.inner.delete(self._key(key))
