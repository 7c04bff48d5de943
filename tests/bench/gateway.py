"""Many sidecars that save at once, through one replica of the controller to a real S3 server.

    python tests/bench/gateway.py [--sidecars 200] [--processes 4] [--direct] [--realtime]

Each sidecar saves a folder of 30 files (1 MB in all) for the first time, all at the same moment; then each changes one
file and saves again. Printed are the time of a save (p50, p99, max), requests to the controller a second, each
request's time as its client sees it, and the controller's CPU seconds and peak memory. Clients, controller, the API
server's stand-in and the S3 server share this machine, so the clients' own work is in all times: `--direct` saves to
the bucket without a controller, for comparison.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datamount.controller_client import ControllerClient
from datamount.objectstore import open_store
from datamount.objectstore.gateway import GatewayStore
from datamount.snapshots import Workspace
from tests.gateway import COURSE, COURSE_IMAGE
from tests.kube.server import KubeServer
from tests.kube.site import session_pod
from tests.servers import S3Server, Server, answers, free_port

FILES, SIZE = 30, 35_000


class Controller(Server):
    """`datamount controller` as the chart starts it, without TLS."""

    def __init__(self, kube: KubeServer, s3: S3Server, store: str, *, realtime: bool) -> None:
        super().__init__()
        self._before = ["chrt", "-r", "1"] if realtime else []
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = os.environ | s3.env() | {"KUBECONFIG": str(self.folder / "kubeconfig")}
        del self._environment["AWS_ENDPOINT_URL"]
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(kube.kubeconfig()))
        (self.folder / "policy.yaml").write_text("version: 1\n")
        settings = {
            "namespaces": ["hub"],
            "host": "127.0.0.1",
            "port": self.port,
            "metrics_port": None,
            "tls": {"mode": "off"},
            "policy": str(self.folder / "policy.yaml"),
            "audit": str(self.folder / "audit.jsonl"),
            "store": {"url": store, "endpoint_url": s3.endpoint_url},
        }
        (self.folder / "controller.yaml").write_text(yaml.safe_dump(settings))

    def command(self) -> list[str | Path]:
        return [
            *self._before,
            sys.executable,
            "-m",
            "datamount",
            "controller",
            "--config",
            self.folder / "controller.yaml",
        ]

    def environment(self) -> dict[str, str]:
        return self._environment

    def ready(self) -> bool:
        return answers(f"{self.url}/healthz") == 200

    def used(self) -> tuple[float, float]:
        """CPU seconds so far, and peak memory in MiB."""
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        peak = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM"))
        return ticks / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


class Timed(ControllerClient):
    """Notes how long each request took."""

    times: list[float]

    def send(self, *arguments: Any, **more: Any) -> bytes:
        began = time.perf_counter()
        try:
            return super().send(*arguments, **more)
        finally:
            self.times.append(time.perf_counter() - began)


def sidecars(url: str, folders: list[Path], store: str, endpoint: str, gates: list[Any], results: Any) -> None:
    """What one process of clients does; a gate opens each phase."""
    kept = []
    for folder in folders:
        client = Timed(url, folder / "token") if url else None
        if client:
            client.times = []
        opened: Any = GatewayStore(client) if client else open_store(store, endpoint)
        kept.append((folder, client, Workspace(opened, folder.name, COURSE)))
    local = threading.Barrier(len(folders) + 1)
    out: dict[str, list[Any]] = {"saves": [], "requests": []}

    def one(entry: Any) -> float:
        folder, _, workspace = entry
        local.wait()
        began = time.perf_counter()
        assert workspace.save(folder / "work", state_dir=folder / "state").created
        return time.perf_counter() - began

    with ThreadPoolExecutor(len(folders)) as pool:
        for gate in gates:
            running = [pool.submit(one, entry) for entry in kept]
            gate.wait()
            local.wait()
            out["saves"].append([future.result() for future in running])
            out["requests"].append([t for _, client, _ in kept if client for t in client.times])
            for folder, client, _ in kept:
                if client:
                    client.times = []
                (folder / "work/file-0").write_bytes(random.randbytes(SIZE))
            gate.wait()
    results.put(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidecars", type=int, default=200)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("--realtime", action="store_true", help="the controller goes first, as if it had its own CPU")
    options = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="dm-bench-"))
    try:
        with KubeServer() as kube, S3Server() as s3:
            store = f"s3://{s3.make_bucket()}/work"
            os.environ |= s3.env()
            folders = [make(top / f"user-{n}", kube) for n in range(options.sidecars)]
            if options.direct:
                run(options, folders, store, s3, None)
            else:
                with Controller(kube, s3, store, realtime=options.realtime) as controller:
                    run(options, folders, store, s3, controller)
    finally:
        shutil.rmtree(top)
    return 0


def make(folder: Path, kube: KubeServer) -> Path:
    (folder / "work").mkdir(parents=True)
    for number in range(FILES):
        (folder / f"work/file-{number}").write_bytes(random.randbytes(SIZE))
    pod = kube.add_pod(session_pod(f"jupyter-{folder.name}", user=folder.name, image=f"{COURSE_IMAGE}:1"))
    (folder / "token").write_text(kube.token(pod, seconds=3600))
    return folder


def run(options: argparse.Namespace, folders: list[Path], store: str, s3: S3Server, controller: Any) -> None:
    spawn = multiprocessing.get_context("spawn")
    phases = ("first save", "one file changed")
    gates = [spawn.Barrier(options.processes + 1) for _ in phases]
    results = spawn.Queue()
    url = controller.url if controller else ""
    shares = [folders[n :: options.processes] for n in range(options.processes)]
    clients = [
        spawn.Process(target=sidecars, args=(url, share, store, s3.endpoint_url, gates, results)) for share in shares
    ]
    for client in clients:
        client.start()
    took, before = [], []
    for gate in gates:
        gate.wait()
        before.append(controller.used()[0] if controller else 0.0)
        began = time.perf_counter()
        gate.wait()
        took.append(time.perf_counter() - began)
    after = controller.used() if controller else (0.0, 0.0)
    found = [results.get(timeout=60) for _ in clients]
    for client in clients:
        client.join()
    cpu = [end - start for start, end in zip(before, [*before[1:], after[0]], strict=True)]
    for number, phase in enumerate(phases):
        saves = [t for out in found for t in out["saves"][number]]
        requests = [t for out in found for t in out["requests"][number]]
        print(f"{phase}: {len(saves)} saves in {took[number]:.1f} s; {shown(saves)}")
        if controller:
            print(
                f"  controller: {len(requests)} requests, {len(requests) / took[number]:.0f}/s; {shown(requests)}; "
                f"{cpu[number]:.1f} CPU s"
            )
    if controller:
        lines = [json.loads(line)["event"] for line in (controller.folder / "audit.jsonl").read_text().splitlines()]
        assert lines.count("save") == len(phases) * len(folders), lines
        print(f"controller: peak memory {after[1]:.0f} MiB")


def shown(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    return f"p50 {cuts[49] * 1e3:.0f} ms, p99 {cuts[98] * 1e3:.0f} ms, max {max(times) * 1e3:.0f} ms"


if __name__ == "__main__":
    sys.exit(main())
