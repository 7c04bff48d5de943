"""How much one workspace may hold: asked before bytes are sent, decided when a version is committed.

What counts is what the bucket's own list says, so replicas need not agree on anything. Between two lists a replica
remembers the usage and adds what it signed; URLs signed by several replicas at once may overshoot until the commit,
which lists again, refuses the version, and leaves only objects that the next collection removes.

Large objects fit up to the quota. Notebooks, small files, merge bases and versions may also use a reserve beyond it,
so that a dataset that fills the workspace does not keep the next edit of a notebook from being saved.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from datamount.errors import QuotaExceeded
from datamount.objectstore import Room

SECONDS = 120.0
RECENT = 5.0
"""Seconds for which a list is new enough to refuse by."""
REMEMBERED = 4096
RESERVE = 10
"""The reserve is the quota divided by this."""


@dataclass
class _Usage:
    size: int
    measured: float


class Quota:
    """Watches the bytes of each workspace. `measure` lists one."""

    def __init__(self, limit: int, measure: Callable[[str], int], *, clock: Callable[[], float] = time.monotonic):
        self.limit = limit
        self.reserve = limit // RESERVE
        self._measure = measure
        self._clock = clock
        self._known: OrderedDict[str, _Usage] = OrderedDict()
        self._lock = threading.Lock()

    def room(self, prefix: str) -> Room:
        """What a workspace holds and may hold."""
        return Room(self._usage(prefix, RECENT).size, self.limit, self.reserve)

    def grant(self, prefix: str, size: int, *, large: bool) -> int | None:
        """Count `size` bytes that are about to be sent; what is taken with them, None where nothing is to be sent.
        QuotaExceeded when they do not fit; `large` ones may not use the reserve."""
        if size <= 0:
            return None
        for believed in (SECONDS, RECENT):
            usage = self._usage(prefix, believed)
            with self._lock:
                if usage.size + size <= self._bound(large=large):
                    usage.size += size
                    return usage.size
        raise self._exceeded(usage.size, size)

    def check(self, used: int, more: int) -> None:
        """QuotaExceeded when a version of `more` bytes beside the `used` ones does not fit even in the reserve."""
        if used + more > self._bound(large=False):
            raise self._exceeded(used, more)

    def learn(self, prefix: str, size: int) -> None:
        """Remember what a list showed."""
        self._remember(prefix, size)

    def _bound(self, *, large: bool) -> int:
        return self.limit if large else self.limit + self.reserve

    def _usage(self, prefix: str, seconds: float) -> _Usage:
        with self._lock:
            usage = self._known.get(prefix)
        if usage is not None and self._clock() - usage.measured < seconds:
            return usage
        return self._remember(prefix, self._measure(prefix))

    def _remember(self, prefix: str, size: int) -> _Usage:
        with self._lock:
            usage = self._known[prefix] = _Usage(size, self._clock())
            self._known.move_to_end(prefix)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return usage

    def _exceeded(self, used: int, more: int) -> QuotaExceeded:
        return QuotaExceeded(
            f"your saved work in this course takes {_shown(used)} of {_shown(self.limit)}, and this save needs "
            f"{_shown(more)} more; what was saved before is safe.",
            hint="Leave large files out (`save: exclude:` in datamount.yaml, or move them to scratch/ where the "
            "course excludes that), or ask the hub's operator for a higher quota.",
            who="you",
            left=max(self.limit - used, 0),
        )


def _shown(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
