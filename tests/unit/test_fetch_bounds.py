"""What bounds a fetch: time, hanging sources, broken listings, a disk that is really full, a power failure."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamount.course import read_course
from datamount.drivers.base import Buffer, Driver, Item, Pin
from datamount.errors import Unavailable
from datamount.fetch import engine, exit_error, fetch, job, receipts
from datamount.fetch.lanes import Lanes
from datamount.fetch.retries import Policy
from datamount.fetch.transfer import Attempt
from datamount.fetch.workers import Pace
from datamount.status import Status
from tests import servers
from tests.folder_driver import CHUNK, FolderDriver, World

MIB = 1 << 20
QUICK = Policy(attempts=3, retries=20, base=0.001, cap=0.01)
LATER = 3600.0
"""Seconds after which any transfer counts as hung. Tests move the clock on: a busy machine may keep a transfer that is
well waiting for longer than a test can."""


class Batching(FolderDriver):
    """Brings small files many at a time, and lists while they come."""

    supports_batches = True
    streams_plan = True

    def open_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, Iterator[Buffer]]]:
        self.world.batches.append(len(items))  # type: ignore[attr-defined]
        yield from super().open_many(items)


class Rig:
    """One dataset over a source in the test's hands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder / "source")
        self.world.batches = []  # type: ignore[attr-defined]
        self.data = folder / "data"
        self.kind: type[FolderDriver] = FolderDriver
        self.listing: Any = None
        (folder / "course").mkdir()
        manifest = {"version": 1, "datasets": {"codes": {"s3": {"url": "s3://bucket/codes/"}}}}
        (folder / "course/datamount.yaml").write_text(json.dumps(manifest))

    def __call__(self, name: str, dataset: Any, credential: Any = None) -> Driver[Any]:
        driver = self.kind(name, dataset, credential, self.world)
        if self.listing is not None:
            listing, plan = self.listing, driver.plan
            driver.streams_plan = True  # type: ignore[misc]

            def broken(pin: Pin) -> Iterable[Item]:
                return listing(plan(pin))

            driver.plan = broken  # type: ignore[method-assign]
        return driver

    def fetch(self, **options: Any) -> Status:
        arguments: dict[str, Any] = {"credentials": None, "opener": self, "policy": QUICK} | options
        return fetch(read_course(self.folder / "course"), self.data, self.folder / "run", **arguments)

    def files(self) -> dict[str, bytes]:
        folder = self.data / "codes"
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


FILES = {f"d{n % 3}/f{n:03}": os.urandom(100 + n) for n in range(40)}


