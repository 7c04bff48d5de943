"""The controller's process as strangers and roll-outs meet it: bounded before anybody is signed in, and there to the
last request."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.server import KubeServer
from tests.kube.site import session_pod
from tests.servers import Server, free_port


class Replica(Server):
    """`datamount controller` without TLS, in a process of its own."""

    start_seconds = 90.0

    def __init__(self, folder: Path, kube: KubeServer, **settings: Any) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(kube.kubeconfig()))
        own = {"host": "127.0.0.1", "port": self.port, "metrics_port": None, "tls": {"mode": "off"}}
        store = {"url": "s3://work", "endpoint_url": "http://127.0.0.1:9"}
        document = own | {"namespaces": ["hub"], "policy": str(folder / "policy.yaml"), "store": store} | settings
        (folder / "controller.yaml").write_text(yaml.safe_dump(document))

    def command(self) -> list[str | Path]:
        return [sys.executable, "-m", "datamount", "controller", "--config", self.folder / "controller.yaml"]

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {"KUBECONFIG": str(self.kubeconfig)}

    def ready(self) -> bool:
        with suppress(OSError):
            return self.call("GET", "/readyz").status == 200
        return False

    def call(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Replica]:
    with KubeServer() as kube:
        replica = Replica(folder, kube, **settings)
        try:
            replica.start()
            yield replica
        finally:
            replica.close()


def until(condition: Any) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


HEADER = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 8000) for number in range(128))
ENDLESS = {
    "headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", HEADER),
    "one header": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ", b"a" * len(HEADER)),
    "address": (b"GET /", b"a" * len(HEADER)),
    "trailers": (b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", HEADER),
}


def test_a_stranger_fills_no_memory(tmp_path: Path) -> None:
    """Without a token: a request that never comes to its body loses its connection, and a body of which a session sends
    small ones only is not read; none of it fills the log."""
    with running(tmp_path, drain_seconds=0) as replica:
        for name, (start, more) in ENDLESS.items():
            with closing(socket.create_connection(("127.0.0.1", replica.port), timeout=200)) as connection:
                connection.sendall(start)
                with pytest.raises(ConnectionError):
                    for _ in range(100):
                        connection.sendall(more)
                    pytest.fail(f"100 MiB of {name} were taken")
        objects = b"[" + b"{}," * (1 << 20) + b"{}]"
        for path in ("/v1/leases", "/v1/store/batch", "/v1/store/delete", "/v1/shares", "/v1/resume"):
            assert replica.call("POST", path, objects).status == 413, path
        # Of one that is not too large, nothing is looked at before the token.
        assert replica.call("POST", "/v1/store/batch", b"[" * 1000).status == 401
        for path in ("/mutate", "/v1/store/batch"):
            with closing(socket.create_connection(("127.0.0.1", replica.port), timeout=200)) as connection:
                connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        assert replica.call("GET", "/healthz").status == 200
        assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_replica_that_ends_serves_on(tmp_path: Path) -> None:
    """After SIGTERM a replica is not ready and still answers, asking each client to go elsewhere; the webhook too, or
    the sessions of that moment would start without their data. A second signal ends it."""
    pod = session_pod("jupyter-ada")
    fresh = {"kind": "Pod", "metadata": {**pod["metadata"], "annotations": {}}, "spec": pod["spec"]}
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {"uid": "u-1", "kind": kind, "operation": "CREATE", "object": fresh}
    review = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
    with running(tmp_path, drain_seconds=20) as replica:
        assert replica.process is not None
        assert replica.call("POST", "/mutate", review).getheader("connection") is None
        os.kill(replica.process.pid, signal.SIGTERM)
        until(lambda: replica.call("GET", "/readyz").status == 503)
        answer = replica.call("POST", "/mutate", review)
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        os.kill(replica.process.pid, signal.SIGTERM)
        until(lambda: not replica.process.running)  # type: ignore[union-attr]
