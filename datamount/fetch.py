"""The prefetch engine: plan → transfer → verify → place, for all datasets of a course at once.

One dataset's failure never stops another's. A fetch may be killed at any instant and run again: what was complete is
neither fetched again nor trusted without proof (see `receipts`). Two fetches of one dataset, in one process or in
several, do not disturb each other: the second waits and finds all complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datamount import names
from datamount.credentials import Credential, Credentials
from datamount.drivers import open_driver
from datamount.drivers.base import Connection, Driver, Item
from datamount.environment import dataset_variables, masked, write_environment
from datamount.errors import (
    Conflict,
    DatamountError,
    DiskFull,
    Fault,
    ManifestError,
    NotFound,
    PartlyDelivered,
    UsageError,
    VerificationFailed,
    from_problem,
)
from datamount.manifest import Dataset
from datamount.pins import LockEntry, LockFile, drift, read_lock
from datamount.progress import Progress, Silent, human
from datamount.receipts import Receipt, Receipts
from datamount.retries import Budget, Policy, stopped
from datamount.status import DatasetStatus, Status, StatusFile, read_status
from datamount.transfer import Desk, local_error

if TYPE_CHECKING:
    from datamount.course import Course

_log = logging.getLogger(__name__)

WORKERS = 32
"""Threads that transfer, shared by all datasets: measured best for local stores, and enough at some latency."""
LANE_ITEMS = 64
"""Objects that a thread takes from one dataset before the next dataset has its turn."""
FAILURES = 10
"""Failed objects after which the rest of a dataset is not tried."""
TICK = 0.25
"""Seconds between two looks at the progress."""


class Opener(Protocol):
    """Makes the driver of a dataset; `drivers.open_driver`."""

    def __call__(self, name: str, dataset: Dataset, credential: Credential | None = None) -> Driver[Any]: ...


@dataclass(slots=True)
class Delivery:
    """How one dataset came out: its status, and what the lock needs to know."""

    status: DatasetStatus
    pin: Mapping[str, Any] | None = None
    items: Sequence[Item] = ()
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    error: DatamountError | None = None


def fetch(
    course: Course,
    data: Path,
    run: Path,
    *,
    credentials: Credentials,
    only: Sequence[str] = (),
    frozen: bool = False,
    background: bool | None = None,
    progress: Progress | None = None,
    opener: Opener = open_driver,
    policy: Policy | None = None,
) -> Status:
    """Bring every dataset of the course to `<data>/<name>`, verified; returns what `<run>/status.json` says.

    `only`: names of datasets, others are left as they are. `background`: None for all, False for those the start
    waits for, True for the others. With `frozen` every dataset that is not `live` must have a lock entry that fits.

    The failure of datasets is in the status, never raised. Raises UsageError for unknown names, ManifestError for a
    lock that cannot be read or, with `frozen`, lacks something; `env` and status.json are written even then.
    """
    unknown = [name for name in only if name not in course.manifest.datasets]
    if unknown:
        raise UsageError(
            f"the course has no dataset {', '.join(map(repr, unknown))}.",
            hint=f"It has: {', '.join(course.manifest.datasets) or 'none'}.",
            who="you",
        )
    wanted = [
        name
        for name, dataset in course.manifest.datasets.items()
        if (not only or name in only) and (background is None or background == (dataset.when == "background"))
    ]
    engine = Engine(course, data, run, credentials=credentials, progress=progress, opener=opener, policy=policy)
    try:
        lock = read_lock(course.lock_path)
        if frozen:
            _check_frozen(course, lock, wanted)
    except ManifestError as error:
        engine.refuse(error)
        raise
    engine.deliver(wanted, lock)
    return engine.status


def exit_error(status: Status) -> DatamountError | None:
    """The error a command ends with, by the datasets that are not optional; None when nothing is missing.

    PartlyDelivered when some datasets are there; the datasets' own error when all failed in one way.
    """
    if status.error:
        return from_problem(status.error)
    failed = {n: d for n, d in status.datasets.items() if d.error and d.state in ("failed", "partial")}
    needed = {n: d for n, d in failed.items() if not d.optional}
    if not needed:
        return None
    errors = [from_problem(d.error) for d in needed.values() if d.error]
    kinds = {e.exit_code for e in errors}
    delivered = any(d.state == "ready" for d in status.datasets.values())
    if len(errors) == 1 and not delivered:
        return errors[0]
    sentence = "\n  ".join(e.sentence() for e in errors)
    kind = PartlyDelivered if delivered or len(kinds) > 1 else type(errors[0])
    total = len(status.datasets)
    return kind(f"{len(needed)} of {total} datasets could not be delivered:\n  {sentence}")


class Engine:
    """One fetch of one course. The disk is touched by `deliver` and `refuse` only."""

    def __init__(
        self,
        course: Course,
        data: Path,
        run: Path,
        *,
        credentials: Credentials,
        progress: Progress | None = None,
        opener: Opener = open_driver,
        policy: Policy | None = None,
    ) -> None:
        self.course = course
        self.data = data.absolute()
        self.run = run.absolute()
        self.policy = policy or Policy()
        self.stop = threading.Event()
        self.space = Space(self.data)
        self._credentials = credentials
        self._progress = progress or Silent()
        self._opener = opener
        self._file: StatusFile | None = None
        self.status = Status(course=course.identity)
        self.pool: ThreadPoolExecutor | None = None

    def refuse(self, error: DatamountError) -> None:
        """Write the environment and a status that says why nothing is fetched."""
        self._open({})
        self.status.error = error.problem()
        self._write_status()

    def deliver(
        self, wanted: Sequence[str], lock: LockFile, *, pin_only: Collection[str] = frozenset()
    ) -> dict[str, Delivery]:
        """Fetch the named datasets (of kinds in `pin_only`: resolve); each ends in a Delivery, whatever happens."""
        jobs = {name: Job(self, name, self.course.manifest.datasets[name], lock.datasets.get(name)) for name in wanted}
        for job in jobs.values():
            job.pin_only = job.dataset.kind in pin_only
        self._open(jobs)
        self.pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="transfer")
        threads = {
            name: threading.Thread(target=job.run, name=f"dataset-{name}", daemon=True) for name, job in jobs.items()
        }
        try:
            for thread in threads.values():
                thread.start()
            self._watch(jobs, threads)
        finally:
            self.stop.set()
            self.pool.shutdown(wait=True, cancel_futures=True)
            for job in jobs.values():
                job.close()
            self._write_status()
            self._progress.close()
        return {name: job.delivery for name, job in jobs.items()}

    def _open(self, jobs: Mapping[str, Job]) -> None:
        """Everything a notebook looks for, before the first byte: folders, env, connection files, status."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the folder {error.filename} cannot be made ({error.strerror}).", hint="Choose others.", who="you"
            ) from error
        before = read_status(self.run / names.STATUS_FILE)
        connections: dict[str, Connection | None] = {}
        for name, dataset in self.course.manifest.datasets.items():
            job = jobs.get(name) or Job(self, name, dataset, None)
            connection = connections[name] = job.connect()
            status = job.status
            if name not in jobs:
                old = before.datasets.get(name) if before else None
                job.close()
                if old and old.kind == dataset.kind:
                    status = old
                status.error = status.error if status.state in ("failed", "partial") else None
            status.variables = masked(dataset_variables(name, self.data, self.run, connection), job.credential)
            self.status.datasets[name] = status
        write_environment(connections, self.data, self.run)
        self._write_status()

    def _watch(self, jobs: Mapping[str, Job], threads: Mapping[str, threading.Thread]) -> None:
        """Show progress until every thread has ended; status.json follows about once a second."""
        left = dict(threads)
        written = time.monotonic()
        while left:
            next(iter(left.values())).join(TICK)
            for name, thread in list(left.items()):
                if thread.is_alive():
                    self._progress.update(name, jobs[name].status)
                else:
                    del left[name]
                    self._progress.finish(name, jobs[name].status)
                    written = 0.0
            if time.monotonic() - written > 1.0:
                self._write_status()
                written = time.monotonic()

    def _write_status(self) -> None:
        if self._file is None:
            self._file = StatusFile(self.run / names.STATUS_FILE, self.status)
        self._file.write()

    def credential(self, name: str, dataset: Dataset) -> Credential | None:
        asked = dataset.source.credential
        return self._credentials.get(asked, dataset=name) if asked else None

    def driver(self, name: str, dataset: Dataset, credential: Credential | None) -> Driver[Any]:
        return self._opener(name, dataset, credential)


