"""The node cache, between processes, in front of a real S3 server whose reads are counted."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from datamount.course import read_course
from datamount.credentials import Credential
from datamount.errors import Refused, UsageError
from datamount.fetch import fetch
from datamount.fetch.cache import Cache, parse_size
from datamount.status import Status
from tests.folder_driver import World
from tests.s3_proxy import S3Proxy
from tests.servers import S3Server

SESSIONS = int(os.environ.get("DATAMOUNT_CACHE_SESSIONS", "8"))
MIB = 1 << 20


@dataclass
class Site:
    """A course over a counting proxy, and its cache."""

    folder: Path
    s3: S3Server
    proxy: S3Proxy
    files: dict[str, bytes]

    def start(self, session: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "datamount", "fetch", str(self.folder / "course"), *arguments]
        command += ["--data", str(self.folder / session / "data"), "--run", str(self.folder / session / "run")]
        environment = os.environ | self.s3.env() | {"DATAMOUNT_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def delivered(self, session: str) -> dict[str, bytes]:
        folder = self.folder / session / "data/codes"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def reads(self) -> dict[str, int]:
        """Times that each object was read from its first byte (a large one is read in several parts)."""
        return {path: count for path, count in self.proxy.gets.items() if count}


@pytest.fixture
def site(s3: S3Server, tmp_path: Path):  # type: ignore[no-untyped-def]
    bucket = s3.make_bucket()
    files = {f"d{n % 3}/f{n:02}": os.urandom(2000 + n) for n in range(30)} | {"medium": os.urandom(3 * MIB)}
    s3.put(bucket, {f"in/{key}": body for key, body in files.items()})
    with S3Proxy(s3.endpoint_url) as proxy:
        (tmp_path / "course").mkdir()
        source = {"url": f"s3://{bucket}/in/", "endpoint_url": proxy.url, "region": s3.region}
        manifest = {"version": 1, "datasets": {"codes": {"s3": source}}}
        (tmp_path / "course/datamount.yaml").write_text(json.dumps(manifest))
        yield Site(tmp_path, s3, proxy, files)


def test_many_sessions_download_once(site: Site) -> None:
    """Sessions of one course that start together on a node read each object from the source once, and all verify."""
    sessions = {f"s{n}": site.start(f"s{n}") for n in range(SESSIONS)}
    for process in sessions.values():
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()
    for session in sessions:
        assert site.delivered(session) == site.files
    assert set(site.reads().values()) == {1}
    assert len(site.reads()) == len(site.files)


def test_the_crash_of_the_one_that_fetches_is_survived(site: Site) -> None:
    """When the process that fetches is killed, another takes over and delivers everything."""
    site.proxy.pause = 0.05
    first, second = site.start("a"), site.start("b")
    until = time.monotonic() + 120
    while not site.proxy.gets:
        assert time.monotonic() < until, "nobody fetches"
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    site.proxy.pause = 0.0
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors.decode()
    assert site.delivered("b") == site.files


def test_damaged_bytes_are_fetched_again(site: Site) -> None:
    """A cache whose content was changed on the disk is healed, and no session sees the wrong bytes."""
    assert site.start("a").wait(240) == 0
    objects = [p for p in (site.folder / "cache/scopes").rglob("objects/*/*") if p.is_file()]
    assert len(objects) == len(site.files)
    for path in objects[:5]:
        path.write_bytes(b"?" * path.stat().st_size)
    objects[5].unlink()
    for path, left in ((objects[6], 0), (objects[7], 1000)):  # as a power failure leaves them
        os.truncate(path, left)
    with objects[8].open("ab") as longer:
        longer.write(b"?")
    site.proxy.reset()
    assert site.start("b").wait(240) == 0
    assert site.delivered("b") == site.files
    assert sum(site.reads().values()) == 9
    site.proxy.reset()
    assert site.start("c").wait(240) == 0
    assert site.delivered("c") == site.files
    assert not site.reads()


def test_a_cache_that_cannot_be_written_costs_nothing_else(site: Site) -> None:
    """A fetch whose cache folder is a file delivers all the same."""
    (site.folder / "cache").write_text("in the way")
    assert site.start("a").wait(240) == 0
    assert site.delivered("a") == site.files


def test_ls_and_prune_and_warm(site: Site) -> None:
    """`cache warm` fills it, `ls` names the source, `prune` empties it; a session in between reads nothing."""

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "datamount", "cache", *arguments, "--cache", str(site.folder / "cache")]
        done = subprocess.run(
            command, env=os.environ | site.s3.env(), capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout

    run("warm", str(site.folder / "course"))
    site.proxy.reset()
    assert site.start("a").wait(240) == 0
    assert not site.reads()
    row = json.loads(run("ls", "--json"))[0]
    assert row["objects"] == len(site.files)
    assert row["bytes"] == sum(map(len, site.files.values()))
    assert row["source"].startswith("s3 s3://")
    assert json.loads(run("prune", "--size", "0", "--json")) == {"removed": row["bytes"]}
    assert json.loads(run("ls", "--json"))[0]["objects"] == 0
    assert not [p for p in (site.folder / "cache").iterdir() if p.name.startswith("warm-")]


# --- Scopes and eviction, over a source in the test's hands ---------------------------------------------------------


class Keys:
    """Only `allowed` gets the credential."""

    def __init__(self, allowed: bool) -> None:
        self.allowed = allowed

    def get(self, name: str, *, dataset: str) -> Credential:
        if self.allowed:
            return Credential(access_key_id="A", secret_access_key="B")
        raise Refused(f'dataset "{dataset}": this course may not use "{name}".')


Session = Callable[..., Status]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    world = World(tmp_path / "source")
    world.put("codes", {"a": b"secret bytes", "b": b"x" * 5000})
    cache = Cache(tmp_path / "cache", 10_000)

    def run(
        number: int, *, allowed: bool = True, course: str = "one", source: dict[str, object] | None = None
    ) -> Status:
        folder = tmp_path / course
        folder.mkdir(exist_ok=True)
        declared = source or {"url": "s3://bucket/codes/", "credential": "reader"}
        (folder / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"codes": {"s3": declared}}}))
        at = tmp_path / f"session{number}"
        return fetch(read_course(folder), at / "data", at / "run", credentials=Keys(allowed), opener=world, cache=cache)

    run.world, run.cache = world, cache  # type: ignore[attr-defined]
    return run


def test_a_course_that_is_refused_gets_nothing_from_the_cache(session: Session, tmp_path: Path) -> None:
    """What another course brought is not delivered to one that gets no credential for the source."""
    assert session(1).state == "ready"
    assert session(2, allowed=False, course="two").state == "failed"
    assert not (tmp_path / "session2/data/codes/a").exists()


def test_a_cache_that_cannot_be_read_costs_nothing_else(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cache's disk fails, the source is asked."""
    session(1)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    assert session(2).state == "ready"
    assert session.world.opened == {"codes/a": 2, "codes/b": 2}  # type: ignore[attr-defined]


