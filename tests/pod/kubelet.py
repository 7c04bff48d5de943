"""The API server's stand-in with a node: pods that are created through it run in containers.

What a hub needs beside `tests/kube`: watches of pods and Events, the status of a pod that starts, and its deletion,
which here ends all of its processes at once: no save may depend on the grace that a real one may have.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kube.server import KubeServer, Status
from tests.pod.engine import EngineFailed
from tests.pod.runner import Cluster, Object, PodFailed, RunningPod

WATCH_SECONDS = 30.0
"""After so long a watch ends, and the hub begins another."""


class Kubelet(KubeServer):
    """`running` has the pods by name; `failures` says why others did not start."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.running: dict[str, RunningPod] = {}
        self.failures: list[str] = []
        self._server.RequestHandlerClass = _handler(self, self._server.RequestHandlerClass)

    def __exit__(self, *arguments: object) -> None:
        for pod in list(self.running.values()):
            pod.remove()
        super().__exit__(*arguments)

    def create(self, resource: str, namespace: str, document: Object) -> Object:
        stored = super().create(resource, namespace, document)
        if resource == "pods":
            self._tell(stored, {"phase": "Pending"})
            threading.Thread(target=self._start, args=(stored,), daemon=True).start()
        return stored

    def delete(self, resource: str, namespace: str, name: str) -> Object:
        """Ask for the end of a pod; it is gone from the API once its containers are."""
        found = self.read(resource, namespace, name)
        with self._lock:
            found["metadata"]["deletionTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            found["metadata"]["resourceVersion"] = self._next()
        threading.Thread(target=self._end, args=(namespace, name), daemon=True).start()
        return found

    def _start(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        made = RunningPod(self.cluster, pod)
        self.running[name] = made
        try:
            made.start()
        except (PodFailed, EngineFailed) as error:
            self.failures.append(str(error))
            self._tell(pod, {"phase": "Failed"})
            return
        containers = [
            {"name": container["name"], "ready": True, "state": {"running": {}}, "restartCount": 0}
            for container in pod["spec"]["containers"]
        ]
        self._tell(pod, {"phase": "Running", "podIP": "127.0.0.1", "containerStatuses": containers})

    def _end(self, namespace: str, name: str) -> None:
        if made := self.running.pop(name, None):
            made.kill()
            made.remove()
        with suppress(KeyError):
            self.remove("pods", namespace, name)

    def _tell(self, pod: Object, status: Object) -> None:
        with self._lock:
            pod["status"] = status
            pod["metadata"]["resourceVersion"] = self._next()


def _handler(kubelet: Kubelet, base: Any) -> type[BaseHTTPRequestHandler]:
    class Handler(base):  # type: ignore[misc]
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            if (query.get("watch") or [""])[0].lower() == "true":
                self._watch(query)
            else:
                self.handle_any()

        def _route(self, body: Any) -> tuple[int, Object]:
            resource, namespace, name = "", "", ""
            if self.command == "DELETE":
                resource, namespace, name = self._place(urlsplit(self.path).path)
            if resource != "pods":
                answer: tuple[int, Object] = super()._route(body)
                return answer
            return 200, kubelet.delete(resource, namespace, name)

        def _watch(self, query: dict[str, list[str]]) -> None:
            """Changes as lines of JSON, found by looking again."""
            resource, namespace, _ = self._place(urlsplit(self.path).path)
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Connection", "close")
            self.end_headers()
            seen = int((query.get("resourceVersion") or ["0"])[0] or 0)
            known = kubelet.list(resource, namespace, query)["items"] if seen else []
            there = {item["metadata"]["uid"]: item for item in known if _version(item) <= seen}
            until = time.monotonic() + WATCH_SECONDS
            with suppress(OSError, Status):
                while time.monotonic() < until:
                    items = {
                        item["metadata"]["uid"]: item for item in kubelet.list(resource, namespace, query)["items"]
                    }
                    for uid, item in items.items():
                        if uid not in there:
                            self._line("ADDED", item)
                        elif _version(there[uid]) != _version(item):
                            self._line("MODIFIED", item)
                    for uid in there.keys() - items.keys():
                        self._line("DELETED", there[uid])
                    there = items
                    time.sleep(0.1)

        def _line(self, kind: str, item: Object) -> None:
            self.wfile.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    return Handler


def _version(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