class Job:
    """One dataset on its way. `run` never raises; `status` and `delivery` tell how it went."""

    def __init__(self, engine: Engine, name: str, dataset: Dataset, entry: LockEntry | None) -> None:
        self.engine = engine
        self.name = name
        self.dataset = dataset
        self.status = DatasetStatus(
            kind=dataset.kind,
            title=dataset.title,
            license=dataset.license,
            citation=dataset.citation,
            path=str(engine.data / name),
            optional=dataset.optional,
            background=dataset.when == "background",
        )
        self.delivery = Delivery(self.status)
        self.credential: Credential | None = None
        self.budget = Budget(engine.policy, engine.stop)
        self._driver: Driver[Any] | None = None
        self.pin_only = False
        """For the lock of a source whose pin fixes its content: resolve, and transfer nothing."""
        self._early: BaseException | None = None
        self._mutex = threading.Lock()
        self._failures: list[tuple[Item, DatamountError]] = []
        self._dataset_stop = False
        self.entry: LockEntry | None = None
        if entry is not None and not dataset.live:
            if entry.is_for(dataset):
                self.entry = entry
                self.status.locked = True
            else:
                self.status.warnings.append(
                    f"{names.LOCK} was written for an older declaration of this dataset, so it is not used: "
                    f"the data is what the source has now. Run `datamount lock`."
                )

    def connect(self) -> Connection | None:
        """What the dataset hands to programs; None where its driver cannot be made (then `run` reports why)."""
        try:
            self.credential = self.engine.credential(self.name, self.dataset)
            self._driver = self.engine.driver(self.name, self.dataset, self.credential)
            return self._driver.connect()
        except BaseException as error:  # a driver's bug must not take the session's other data away
            if isinstance(error, KeyboardInterrupt):
                raise
            self._early = error
            return None

    def close(self) -> None:
        if self._driver is not None:
            with contextlib.suppress(Exception):
                self._driver.close()

    def run(self) -> None:
        started = time.monotonic()
        self.status.state = "fetching"
        try:
            if self._early is not None:
                raise self._early
            driver = self._driver
            assert driver is not None
            if self.pin_only:
                self.delivery.pin = self.budget.call(driver.resolve)
            else:
                with only_one(self.engine, self.name):
                    self._deliver(driver)
            self.status.state = "ready"
        except BaseException as error:
            self._fail(self._ours(error))
        finally:
            status = self.status
            status.seconds = round(time.monotonic() - started, 3)
            self.engine.space.release(self.name)
            _log.info(
                "dataset %s: %s, %d files, %d bytes, %.1f s",
                self.name,
                status.state,
                status.files_done,
                status.bytes_done,
                status.seconds,
            )

    def _fail(self, error: DatamountError) -> None:
        self.delivery.error = error
        self.status.error = error.problem()
        self.status.state = "partial" if self.status.files_done else "failed"

    def _ours(self, error: BaseException) -> DatamountError:
        if isinstance(error, DatamountError):
            return error
        if isinstance(error, OSError) and error.errno is not None:
            return local_error(error, self.name)
        wrapped = DatamountError(
            f'dataset "{self.name}": an error that should not happen ({type(error).__name__}) while reading from '
            f"{self.dataset.kind}.",
            hint="Please report it, with the output of `datamount fetch` under DATAMOUNT_DEBUG=1.",
            who="the developers of datamount",
        )
        wrapped.__cause__ = error
        if os.environ.get("DATAMOUNT_DEBUG"):
            import traceback

            traceback.print_exception(error)
        return wrapped

    def _deliver(self, driver: Driver[Any]) -> None:
        receipts = Receipts(self.engine.data / names.DATA_STATE_DIR / "receipts" / f"{self.name}.jsonl")
        try:
            with Desk(self.engine.data, self.name, driver, receipts) as desk:
                self._deliver_at(desk, driver, receipts)
        finally:
            receipts.close()

    def _deliver_at(self, desk: Desk, driver: Driver[Any], receipts: Receipts) -> None:
        locked = self.entry.items() if self.entry else None
        try:
            pin, items = (self.entry.pin, locked) if self.entry and locked is not None else self._plan(driver)
        except DatamountError:
            if len(receipts):
                self.status.warnings.append("The files of an earlier fetch are still there.")
            raise
        self.status.pin = dict(pin)
        check_paths(self.name, items)
        self.status.files_total = len(items)
        self.status.bytes_total = sum(i.size for i in items if i.size is not None) if items else 0
        done: dict[str, Receipt] = {}
        todo: list[Item] = []
        for item in items:
            receipt = desk.complete(item)
            if receipt is None:
                todo.append(item)
            else:
                done[item.path] = receipt
                self._count(1, receipt.size)
        if todo:
            if locked is not None:
                self._resolve_locked(desk, driver, receipts, todo)
            self.engine.space.reserve(self.name, sum((i.size or 0) - desk.partial_bytes(i) for i in todo))
            self._transfer(desk, todo, done)
        with desk.folder.parent("_", make=True):
            pass  # a dataset of no files is an empty folder
        self._remove_gone(desk, receipts, {i.path for i in items})
        self.delivery.pin, self.delivery.items, self.delivery.receipts = pin, items, done
        if self._failures:
            self._drop_unproven(desk, receipts)
            raise self._failure(driver)
        if len(done) < len(items):
            raise stopped(self.name)
        desk.sweep()
        self.status.bytes_total = self.status.bytes_done

    def _plan(self, driver: Driver[Any]) -> tuple[Mapping[str, Any], list[Item]]:
        """Resolve and list, each retried as a whole."""
        wanted = self.entry.pin if self.entry else None
        pin = self.budget.call(lambda: driver.resolve(wanted))
        if getattr(self.dataset.source, "access", "copy") == "remote":
            return pin, []
        return pin, self.budget.call(lambda: list(driver.plan(pin)))

    def _resolve_locked(self, desk: Desk, driver: Driver[Any], receipts: Receipts, todo: Sequence[Item]) -> None:
        """Ask whether the pinned version is there still; if it is not, nothing else may stand under its names."""
        assert self.entry is not None
        pin = self.entry.pin
        try:
            self.budget.call(lambda: driver.resolve(pin))
        except (VerificationFailed, NotFound, Conflict) as error:
            self._failures = [(item, error) for item in todo]
            self._drop_unproven(desk, receipts)
            raise self._drifted(driver, error) from error

    def _transfer(self, desk: Desk, todo: Sequence[Item], done: dict[str, Receipt]) -> None:
        """Share the objects among the pool's threads; returns when all are done, failed or given up."""
        source = iter(todo)
        pool = self.engine.pool
        assert pool is not None

        def next_item() -> Item | None:
            with self._mutex:
                if self._dataset_stop or self.engine.stop.is_set():
                    return None
                return next(source, None)

        def lane() -> bool:
            """Whether there may be more to do."""
            for _ in range(LANE_ITEMS):
                item = next_item()
                if item is None:
                    return False
                self._one(desk, item, done)
            return True

        lanes: list[Future[bool]] = [pool.submit(lane) for _ in range(min(WORKERS, len(todo)))]
        while lanes:
            more = lanes.pop(0).result()
            if more:
                lanes.append(pool.submit(lane))

    def _one(self, desk: Desk, item: Item, done: dict[str, Receipt]) -> None:
        mismatches = 0

        def advance(size: int) -> None:
            if size > 0 and self.engine.stop.is_set():
                raise stopped(self.name)
            self._count(0, size)

        def attempt() -> Receipt:
            nonlocal mismatches
            try:
                return desk.fetch(item, advance)
            except VerificationFailed as error:
                # Bytes may break on the way: once more, then it is the source that has others.
                mismatches += 1
                error.transient = mismatches < 2
                raise

        try:
            receipt = self.budget.call(attempt)
        except BaseException as error:
            ours = self._ours(error)
            with self._mutex:
                self._failures.append((item, ours))
                self._dataset_stop |= len(self._failures) >= FAILURES or isinstance(ours, DiskFull)
            return
        self._count(1, 0)
        self.engine.space.arrived(self.name, item.size or 0)
        with self._mutex:
            done[item.path] = receipt

    def _count(self, files: int, size: int) -> None:
        with self._mutex:
            self.status.files_done += files
            self.status.bytes_done += size

    def _remove_gone(self, desk: Desk, receipts: Receipts, wanted: set[str]) -> None:
        """Files we delivered once and the source has no more. What others put into the folder stays."""
        for receipt in receipts:
            if receipt.path not in wanted:
                desk.folder.remove(receipt.path)
                receipts.remove(receipt.path)

    def _drop_unproven(self, desk: Desk, receipts: Receipts) -> None:
        """An older version must not stand under the name of one that is pinned, or that failed its verification."""
        for item, error in self._failures:
            if self.status.locked or isinstance(error, VerificationFailed):
                desk.folder.remove(item.path)
                if receipts.get(item.path):
                    receipts.remove(item.path)

    def _failure(self, driver: Driver[Any]) -> DatamountError:
        """One error for all failed objects: the first verification error, else the first, with what drifted."""
        errors = [error for _, error in self._failures]
        first = next((e for e in errors if isinstance(e, VerificationFailed)), errors[0])
        if self.entry and isinstance(first, VerificationFailed | NotFound | Conflict):
            return self._drifted(driver, first)
        if len(errors) == 1:
            return first
        more = len(errors) - 1
        error = type(first)(
            f"{first.message} The same dataset has {more} more failed file{'' if more == 1 else 's'}.",
            hint=first.hint,
            who=first.who,
        )
        error.__cause__ = first
        return error

    def _drifted(self, driver: Driver[Any], first: DatamountError) -> VerificationFailed:
        """Say what is different at the source from what the lock pins."""
        assert self.entry is not None
        changes: list[str] = []
        try:
            pin = driver.resolve()
            changes = drift(self.entry, pin, driver.plan(pin))
        except DatamountError:
            pass  # the first error says enough
        shown = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
        where = f" Changed since the lock: {shown}." if shown else ""
        prefix = f'dataset "{self.name}": '
        error = VerificationFailed(
            f"{prefix}the source does not have the bytes that {names.LOCK} pins.{where} "
            f"{first.message.removeprefix(prefix)}",
            hint=f"If the change is meant, run `datamount lock --upgrade {self.name}` and commit {names.LOCK}.",
            who="the course's author",
        )
        error.__cause__ = first
        return error


