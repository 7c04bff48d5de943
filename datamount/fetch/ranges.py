"""One large object, read in several ranges at once, each written where it belongs, and hashed in order behind that.

Readers take ranges in order and write what arrives at its place in the file. Whoever wants the object reads the file
from its beginning, close behind them, and hashes that: what was just written is in the kernel's memory, so reading it
costs a copy and no disk, and nothing has to be held in ours until its turn comes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from datamount.drivers.base import Buffer
from datamount.fetch.workers import Crew, Memory

RANGE = 4 << 20
"""Bytes that are asked for at once at first. Those in flight are what a kill costs."""
LONGEST = 16 << 20
"""Bytes that are asked for at once from a quick source: its own cost of a range of 4 MiB is twice that of 16."""
QUICK = 0.25
"""Seconds; a range that takes less is followed by one of twice its length."""
AHEAD = 64 << 20
"""Bytes that readers may be in front of the hash, so that the kernel surely has in memory what is hashed next."""
BATCH = 4 << 20
PATIENCE = 0.1
"""Bytes, or seconds, that the hash waits for when it has caught up."""
FIRST_READERS = 2
MOST_READERS = 6
HELD = 1 << 20
"""Bytes that a reader and the client under it hold of a body."""

Open = Callable[[int, int | None], Iterator[Buffer]]
"""The bytes from a start up to before an end (None: the object's) of the object."""
Heartbeat = Callable[[int], None]
"""Told how many bytes arrived; raises where nobody wants them any more."""


class _Range:
    """Bytes [start, stop); those up to before `end` are in the file."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.end, self.stop = start, start, stop
        self.ended = False
        self.error: BaseException | None = None
        self.writing = threading.Lock()
        """Held while the file is written to, so that `close` can wait for that and for nothing else."""


class Ranges:
    """The bytes [start, size) of an object on their way into an open file. A context; after it nobody writes there.

    `parallel`: whether several ranges may be read at once; else it is one range, read to its end. `beat` is called by
    the readers with the bytes that arrived, and by `written` with 0 while it waits.
    """

    def __init__(
        self,
        read: Open,
        handle: int,
        start: int,
        size: int,
        *,
        parallel: bool,
        crew: Crew,
        memory: Memory,
        beat: Heartbeat,
    ) -> None:
        self._read, self._handle = read, handle
        self._size, self._parallel = size, parallel
        self._crew, self._memory, self._beat = crew, memory, beat
        self._start = self._claimed = start
        self._passed = 0
        self._ranges: deque[_Range] = deque()
        self._length = RANGE
        self._readers, self._most = 0, FIRST_READERS if parallel else 1
        self._wanted = 0
        self._closed = self._failed = False
        self._changed = threading.Condition()
        self.excess = 0
        """Bytes that the source sent beyond `size`."""

    def __enter__(self) -> Ranges:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            ranges = list(self._ranges)
            self._changed.notify_all()
        for part in ranges:
            with part.writing:  # a write under way ends; the reader itself may hang as long as it likes
                pass

    def start(self) -> None:
        """Begin, before anything is asked for."""
        if self._claimed < self._size:
            self._open_readers()

    def passed(self, position: int) -> None:
        """Everything before `position` is hashed: readers may go on. (While that is before `start`, they do anyway.)"""
        with self._changed:
            self._passed = position
            self._changed.notify_all()

    def written(self, position: int) -> int:
        """Where what is written without a gap from `position` on ends, within one range.

        Waits for some more than a little (`BATCH`), because each wait costs a change of threads, but never longer than
        PATIENCE where there is something. `position` itself where the source ended early. Raises what the reader
        raised, once everything before that was handed out.
        """
        waited = False
        while True:
            with self._changed:
                while self._ranges and self._ranges[0].stop <= position:
                    self._ranges.popleft()
                head = self._ranges[0] if self._ranges else None
                if head is not None:
                    self._wanted = min(position + BATCH, head.stop)
                    if head.end >= self._wanted or ((head.ended or waited) and head.end > position):
                        return head.end
                    if head.error is not None:
                        raise head.error
                    if head.ended:
                        return position
            self._open_readers()
            with self._changed:
                if self._is_waited_for():
                    waited = not self._changed.wait(PATIENCE)
            self._beat(0)

    def _is_waited_for(self) -> bool:
        if not self._ranges:
            return self._readers > 0
        return not self._ranges[0].ended and self._ranges[0].end < self._wanted

    def finish(self) -> None:
        """Wait until the source has nothing more; raises what came instead of its end."""
        with self._changed:
            last = self._ranges[-1] if self._ranges else None
        while last is not None and not last.ended:
            with self._changed:
                if not last.ended:
                    self._changed.wait(1.0)
            self._beat(0)
        if last is not None and last.error is not None:
            raise last.error

    def _open_readers(self) -> None:
        """One more each time that somebody waits: a source nearby keeps one hash busy with few."""
        if self._failed or self._claimed >= self._size:
            return
        # Only the first may wait for memory: two objects cannot block each other.
        while self._readers < self._most and self._memory.take(HELD, wait=not self._readers):
            with self._changed:
                self._readers += 1
            self._crew.submit(self._work)
        self._most = min(self._most + 1, MOST_READERS) if self._parallel else 1

    def _work(self) -> None:
        try:
            while (part := self._claim()) is not None:
                started = time.monotonic()
                try:
                    self._bring(part)
                except BaseException as error:
                    part.error = error
                with self._changed:
                    part.ended = True
                    if time.monotonic() - started < QUICK:
                        self._length = min(2 * self._length, LONGEST)
                    self._failed |= part.end < part.stop
                    self._changed.notify_all()
        finally:
            self._memory.give(HELD)
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    def _claim(self) -> _Range | None:
        with self._changed:
            while not self._failed and self._too_far(self._claimed):
                self._changed.wait()
            if self._closed or self._failed or self._claimed >= self._size:
                return None
            stop = min(self._claimed + self._length, self._size) if self._parallel else self._size
            part = _Range(self._claimed, stop)
            self._claimed = stop
            self._ranges.append(part)
            return part

    def _bring(self, part: _Range) -> None:
        source = self._read(part.start, part.stop if self._parallel else None)
        try:
            for chunk in source:
                view = memoryview(chunk).cast("B")
                self._beat(view.nbytes)
                if view.nbytes > part.stop - part.end:
                    self.excess = view.nbytes - (part.stop - part.end)
                    view = view[: part.stop - part.end]
                if not self._write(part, view):
                    return
                if self.excess:
                    return
        finally:
            if close := getattr(source, "close", None):
                close()

    def _write(self, part: _Range, view: memoryview) -> bool:
        """Write what comes next in a range; whether it is still wanted."""
        with part.writing:
            if self._closed:
                return False
            position = part.end
            while view:
                count = os.pwrite(self._handle, view, position)
                position += count
                view = view[count:]
        with self._changed:
            part.end = position
            if self._ranges and self._ranges[0] is part and (position >= self._wanted):
                self._changed.notify_all()
            while not self._parallel and self._too_far(position):
                self._changed.wait()
        return True

    def _too_far(self, position: int) -> bool:
        return not self._closed and self._passed >= self._start and position - self._passed >= AHEAD
