"""One large object read in several parts at once, and handed on in order.

What is read ahead waits in memory, so the file only ever grows at its end: after a kill, what is on the disk is a
beginning of the object, and only the few parts in flight are read again.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator

from datamount.drivers.base import Buffer
from datamount.fetch.workers import Crew, Memory

RANGE = 4 << 20
"""Bytes of a part: long enough that a request's cost does not count, short enough that six fit in the memory."""
FIRST_PARTS = 2
MOST_PARTS = 6

Open = Callable[[int, int], Iterator[Buffer]]
"""The bytes [start, stop) of the object."""
Heartbeat = Callable[[int], None]
"""Told how many bytes arrived; raises where nobody wants them any more."""


def read_ahead(read: Open, start: int, size: int, *, crew: Crew, memory: Memory, beat: Heartbeat) -> Iterator[Buffer]:
    """The bytes from `start` to `size`, in order. More parts are read at once as long as the reader has to wait.

    Raises what `read` raises, after all bytes before the failure were handed on; `beat` counts bytes that arrived,
    in any order and from several threads.
    """
    parts: deque[_Part] = deque()
    position, window = start, FIRST_PARTS
    try:
        while position < size or parts:
            while position < size and len(parts) < window:
                stop = min(position + RANGE, size)
                # Only the part that is wanted next may wait for memory: two objects cannot block each other.
                if not memory.take(stop - position, wait=not parts):
                    break
                part = _Part(read, position, stop, memory, beat)
                parts.append(part)
                crew.submit(part.run)
                position = stop
            part = parts[0]
            if not part.is_done():
                window = min(window + 1, MOST_PARTS)
            yield from part.arriving(beat)
            parts.popleft()
            part.drop()
            if part.error is not None:
                raise part.error
            if part.left:  # the body ended early: what comes after would stand in the wrong place
                return
    finally:
        for part in parts:
            part.drop()


class _Part:
    def __init__(self, read: Open, start: int, stop: int, memory: Memory, beat: Heartbeat) -> None:
        self.start, self.stop = start, stop
        self.error: BaseException | None = None
        self.left = stop - start
        self._chunks: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        """What arrived; None after the last."""
        self._done = False
        self._read = read
        self._memory = memory
        self._beat = beat
        self._dropped = False

    def is_done(self) -> bool:
        return self._done

    def arriving(self, beat: Heartbeat) -> Iterator[Buffer]:
        """The chunks, each as soon as it is there, up to the end or the error."""
        while True:
            try:
                chunk = self._chunks.get(timeout=1.0)
            except queue.Empty:
                beat(0)
                continue
            if chunk is None:
                return
            yield chunk

    def run(self) -> None:
        try:
            source = self._read(self.start, self.stop)
            try:
                for chunk in source:
                    if self._dropped:
                        break
                    view = memoryview(chunk)[: self.left]
                    self._chunks.put(view)
                    self.left -= view.nbytes
                    self._beat(view.nbytes)
            finally:
                if close := getattr(source, "close", None):
                    close()
        except BaseException as error:
            self.error = error
        self._done = True
        self._chunks.put(None)

    def drop(self) -> None:
        """Nobody wants it any more. Its memory counts as free, though a source that hangs may hold a chunk yet."""
        self._dropped = True
        self._memory.give(self.stop - self.start)