def test_a_budget_ends_the_fetch_and_the_next_one_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the budget the fetch returns: unfinished is pending, not failed, and nothing is fetched twice."""
    rig.world.put("codes", FILES)
    quick = {path for path in FILES if path < "d1"}
    go_on = threading.Event()
    rig.world.before_chunk = lambda item, _: None if item.path in quick else go_on.wait(200)
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 200 * (rig.files().keys() >= quick))
    monkeypatch.setattr(engine, "time", clock)
    status = rig.fetch(budget=200)
    codes = status.datasets["codes"]
    assert (codes.state, codes.error) == ("pending", None)
    assert exit_error(status) is None
    before = dict(rig.world.opened)
    there = set(rig.files())
    assert there == quick
    go_on.set()
    assert rig.fetch().state == "ready"
    assert rig.files() == FILES
    assert all(rig.world.opened[f"codes/{path}"] == before[f"codes/{path}"] for path in there)


def test_a_budget_holds_though_a_thread_hangs(rig: Rig) -> None:
    """A source that never answers does not keep the fetch beyond its budget."""
    rig.world.put("codes", FILES)
    over = threading.Event()
    rig.world.before_chunk = lambda _item, _offset: over.wait(200)
    policy = Policy(stall=600)
    done: list[Status] = []
    thread = threading.Thread(target=lambda: done.append(rig.fetch(budget=0.3, policy=policy)), daemon=True)
    thread.start()
    thread.join(100)
    assert done
    assert done[0].datasets["codes"].state == "pending"
    over.set()
    rig.world.before_chunk = lambda _item, _offset: None
    assert rig.fetch().state == "ready"
    assert rig.files() == FILES


def test_an_object_that_hangs_is_given_up_and_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transfer that hangs costs its object, with a sentence; the others are there, then and later."""
    rig.world.put("codes", FILES)
    hung, over, watch = threading.Event(), threading.Event(), Lanes.watch

    def hang(item: Item, _offset: int) -> None:
        if item.path == "d0/f000":
            hung.set()
            over.wait(200)

    def later(lanes: Lanes, now: float) -> None:
        alone = hung.is_set() and len(rig.files()) == len(FILES) - 1
        if alone:
            hung.clear()
        watch(lanes, now + LATER * alone)

    rig.world.before_chunk = hang
    monkeypatch.setattr(Lanes, "watch", later)
    codes = rig.fetch().datasets["codes"]
    assert codes.state == "partial"
    assert codes.error is not None
    assert 'the transfer of "d0/f000" was given up' in codes.error["detail"]
    assert set(rig.files()) == set(FILES) - {"d0/f000"}
    assert rig.world.opened["codes/d0/f000"] == 2
    rig.world.before_chunk = lambda _item, _offset: None
    over.set()  # the threads that hung wake up now
    assert rig.fetch().state == "ready"
    time.sleep(0.1)
    assert rig.files() == FILES
    assert codes.files_done == len(FILES) - 1


def test_a_source_that_never_lists_is_given_up(rig: Rig) -> None:
    """A listing that hangs ends in a failure that says so, and the next fetch does not wait for it."""
    rig.world.put("codes", FILES)
    over = threading.Event()

    def hang(_plan: Iterable[Item]) -> Iterator[Item]:
        over.wait(200)
        yield from ()

    rig.listing = hang
    codes = rig.fetch(policy=replace(QUICK, stall=0.5)).datasets["codes"]
    assert codes.state == "failed"
    assert codes.error is not None
    assert "asking s3 what there is was given up" in codes.error["detail"]
    rig.listing = None
    assert rig.fetch().state == "ready"
    over.set()
    time.sleep(0.1)
    assert rig.files() == FILES


def test_a_listing_that_breaks_is_begun_again(rig: Rig) -> None:
    """A listing that fails halfway is repeated; nothing is fetched twice, and nothing is taken for gone."""
    files = {f"f{n:04}": b"%d" % n for n in range(1300)}
    rig.world.put("codes", files)
    broke = []

    def breaking(plan: Iterable[Item]) -> Iterator[Item]:
        for number, item in enumerate(plan):
            if number == 700 and len(broke) < 2:
                broke.append(1)
                raise Unavailable("reset", transient=True)
            yield item

    rig.listing = breaking
    status = rig.fetch()
    assert status.state == "ready", status.datasets["codes"].error
    assert len(broke) == 2
    assert rig.files() == files
    assert set(rig.world.opened.values()) == {1}


