"""The course of one dataset: ask the source what there is, see what is missing, have it brought, say how it went."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from datamount import names
from datamount.credentials import Credential
from datamount.drivers.base import Connection, Driver, Item
from datamount.errors import Conflict, DatamountError, NotFound, VerificationFailed
from datamount.fetch.earlier import EarlierFetch
from datamount.fetch.lanes import Lanes
from datamount.fetch.locked import Gathered, LockedObjects
from datamount.fetch.means import Means
from datamount.fetch.outcome import as_ours, drifted, failure
from datamount.fetch.pins import LockEntry
from datamount.fetch.provenance import remove_record, write_record
from datamount.fetch.receipts import Receipt, Receipts
from datamount.fetch.retries import Budget, Stopped, or_stopped, silent, stopped
from datamount.fetch.shared import SharedFiles
from datamount.fetch.space import Paths, Turn
from datamount.fetch.transfer import LARGE, Abandoned, Desk
from datamount.manifest import Dataset
from datamount.status import DatasetStatus

_log = logging.getLogger(__name__)

PAGE = 500
"""Planned objects that are looked at together; transfers start after the first page."""


@dataclass(slots=True)
class Delivery:
    """How one dataset came out: its status and pin; where it is fetched for the lock, also all its objects."""

    status: DatasetStatus
    pin: Mapping[str, Any] | None = None
    objects: LockedObjects | None = None
    error: DatamountError | None = None


class Job:
    """One dataset on its way. `run` never raises; `status` and `delivery` tell how it went.

    Its own thread resolves, plans and looks at what is there; its `Lanes` transfer. The engine's thread calls `watch`
    and may give up what hangs: threads cannot be ended, so one that hangs is left behind, and touches nothing of ours
    when it wakes up.

    `pin_only`: resolve, and transfer nothing (for the lock of a source whose pin fixes its content). `for_lock`: what
    a fetch that did not end has left does not count, since a lock is of one version.
    """

    def __init__(
        self,
        means: Means,
        name: str,
        dataset: Dataset,
        entry: LockEntry | None,
        *,
        pin_only: bool = False,
        for_lock: bool = False,
    ) -> None:
        self.name = name
        self.dataset = dataset
        self.status = DatasetStatus(
            kind=dataset.kind,
            title=dataset.title,
            license=dataset.license,
            citation=dataset.citation,
            path=str(means.data / name),
            optional=dataset.optional,
            background=dataset.when == "background",
        )
        self.delivery = Delivery(self.status)
        self.credential: Credential | None = None
        self._means = means
        self._pin_only, self._for_lock = pin_only, for_lock
        self._budget = Budget(means.policy, means.stop)
        self._driver: Driver[Any] | None = None
        self._early: BaseException | None = None
        self._mutex = threading.Lock()
        self._left = False
        self._asked: float | None = None
        """Since when the source has been resolving or listing; None while it is not asked."""
        self._planned = False
        """Whether the source has told all that there is: only then is what it did not name gone."""
        self._turn = Turn(means.data, name)
        self._lanes: Lanes | None = None
        self._entry: LockEntry | None = None
        if entry is not None and not dataset.live:
            if entry.is_for(dataset):
                self._entry = entry
                self.status.locked = True
            else:
                self.status.warnings.append(
                    f"{names.LOCK} was written for an older declaration of this dataset, so it is not used: "
                    f"the data is what the source has now. Run `datamount lock`."
                )

    @property
    def work(self) -> int:
        """What was done, in units of about one small object, for the pace."""
        return self._lanes.work if self._lanes else 0

    def connect(self) -> Connection | None:
        """What the dataset hands to programs; None where its driver cannot be made (then `run` reports why)."""
        try:
            asked = self.dataset.source.credential
            self.credential = self._means.credentials.get(asked, dataset=self.name) if asked else None
            self._driver = self._means.opener(self.name, self.dataset, self.credential)
            self._driver.alive = self._still_asked
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
        error: DatamountError | None = None
        try:
            if self._early is not None:
                raise self._early
            driver = self._driver
            assert driver is not None
            if self._pin_only:
                self.delivery.pin = self._ask(driver.resolve)
            else:
                self._turn.take(self._means.stop)
                self._deliver(driver)
        except BaseException as raised:
            error = as_ours(raised, self.name, self.dataset.kind)
        finally:
            self._turn.give()
            self._means.space.release(self.name)
            with self._mutex:
                if not self._left:
                    self._end(or_stopped(error, self.name, self._means.stop), time.monotonic() - started)

    def watch(self, now: float) -> bool:
        """Give up what the source lets hang; whether the whole dataset was given up, though its thread goes on."""
        stall = self._means.policy.stall
        asked = self._asked
        if self._lanes is not None:
            self._lanes.watch(now)
        if asked is not None and now - asked > stall:
            self._leave(silent(self.name, f"asking {self.dataset.kind} what there is", stall))
        return self._left

    def leave(self) -> None:
        """Called when the fetch ends while this dataset's thread hangs."""
        self._leave(stopped(self.name))

    def _leave(self, error: DatamountError) -> None:
        with self._mutex:
            if not self._left:
                self._left = True
                if self._lanes is not None:
                    self._lanes.leave()
                self._end(error, self.status.seconds)
        self._turn.give()

    def _end(self, error: DatamountError | None, seconds: float) -> None:
        status = self.status
        status.seconds = round(seconds, 3)
        told = self._driver.warnings if self._driver is not None else []
        status.warnings += [sentence for sentence in told if sentence not in status.warnings]
        if error is None:
            status.state = "ready"
        elif isinstance(error, Stopped):
            status.state = "pending"
            self.delivery.error = error
        else:
            self.delivery.error = error
            status.error = error.problem()
            status.state = "partial" if status.files_done else "failed"
        _log.info(
            "dataset %s: %s, %d files, %d bytes, %.1f s",
            self.name,
            status.state,
            status.files_done,
            status.bytes_done,
            status.seconds,
        )

    # --- Questions ----------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The source's answer, with retries; `watch` sees when it does not come."""

        def ask() -> Any:
            self._asked = time.monotonic()
            try:
                answer = question()
            finally:
                self._asked = None
            if self._left:
                raise Abandoned
            return answer

        return self._budget.call(ask)

    def _still_asked(self) -> None:
        """The source goes on to answer: `watch` waits for it from now on anew."""
        if self._left:
            raise Abandoned
        if self._means.stop.is_set():
            raise stopped(self.name)
        if self._asked is not None:
            self._asked = time.monotonic()

    def _locked(
        self, entry: LockEntry, objects: LockedObjects, desk: Desk, driver: Driver[Any]
    ) -> Iterator[tuple[Item, Receipt | None]]:
        """The pinned objects, each with its receipt where it is there already.

        Where some must be fetched, the source is asked first whether the pinned version is there still. If it is not,
        nothing else may stand under its names.
        """
        there = [self._complete(desk, item) for item in objects.items()]
        if not all(there):
            try:
                self._ask(lambda: driver.resolve(entry.pin))
            except (VerificationFailed, NotFound, Conflict) as error:
                missing = (item for item, receipt in zip(objects.items(), there, strict=True) if receipt is None)
                self._drop_unproven(desk, ((item, error) for item in missing))
                raise drifted(self.name, entry, driver, error) from error
        return zip(objects.items(), there, strict=True)

    def _pages(self, driver: Driver[Any], pin: Mapping[str, Any], known: Paths) -> Iterator[list[Item]]:
        """The plan, as it comes. A listing that breaks is begun again, and what is `known` by then is passed over."""
        if getattr(self.dataset.source, "access", "copy") == "remote":
            return
        source: Iterator[Item] | None = None
        again = False
        size = PAGE if driver.streams_plan else None

        def page() -> list[Item]:
            nonlocal source, again
            if source is None:
                source = iter(driver.plan(pin))
            try:
                return list(itertools.islice(source, size))
            except BaseException:
                source, again = None, True
                raise

        while found := self._ask(page):
            yield [item for item in found if item.path not in known] if again else found

    # --- Delivery -----------------------------------------------------------------------------------------------

    def _deliver(self, driver: Driver[Any]) -> None:
        means = self._means
        receipts = Receipts(means.data / names.DATA_STATE_DIR / "receipts" / f"{self.name}.jsonl")
        try:
            with Desk(means.data, self.name, driver, receipts, crew=means.crew, memory=means.memory) as desk:
                driver.earlier = EarlierFetch(
                    means.data, self.name, self.dataset, receipts, desk.folder, for_lock=self._for_lock
                )
                shelf = means.cache.shelf(self.dataset, self.credential) if means.cache else None
                driver.shared = SharedFiles(shelf, means.stop, driver.alive) if shelf else None
                self._lanes = Lanes(self.name, means, budget=self._budget, driver=driver, desk=desk, status=self.status)
                self._lanes.shelf = shelf
                if self._left:
                    self._lanes.leave()
                with contextlib.closing(Gathered()) if self._for_lock else contextlib.nullcontext() as gathered:
                    self._deliver_all(self._lanes, desk, driver, receipts, gathered)
        except BaseException:
            remove_record(means.data, self.name)
            raise
        finally:
            receipts.close()

    def _deliver_all(
        self, lanes: Lanes, desk: Desk, driver: Driver[Any], receipts: Receipts, gathered: Gathered | None
    ) -> None:
        entry, paths = self._entry, Paths(self.name)
        pin: Mapping[str, Any]
        plan: Iterable[Iterable[tuple[Item, Receipt | None]]]
        try:
            if entry is not None and entry.objects is not None:
                pin = entry.pin
                locked = self._locked(entry, entry.objects, desk, driver)
                plan = iter(lambda: list(itertools.islice(locked, PAGE)), [])
            else:
                pin = self._ask(lambda: driver.resolve(entry.pin if entry else None))
                plan = (
                    ((item, self._complete(desk, item)) for item in page) for page in self._pages(driver, pin, paths)
                )
            self.status.pin = dict(pin)
            lanes.transfer(self._todo(plan, paths=paths, lanes=lanes, desk=desk, gathered=gathered))
        except DatamountError as error:
            if len(receipts) and not lanes.complete and not isinstance(error, Stopped):
                self.status.warnings.append("The files of an earlier fetch are still there.")
            raise
        with desk.folder.parent("_", make=True):
            pass  # a dataset of no files is an empty folder
        if self._planned:
            self._remove_gone(desk, receipts, paths)
        self.delivery.pin = pin
        if lanes.failures:
            self._drop_unproven(desk, lanes.failures)
            raise failure(self.name, [error for _, error in lanes.failures], self._entry, driver)
        if not self._planned or lanes.complete < len(paths):
            raise stopped(self.name)
        desk.sweep()
        if gathered is not None:
            self.delivery.objects = gathered.locked(receipts.content)
        delivered = (receipt for receipt in receipts if receipt.path in paths)
        write_record(self._means.data, self.name, self.dataset, pin=pin, locked=self.status.locked, files=delivered)
        self.status.files_total, self.status.bytes_total = len(paths), self.status.bytes_done

    def _complete(self, desk: Desk, item: Item) -> Receipt | None:
        """As `Desk.complete`, which may have to read files; the error of `stopped` where the fetch ends meanwhile."""
        if self._means.stop.is_set():
            raise stopped(self.name)
        return desk.complete(item)

    def _todo(
        self,
        pages: Iterable[Iterable[tuple[Item, Receipt | None]]],
        *,
        paths: Paths,
        lanes: Lanes,
        desk: Desk,
        gathered: Gathered | None,
    ) -> Iterator[list[Item]]:
        """Of each page what must be transferred, with its room reserved. Where it is for the lock, `gathered` gets all.

        While the plan is not known to fit into the disk with ease, nothing is handed out before its end.
        """
        space = self._means.space
        held: list[Item] = []
        ease = space.free() // 2
        needed = 0
        self.status.bytes_total = 0
        for page in pages:
            todo = []
            for item, receipt in page:
                paths.add(item.path)
                if gathered is not None:
                    gathered.add(item)
                self.status.bytes_total += item.size or 0
                if receipt is None:
                    todo.append(item)
                else:
                    lanes.there(receipt)
            self.status.files_total = len(paths)
            more = sum((i.size or 0) - (desk.partial_bytes(i) if (i.size or 0) > LARGE else 0) for i in todo)
            space.reserve(self.name, more)
            needed += more
            held += todo
            if needed <= ease and held:
                yield held
                held = []
        self._planned = True
        if held:
            yield held

    def _remove_gone(self, desk: Desk, receipts: Receipts, wanted: Paths) -> None:
        """Files we delivered once and the source has no more. What others put into the folder stays."""
        for receipt in receipts:
            if receipt.path not in wanted:
                desk.folder.remove(receipt.path)
                receipts.remove(receipt.path)

    def _drop_unproven(self, desk: Desk, failures: Iterable[tuple[Item, DatamountError]]) -> None:
        """An older version must not stand under the name of one that is pinned, or that failed its verification."""
        for item, error in failures:
            if self.status.locked or isinstance(error, VerificationFailed):
                desk.folder.remove(item.path)
                if desk.receipts.get(item.path):
                    desk.receipts.remove(item.path)
