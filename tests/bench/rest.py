"""What a sidecar costs while nobody types: processor and memory, with homes of different size.

    python -m tests.bench.rest                  # writes docs/benchmarks/rest.md
    python -m tests.bench.rest --files 2000 --seconds 20 --dry

A real sidecar process watches a home of which all is saved. Processor is what the kernel counted for the process (its
threads too) over the time; memory is resident, before and after a change of one notebook was saved by itself.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from datamount.objectstore import open_store
from datamount.snapshots import Workspace
from tests.servers import Process

REPORT = Path(__file__).parents[2] / "docs/benchmarks/rest.md"
FILES = (200, 2_000, 10_000)
NOTEBOOK = '{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'
SECONDS = 90.0
SETTLE = 35.0
"""Seconds; the longest pause between two looks at the folder is 30."""
CORES = os.cpu_count() or 1
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Resting:
    """One home's figures."""

    files: int
    percent: float
    rss: int
    rss_saved: int


def make_home(folder: Path, files: int) -> None:
    """Folders of fifty small files, one notebook in each."""
    for number in range(files):
        target = folder / f"week{number // 500:02}" / f"part{number // 50 % 10}" / f"f{number:05}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        if number % 50 == 0:
            target.with_suffix(".ipynb").write_text(NOTEBOOK)
        else:
            target.write_text(f"{number}\n" * 200)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> int:
    """Bytes in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))


def measure(files: int, seconds: float, scratch: Path) -> Resting:
    """Start a sidecar on a home that is saved, let it rest, then change one notebook."""
    home, state, run = (scratch / str(files) / name for name in ("home", "state", "run"))
    run.mkdir(parents=True)
    make_home(home, files)
    store = (scratch / str(files) / "store").as_uri()
    workspace = Workspace(open_store(store), "o", "c")
    workspace.save(home, state_dir=state, reason="auto")
    where = ["--folder", home, "--run", run, "--state", state, "--store", store, "--owner", "o", "--course", "c"]
    process = Process([sys.executable, "-m", "sidecar", *where], log=scratch / f"{files}.log")
    process.start()
    try:
        process.wait_ready(lambda: (run / "sidecar.json").exists(), seconds=60)
        pid = process.pid
        time.sleep(SETTLE)
        before, started = cpu_seconds(pid), time.monotonic()
        time.sleep(seconds)
        percent = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)
        rss = resident(pid)
        known = len(workspace.ids())
        next(home.rglob("*.ipynb")).write_text(
            '{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {"n": 1}}'
        )
        until = time.monotonic() + 120
        while len(workspace.ids()) == known and time.monotonic() < until:
            time.sleep(0.5)
        if len(workspace.ids()) == known:
            raise RuntimeError("the change was not saved by itself")
        return Resting(files, percent, rss, resident(pid))
    finally:
        process.stop()


def beside_a_kernel(scratch: Path) -> tuple[float, float]:
    """What a first save of 60 MB takes while kernels keep every core busy: the largest share of a core over any
    second, and the whole in seconds of CPU."""
    home, state, run = (scratch / "busy" / name for name in ("home", "state", "run"))
    run.mkdir(parents=True)
    make_home(home, 200)
    store = (scratch / "busy" / "store").as_uri()
    workspace = Workspace(open_store(store), "o", "c")
    workspace.save(home, state_dir=state, reason="auto")
    where = ["--folder", home, "--run", run, "--state", state, "--store", store, "--owner", "o", "--course", "c"]
    process = Process([sys.executable, "-m", "sidecar", *where], log=scratch / "busy.log")
    process.start()
    kernels = [Process([sys.executable, "-c", "while True: pass"], log=scratch / "kernel.log") for _ in range(CORES)]
    try:
        process.wait_ready(lambda: (run / "sidecar.json").exists(), seconds=60)
        time.sleep(5)
        for kernel in kernels:
            kernel.start()
        for number in range(300):
            (home / f"picture{number}.png").write_bytes(os.urandom(200_000))
        known, began, shares = len(workspace.ids()), cpu_seconds(process.pid), []
        until = time.monotonic() + 180
        while len(workspace.ids()) == known and time.monotonic() < until:
            before, started = cpu_seconds(process.pid), time.monotonic()
            time.sleep(1)
            shares.append((cpu_seconds(process.pid) - before) / (time.monotonic() - started))
        if len(workspace.ids()) == known:
            raise RuntimeError("the change was not saved by itself")
        return 100 * max(shares), cpu_seconds(process.pid) - began
    finally:
        for running in (*kernels, process):
            running.stop()


def report(found: list[Resting], seconds: float, load: float) -> str:
    """The page."""
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    rows = [
        f"| {f.files:,} | {f.percent:.2f} % | {f.rss / (1 << 20):.0f} MiB | {f.rss_saved / (1 << 20):.0f} MiB |"
        for f in found
    ]
    return "\n".join(
        [
            "# A sidecar at rest",
            "What the process beside the notebook takes while nobody types: it looks at the folder again and again,",
            "because events of a file system would miss what network file systems and other programs write. The more",
            "files, the longer the pauses between two looks (1 to 30 s), so that a third of a percent of one core is",
            "what it aims at. Target: 0.5 % and 80 MiB with 10,000 files. Written by `python -m tests.bench.rest`.",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {machine}, over {seconds:.0f} s each; load {load:.1f} at the end.",
            "",
            "| files in the home | of one core | memory | after one change was saved |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, action="append", help="default: 200, 2,000 and 10,000")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, help="taken for `make bench`; one round is made")
    parser.add_argument("--dry", action="store_true", help="print, do not write the page")
    parser.add_argument("--busy", action="store_true", help="a save beside busy kernels, and nothing else")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.busy:
            share, seconds = beside_a_kernel(Path(scratch))
            print(f"at most {share:.0f} % of one core over a second, {seconds:.2f} s of CPU in all")
            return
        found = [measure(files, options.seconds, Path(scratch)) for files in options.files or FILES]
    page = report(found, options.seconds, os.getloadavg()[0])
    if not options.dry:
        REPORT.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
