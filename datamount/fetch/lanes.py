"""One dataset's objects on their way: as many lanes as help, each a thread of the crew that brings one at a time.

An object comes from the node cache or else the source, is tried again after errors that may pass, and is given up by
`watch` where nothing of it arrives any more: threads cannot be ended, so one that hangs is left behind, and touches
nothing of ours when it wakes up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datamount.drivers.base import Driver, Item
from datamount.errors import DatamountError, DiskFull, VerificationFailed
from datamount.fetch.cache import Shelf
from datamount.fetch.means import Means
from datamount.fetch.outcome import as_ours
from datamount.fetch.receipts import Receipt
from datamount.fetch.retries import Budget, Stopped, or_stopped, silent, stopped
from datamount.fetch.transfer import LARGE, Abandoned, Attempt, Desk
from datamount.status import DatasetStatus

_log = logging.getLogger(__name__)

LANE_ITEMS = 64
"""Objects that a thread takes from one dataset before the next dataset has its turn."""
FAILURES = 10
"""Failed objects after which the rest of a dataset is not tried."""
BATCH_ITEMS = 256
BATCH_BYTES = 16 << 20
"""What one `open_many` is asked for at most: enough that its cost does not count, little enough to try again."""
WAITING = 10_000
"""Objects that wait for a lane at most; a listing that is quicker waits, so that no plan takes much memory."""


class Lanes:
    """Brings a dataset's objects to its desk. `status` counts them, `failures` has those that did not come."""

    def __init__(
        self, name: str, means: Means, *, budget: Budget, driver: Driver[Any], desk: Desk, status: DatasetStatus
    ) -> None:
        self.name = name
        self.shelf: Shelf | None = None
        """Where the node cache has this source's objects; set once the source has let this session in."""
        self.failures: list[tuple[Item, DatamountError]] = []
        self.complete = 0
        """Objects that are at their place."""
        self.work = 0
        """What was done, in units of about one small object, for the pace."""
        self._means, self._budget, self._driver, self._desk, self._status = means, budget, driver, desk, status
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._queue: deque[Item] = deque()
        self._open = 0
        self._attempts: dict[Attempt, Mapping[str, Item]] = {}
        """Under way, each with the objects, by path, that it has still to bring."""
        self._stalls: dict[str, int] = {}
        self._moving = self._ended = self._left = False

    # --- From the dataset's thread ------------------------------------------------------------------------------

    def there(self, receipt: Receipt) -> None:
        """An object that needs no transfer."""
        self._count(1, receipt.size)
        with self._mutex:
            self.complete += 1

    def transfer(self, pages: Iterable[list[Item]]) -> None:
        """Bring all objects of the pages; returns when each is done, failed or given up."""
        with self._means.pace.moving():
            self._moving = True
            try:
                for page in pages:
                    with self._changed:
                        self._queue.extend(page)
                        self._open_lanes()
                        while len(self._queue) > WAITING and not self._stopping():
                            self._changed.wait(1.0)
                    if self._stopping():
                        break
            except BaseException:
                self._ended = True
                raise
            finally:
                with self._changed:
                    while self._open and not self._left:
                        self._changed.wait(1.0)
                self._moving = False

    # --- From the engine's thread -------------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Give up transfers of which nothing arrives any more; open more lanes where that helps."""
        stall = self._means.policy.stall
        with self._mutex:
            stalled = [attempt for attempt in self._attempts if now - attempt.touched > stall]
        for attempt in stalled:
            self._give_up(attempt)
        if self._moving:
            self._open_lanes()

    def leave(self) -> None:
        """Let everything lie as it is: from now on nothing is counted, placed or waited for."""
        with self._changed:
            self._left = self._ended = True
            for attempt in self._attempts:
                attempt.abandon()
            self._changed.notify_all()

    def _give_up(self, attempt: Attempt) -> None:
        """Leave a transfer that hangs behind, with its thread; what it did not bring is tried once more by another."""
        with self._changed:
            left = self._attempts.pop(attempt, None)
            if left is None:
                return
            attempt.abandon()
            attempt.give_back()
            self._open -= 1
            for path, item in left.items():
                self._desk.give_up(item)
                stalls = self._stalls[path] = self._stalls.get(path, 0) + 1
                if stalls < 2 and not self._stopping():
                    self._queue.append(item)
                else:
                    self._fail(item, silent(self.name, f'the transfer of "{path}"', self._means.policy.stall))
            self._open_lanes()  # before anybody sees that no lane is open, though there is more to do
            self._changed.notify_all()

    # --- Lanes --------------------------------------------------------------------------------------------------

    def _stopping(self) -> bool:
        return self._ended or self._means.stop.is_set()

    def _open_lanes(self) -> None:
        limit = self._means.pace.lanes()
        with self._mutex:
            opened = 0
            while not self._stopping() and self._open < min(limit, self._open + len(self._queue) - opened):
                self._open += 1
                opened += 1
                self._means.crew.submit(self._lane)

    def _lane(self) -> None:
        """Transfer some objects, then let others have the thread; never raises."""
        try:
            for _ in range(LANE_ITEMS):
                batch = self._next()
                if not batch:
                    return
                if len(batch) > 1:
                    self._many(batch)
                else:
                    self._one(batch[0])
            self._pass_on()
        except Abandoned:
            return  # `_give_up` has counted this lane off
        except BaseException as error:  # a bug of ours must not leave the dataset waiting for this lane
            with self._changed:
                self.failures.append((Item("", None, ""), self._ours(error)))
                self._ended = True
                self._close_lane()

    def _pass_on(self) -> None:
        """Queue up again behind the other datasets' lanes, where there is more to do."""
        with self._changed:
            if self._queue and not self._stopping() and self._open <= self._means.pace.lanes():
                self._means.crew.submit(self._lane)
            else:
                self._close_lane()

    def _close_lane(self) -> None:
        """Count this lane off. In one breath with finding nothing to do: else what is queued meanwhile has no lane."""
        self._open -= 1
        self._changed.notify_all()

    def _next(self) -> list[Item]:
        """The next object, or several small neighbours where the driver brings them at once. Of none the lane ends."""
        with self._changed:
            if self._stopping() or not self._queue:
                self._close_lane()
                return []
            batch = [self._queue.popleft()]
            if len(self._queue) == WAITING // 2:
                self._changed.notify_all()
            if not self._driver.supports_batches or (batch[0].size or 0) > LARGE or self._stalls:
                return batch
            size = batch[0].size or 0
            share = max(1, len(self._queue) // self._means.pace.lanes())
            while self._queue and len(batch) < min(BATCH_ITEMS, share):
                size += self._queue[0].size or 0
                if size > BATCH_BYTES or (self._queue[0].size or 0) > LARGE:
                    break
                batch.append(self._queue.popleft())
            return batch

    # --- Objects ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _attempt(self, left: Mapping[str, Item]) -> Iterator[Attempt]:
        """One try at some objects that `watch` sees."""
        planned = all(item.size is not None for item in left.values())

        def count(size: int) -> None:
            if size > 0 and self._means.stop.is_set():
                raise stopped(self.name)
            if not planned:
                self._means.space.unplanned(self.name, size)
            self._count(0, size)

        attempt = Attempt(count)
        with self._mutex:
            self._attempts[attempt] = left
        try:
            yield attempt
        finally:
            with self._mutex:
                self._attempts.pop(attempt, None)
            if attempt.abandoned:  # also where it ends with an error at last: that is nobody's any more
                raise Abandoned

    def _one(self, item: Item) -> None:
        mismatches = 0

        def attempt() -> Receipt:
            nonlocal mismatches
            try:
                with self._attempt({item.path: item}) as watched:
                    return self._obtain(item, watched)
            except VerificationFailed as error:
                # Bytes may break on the way: once more, then it is the source that has others.
                mismatches += 1
                error.transient = mismatches < 2
                raise

        try:
            self._finished(item, self._budget.call(attempt, there=lambda: self._desk.partial_bytes(item)))
        except Abandoned:
            raise
        except BaseException as error:
            self._fail(item, self._ours(error))

    def _obtain(self, item: Item, attempt: Attempt) -> Receipt:
        """The object at its place, from the node cache or else the source."""
        desk, shelf = self._desk, self.shelf
        if shelf is None or not shelf.keeps(item):
            return desk.fetch(item, attempt)
        with shelf.only_one(item, attempt, self._means.stop):
            if (receipt := shelf.serve(item, attempt, desk)) is None:
                receipt = desk.fetch(item, attempt)
                shelf.put(item, receipt, desk)
            return receipt

    def _many(self, batch: list[Item]) -> None:
        """Objects that the driver brings in one stream; what fails or does not come is tried one by one."""
        desk, shelf = self._desk, self.shelf
        left = {item.path: item for item in batch}

        def arrived(item: Item, receipt: Receipt) -> None:
            # In one breath: nobody waits for a lane that is given up in between, and its object would seem missing.
            with self._mutex:
                if watched.abandoned:
                    raise Abandoned  # it is another lane's by now, though it is there
                del left[item.path]
                self._finished(item, receipt)

        try:
            with contextlib.ExitStack() as stack:
                watched = stack.enter_context(self._attempt(left))
                if shelf is not None:
                    stack.enter_context(shelf.only_one(batch[0], watched, self._means.stop))
                    for item in batch:
                        if (receipt := shelf.serve(item, watched, desk)) is not None:
                            arrived(item, receipt)
                if left:
                    pairs = self._driver.open_many(list(left.values()))
                    stack.callback(getattr(pairs, "close", lambda: None))
                    for item, body in pairs:
                        receipt = desk.fetch(item, watched, body)
                        if shelf is not None:
                            shelf.put(item, receipt, desk)
                        arrived(item, receipt)
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
        self._means.space.arrived(self.name, item.size or 0)
        self._budget.progressed()
        with self._mutex:
            self.complete += 1
            self.work += 1 + (receipt.size >> 18)

    def _fail(self, item: Item, error: DatamountError) -> None:
        if isinstance(or_stopped(error, self.name, self._means.stop), Stopped):
            return
        with self._mutex:
            self.failures.append((item, error))
            self._ended |= len(self.failures) >= FAILURES or isinstance(error, DiskFull)

    def _count(self, files: int, size: int) -> None:
        with self._mutex:
            if not self._left:
                self._status.files_done += files
                self._status.bytes_done += size

    def _ours(self, error: BaseException) -> DatamountError:
        return as_ours(error, self.name, self._status.kind)
