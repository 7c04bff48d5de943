"""One dataset on its way from its source into the data folder."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datamount import names
from datamount.credentials import Credential
from datamount.drivers.base import Connection, Driver, Item
from datamount.errors import Conflict, DatamountError, DiskFull, NotFound, VerificationFailed
from datamount.fetch.earlier import EarlierFetch
from datamount.fetch.pins import LockEntry, drift
from datamount.fetch.provenance import remove_record, write_record
from datamount.fetch.receipts import Receipt, Receipts
from datamount.fetch.retries import Budget, Stopped, silent, stopped
from datamount.fetch.space import Paths, Turn
from datamount.fetch.transfer import LARGE, Abandoned, Attempt, Desk, local_error
from datamount.manifest import Dataset
from datamount.status import DatasetStatus

if TYPE_CHECKING:
    from datamount.fetch.cache import Shelf
    from datamount.fetch.engine import Engine

_log = logging.getLogger(__name__)

LANE_ITEMS = 64
"""Objects that a thread takes from one dataset before the next dataset has its turn."""
FAILURES = 10
"""Failed objects after which the rest of a dataset is not tried."""
BATCH_ITEMS = 256
BATCH_BYTES = 16 << 20
"""What one `open_many` is asked for at most: enough that its cost does not count, little enough to try again."""
PAGE = 500
"""Planned objects that are looked at together; transfers start after the first page."""


@dataclass(slots=True)
class Delivery:
    """How one dataset came out: its status, and what the lock needs to know."""

    status: DatasetStatus
    pin: Mapping[str, Any] | None = None
    items: Sequence[Item] = ()
    receipts: Mapping[str, Receipt] = field(default_factory=dict)
    error: DatamountError | None = None


class Job:
    """One dataset on its way. `run` never raises; `status` and `delivery` tell how it went.

    Its own thread resolves, plans and looks at what is there; the engine's crew transfers, in as many lanes as the
    engine gives it. The engine's thread calls `watch` and may give up what hangs: threads cannot be ended, so one
    that hangs is left behind, and touches nothing of ours when it wakes up.
    """

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
        self.pin_only = False
        """For the lock of a source whose pin fixes its content: resolve, and transfer nothing."""
        self.for_lock = False
        """What a fetch that did not end has left must not count: a lock is of one version."""
        self.work = 0
        """What was done, in units of about one small object, for the pace."""
        self.moving = False
        self._driver: Driver[Any] | None = None
        self._early: BaseException | None = None
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._failures: list[tuple[Item, DatamountError]] = []
        self._dataset_stop = False
        self._left = False
        self._asked: float | None = None
        """Since when the source has been resolving or listing; None while it is not asked."""
        self._planned = False
        """Whether the source has told all that there is: only then is what it did not name gone."""
        self._queue: deque[Item] = deque()
        self._lanes = 0
        self._attempts: dict[Attempt, Item] = {}
        self._stalls: dict[str, int] = {}
        self._turn = Turn(engine.data, name)
        self._desk: Desk | None = None
        self._done: dict[str, Receipt] = {}
        self._shelf: Shelf | None = None
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
            if self.pin_only:
                self.delivery.pin = self._ask(driver.resolve)
            else:
                self._turn.take(self.engine.stop)
                self._deliver(driver)
        except BaseException as raised:
            error = self._ours(raised)
        finally:
            self._turn.give()
            self.engine.space.release(self.name)
            with self._mutex:
                if not self._left:
                    self._end(self._or_stopped(error), time.monotonic() - started)

    def watch(self, now: float) -> bool:
        """Give up what the source lets hang; whether the whole dataset was given up, though its thread goes on."""
        stall = self.engine.policy.stall
        with self._mutex:
            stalled = [(a, i) for a, i in self._attempts.items() if now - a.touched > stall]
            asked = self._asked
        for attempt, item in stalled:
            self._give_up(attempt, item)
        if asked is not None and now - asked > stall:
            self._leave(silent(self.name, f"asking {self.dataset.kind} what there is", stall))
        elif self.moving:
            self._open_lanes()
        return self._left

    def leave(self) -> None:
        """Called when the fetch ends while this dataset's thread hangs."""
        self._leave(stopped(self.name))

    def _leave(self, error: DatamountError) -> None:
        with self._mutex:
            if not self._left:
                self._end(error, self.status.seconds)
                self._left = self._dataset_stop = True
                for attempt in self._attempts:
                    attempt.abandon()
                self._changed.notify_all()
        self._turn.give()

    def _or_stopped(self, error: DatamountError | None) -> DatamountError | None:
        """Where the fetch is being stopped, what would have been tried again is nobody's failure yet."""
        if error is not None and error.transient and self.engine.stop.is_set():
            return stopped(self.name)
        return error

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

        return self.budget.call(ask)

    def _still_asked(self) -> None:
        """The source goes on to answer: `watch` waits for it from now on anew."""
        if self._left:
            raise Abandoned
        if self.engine.stop.is_set():
            raise stopped(self.name)
        if self._asked is not None:
            self._asked = time.monotonic()

    def _deliver(self, driver: Driver[Any]) -> None:
        receipts = Receipts(self.engine.data / names.DATA_STATE_DIR / "receipts" / f"{self.name}.jsonl")
        try:
            engine = self.engine
            with Desk(engine.data, self.name, driver, receipts, crew=engine.crew, memory=engine.memory) as desk:
                self._desk = desk
                driver.earlier = EarlierFetch(
                    engine.data, self.name, self.dataset, receipts, desk.folder, for_lock=self.for_lock
                )
                self._deliver_at(desk, driver, receipts)
        finally:
            receipts.close()

    def _deliver_at(self, desk: Desk, driver: Driver[Any], receipts: Receipts) -> None:
        try:
            self._deliver_all(desk, driver, receipts)
        except BaseException:
            remove_record(self.engine.data, self.name)
            raise

    def _deliver_all(self, desk: Desk, driver: Driver[Any], receipts: Receipts) -> None:
        locked = self.entry.items() if self.entry else None
        paths = Paths(self.name)
        items: list[Item] = []
        known: dict[str, Receipt | None] = {}
        pin: Mapping[str, Any]
        pages: Iterator[list[Item]]
        try:
            if self.entry is not None and locked is not None:
                pin, pages = self.entry.pin, iter([locked])
                known = {item.path: desk.complete(item) for item in locked}
                self._still_there([item for item in locked if known[item.path] is None], desk, driver, receipts)
            else:
                wanted = self.entry.pin if self.entry else None
                pin = self._ask(lambda: driver.resolve(wanted))
                pages = self._pages(driver, pin)
            self.status.pin = dict(pin)
            if self.engine.cache is not None:
                self._shelf = self.engine.cache.shelf(self.dataset, self.credential)
            self._transfer(self._todo(pages, paths, items, desk, known))
        except DatamountError as error:
            if len(receipts) and not self._done and not isinstance(error, Stopped):
                self.status.warnings.append("The files of an earlier fetch are still there.")
            raise
        with desk.folder.parent("_", make=True):
            pass  # a dataset of no files is an empty folder
        if self._planned:
            self._remove_gone(desk, receipts, paths)
        self.delivery.pin, self.delivery.items, self.delivery.receipts = pin, items, self._done
        if self._failures:
            self._drop_unproven(desk, receipts)
            raise self._failure(driver)
        if not self._planned or len(self._done) < len(items):
            raise stopped(self.name)
        desk.sweep()
        write_record(
            self.engine.data,
            self.name,
            self.dataset,
            pin=pin,
            locked=self.status.locked,
            files=self._done.values(),
        )
        self.status.files_total, self.status.bytes_total = len(items), self.status.bytes_done

    def _still_there(self, todo: Sequence[Item], desk: Desk, driver: Driver[Any], receipts: Receipts) -> None:
        """Where pinned objects must be fetched: ask whether the pinned version is there still.

        If it is not, nothing else may stand under its names.
        """
        assert self.entry is not None
        pin = self.entry.pin
        if not todo:
            return
        try:
            self._ask(lambda: driver.resolve(pin))
        except (VerificationFailed, NotFound, Conflict) as error:
            self._failures = [(item, error) for item in todo]
            self._drop_unproven(desk, receipts)
            raise self._drifted(driver, error) from error

    def _pages(self, driver: Driver[Any], pin: Mapping[str, Any]) -> Iterator[list[Item]]:
        """The plan, as it comes. A listing that breaks is begun again, and what was seen is passed over."""
        if getattr(self.dataset.source, "access", "copy") == "remote":
            return
        source: Iterator[Item] | None = None
        seen: set[str] = set()
        passed_over: set[str] = set()
        size = PAGE if driver.streams_plan else None

        def page() -> list[Item]:
            nonlocal source
            if source is None:
                source = iter(driver.plan(pin))
                passed_over.update(seen)
            try:
                return list(itertools.islice(source, size))
            except BaseException:
                source = None
                raise

        while found := self._ask(page):
            yield [item for item in found if item.path not in passed_over]
            seen.update(item.path for item in found)

    def _todo(
        self,
        pages: Iterable[list[Item]],
        paths: Paths,
        items: list[Item],
        desk: Desk,
        known: dict[str, Receipt | None],
    ) -> Iterator[list[Item]]:
        """Of each page what must be transferred, with its room reserved. `items` gets all of them.

        While the plan is not known to fit into the disk with ease, nothing is handed out before its end.
        """
        held: list[Item] = []
        ease = self.engine.space.free() // 2
        needed = 0
        self.status.bytes_total = 0
        for page in pages:
            todo = []
            for item in page:
                paths.add(item.path)
                receipt = known.pop(item.path) if known else desk.complete(item)
                if receipt is None:
                    todo.append(item)
                else:
                    self._done[item.path] = receipt
                    self._count(1, receipt.size)
            items += page
            self.status.files_total = len(items)
            self.status.bytes_total += sum(item.size or 0 for item in page)
            more = sum((i.size or 0) - (desk.partial_bytes(i) if (i.size or 0) > LARGE else 0) for i in todo)
            self.engine.space.reserve(self.name, more)
            needed += more
            held += todo
            if needed <= ease and held:
                yield held
                held = []
        self.status.files_total = len(items)
        self._planned = True
        if held:
            yield held

    # --- Lanes ------------------------------------------------------------------------------------------------

    def _transfer(self, pages: Iterator[list[Item]]) -> None:
        """Share the objects among the crew's threads; returns when all are done, failed or given up."""
        self.moving = True
        try:
            for page in pages:
                with self._mutex:
                    self._queue.extend(page)
                self._open_lanes()
                if self._stopping():
                    break
            with self._changed:
                while self._lanes and (not self._left):
                    self._changed.wait(1.0)
        except BaseException:
            self._dataset_stop = True
            with self._changed:
                while self._lanes and not self._left:
                    self._changed.wait(1.0)
            raise
        finally:
            self.moving = False

    def _stopping(self) -> bool:
        return self._dataset_stop or self.engine.stop.is_set()

    def _open_lanes(self) -> None:
        limit = self.engine.lanes()
        with self._mutex:
            opened = 0
            while not self._stopping() and self._lanes < min(limit, self._lanes + len(self._queue) - opened):
                self._lanes += 1
                opened += 1
                self.engine.crew.submit(self._lane)

    def _lane(self) -> None:
        """Transfer some objects, then let others have the thread; never raises."""
        try:
            for _ in range(LANE_ITEMS):
                batch = self._next()
                if not batch:
                    break
                if len(batch) > 1:
                    self._many(batch)
                else:
                    self._one(batch[0])
            else:
                with self._mutex:
                    again = bool(self._queue) and not self._stopping() and self._lanes <= self.engine.lanes()
                if again:
                    self.engine.crew.submit(self._lane)
                    return
        except Abandoned:
            return  # `_give_up` has counted this lane off
        except BaseException as error:  # a bug of ours must not leave the dataset waiting for this lane
            with self._mutex:
                self._failures.append((Item("", None, ""), self._ours(error)))
                self._dataset_stop = True
        self._close_lane()

    def _close_lane(self) -> None:
        with self._changed:
            self._lanes -= 1
            self._changed.notify_all()

    def _next(self) -> list[Item]:
        """The next object; or several neighbours, where the driver brings small ones together."""
        driver = self._driver
        with self._mutex:
            if self._stopping() or not self._queue:
                return []
            batch = [self._queue.popleft()]
            if driver is None or not driver.supports_batches or (batch[0].size or 0) > LARGE or self._stalls:
                return batch
            size = batch[0].size or 0
            share = max(1, len(self._queue) // max(self.engine.lanes(), 1))
            while self._queue and len(batch) < min(BATCH_ITEMS, share):
                size += self._queue[0].size or 0
                if size > BATCH_BYTES or (self._queue[0].size or 0) > LARGE:
                    break
                batch.append(self._queue.popleft())
            return batch

    @contextlib.contextmanager
    def _attempt(self, item: Item) -> Iterator[Attempt]:
        """One try at an object that `watch` sees."""

        def count(size: int) -> None:
            if size > 0 and self.engine.stop.is_set():
                raise stopped(self.name)
            self._count(0, size)

        attempt = Attempt(count)
        with self._mutex:
            self._attempts[attempt] = item
        try:
            yield attempt
        finally:
            with self._mutex:
                self._attempts.pop(attempt, None)
        if attempt.abandoned:
            raise Abandoned

    def _give_up(self, attempt: Attempt, item: Item) -> None:
        """Leave a transfer that hangs behind, with its thread; the object is tried once more by another."""
        assert self._desk is not None
        with self._changed:
            if self._attempts.pop(attempt, None) is None:
                return
            attempt.abandon()
            self._desk.give_up(item)
            attempt.give_back()
            self._lanes -= 1
            stalls = self._stalls[item.path] = self._stalls.get(item.path, 0) + 1
            if stalls < 2 and not self._stopping():
                self._queue.append(item)
            else:
                error = silent(self.name, f'the transfer of "{item.path}"', self.engine.policy.stall)
                self._fail_item(item, error)
            self._changed.notify_all()
        self._open_lanes()

    def _one(self, item: Item) -> None:
        mismatches = 0

        def attempt() -> Receipt:
            nonlocal mismatches
            try:
                with self._attempt(item) as watched:
                    return self._obtain(item, watched)
            except VerificationFailed as error:
                # Bytes may break on the way: once more, then it is the source that has others.
                mismatches += 1
                error.transient = mismatches < 2
                raise

        try:
            self._finished(item, self.budget.call(attempt))
        except Abandoned:
            raise
        except BaseException as error:
            self._fail_item(item, self._ours(error))

    def _obtain(self, item: Item, attempt: Attempt) -> Receipt:
        """The object at its place, from the node cache or else the source."""
        desk, shelf = self._desk, self._shelf
        assert desk is not None
        if shelf is None or not shelf.keeps(item):
            return desk.fetch(item, attempt)
        with shelf.only_one(item, attempt, self.engine.stop):
            if (receipt := shelf.serve(item, attempt, desk)) is None:
                receipt = desk.fetch(item, attempt)
                shelf.put(item, receipt, desk)
            return receipt

    def _many(self, batch: list[Item]) -> None:
        """Objects that the driver brings in one stream; what fails or does not come is tried one by one."""
        desk, driver, shelf = self._desk, self._driver, self._shelf
        assert desk is not None
        assert driver is not None
        left = {item.path: item for item in batch}
        try:
            with contextlib.ExitStack() as stack:
                watched = stack.enter_context(self._attempt(batch[0]))
                if shelf is not None:
                    stack.enter_context(shelf.only_one(batch[0], watched, self.engine.stop))
                    for item in batch:
                        if (receipt := shelf.serve(item, watched, desk)) is not None:
                            self._finished(left.pop(item.path), receipt)
                if left:
                    pairs = driver.open_many(list(left.values()))
                    stack.callback(getattr(pairs, "close", lambda: None))
                    for item, body in pairs:
                        receipt = desk.fetch(item, watched, body)
                        if shelf is not None:
                            shelf.put(item, receipt, desk)
                        self._finished(left.pop(item.path), receipt)
        except Abandoned:
            raise
        except BaseException as error:
            _log.debug("dataset %s: a batch of %d ended early: %r", self.name, len(batch), error)
        for item in left.values():
            if self._stopping():
                return
            self._one(item)

    def _finished(self, item: Item, receipt: Receipt) -> None:
        self._count(1, 0)
        self.engine.space.arrived(self.name, item.size or 0)
        with self._mutex:
            self._done[item.path] = receipt
            self.work += 1 + (receipt.size >> 18)

    def _fail_item(self, item: Item, error: DatamountError) -> None:
        if isinstance(self._or_stopped(error), Stopped):
            return
        with self._mutex:
            self._failures.append((item, error))
            self._dataset_stop |= len(self._failures) >= FAILURES or isinstance(error, DiskFull)

    def _count(self, files: int, size: int) -> None:
        with self._mutex:
            if not self._left:
                self.status.files_done += files
                self.status.bytes_done += size

    # --- Outcome ----------------------------------------------------------------------------------------------

    def _remove_gone(self, desk: Desk, receipts: Receipts, wanted: Paths) -> None:
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
