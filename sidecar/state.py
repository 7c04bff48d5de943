"""What is true of a session's saving now, told to whoever listens at each change. Safe from threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from datamount.errors import TooMany
from sidecar.autosave import Fingerprint, changes
from sidecar.models import LastSave, Quota, SaveState
from sidecar.settings import Settings
from sidecar.showing import Showing

SHOWN_CHANGES = 50
WAITING = 16
"""Saves and restores that may wait for each other; what comes on top is refused, and nothing is lost by that."""


class State:
    """`covered` is what the last save holds, as far as the scan of the folder tells."""

    def __init__(self, settings: Settings, covered: Fingerprint, showing: Showing | None) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self._covered = covered
        self._changed: list[str] = []
        self._saving = 0
        self._restoring = False
        self._error: dict[str, Any] | None = None
        self._last: LastSave | None = None
        self._quota: Quota | None = None
        self._showing = showing

    # --- To be asked --------------------------------------------------------------------------------------------
    @property
    def covered(self) -> Fingerprint:
        return self._covered

    @property
    def showing(self) -> Showing | None:
        """Somebody's version that stands in place of the student's files."""
        return self._showing

    @property
    def failed(self) -> bool:
        """Whether the last try to save failed."""
        return self._error is not None

    @property
    def ever_saved(self) -> bool:
        """Whether a version is known to hold what was in the folder at some time of this session."""
        return self._last is not None

    def document(self) -> SaveState:
        """All of it, as the API shows it."""
        own = self._settings
        with self._lock:
            return SaveState(
                state=self._word(),
                last=self._last,
                share=self._showing.share if self._showing else None,
                quota=self._quota,
                changed_files=len(self._changed),
                changed=self._changed[:SHOWN_CHANGES],
                saving=self._saving > 0,
                restoring=self._restoring,
                error=self._error,
                store=own.store,
                owner=own.owner,
                course=own.course,
                autosave=own.autosave,
            )

    def _word(self) -> Literal["unchanged", "saved", "changed", "saving", "failed", "read-only"]:
        if self._saving or self._restoring:
            return "saving"
        if self._showing:
            return "read-only"
        if self._error:
            return "failed"
        if self._changed:
            return "changed"
        return "saved" if self._last else "unchanged"

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` from any thread at each change, until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def notify(self) -> None:
        """Tell the listeners."""
        for listener in list(self._listeners):
            listener()

    # --- To be told ---------------------------------------------------------------------------------------------
    def begin(self, *, within: int | None = None) -> None:
        """A save or restore begins, or waits for others. TooMany where `within` of them are on their way."""
        with self._lock:
            if within is not None and self._saving >= within:
                raise TooMany(
                    f"{self._saving} saves and restores are under way in this session.",
                    hint="Wait until they are done.",
                    who="you",
                    transient=True,
                    retry_after=1.0,
                )
            self._saving += 1
        self.notify()

    def ended(self) -> None:
        """What began is over, however it went."""
        with self._lock:
            self._saving -= 1
        self.notify()

    def saved(self, last: LastSave, quota: Quota | None, before: Fingerprint, after: Fingerprint) -> None:
        """A save has succeeded, of the folder as it was `before` it."""
        with self._lock:
            self._error = None
            self._covered, self._changed = before, changes(before, after)
            self._last, self._quota = last, quota
        self.notify()

    def refused(self, error: dict[str, Any]) -> None:
        """A save has failed, or nothing can be saved now."""
        with self._lock:
            self._error = error
        self.notify()

    def answered(self) -> None:
        """The store does what is asked of it: nothing is in the way of saving any more."""
        with self._lock:
            self._error = None
        self.notify()

    def looked(self, current: Fingerprint) -> None:
        """This is in the folder now."""
        changed = changes(self._covered, current)
        with self._lock:
            differs, self._changed = changed != self._changed, changed
        if differs:
            self.notify()

    def cover(self, covered: Fingerprint) -> None:
        """Count changes from here on."""
        with self._lock:
            self._covered, self._changed = covered, []
        self.notify()

    def show(self, showing: Showing | None) -> None:
        """Somebody's version is shown, or no longer."""
        with self._lock:
            self._showing = showing
        self.notify()

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """While the block runs, files of the folder are being replaced."""
        with self._lock:
            self._restoring = True
        self.notify()
        try:
            yield
        finally:
            with self._lock:
                self._restoring = False
            self.notify()