def test_what_is_listed_as_the_last_lane_ends_is_brought(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that comes just when a lane has found nothing more to do has a lane, though no other is open."""
    rig.world.put("codes", FILES)
    found_nothing = Lanes._next

    def then_dawdle(lanes: Lanes) -> list[Item]:
        batch = found_nothing(lanes)
        if not batch:
            time.sleep(0.002)
        return batch

    def slowly(plan: Iterable[Item]) -> Iterator[Item]:
        for item in plan:
            time.sleep(0.0005)
            yield item

    monkeypatch.setattr(Lanes, "_next", then_dawdle)
    monkeypatch.setattr(Pace, "lanes", lambda _: 1)
    monkeypatch.setattr(job, "PAGE", 1)
    rig.listing = slowly
    for attempt in range(10):
        rig.data = rig.folder / f"data-{attempt}"
        assert rig.fetch().state == "ready"
        assert rig.files() == FILES


def test_a_listing_that_fails_removes_nothing(rig: Rig) -> None:
    """What an earlier fetch brought stays when the source cannot tell all that it has."""
    files = {f"f{n:04}": b"%d" % n for n in range(1300)}
    rig.world.put("codes", files)
    assert rig.fetch().state == "ready"

    def half(plan: Iterable[Item]) -> Iterator[Item]:
        for number, item in enumerate(plan):
            if number == 700:
                raise Unavailable("down")
            yield item

    rig.listing = half
    assert rig.fetch().datasets["codes"].state == "partial"
    assert rig.files() == files


def test_small_files_come_in_batches_where_the_driver_can(rig: Rig) -> None:
    """A driver that brings many in one call is asked so, and what it fails to bring is asked for singly."""
    files = {f"f{n:04}": os.urandom(50) for n in range(1200)}
    rig.world.put("codes", files)
    rig.kind = Batching
    broke = []

    def once(item: Item, _offset: int) -> None:
        if item.path == "f0100" and not broke:
            broke.append(1)
            raise Unavailable("reset", transient=True)

    rig.world.before_chunk = once
    assert rig.fetch().state == "ready"
    assert rig.files() == files
    batches = rig.world.batches  # type: ignore[attr-defined]
    assert max(batches) > 5
    assert broke


def test_a_batch_that_hangs_costs_none_of_its_files(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """When streams of many files hang, they are given up, and what they did not bring is asked for singly."""
    files = {f"f{n:04}": os.urandom(50) for n in range(1200)}
    rig.world.put("codes", files)
    rig.kind = Batching
    hung, given_up, over, watch = threading.Event(), threading.Event(), threading.Event(), Lanes.watch

    def once(item: Item, _offset: int) -> None:
        if item.path == "f0100" and not hung.is_set():
            hung.set()
            over.wait(200)

    def later(lanes: Lanes, now: float) -> None:
        strike = hung.is_set() and not given_up.is_set()
        watch(lanes, now + LATER * strike)
        if strike:
            given_up.set()

    rig.world.before_chunk = once
    monkeypatch.setattr(Lanes, "watch", later)
    codes = rig.fetch().datasets["codes"]
    over.set()
    assert codes.state == "ready", codes
    assert rig.files() == files
    assert given_up.is_set()
    assert (codes.files_done, codes.bytes_done) == (codes.files_total, codes.bytes_total)


@pytest.mark.parametrize("error", [None, Unavailable("reset", transient=True)])
def test_a_batch_that_wakes_up_late_touches_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """A stream that goes on, or fails, after it was given up leaves the files alone that others bring by then."""
    rig.world.put("codes", files := {f"f{n}": os.urandom(3 * CHUNK) for n in range(10)})
    hung, woken, watch = threading.Event(), threading.Event(), Lanes.watch

    class Sleepy(Batching):
        def open_many(self, items: Sequence[Item]) -> Iterator[tuple[Item, Iterator[Buffer]]]:
            for number, pair in enumerate(super().open_many(items)):
                if number == 1:
                    hung.set()
                    woken.wait(200)
                    if error is not None:
                        raise error
                yield pair

    def wake(item: Item, offset: int) -> None:
        if item.path == "f1" and offset == 2 * CHUNK and not woken.is_set():
            woken.set()
            time.sleep(0.3)

    def later(lanes: Lanes, now: float) -> None:
        strike = hung.is_set()
        if strike:
            hung.clear()
        watch(lanes, now + LATER * strike)

    rig.kind, rig.world.before_chunk = Sleepy, wake
    monkeypatch.setattr(Pace, "lanes", lambda _: 1)
    monkeypatch.setattr(Lanes, "watch", later)
    codes = rig.fetch().datasets["codes"]
    assert codes.state == "ready"
    assert rig.files() == files
    assert (codes.files_done, max(rig.world.opened.values())) == (10, 1)


def test_a_transfer_that_fails_as_it_is_given_up_holds_nothing_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an object's thread meets with an error in the very moment in which it is given up, the fetch goes on."""
    rig.world.put("codes", FILES)
    failed, struck = threading.Event(), threading.Event()
    watch, abandon, give_back = Lanes.watch, Attempt.abandon, Attempt.give_back

    def fail_once(item: Item, _offset: int) -> None:
        if item.path == "d0/f000" and not failed.is_set():
            raise Unavailable("reset", transient=True)

    def giving_back(attempt: Attempt) -> None:
        if not failed.is_set():
            failed.set()
            assert struck.wait(100)
        give_back(attempt)

    def abandoning(attempt: Attempt) -> None:
        struck.set()
        abandon(attempt)

    def later(lanes: Lanes, now: float) -> None:
        watch(lanes, now + LATER * (failed.is_set() and not struck.is_set()))

    rig.world.before_chunk = fail_once
    monkeypatch.setattr(Attempt, "give_back", giving_back)
    monkeypatch.setattr(Attempt, "abandon", abandoning)
    monkeypatch.setattr(Lanes, "watch", later)
    done: list[Status] = []
    thread = threading.Thread(target=lambda: done.append(rig.fetch()), daemon=True)
    thread.start()
    thread.join(100)
    assert done
    assert done[0].datasets["codes"].state == "ready", done[0].datasets["codes"]
    assert rig.files() == FILES


@pytest.mark.parametrize("torn", [False, True])
def test_after_a_power_failure_files_are_read_once(rig: Rig, monkeypatch: pytest.MonkeyPatch, torn: bool) -> None:
    """A receipt of an earlier boot is believed after the file was read: torn files are fetched, whole ones kept."""
    rig.world.digests = False
    rig.world.put("codes", FILES)
    rig.fetch()
    if torn:
        target = rig.data / "codes/d0/f000"
        times = target.stat()
        target.chmod(0o644)
        target.write_bytes(b"\0" * times.st_size)
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    rig.world.opened.clear()
    assert rig.fetch().state == "ready"
    assert not rig.world.opened, "in the same boot nothing is read"
    monkeypatch.setattr(receipts, "this_boot", lambda: "another")
    monkeypatch.setattr("datamount.fetch.transfer.this_boot", lambda: "another")
    assert rig.fetch().state == "ready"
    assert rig.files() == FILES
    assert dict(rig.world.opened) == ({"codes/d0/f000": 1} if torn else {})
    rows = [json.loads(line) for line in (rig.data / ".datamount/receipts/codes.jsonl").read_text().splitlines()]
    kept = {row["path"]: row.get("boot", "") for row in rows}
    assert all(boot == "" for path, boot in kept.items() if path != "d0/f000")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        servers.require("a real full disk needs root (mount)")
    place = tmp_path / "tiny"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        servers.require(f"tmpfs cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_is_named_and_recovers(rig: Rig, tiny_disk: Path) -> None:
    """On a disk that fills up under the transfer: a sentence, no half file, and with room again everything."""
    rig.world.put("codes", {f"f{n}": os.urandom(200_000) for n in range(6)})
    rig.data = tiny_disk / "data"
    rig.data.mkdir()
    filler, filling = tiny_disk / "other", threading.Lock()

    def fill(_item: Item, offset: int) -> None:
        # Unbuffered: what a buffer could not write would raise here when it is closed, in the place of the engine.
        with filling, filler.open("ab", buffering=0) as stream, suppress(OSError):
            while offset:
                stream.write(bytes(65536))

    rig.world.before_chunk = fill
    codes = rig.fetch().datasets["codes"]
    assert codes.error is not None
    assert codes.error["type"].endswith("disk-full"), codes.error
    source = rig.world.root / "codes"
    assert all(body == (source / path).read_bytes() for path, body in rig.files().items())
    assert not list((rig.data / ".datamount/partial/codes").iterdir())
    filler.unlink()
    rig.world.before_chunk = lambda _item, _offset: None
    assert rig.fetch().state == "ready"
    assert len(rig.files()) == 6
