"""When to save without being asked: after a pause in the changes, and not later than a minute after the first.

The scan of the folder is the truth. Events of a file system or of Jupyter would miss what RStudio, terminals and
kernels write, and network file systems send none.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from datamount.snapshots.scan import Stamp, stamp

Fingerprint = Mapping[str, Stamp]
"""What each file looks like, by its path relative to the folder."""


def scan(folder: Path, ignored: Callable[[str, bool], bool] = lambda path, is_folder: False) -> Fingerprint:
    """What is in the folder now. What vanishes or cannot be read meanwhile is left out.

    `ignored` gets the relative path and whether it is a folder; ignored folders are not entered.
    """
    found: dict[str, Stamp] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            entries = list(os.scandir(folder / below))
        except OSError:
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            with suppress(OSError):
                is_folder = entry.is_dir(follow_symlinks=False)
                if ignored(path, is_folder):
                    continue
                if is_folder:
                    waiting.append(path)
                    continue
                found[path] = stamp(entry.stat(follow_symlinks=False))
    return found


def changes(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Paths that are new, different or gone, sorted."""
    if before == after:
        return []
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


class Debounce:
    """Decides from what it is shown, and from nothing else; times are seconds of any one clock."""

    def __init__(self, quiet: float, at_most: float) -> None:
        self.quiet = quiet
        self.at_most = at_most
        self._seen: Fingerprint | None = None
        self._first: float | None = None
        self._last = 0.0
        self._failures = 0
        self._not_before = 0.0

    def due(self, now: float, saved: Fingerprint, current: Fingerprint) -> bool:
        """Whether to save now, given what the last save covered and what is there."""
        if current == saved:
            self._first = None
            self._seen = saved  # the same, and in memory already
            return False
        if self._first is None:
            self._first = now
        if current != self._seen:
            self._last = now
        self._seen = current
        if now < self._not_before:
            return False
        return now - self._last >= self.quiet or now - self._first >= self.at_most

    def saved(self) -> None:
        """A save succeeded; what has changed since starts a new count."""
        self._first = None
        self._failures = 0
        self._not_before = 0.0

    def failed(self, now: float) -> float:
        """A save failed: the seconds to the next try, 5 at first and then doubling up to 60."""
        delay: float = min(60.0, 5.0 * 2**self._failures)
        self._failures += 1
        self._not_before = now + delay
        return delay


class Autosave(threading.Thread):
    """Calls `save` when it is due, and `check` when it was not for `check_every` seconds. `look` gives (covered by the
    last save, there now)."""

    def __init__(
        self,
        debounce: Debounce,
        look: Callable[[], tuple[Fingerprint, Fingerprint]],
        save: Callable[[], bool],
        *,
        check: Callable[[], None],
        check_every: float,
    ) -> None:
        super().__init__(name="autosave", daemon=True)
        self.debounce = debounce
        self._look = look
        self._save = save
        self._check = check
        self._check_every = check_every
        self._ended = threading.Event()

    def run(self) -> None:
        pause = 1.0
        checked = time.monotonic()
        while not self._ended.wait(pause):
            started = time.monotonic()
            saved, current = self._look()
            # A third of a percent of a core, however many files there are.
            pause = min(30.0, max(1.0, 300 * (time.monotonic() - started)))
            now = time.monotonic()
            if self.debounce.due(now, saved, current):
                checked = now
                if self._save():
                    self.debounce.saved()
                else:
                    self.debounce.failed(time.monotonic())
            elif now - checked >= self._check_every:
                checked = now
                self._check()

    def stop(self) -> None:
        """End after the current step. Does not wait."""
        self._ended.set()