def test_another_source_or_credential_is_another_scope(session: Session) -> None:
    """The same object by another bucket, or credential, is asked of the source, not of the cache."""
    session(1)
    world = session.world  # type: ignore[attr-defined]
    assert world.opened == {"codes/a": 1, "codes/b": 1}
    session(2)
    assert world.opened == {"codes/a": 1, "codes/b": 1}
    session(3, course="two", source={"url": "s3://bucket/codes/", "credential": "other"})
    assert world.opened == {"codes/a": 2, "codes/b": 2}
    session(4, course="three", source={"url": "s3://elsewhere/codes/", "credential": "reader"})
    assert world.opened == {"codes/a": 3, "codes/b": 3}


def test_a_source_that_no_longer_lets_us_in_gives_nothing(session: Session, tmp_path: Path) -> None:
    """The source is asked before the cache: a right that was taken away counts at once."""
    session(1)
    session.world.broken["codes"] = Refused("no longer")  # type: ignore[attr-defined]
    assert session(2).state == "failed"
    assert not (tmp_path / "session2/data/codes/a").exists()


def test_what_was_used_longest_ago_goes_first(session: Session) -> None:
    """The cache stays within its size; what a session used lately stays."""
    world, cache = session.world, session.cache  # type: ignore[attr-defined]
    session(1)
    time.sleep(0.02)
    world.put("codes", {"c": b"y" * 4000})
    session(2)
    assert sum(e.size for e in cache.entries()) == 9012
    (world.root / "codes/a").unlink()
    (world.root / "codes/b").unlink()
    time.sleep(0.02)
    session(3)  # uses c
    world.put("codes", {"d": b"z" * 5500})
    session(4)
    # b went, and a with it where the session before used it a moment earlier than b; c, used since, stays beside d.
    assert sum(e.size for e in cache.entries()) in (9500, 9512)
    world.opened.clear()
    session(5)
    assert not world.opened


def test_pruning_under_a_reader_does_no_harm(session: Session, tmp_path: Path) -> None:
    """Sessions that copy while everything is evicted all the time end with the right bytes."""
    stop = threading.Event()
    cache = session.cache  # type: ignore[attr-defined]

    def evict() -> None:
        while not stop.is_set():
            cache.prune(0)

    thread = threading.Thread(target=evict)
    thread.start()
    try:
        for number in range(10):
            assert session(number).state == "ready"
            assert (tmp_path / f"session{number}/data/codes/b").read_bytes() == b"x" * 5000
    finally:
        stop.set()
        thread.join()


def test_sizes_are_read_as_people_write_them() -> None:
    """Powers of 1000, and of 1024 with an i."""
    assert [parse_size(t) for t in ("20 GB", "1.5MiB", "7", "3k")] == [20 * 10**9, 3 * MIB // 2, 7, 3000]
    with pytest.raises(UsageError):
        parse_size("much")
