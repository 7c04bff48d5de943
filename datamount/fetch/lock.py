"""Writing and checking datamount.lock (`pins` has its models)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamount.credentials import Credentials
from datamount.drivers import Driver, Pin, open_driver
from datamount.errors import DatamountError, UsageError
from datamount.fetch.engine import Delivery, Engine, Opener
from datamount.fetch.pins import (
    FIXED_BY_PIN,
    LockEntry,
    LockFile,
    declaration,
    drift,
    drift_at,
    dump,
    in_order,
    read_lock,
    write_lock,
)
from datamount.fetch.retries import Policy
from datamount.progress import Progress
from datamount.status import Status

if TYPE_CHECKING:
    from datamount.course import Course

__all__ = ["LockEntry", "LockFile", "Locking", "check", "dump", "lock", "read_lock", "write_lock"]


@dataclass(frozen=True, slots=True)
class Locking:
    """What `lock` did. `changes` has, for each dataset that was resolved anew, what is different from before."""

    lock: LockFile
    status: Status
    kept: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changes: dict[str, list[str]] = field(default_factory=dict)


def lock(
    course: Course,
    data: Path | None = None,
    *,
    credentials: Credentials,
    upgrade: Sequence[str] = (),
    progress: Progress | None = None,
    opener: Opener = open_driver,
    policy: Policy | None = None,
) -> Locking:
    """Write the course's datamount.lock: each dataset that has no fitting entry, or is in `upgrade`, resolved anew.

    Digests are of bytes that passed through here: they are fetched into `data`, where a following fetch finds them
    (without `data`: into a temporary folder). An entry whose dataset failed stays as it was; what succeeded is
    written all the same, and the failures are in the status. Raises UsageError for unknown names in `upgrade`,
    ManifestError for a lock that cannot be read.
    """
    datasets = course.manifest.datasets
    unknown = [name for name in upgrade if name not in datasets]
    if unknown:
        raise UsageError(
            f"the course has no dataset {', '.join(map(repr, unknown))}.",
            hint=f"It has: {', '.join(datasets) or 'none'}.",
            who="you",
        )
    before = read_lock(course.lock_path)
    entries = {n: e for n, e in before.datasets.items() if n in datasets and not datasets[n].live}
    kept = tuple(n for n, e in entries.items() if e.is_for(datasets[n]) and n not in upgrade)
    wanted = [n for n, d in datasets.items() if not d.live and n not in kept]
    with tempfile.TemporaryDirectory(prefix="datamount-lock-") as scratch:
        engine = Engine(
            course,
            data or Path(scratch) / "data",
            Path(scratch) / "run",
            credentials=credentials,
            progress=progress,
            opener=opener,
            policy=policy,
        )
        deliveries = engine.deliver(wanted, LockFile(), pin_only=FIXED_BY_PIN.keys(), for_lock=True)
    changes: dict[str, list[str]] = {}
    for name, delivery in deliveries.items():
        if delivery.error is not None:
            continue
        old = entries.get(name)
        entries[name] = _entry(course, name, delivery)
        found = delivery.objects.items() if delivery.objects else ()
        changes[name] = drift(old, delivery.pin or {}, found) if old else []
    after = LockFile(datasets=entries)
    if after != before or not course.lock_path.exists():
        write_lock(course.lock_path, after)
    removed = tuple(sorted(before.datasets.keys() - entries.keys()))
    status = engine.status
    status.datasets = {name: delivery.status for name, delivery in deliveries.items()}
    return Locking(after, status, kept, removed, changes)


def check(
    course: Course, *, credentials: Credentials, opener: Opener = open_driver
) -> dict[str, list[str] | DatamountError | None]:
    """For each locked dataset what is different at its source now; an error where it could not be asked.

    None where only reading all of it would tell (a database whose tables are there still). Lists the sources and
    reads no object, but for an archive that is another than the lock's.
    """
    found: dict[str, list[str] | DatamountError | None] = {}
    entries = read_lock(course.lock_path).datasets
    for name, dataset in course.manifest.datasets.items():
        entry = entries.get(name)
        if entry is None or dataset.live or not entry.is_for(dataset):
            continue
        try:
            asked = dataset.source.credential
            driver = opener(name, dataset, credentials.get(asked, dataset=name) if asked else None)
            try:
                pin = driver.resolve()
                found[name] = _drift(entry, pin, driver)
            finally:
                driver.close()
        except DatamountError as error:
            found[name] = error
    return found


def _drift(entry: LockEntry, pin: Pin, driver: Driver[Any]) -> list[str] | None:
    if entry.objects is None:
        return drift(entry, pin, ())
    if driver.keeps_versions:
        return drift_at(driver, entry, pin)
    then = {locked.path: locked.identity for locked in entry.objects}
    now = [replace(item, identity=then.get(item.path, item.identity)) for item in driver.plan(pin)]
    return drift(entry, pin, in_order(now)) or None


def _entry(course: Course, name: str, delivery: Delivery) -> LockEntry:
    dataset = course.manifest.datasets[name]
    return LockEntry(
        kind=dataset.kind,
        declaration=declaration(dataset),
        pin=dict(delivery.pin or {}),
        objects=None if dataset.kind in FIXED_BY_PIN else delivery.objects,
    )