class Space:
    """Free bytes of the data folder's disk, less what datasets on their way are going to write."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._coming: dict[str, int] = {}
        self._mutex = threading.Lock()

    def reserve(self, name: str, size: int) -> None:
        """Set `size` bytes aside for a dataset, or DiskFull with the figures."""
        with self._mutex:
            free = shutil.disk_usage(self._data).free - sum(self._coming.values())
            if size > free:
                raise DiskFull(
                    f'dataset "{name}": needs {human(size)}, and {self._data} has {human(max(free, 0))} free.',
                    hint="Free some space, or ask for a larger volume, and fetch again.",
                    who="the hub's operator",
                )
            self._coming[name] = max(size, 0)

    def arrived(self, name: str, size: int) -> None:
        with self._mutex:
            if name in self._coming:
                self._coming[name] = max(self._coming[name] - size, 0)

    def release(self, name: str) -> None:
        with self._mutex:
            self._coming.pop(name, None)


@contextlib.contextmanager
def only_one(engine: Engine, name: str) -> Iterator[None]:
    """Hold the dataset's lock in the data folder: one fetch of it at a time on this machine; others wait.

    The lock is the kernel's (flock), so it ends with the process that holds it, however that ends.
    """
    folder = engine.data / names.DATA_STATE_DIR / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if engine.stop.wait(0.1):
                    raise stopped(name) from None
        yield
    finally:
        os.close(handle)


def check_paths(name: str, items: Sequence[Item]) -> None:
    """UsageError where two objects want one path, or one is a file where another needs a folder."""
    paths = {item.path for item in items}
    seen: set[str] = set()
    for item in items:
        problem = ""
        if item.path in seen:
            problem = f'two objects would become the file "{item.path}"'
        seen.add(item.path)
        folder = item.path
        while "/" in folder and not problem:
            folder = folder.rpartition("/")[0]
            if folder in paths:
                problem = f'"{folder}" is an object and also the folder of "{item.path}"'
        if problem:
            raise UsageError(
                f'dataset "{name}": {problem}.',
                hint="Leave one of them out with `exclude`, or rename it at the source.",
                who="the course's author",
            )


def _check_frozen(course: Course, lock: LockFile, wanted: Sequence[str]) -> None:
    faults = []
    for name in wanted:
        dataset = course.manifest.datasets[name]
        entry = lock.datasets.get(name)
        if dataset.live or (entry and entry.is_for(dataset)):
            continue
        what = "is not in the lock" if entry is None else "has changed in the manifest since it was locked"
        faults.append(Fault(f'dataset "{name}" {what}.', key=name, hint="Run `datamount lock` and commit the file."))
    if faults:
        raise ManifestError(str(course.lock_path), faults)
