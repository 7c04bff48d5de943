"""The prefetch engine: plan → transfer → verify → place, for all datasets of a course at once.

One dataset's failure never stops another's. A fetch may be killed at any instant and run again: what was complete is
neither fetched again nor trusted without proof (see `receipts`). Two fetches of one dataset, in one process or in
several, do not disturb each other: the second waits and finds all complete.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamount import names
from datamount.credentials import Credentials
from datamount.drivers import open_driver
from datamount.drivers.base import Connection
from datamount.errors import DatamountError, Fault, ManifestError, PartlyDelivered, UsageError, from_problem
from datamount.fetch.environment import dataset_variables, masked, write_environment
from datamount.fetch.job import Delivery, Job
from datamount.fetch.means import Means, Opener
from datamount.fetch.pins import LockFile, read_lock
from datamount.fetch.retries import Policy
from datamount.fetch.space import Space
from datamount.progress import Progress, Silent
from datamount.status import Status, StatusFile, read_status

if TYPE_CHECKING:
    from datamount.course import Course
    from datamount.fetch.cache import Cache

__all__ = ["Delivery", "Engine", "Opener", "exit_error", "fetch"]

TICK = 0.1
"""Seconds between two looks at the work."""
GRACE = 3.0
"""Seconds that threads have to end in after they were told to stop; those that hang are left behind."""


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
    budget: float | None = None,
    cache: Cache | None = None,
) -> Status:
    """Bring every dataset of the course to `<data>/<name>`, verified; returns what `<run>/status.json` says.

    `only`: names of datasets, others are left as they are. `background`: None for all, False for those the start
    waits for, True for the others. With `frozen` every dataset that is not `live` must have a lock entry that fits.

    After `budget` seconds (default: no limit) it returns, whatever hangs: what is unfinished has the state "pending",
    no error, and goes on where it was at the next fetch. `cache`: where other fetches on this machine leave what they
    brought; default: the folder of $DATAMOUNT_CACHE, if that is set.

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
    if cache is None:
        from datamount.fetch.cache import default_cache

        cache = default_cache()
    engine = Engine(
        course, data, run, credentials=credentials, progress=progress, opener=opener, policy=policy, cache=cache
    )
    try:
        lock = read_lock(course.lock_path)
        if frozen:
            _check_frozen(course, lock, wanted)
    except ManifestError as error:
        engine.refuse(error)
        raise
    engine.deliver(wanted, lock, budget=budget)
    return engine.status


