"""Answers of the admission webhook at a steady rate, over TLS, in a process of its own: p50 and p99.

    python tests/bench/webhook.py [--rate 50] [--seconds 20] [--while-leasing] [--realtime]

The requests are open-loop: each is sent at its time whether or not the one before has been answered, so that a slow
answer is not hidden by the requests that it would have kept back. Times count from when a request was due. With
`--while-leasing`, eight clients ask for leases meanwhile, each ten times a second. `--realtime` lets client and
controller go first, as if they had the machine for themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers import Server, free_port

TARGET = 0.050


class Webhook(Server):
    """The controller's application as it is served, without an API server behind it."""

    start_seconds = 90.0

    def __init__(self, *, realtime: bool) -> None:
        super().__init__()
        self._before = ["chrt", "-r", "1"] if realtime else []
        self.port = free_port()

    def command(self) -> list[str | Path]:
        return [
            *self._before,
            sys.executable,
            Path(__file__).resolve(),
            "--serve",
            str(self.port),
            "--folder",
            self.folder,
        ]

    def ready(self) -> bool:
        try:
            return httpx.get(f"https://localhost:{self.port}/healthz", verify=context(self.folder)).status_code == 200
        except (httpx.HTTPError, OSError):
            return False


def context(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.crt"))


def serve(port: int, folder: Path) -> None:
    import kubernetes

    from datamount.controller.app import create_app
    from datamount.controller.assemble import controller
    from datamount.controller.certificates import Served, from_files, make_authority, make_certificate
    from datamount.controller.kube import Kube
    from datamount.controller.serving import server_config
    from datamount.controller.settings import Settings

    authority = make_authority(datetime.now(UTC))
    pair = make_certificate(authority, ["localhost"], datetime.now(UTC), 2)
    for name, content in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority.certificate)):
        (folder / name).write_bytes(content)
    made = controller(
        Settings(policy=folder / "none", namespaces=["hub"]),
        Kube(kubernetes.client.ApiClient(kubernetes.client.Configuration(host="http://127.0.0.1:9"))),
    )
    made.start.clear()
    made.stop.clear()
    config = server_config(create_app(made), Served(from_files(folder), seconds=60), host="127.0.0.1", port=port)
    asyncio.run(uvicorn.Server(config).serve())


def make_body() -> bytes:
    """KubeSpawner's pod with the defaults of Zero-to-JupyterHub, before injection."""
    sample = Path(__file__).resolve().parents[1] / "unit" / "pods" / "kubespawner-z2jh.yaml"
    documents = [one for one in yaml.safe_load_all(sample.read_text()) if isinstance(one, dict) and "spec" in one]
    pod = json.loads(json.dumps(documents[0], default=str))
    pod["metadata"].get("annotations", {}).pop("datamount.dev/status", None)
    request = {"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "operation": "CREATE", "object": pod}
    request["kind"] = {"group": "", "version": "v1", "kind": "Pod"}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


async def measure(webhook: Webhook, rate: float, seconds: float, leasing: bool) -> list[float]:
    body, times = make_body(), []
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    url = f"https://localhost:{webhook.port}"
    headers = {"Content-Type": "application/json"}
    async with httpx.AsyncClient(verify=context(webhook.folder), limits=limits, timeout=10) as client:

        async def one(due: float) -> None:
            answer = await client.post(f"{url}/mutate", content=body, headers=headers)
            times.append(time.perf_counter() - due)
            assert answer.json()["response"]["patchType"] == "JSONPatch", answer.text

        async def noise() -> None:
            while True:
                await client.post(f"{url}/v1/leases", json={"dataset": "x"}, headers={"Authorization": "Bearer x"})
                await asyncio.sleep(0.1)

        await asyncio.gather(*(one(time.perf_counter()) for _ in range(20)))  # connections and caches
        times.clear()
        others = [asyncio.create_task(noise()) for _ in range(8)] if leasing else []
        start, sent = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(one(due)))
        await asyncio.gather(*sent)
        for task in others:
            task.cancel()
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--while-leasing", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.folder)
        return 0
    with Webhook(realtime=options.realtime) as webhook:
        if options.realtime:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        times = asyncio.run(measure(webhook, options.rate, options.seconds, options.while_leasing))
        status = Path(f"/proc/{webhook.process.pid}/status").read_text()  # type: ignore[union-attr]
    resident = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{len(times)} requests at {options.rate:g}/s: p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms, "
        f"max {max(times) * 1e3:.1f} ms; controller {resident:.0f} MiB"
    )
    print(f"target: p99 under {TARGET * 1e3:g} ms: {'met' if cuts[98] < TARGET else 'MISSED'}")
    return 0 if cuts[98] < TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
