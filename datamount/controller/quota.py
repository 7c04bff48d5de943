"""How much one workspace may hold: asked before bytes are sent, decided when a version is committed.

What counts is what the bucket's own list says, so replicas need not agree on anything. Between two lists a replica
remembers the usage and adds what it signed; URLs signed by several replicas at once may overshoot until the commit,
which lists again, refuses the version, and leaves only objects that the next collection removes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from datamount.errors import QuotaExceeded

SECONDS = 120.0
REMEMBERED = 4096


@dataclass
class _Usage:
    size: int
    until: float


class Quota:
    """Watches the bytes of each workspace. `measure` lists one."""

    def __init__(self, limit: int, measure: Callable[[str], int], *, clock: Callable[[], float] = time.monotonic):
        self.limit = limit
        self._measure = measure
        self._clock = clock
        self._known: OrderedDict[str, _Usage] = OrderedDict()
        self._lock = threading.Lock()

    def grant(self, prefix: str, size: int) -> None:
        """Count `size` bytes that are about to be sent. QuotaExceeded when they do not fit."""
        if size <= 0:
            return
        with self._lock:
            usage = self._known.get(prefix)
        if usage is None or usage.until < self._clock():
            usage = self.learn(prefix, self._measure(prefix))
        with self._lock:
            if usage.size + size <= self.limit:
                usage.size += size
                return
        self.check(usage.size, size)

    def check(self, used: int, more: int) -> None:
        """QuotaExceeded when `more` bytes beside the `used` ones are over the limit."""
        if used + more > self.limit:
            raise QuotaExceeded(
                f"your saved work in this course takes {_shown(used)} of {_shown(self.limit)}, and this save needs "
                f"{_shown(more)} more; what was saved before is safe.",
                hint="Leave large files out (`save: exclude:` in datamount.yaml, or move them to scratch/ where the "
                "course excludes that), or ask the hub's operator for a higher quota.",
                who="you",
            )

    def learn(self, prefix: str, size: int) -> _Usage:
        """Remember what a list showed."""
        with self._lock:
            usage = self._known[prefix] = _Usage(size, self._clock() + SECONDS)
            self._known.move_to_end(prefix)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return usage


def _shown(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
