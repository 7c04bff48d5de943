"""Streamed gRPC calls that cannot hang: one that brings nothing for a while is cancelled.

A deadline for a whole call would have to fit the largest file on the slowest line. gRPC's keepalive finds dead peers
and dead connections, but not a server or proxy that stays alive and silent; this does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

SILENCE = 60.0
"""Seconds without a message after which a stream is given up. pachd may take long before the first one: it waits for
the commit to be finished and sums up folders."""


class Stalled(Exception):
    """A stream that was given up."""


class Watch:
    """Cancels the streams of one driver that are waited for too long, from one daemon thread, started when needed."""

    def __init__(self, silence: float = SILENCE) -> None:
        self.silence = silence
        self._mutex = threading.Lock()
        self._waiting: dict[int, tuple[Any, float]] = {}
        self._stalled: set[int] = set()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def messages(self, call: Any) -> Generator[Any, None, None]:
        """The call's messages. Raises Stalled, else what the call raises; the call is cancelled at the end.

        The time that the caller takes between two messages does not count.
        """
        mine = id(call)
        self._start()
        try:
            while True:
                with self._mutex:
                    self._waiting[mine] = (call, time.monotonic() + self.silence)
                try:
                    message = next(call, None)
                except Exception as error:
                    with self._mutex:
                        stalled = mine in self._stalled
                    if stalled:
                        raise Stalled from error
                    raise
                with self._mutex:
                    self._waiting.pop(mine, None)
                if message is None:
                    return
                yield message
        finally:
            with self._mutex:
                self._waiting.pop(mine, None)
                self._stalled.discard(mine)
            call.cancel()

    def close(self) -> None:
        self._closed.set()

    def _start(self) -> None:
        with self._mutex:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pachyderm-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(min(1.0, self.silence / 4)):
            now = time.monotonic()
            with self._mutex:
                late = [(mine, call) for mine, (call, until) in self._waiting.items() if until < now]
                self._stalled.update(mine for mine, _ in late)
            for _, call in late:
                call.cancel()
