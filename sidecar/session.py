"""The one object that saves and restores in a session, and that knows what may be called saved.

All writes to the store and to the folder go through one worker thread, so that two saves never overlap and a restore
never runs into a save. "Saved" is said only after `Workspace.save` has returned: the version object is durable then.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from datamount.errors import DatamountError, UsageError
from datamount.merge import MergeReport
from datamount.session.homecoming import read_merge_report
from datamount.snapshots import Preview, RestoreReport, SaveResult, Workspace
from datamount.snapshots.versionfile import Reason
from sidecar.autosave import Autosave, Debounce, Fingerprint, changes, lower_priority, scan
from sidecar.models import LastSave, SaveState
from sidecar.settings import Settings

log = logging.getLogger("datamount.sidecar")

SHOWN_CHANGES = 50
WAITING = 16
"""Saves and restores that may wait for each other; what comes on top is refused, and nothing is lost by that."""


class Busy(DatamountError):
    exit_code = 5
    http_status = 429
    title = "Too much at once"


class Session:
    """A student's folder and its workspace in the store.

    `open_workspace` is called when the store is first needed, again after it failed: a store that is down at the
    start does not keep the sidecar from starting.
    """

    def __init__(
        self,
        settings: Settings,
        open_workspace: Callable[[], Workspace],
        ignored: Callable[[str, bool], bool] = lambda path, is_folder: False,
    ) -> None:
        self.settings = settings
        self._open_workspace = open_workspace
        self._ignored = ignored
        self._workspace: Workspace | None = None
        self._opening = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "save", initializer=lower_priority)
        self._lock = threading.Lock()
        self._listeners: set[Callable[[], None]] = set()
        self._covered: Fingerprint = self._scan()
        self._changed: list[str] = []
        self._saving = 0
        self._restoring = False
        self._error: dict[str, Any] | None = None
        self._last: LastSave | None = None
        self._final: Future[bool] | None = None
        self.closing = threading.Event()
        self._autosave = Autosave(
            Debounce(settings.quiet, settings.at_most), self._look, self._autosave_once, lambda seconds: None
        )

    # --- Life ---------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to watch the folder; save at once where an earlier session may have left something unsaved."""
        self._worker.submit(self._first_save)
        if self.settings.autosave:
            self._autosave.start()

    def begin_close(self) -> None:
        """Stop watching and start the final save, without waiting. Safe to call from a signal handler, repeatedly."""
        if self.closing.is_set():
            return
        self.closing.set()
        self._autosave.stop()
        self._final = self._worker.submit(self._flush)
        self._notify()

    def close(self) -> bool:
        """Finish the final save; whether everything in the folder is saved now."""
        self.begin_close()
        self._worker.shutdown(wait=True)
        return self._final is None or self._final.result()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` from any thread at each change of the state, until the returned function is called."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    # --- What is true now -----------------------------------------------------------------------------------------
    def state(self) -> SaveState:
        with self._lock:
            changed = self._changed
            return SaveState(
                state=(
                    "saving"
                    if self._saving
                    else "failed"
                    if self._error
                    else "changed"
                    if changed
                    else "saved"
                    if self._last
                    else "unchanged"
                ),
                last=self._last,
                changed_files=len(changed),
                changed=changed[:SHOWN_CHANGES],
                saving=self._saving > 0,
                restoring=self._restoring,
                error=self._error,
                store=self.settings.store,
                owner=self.settings.owner,
                course=self.settings.course,
                autosave=self.settings.autosave,
            )

    def workspace(self) -> Workspace:
        """The opened workspace; raises what opening the store raises."""
        with self._opening:
            if self._workspace is None:
                self._workspace = self._open_workspace()
            return self._workspace

    # --- What it does -------------------------------------------------------------------------------------------
    def save(self, *, message: str = "", reason: Reason = "manual") -> Future[SaveResult]:
        """Save what is in the folder now. The future's result means durable; its exception is ours."""
        if self.closing.is_set():
            raise UsageError("the session is ending; its final save is under way.", hint="Start it again.", who="you")
        self._begin(within=WAITING)
        return self._worker.submit(self._save, reason, message)

    def restore(self, version: str, paths: Sequence[str], into: str | None) -> Future[tuple[str, RestoreReport]]:
        """Bring back a version, or some paths of it, after saving what is there now.

        `into` is a folder below the session's folder; without it files go where they were. When the save before it
        fails, nothing is restored.
        """
        target = self._inside(into) if into else self.settings.folder
        if self.closing.is_set():
            raise UsageError("the session is ending; nothing is restored now.", hint="Start it again.", who="you")
        self._begin(within=WAITING)
        return self._worker.submit(self._restore, version, tuple(paths), target)

    def preview(self, version: str, paths: Sequence[str], into: str | None) -> Preview:
        """What `restore` would do to the folder as it is now; writes nothing."""
        target = self._inside(into) if into else self.settings.folder
        return self.workspace().preview(version, target, paths=tuple(paths))

    def merged(self) -> MergeReport | None:
        """What the launch merged."""
        return read_merge_report(self.settings.state)

    def resume(self, key: SecretStr) -> Future[tuple[dict[str, Any], tuple[str, RestoreReport] | None]]:
        """Go on with the work under another work key; what the gateway knows of it, and what a restore brought back.

        Refused for a wrong key; nothing has changed then.
        """
        if self.closing.is_set():
            raise UsageError("the session is ending; nothing is restored now.", hint="Start it again.", who="you")
        return self._worker.submit(self._resume, key)

    def _resume(self, key: SecretStr) -> tuple[dict[str, Any], tuple[str, RestoreReport] | None]:
        from sidecar.sharing import gateway

        found = gateway(self).resume(key)
        with self._opening:
            self._workspace = None
        if not found["versions"]:
            return found, None
        self._begin()
        return found, self._restore("latest", (), self.settings.folder)

    def _begin(self, *, within: int | None = None) -> None:
        with self._lock:
            if within is not None and self._saving >= within:
                raise Busy(
                    f"{self._saving} saves and restores are under way in this session.",
                    hint="Wait until they are done.",
                    who="you",
                    transient=True,
                    retry_after=1.0,
                )
            self._saving += 1
        self._notify()

    def _save(self, reason: Reason, message: str) -> SaveResult:
        """Runs in the worker; `_begin` was called."""
        before = self._scan()
        try:
            result = self._store_version(reason, message)
        except BaseException as error:
            with self._lock:
                self._saving -= 1
                self._error = problem(error)
            log.warning("save failed", extra={"problem": self._error})
            self._notify()
            raise
        self._saved(result, before)
        return result

    def _store_version(self, reason: Reason, message: str) -> SaveResult:
        own = self.settings
        workspace = self.workspace()
        result = workspace.save(
            own.folder,
            reason=reason,
            message=message,
            author=own.author or own.owner,
            course_ref=own.course_ref or "",
            image=own.image or "",
            exclude=own.exclude,
            max_bytes=own.max_bytes,
            state_dir=own.state,
        )
        if result.version is None:
            # Nothing has changed since a version whose header was not needed to find that out.
            result = replace(result, version=workspace.version(last_version(workspace, own) or "latest").info)
        return result

    def _saved(self, result: SaveResult, before: Fingerprint) -> None:
        after = self._scan()
        with self._lock:
            self._saving -= 1
            self._error = None
            self._covered = before
            self._changed = changes(before, after)
            self._last = LastSave.of(result)
        self._notify()

    def _restore(self, version: str, paths: tuple[str, ...], target: Path) -> tuple[str, RestoreReport]:
        try:
            workspace = self.workspace()
            chosen = workspace.version(version)
        except BaseException:
            with self._lock:
                self._saving -= 1
            self._notify()
            raise
        with self._lock:
            self._restoring = True
        try:
            undo = self._save("auto", f"Before restoring {chosen.info.id}")
            report = workspace.restore(chosen, target, paths=paths)
            self._begin()
            self._save("auto", f"Restored {'files of ' if paths else ''}{chosen.info.id}")
        finally:
            with self._lock:
                self._restoring = False
            self._notify()
        assert undo.version is not None
        return undo.version.id, report

    def _first_save(self) -> None:
        """Find what an earlier session left unsaved. A course that was never saved from here waits for a change."""
        try:
            known = last_version(self.workspace(), self.settings)
        except DatamountError as error:
            with self._lock:
                self._error = error.problem()
            self._notify()
            return
        if known or self.settings.save_at_start:
            with self._lock:
                self._covered = {}
            self._attempt("auto")

    def _attempt(self, reason: Reason) -> bool:
        self._begin()
        try:
            self._save(reason, "")
        except Exception:
            log.debug("save failed", exc_info=True)
            return False
        return True

    def _autosave_once(self) -> bool:
        """Called by the autosave thread; waits for the worker."""
        if self.closing.is_set():
            return True
        try:
            return self._worker.submit(self._attempt, "auto").result()
        except RuntimeError:
            return True

    def _flush(self) -> bool:
        """The last save, only where something is unsaved."""
        if not self._error and not changes(self._covered, self._scan()):
            return True
        return self._attempt("exit")

    # --- The folder -----------------------------------------------------------------------------------------------
    def _scan(self) -> Fingerprint:
        return scan(self.settings.folder, self._ignored)

    def _look(self) -> tuple[Fingerprint, Fingerprint]:
        current = self._scan()
        changed = changes(self._covered, current)
        with self._lock:
            differs, self._changed = changed != self._changed, changed
        if differs:
            self._notify()
        return self._covered, current

    def _inside(self, into: str) -> Path:
        folder = self.settings.folder.resolve()
        try:
            target = (folder / into).resolve()
            inside = target == folder or folder in target.parents
            usable = inside and max(len(os.fsencode(part)) for part in target.parts) <= 255
            if usable and next(found for found in (target, *target.parents) if found.exists()).is_dir():
                return target
        except (ValueError, OSError):  # no name of a file: NUL, surrogates, too long, links in a circle
            pass
        raise UsageError(
            f"{into!r} is no folder inside the session's folder, nor a name for a new one.",
            hint='Give a relative path such as "old".',
            who="you",
        )

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()


def problem(error: BaseException) -> dict[str, Any]:
    """The RFC 9457 document of any error; what is not ours shows its type only, as its text may hold anything."""
    if isinstance(error, DatamountError):
        return error.problem()
    log.error("an error that should not happen", exc_info=error)
    return DatamountError(
        f"an error that should not happen ({type(error).__name__}).",
        hint="The log of the sidecar has its traceback.",
        who="the developers of datamount",
    ).problem()


def last_version(workspace: Workspace, settings: Settings) -> str | None:
    """The version that the folder was last saved as or restored from; None when never, or when that is not known."""
    last = workspace.basis(settings.folder, settings.state)
    return last.id if last else None
