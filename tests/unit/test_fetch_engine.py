"""The fetch engine, over a source that the test controls."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from datamount.course import Course, read_course
from datamount.credentials import Credential
from datamount.drivers.base import Buffer, Connection, Item
from datamount.errors import DiskFull, ManifestError, Refused, Unavailable, UsageError
from datamount.fetch import exit_error, fetch, retries
from datamount.fetch.environment import read_environment
from datamount.fetch.pins import declaration
from datamount.fetch.retries import Policy
from datamount.fetch.space import Paths
from datamount.manifest import Dataset
from datamount.progress import Silent
from datamount.status import DatasetStatus, Status, read_status
from tests.folder_driver import CHUNK, FolderDriver, World

MIB = 1024 * 1024
QUICK = Policy(attempts=4, retries=20, base=0.001, cap=0.01)


class Keys:
    """Credentials of a test: one that is there, every other refused."""

    def get(self, name: str, *, dataset: str) -> Credential:
        if name == "reader":
            return Credential(user="dora", password="s3cret/pass")
        raise Refused(f'dataset "{dataset}": there is no credential "{name}".', who="the hub's operator")


class Bench:
    """A course, its source and its places."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = World(folder / "source")
        self.data, self.run = folder / "data", folder / "run"
        self.manifest("codes")

    def manifest(self, *names: str, **settings: dict[str, Any]) -> None:
        datasets = {name: {"s3": {"url": f"s3://bucket/{name}/"}} | settings.get(name, {}) for name in names}
        self.course_folder = self.folder / "course"
        self.course_folder.mkdir(exist_ok=True)
        (self.course_folder / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": datasets}))

    @property
    def course(self) -> Course:
        return read_course(self.course_folder)

    def fetch(self, **options: Any) -> Status:
        options = {"credentials": Keys(), "opener": self.world, "policy": QUICK} | options
        return fetch(self.course, self.data, self.run, **options)

    def files(self, dataset: str = "codes") -> dict[str, bytes]:
        folder = self.data / dataset
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    def partial(self, dataset: str = "codes") -> list[Path]:
        return list((self.data / ".datamount" / "partial" / dataset).iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


FILES = {"a.csv": b"a,b\n1,2\n", "sub/b.csv": b"x" * 100_000, "empty": b"", "sub/deep/ünï.txt": b"hej"}


def test_every_file_is_there_and_read_only(bench: Bench) -> None:
    """After a fetch the folder has exactly the source's files, mode 0444, and the status counts them."""
    bench.world.put("codes", FILES)
    status = bench.fetch()
    assert bench.files() == FILES
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (bench.data / "codes").rglob("*") if p.is_file()}
    assert modes == {0o444}
    codes = status.datasets["codes"]
    assert (codes.state, codes.files_done, codes.files_total) == ("ready", 4, 4)
    assert codes.bytes_done == codes.bytes_total == sum(map(len, FILES.values()))
    assert read_status(bench.run / "status.json") == status
    assert bench.partial() == []


def test_a_second_fetch_opens_nothing(bench: Bench) -> None:
    """What is complete costs no transfer."""
    bench.world.put("codes", FILES)
    bench.fetch()
    bench.world.opened.clear()
    assert bench.fetch().state == "ready"
    assert not bench.world.opened


def test_a_changed_object_is_fetched_and_a_gone_one_removed(bench: Bench) -> None:
    """A re-fetch moves only what changed, and removes what the source has no more, with its empty folders."""
    bench.world.put("codes", FILES)
    bench.fetch()
    bench.world.opened.clear()
    bench.world.put("codes", {"a.csv": b"new"})
    (bench.world.root / "codes/sub/deep/ünï.txt").unlink()
    bench.fetch()
    assert bench.files() == {"a.csv": b"new", "sub/b.csv": FILES["sub/b.csv"], "empty": b""}
    assert bench.world.opened == {"codes/a.csv": 1}
    assert not (bench.data / "codes/sub/deep").exists()


def test_a_file_of_someone_else_stays(bench: Bench) -> None:
    """Only files that we delivered are removed."""
    bench.world.put("codes", FILES)
    bench.fetch()
    (bench.data / "codes/mine.txt").write_text("mine")
    bench.fetch()
    assert (bench.data / "codes/mine.txt").read_text() == "mine"


def test_a_touched_file_is_read_not_fetched(bench: Bench) -> None:
    """A file whose time changed but whose bytes did not is kept."""
    bench.world.put("codes", FILES)
    bench.fetch()
    bench.world.opened.clear()
    os.utime(bench.data / "codes/a.csv", (1, 1))
    bench.fetch()
    assert not bench.world.opened


@pytest.mark.parametrize("digests", [True, False])
def test_a_damaged_file_is_fetched_again(bench: Bench, digests: bool) -> None:
    """Bytes that do not match the receipt are replaced, of the same size or not."""
    bench.world.digests = digests
    bench.world.put("codes", FILES)
    bench.fetch()
    for path, content in (("a.csv", b"a,b\n9,9\n"), ("sub/b.csv", b"short")):
        target = bench.data / "codes" / path
        target.chmod(0o644)
        before = target.stat()
        target.write_bytes(content)
        # Kernels stamp by their timer tick: a quick test could write within the one of the fetch.
        os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert bench.fetch().state == "ready"
    assert bench.files() == FILES


def test_wrong_bytes_are_never_placed(bench: Bench) -> None:
    """A body that does not match its digest twice is a verification failure; the other files are there."""
    bench.world.put("codes", FILES)
    bench.world.corrupt = lambda item, content: b"A" + content[1:] if item.path == "a.csv" else content
    status = bench.fetch()
    codes = status.datasets["codes"]
    assert codes.state == "partial"
    assert codes.error is not None
    assert codes.error["type"].endswith("verification-failed")
    assert "a.csv" not in bench.files()
    assert set(bench.files()) == set(FILES) - {"a.csv"}
    assert bench.world.opened["codes/a.csv"] == 2
    error = exit_error(status)
    assert error is not None
    assert error.exit_code == 6


def test_a_body_broken_on_the_way_once_is_read_again(bench: Bench) -> None:
    """One corrupted body costs one more transfer, not the dataset."""
    bench.world.put("codes", FILES)
    bench.world.corrupt = lambda item, content: (
        b"?" + content[1:] if item.path == "a.csv" and bench.world.opened["codes/a.csv"] == 1 else content
    )
    assert bench.fetch().state == "ready"
    assert bench.files() == FILES


def test_a_short_or_long_body_is_never_placed(bench: Bench) -> None:
    """A body of another size than planned does not become a file, with no digest to tell."""
    bench.world.digests = False
    bench.world.put("codes", {"short": b"0123456789", "long": b"0123456789"})
    bench.world.corrupt = lambda item, content: content[:5] if item.path == "short" else content + b"more"
    status = bench.fetch()
    assert status.datasets["codes"].state == "failed"
    assert bench.files() == {}


def fail_first(times: int, error: Callable[[], BaseException]) -> Callable[[Item, int], None]:
    left = [times]

    def hook(_item: Item, _offset: int) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise error()

    return hook


def test_transient_errors_are_retried_within_the_budget(bench: Bench) -> None:
    """Errors that may pass are tried again; the status ends ready."""
    bench.world.put("codes", FILES)
    bench.world.before_chunk = fail_first(3, lambda: Unavailable("busy", transient=True))
    assert bench.fetch().state == "ready"
    assert bench.files() == FILES


def test_other_errors_are_not_retried(bench: Bench) -> None:
    """An error that will not pass costs one attempt."""
    bench.world.put("codes", {"a": b"1"})
    bench.world.before_chunk = fail_first(1, lambda: Refused("no"))
    status = bench.fetch()
    assert status.datasets["codes"].state == "failed"
    assert bench.world.opened["codes/a"] == 1


def test_a_retry_after_beyond_the_policy_ends_it(bench: Bench) -> None:
    """A source that asks for an hour is reported, not waited for."""
    bench.world.broken["codes"] = Unavailable("busy", transient=True, retry_after=3600)
    assert bench.fetch().state == "failed"
    assert bench.world.resolved["codes"] == 1


def test_the_budget_is_the_datasets(bench: Bench) -> None:
    """A source that is down for all objects ends after the budget, not after objects times attempts."""
    bench.world.put("codes", {f"f{n}": b"1" for n in range(500)})
    bench.world.before_chunk = fail_first(10**9, lambda: Unavailable("down", transient=True))
    assert bench.fetch().state == "failed"
    assert sum(bench.world.opened.values()) < 100


def test_errors_far_apart_do_not_add_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While objects arrive, neither the time since the first error nor the number of all errors ends a dataset."""
    bench.world.put("codes", {f"f{n:04}": b"1" for n in range(1000)})
    failing = {f"f{n:04}" for n in (*range(0, 800, 10), 999)}
    passed = [0.0]
    monkeypatch.setattr(retries, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))

    def hook(item: Item, _offset: int) -> None:
        if item.path in failing:
            while item.path == "f0999" and len(bench.files()) < 999:
                time.sleep(0.01)
            passed[0] += 1000 if item.path == "f0999" else 0
            failing.remove(item.path)
            raise Unavailable("busy", transient=True)

    bench.world.before_chunk = hook
    status = bench.fetch(policy=Policy(retries=50, base=0.001, cap=0.01))
    assert status.state == "ready", status.datasets["codes"].error
    assert not failing


def test_one_broken_dataset_stops_no_other(bench: Bench) -> None:
    """Each dataset has its own outcome, whatever the others' drivers do; a driver's bug is named as one."""
    bench.manifest("good", "down", "bug", "panic")
    bench.world.put("good", FILES)
    bench.world.broken = {"down": Unavailable("down"), "bug": KeyError("x"), "panic": BaseException("rust")}
    status = bench.fetch()
    states = {name: d.state for name, d in status.datasets.items()}
    assert states == {"good": "ready", "down": "failed", "bug": "failed", "panic": "failed"}
    assert status.state == "partial"
    bug = status.datasets["bug"].error
    assert bug is not None
    assert "KeyError" in bug["detail"]
    error = exit_error(status)
    assert error is not None
    assert error.exit_code == 3


def test_optional_datasets_do_not_fail_the_fetch(bench: Bench) -> None:
    """A missing optional dataset leaves exit code 0."""
    bench.manifest("good", "extra", extra={"optional": True})
    bench.world.put("good", FILES)
    assert exit_error(bench.fetch()) is None


def test_environment_is_complete_when_everything_failed(bench: Bench) -> None:
    """Variables, env and connection files are there, mode 0600, although no dataset is; status masks secrets."""
    settings = {"s3": {"url": "s3://bucket/x/", "credential": "reader"}}
    bench.manifest("my-db", "other", **{"my-db": settings})
    url = "mysql+pymysql://dora:s3cret%2Fpass@h/db"
    bench.world.connection = Connection(
        {"mysql/x.cnf": "[client]\npassword=it's\n"}, {"MY_DB_URL": url, "MY_DB_CNF": "{run}/mysql/x.cnf"}
    )
    status = bench.fetch()
    assert status.state == "failed"
    assert read_environment(bench.run) == {
        "DATAMOUNT_DATA": str(bench.data),
        "DATAMOUNT_RUN": str(bench.run),
        "MY_DB_PATH": str(bench.data / "my-db"),
        "MY_DB_URL": url,
        "MY_DB_CNF": str(bench.run / "mysql/x.cnf"),
        "OTHER_PATH": str(bench.data / "other"),
    }
    for file in ("env", "mysql/x.cnf"):
        assert stat.S_IMODE((bench.run / file).stat().st_mode) == 0o600
    assert status.datasets["my-db"].variables["MY_DB_URL"] == "…"
    assert "s3cret" not in (bench.run / "status.json").read_text()


def test_a_shell_reads_env(bench: Bench) -> None:
    """`set -a; . env` gives a shell the variables, whatever characters they hold."""
    value = 'it\'s a "test" $HOME `x` \\ ünï'
    bench.world.connection = Connection({}, {"CODES_X": value})
    bench.fetch()
    shown = subprocess.run(
        ["sh", "-c", f'set -a; . "{bench.run}/env"; printenv CODES_X'], capture_output=True, text=True, check=True
    )
    assert shown.stdout.rstrip("\n") == value


def test_a_missing_credential_is_the_datasets_own_failure(bench: Bench) -> None:
    """A dataset without its credential is refused; its variables and its neighbours are there."""
    bench.manifest("good", "db", db={"s3": {"url": "s3://bucket/x/", "credential": "nobody"}})
    bench.world.put("good", FILES)
    status = bench.fetch()
    assert (status.datasets["good"].state, status.datasets["db"].state) == ("ready", "failed")
    assert "DB_PATH" in read_environment(bench.run)


def test_only_and_background_choose_datasets(bench: Bench) -> None:
    """What is not chosen keeps the state it had; unknown names are a usage error."""
    bench.manifest("a", "b", b={"when": "background"})
    bench.world.put("a", FILES)
    bench.world.put("b", FILES)
    status = bench.fetch(background=False)
    assert {n: d.state for n, d in status.datasets.items()} == {"a": "ready", "b": "pending"}
    status = bench.fetch(background=True)
    assert {n: d.state for n, d in status.datasets.items()} == {"a": "ready", "b": "ready"}
    bench.world.opened.clear()
    assert bench.fetch(only=["b"]).state == "ready"
    with pytest.raises(UsageError, match="nope"):
        bench.fetch(only=["nope"])


def test_links_lead_nowhere(bench: Bench) -> None:
    """A link planted in the data folder is replaced, never followed: nothing outside is written or removed."""
    outside = bench.folder / "outside"
    outside.mkdir()
    (outside / "b.csv").write_bytes(b"precious")
    bench.world.put("codes", FILES)
    (bench.data / "codes").mkdir(parents=True)
    (bench.data / "codes/sub").symlink_to(outside)
    (bench.data / "codes/a.csv").symlink_to(outside / "b.csv")
    assert bench.fetch().state == "ready"
    assert bench.files() == FILES
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"b.csv": b"precious"}
    # and once receipts exist: removal of gone objects through a link planted since
    (bench.data / "codes/sub").rename(bench.data / "moved")
    (bench.data / "codes/sub").symlink_to(outside)
    (bench.world.root / "codes/sub/b.csv").unlink()
    bench.fetch()
    assert (outside / "b.csv").read_bytes() == b"precious"


def test_a_linked_dataset_folder_is_replaced(bench: Bench) -> None:
    """A link in place of the dataset's folder does not move the data elsewhere."""
    outside = bench.folder / "outside"
    outside.mkdir()
    bench.data.mkdir()
    (bench.data / "codes").symlink_to(outside)
    bench.world.put("codes", FILES)
    assert bench.fetch().state == "ready"
    assert not any(outside.iterdir())
    assert not (bench.data / "codes").is_symlink()


def test_a_folder_becomes_a_file_and_back(bench: Bench) -> None:
    """An object may take the place of what was a folder of objects, and the reverse."""
    bench.world.put("codes", {"x/y": b"1"})
    bench.fetch()
    (bench.world.root / "codes/x/y").unlink()
    (bench.world.root / "codes/x").rmdir()
    bench.world.put("codes", {"x": b"2"})
    bench.fetch()
    assert bench.fetch().state == "ready"
    assert bench.files() == {"x": b"2"}
    (bench.world.root / "codes/x").unlink()
    bench.world.put("codes", {"x/y": b"3"})
    assert bench.fetch().state == "ready"
    assert bench.files() == {"x/y": b"3"}


def test_a_large_object_goes_on_at_its_checkpoint(bench: Bench) -> None:
    """After a broken connection the transfer resumes at an offset; the file is right."""
    content = random.Random(1).randbytes(20 * MIB + 17)
    bench.world.put("codes", {"big": content})
    broke: list[int] = []

    def hook(_item: Item, offset: int) -> None:
        if offset >= 17 * MIB and not broke:
            broke.append(offset)
            raise Unavailable("reset", transient=True)

    bench.world.before_chunk = hook
    status = bench.fetch()
    assert status.datasets["codes"].bytes_done == len(content)
    assert bench.files() == {"big": content}
    assert bench.world.starts == [("big", 0), ("big", 17 * MIB)]


class Ranged(FolderDriver):
    parallel_ranges = True


def test_a_large_object_may_break_as_often_as_it_likes(bench: Bench) -> None:
    """Where each attempt goes on from where the last one was cut, errors are no reason to give up; where none does,
    they are, after as many as for any object."""
    content = os.urandom(50 * MIB)
    bench.world.put("codes", {"large.bin": content})
    begun = [0]

    def cut(_item: Item, offset: int) -> None:
        begun[0] = min(begun[0], offset)
        if offset - begun[0] >= 9 * MIB:
            begun[0] = offset + MIB
            raise Unavailable("cut", transient=True)

    bench.world.before_chunk = cut
    assert bench.fetch(policy=Policy(attempts=2, retries=3, base=0.001, cap=0.01)).state == "ready"
    assert bench.files() == {"large.bin": content}
    assert bench.world.opened["codes/large.bin"] > 4

    bench.world.put("codes", {"large.bin": content[::-1]})
    bench.world.opened.clear()
    bench.world.before_chunk = fail_first(10**9, lambda: Unavailable("cut", transient=True))
    assert bench.fetch(policy=Policy(attempts=2, base=0.001, cap=0.01)).state == "failed"
    assert bench.world.opened["codes/large.bin"] == 2


def test_a_reader_that_wakes_up_late_writes_nothing(bench: Bench) -> None:
    """A range that hung while its object was tried again, and then brings other bytes, changes nothing any more."""
    content = random.Random(3).randbytes(24 * MIB)
    bench.world.digests = False
    bench.world.put("codes", {"big": content})
    hung, over, woken = threading.Event(), threading.Event(), threading.Event()

    class Once(Ranged):
        def open(self, item: Item, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
            if start == 0 and not hung.is_set():
                assert hung.wait(100)
                raise Unavailable("reset", transient=True)
            if start and not hung.is_set():
                hung.set()
                over.wait(200)
                woken.set()
                yield b"?" * CHUNK
                return
            yield from super().open(item, start, stop)

    def opener(name: str, dataset: Dataset, credential: Credential | None = None) -> FolderDriver:
        return Once(name, dataset, credential, bench.world)

    placed = bench.data / "codes/big"
    handles: list[IO[bytes]] = []

    class Placed(Silent):
        def finish(self, name: str, status: DatasetStatus) -> None:
            # What is opened now takes the descriptors that the transfer had: a late write would go into these.
            handles.extend((bench.folder / f"other{number}").open("w+b") for number in range(20))
            over.set()
            assert woken.wait(100)
            time.sleep(0.2)

    assert bench.fetch(opener=opener, progress=Placed()).state == "ready"
    assert placed.read_bytes() == content
    for handle in handles:
        with handle:
            assert os.fstat(handle.fileno()).st_size == 0


@pytest.mark.parametrize("damage", ["bytes", "short", "checkpoints"])
def test_a_damaged_partial_file_is_not_trusted(bench: Bench, damage: str) -> None:
    """A partial file is used only as far as its checkpoints prove it, though the rest is asked for meanwhile."""
    content = random.Random(2).randbytes(20 * MIB)
    bench.world.put("codes", {"big": content})

    def down(_item: Item, offset: int) -> None:
        if offset >= 17 * MIB:
            raise Unavailable("down", transient=True)

    bench.world.before_chunk = down
    assert bench.fetch().state == "failed"
    partial, progress = sorted(bench.partial(), key=lambda p: p.name)
    if damage == "bytes":
        with partial.open("r+b") as stream:
            stream.seek(9 * MIB)
            stream.write(b"????")
    elif damage == "short":
        os.truncate(partial, 12 * MIB)
    else:
        progress.write_bytes(b"[1, ")
    bench.world.before_chunk = lambda _item, _offset: None
    bench.world.starts.clear()
    assert bench.fetch().state == "ready"
    assert bench.files() == {"big": content}
    proven = {"bytes": 9, "short": 12, "checkpoints": 0}[damage]
    assert bench.world.starts[-1] == ("big", proven * MIB)


def test_two_fetches_at_once_transfer_once(bench: Bench) -> None:
    """The second fetch of a dataset waits for the first and finds all complete."""
    bench.world.put("codes", {f"f{n}": os.urandom(1000) for n in range(50)})
    states: list[str] = []
    threads = [threading.Thread(target=lambda: states.append(bench.fetch().state)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == ["ready"] * 3
    assert set(bench.world.opened.values()) == {1}


def test_a_full_disk_is_seen_before_and_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that does not fit transfers nothing and says how much is missing."""
    bench.world.put("codes", FILES)
    usage = shutil.disk_usage(bench.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    status = bench.fetch()
    error = status.datasets["codes"].error
    assert error is not None
    assert error["type"].endswith("disk-full")
    assert "1.0 kB free" in error["detail"]
    assert not bench.world.opened
    assert isinstance(exit_error(status), DiskFull)


def test_a_disk_that_fills_up_is_named_and_left_clean(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC during the transfer ends the dataset with a sentence, leaves no half file, and a re-fetch mends it."""
    bench.world.put("codes", FILES | {"big": os.urandom(300_000)})
    write = os.write

    def full(handle: int, block: Any) -> int:
        if len(block) == 64 * 1024:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, block)

    monkeypatch.setattr(os, "write", full)
    status = bench.fetch()
    monkeypatch.undo()
    error = status.datasets["codes"].error
    assert error is not None
    assert error["type"].endswith("disk-full")
    assert bench.partial() == []
    assert bench.fetch().state == "ready"


def test_an_interrupted_fetch_stops_soon_and_goes_on(bench: Bench) -> None:
    """Ctrl-C ends the transfers at their next chunk; the next fetch goes on at the checkpoint."""
    bench.world.put("codes", {"big": random.Random(4).randbytes(20 * MIB)})
    pressed = threading.Event()

    class Interrupting(Silent):
        def update(self, name: str, status: DatasetStatus) -> None:
            if status.bytes_done >= 17 * MIB:
                pressed.set()
                raise KeyboardInterrupt

    def slow(_item: Item, offset: int) -> None:
        if offset >= 17 * MIB:
            pressed.wait(200)
            time.sleep(0.1)  # the rest takes five seconds, in which the engine gets from one line to the next

    bench.world.before_chunk = slow
    with pytest.raises(KeyboardInterrupt):
        bench.fetch(progress=Interrupting())
    assert bench.files() == {}
    bench.world.before_chunk = lambda _item, _offset: None
    bench.world.starts.clear()
    assert bench.fetch().state == "ready"
    assert [start >= 17 * MIB for _, start in bench.world.starts] == [True]


def test_two_objects_for_one_file_are_refused(bench: Bench) -> None:
    """A file that would also have to be a folder is named, not delivered by chance."""

    def add_all(*wanted: str) -> None:
        paths = Paths("d")
        for path in wanted:
            paths.add(path)

    with pytest.raises(UsageError, match='"a" is an object and also the folder of "a/b"'):
        add_all("a/b", "a")
    with pytest.raises(UsageError, match='"a" is an object and also the folder of "a/b"'):
        add_all("a", "a/b")
    with pytest.raises(UsageError, match="two objects"):
        add_all("a", "a")
    add_all("a/b", "a/c", "ab", "d/e/f", "d/g")


def test_what_a_kill_leaves_between_receipt_and_rename_is_placed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished file whose rename did not happen is renamed by the next fetch, not fetched."""
    from datamount.fetch.folders import Folder

    bench.world.put("codes", FILES)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Folder, "place", die)
    monkeypatch.setattr("datamount.fetch.transfer.Desk._discard", lambda *_: None)
    bench.fetch()
    assert bench.files() == {}
    monkeypatch.undo()
    bench.world.opened.clear()
    assert bench.fetch().state == "ready"
    assert bench.files() == FILES
    assert not bench.world.opened


def test_a_receipt_of_another_version_is_not_trusted(bench: Bench) -> None:
    """A receipt written for a new version, whose file was lost before the rename, does not vouch for the old file."""
    bench.world.digests = False
    bench.world.put("codes", {"a": b"old!"})
    bench.fetch()
    bench.world.put("codes", {"a": b"new!"})
    journal = bench.data / ".datamount/receipts/codes.jsonl"
    row = json.loads(journal.read_text().splitlines()[-1])
    import hashlib

    intent = row | {
        "identity": f"etag={hashlib.md5(b'new!').hexdigest()}",
        "sha256": hashlib.sha256(b"new!").hexdigest(),
        "mtime_ns": row["mtime_ns"] + 1,
    }
    journal.write_text(json.dumps(row) + "\n" + json.dumps(intent) + '\n{"path": "torn')
    bench.fetch()
    assert bench.files() == {"a": b"new!"}
    assert all(json.loads(line) for line in journal.read_text().splitlines() if not line.startswith('{"path": "torn'))


@pytest.mark.parametrize("path", ["../../escaped", "sub/../../../escaped", "/escaped", "sub//a", "a\nb"])
def test_a_lock_names_nothing_outside_its_dataset(bench: Bench, path: str) -> None:
    """A lock whose object would be written, or removed, outside of its dataset's folder is refused as a whole."""
    bench.world.put("codes", {"a.csv": b"mine"})
    victim = bench.folder / "escaped"
    victim.write_text("somebody's")
    row = {"path": path, "size": 4, "sha256": hashlib.sha256(b"mine").hexdigest(), "identity": "x"}
    entry = {"kind": "s3", "declaration": declaration(bench.course.manifest.datasets["codes"]), "pin": {"folder": "x"}}
    for wrong in ({}, {"sha256": "0" * 64}):
        objects = [row | wrong | {"ref": {"key": "a.csv"}}]
        text = json.dumps({"version": 1, "datasets": {"codes": entry | {"objects": objects}}})
        bench.course.lock_path.write_text(text)
        with pytest.raises(ManifestError, match=r"datasets\.codes\.objects\.0\.path"):
            bench.fetch()
        assert victim.read_text() == "somebody's"
        assert not bench.files()
    assert {p.name for p in bench.folder.iterdir()} == {"course", "data", "escaped", "run", "source"}