def exit_error(status: Status, only: Sequence[str] = ()) -> DatamountError | None:
    """The error a command ends with, by the datasets that are not optional; None when nothing is missing.

    With `only`, by these datasets alone: what an earlier run left undone elsewhere was not asked for.
    PartlyDelivered when some datasets are there; when none is, the kind of the first error.
    """
    if status.error:
        return from_problem(status.error)
    asked = {n: d for n, d in status.datasets.items() if not only or n in only}
    failed = {n: d for n, d in asked.items() if d.error and d.state in ("failed", "partial")}
    needed = {n: d for n, d in failed.items() if not d.optional}
    if not needed:
        return None
    errors = [from_problem(d.error) for d in needed.values() if d.error]
    delivered = any(d.state == "ready" for d in asked.values())
    if len(errors) == 1 and not delivered:
        return errors[0]
    sentence = "\n  ".join(e.sentence() for e in errors)
    kind = PartlyDelivered if delivered else type(errors[0])
    return kind(f"{len(needed)} of {len(asked)} datasets could not be delivered:\n  {sentence}")


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
        cache: Cache | None = None,
    ) -> None:
        self.course = course
        self.run = run.absolute()
        data = data.absolute()
        self.means = Means(
            data=data,
            credentials=credentials,
            opener=opener,
            policy=policy or Policy(),
            cache=cache,
            space=Space(data),
        )
        self.status = Status(course=course.identity)
        self._progress = progress or Silent()
        self._file: StatusFile | None = None
        self._told: set[str] = set()

    def refuse(self, error: DatamountError) -> None:
        """Write the environment and a status that says why nothing is fetched."""
        self._open({})
        self.status.error = error.problem()
        self._write_status()

    def deliver(
        self,
        wanted: Sequence[str],
        lock: LockFile,
        *,
        pin_only: Collection[str] = frozenset(),
        for_lock: bool = False,
        budget: float | None = None,
    ) -> dict[str, Delivery]:
        """Fetch the named datasets (of kinds in `pin_only`: resolve); each ends in a Delivery, whatever happens.

        `for_lock`: what a fetch that did not end has left is of another instant, so it is not taken.
        """
        until = None if budget is None else time.monotonic() + budget
        jobs = {
            name: Job(
                self.means,
                name,
                dataset := self.course.manifest.datasets[name],
                lock.datasets.get(name),
                pin_only=dataset.kind in pin_only,
                for_lock=for_lock,
            )
            for name in wanted
        }
        self._open(jobs)
        threads = {
            name: threading.Thread(target=job.run, name=f"dataset-{name}", daemon=True) for name, job in jobs.items()
        }
        try:
            for thread in threads.values():
                thread.start()
            self._watch(jobs, threads, until)
        finally:
            self._finish(jobs, threads)
        return {name: job.delivery for name, job in jobs.items()}

    def _finish(self, jobs: Mapping[str, Job], threads: Mapping[str, threading.Thread]) -> None:
        """Stop what is under way, and leave behind what does not stop."""
        self.means.stop.set()
        until = time.monotonic() + GRACE
        for name, thread in threads.items():
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                jobs[name].leave()
            self._tell(name, jobs[name])
        closing = [threading.Thread(target=job.close, daemon=True) for job in jobs.values()]
        for thread in closing:  # a driver may wait for its own thread that hangs
            thread.start()
        for thread in closing:
            thread.join(max(0.5, until - time.monotonic()))
        self.means.crew.close(0.5)
        if self.means.cache is not None:
            self.means.cache.prune_if_grown()
        self._write_status()
        self._progress.close()

    def _open(self, jobs: Mapping[str, Job]) -> None:
        """Everything a notebook looks for, before the first byte: folders, env, connection files, status."""
        try:
            self.means.data.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the folder {error.filename} cannot be made ({error.strerror}).",
                hint="Choose others with --data and --run, or set DATAMOUNT_HOME.",
                who="you",
            ) from error
        before = read_status(self.run / names.STATUS_FILE)
        connections: dict[str, Connection | None] = {}
        for name, dataset in self.course.manifest.datasets.items():
            job = jobs.get(name) or Job(self.means, name, dataset, None)
            connection = connections[name] = job.connect()
            status = job.status
            if name not in jobs:
                old = before.datasets.get(name) if before else None
                job.close()
                if old and old.kind == dataset.kind:
                    status = old
                status.error = status.error if status.state in ("failed", "partial") else None
            status.variables = masked(dataset_variables(name, self.means.data, self.run, connection), job.credential)
            self.status.datasets[name] = status
        write_environment(connections, self.means.data, self.run)
        self._write_status()

    def _watch(self, jobs: Mapping[str, Job], threads: Mapping[str, threading.Thread], until: float | None) -> None:
        """Show progress until every thread has ended or time is up; status.json follows about once a second."""
        left = dict(threads)
        written = time.monotonic()
        while left and (until is None or time.monotonic() < until):
            next(iter(left.values())).join(TICK)
            self.means.pace.look(sum(job.work for job in jobs.values()))
            now = time.monotonic()
            for name, thread in list(left.items()):
                job = jobs[name]
                if thread.is_alive() and not job.watch(now):
                    self._progress.update(name, job.status)
                else:
                    del left[name]
                    self._tell(name, job)
                    written = 0.0
            if now - written > 1.0:
                self._write_status()
                written = now

    def _tell(self, name: str, job: Job) -> None:
        """A dataset's end, once."""
        if name not in self._told:
            self._told.add(name)
            self._progress.finish(name, job.status)

    def _write_status(self) -> None:
        if self._file is None:
            self._file = StatusFile(self.run / names.STATUS_FILE, self.status)
        self._file.write()


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
        raise ManifestError(str(course.lock_path), faults, hint="")
