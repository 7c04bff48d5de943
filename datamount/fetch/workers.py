"""The threads that transfer, how many of them work at once, and how much memory their bodies may take."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

START_LANES = 32
"""Measured best for a server nearby; more are added only while that helps."""
MOST_LANES = 128
"""What 30 ms of latency wants (32 objects in flight at 30 ms are 1,000 objects a second at most)."""
LOOK_SECONDS = 0.25
BUSY = 0.85
"""Cores above which more threads cannot help: the interpreter runs one at a time."""
BODIES = 24 << 20
"""Bytes of bodies held at once. The S3 client may hold copies of them; the figure keeps a fetch under 150 MiB."""


class Crew:
    """Threads on demand. They are daemons: one that hangs in a source's library never holds the process back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._mutex = threading.Lock()
        self._idle = 0
        self._threads: list[threading.Thread] = []

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` (which must not raise) soon, in a thread of its own for as long as it takes."""
        with self._mutex:
            self._tasks.put(task)
            if self._idle:
                self._idle -= 1
                return
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def close(self, grace: float) -> None:
        """Let the threads end, and wait for them at most `grace` seconds in all."""
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task
            with self._mutex:
                self._idle += 1


class Pace:
    """How many lanes may be open: doubled while the processor is idle and the last doubling helped."""

    def __init__(self) -> None:
        self.limit = START_LANES
        self._settled = False
        self._looked = time.monotonic()
        self._cpu = time.process_time()
        self._work = 0
        self._rate: float | None = None
        self._sharing = 0
        self._mutex = threading.Lock()

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Meanwhile one more dataset shares the lanes."""
        with self._mutex:
            self._sharing += 1
        try:
            yield
        finally:
            with self._mutex:
                self._sharing -= 1

    def lanes(self) -> int:
        """How many objects one dataset may transfer at once: a fair share of what helps."""
        return max(4, self.limit // max(self._sharing, 1))

    def look(self, work: int) -> None:
        """Call it a few times a second with what was done so far, in units that stay the same."""
        now = time.monotonic()
        seconds = now - self._looked
        if self._settled or seconds < LOOK_SECONDS:
            return
        cpu = time.process_time()
        rate, busy = (work - self._work) / seconds, (cpu - self._cpu) / seconds
        self._looked, self._cpu, self._work = now, cpu, work
        if rate == 0:
            return
        if self._rate is not None and rate < 1.15 * self._rate:
            self.limit = max(START_LANES, self.limit // 2)
            self._settled = True
        elif busy > BUSY or self.limit >= MOST_LANES:
            self._settled = True
        else:
            self._rate = rate
            self.limit = min(MOST_LANES, self.limit * 2)


class Memory:
    """Bytes that may be held at once, given out in the order of asking; who wants more than all gets all.

    Whoever gives some back wakes exactly those for whom there is room then: with a Condition, on which all wait, every
    body of 1 MiB woke a dozen threads, which cost more than the body.
    """

    def __init__(self, size: int = BODIES) -> None:
        self._size = size
        self._free = size
        self._mutex = threading.Lock()
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def take(self, size: int, *, wait: bool = True) -> bool:
        """Whether the room was taken; without `wait` it is only taken where it is free now."""
        size = min(size, self._size)
        with self._mutex:
            if self._free >= size and not self._waiting:
                self._free -= size
                return True
            if not wait:
                return False
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((size, gate))
        gate.acquire()
        return True

    def give(self, size: int) -> None:
        """Return what `take` took."""
        with self._mutex:
            self._free += min(size, self._size)
            while self._waiting and self._free >= self._waiting[0][0]:
                taken, gate = self._waiting.popleft()
                self._free -= taken
                gate.release()
