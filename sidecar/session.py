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
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from datamount.errors import DatamountError, Refused, UsageError
from datamount.merge import MergeReport
from datamount.objectstore import Limited
from datamount.session.homecoming import before_restoring, read_merge_report
from datamount.session.resuming import Resuming, work_of
from datamount.snapshots import Preview, RestoreReport, SaveResult, Version, Workspace
from datamount.snapshots.versionfile import Reason
from sidecar import shared
from sidecar.autosave import Autosave, Debounce, Fingerprint, changes, scan
from sidecar.errors import ReadOnly
from sidecar.gateway import gateway_of, under_key
from sidecar.models import LastSave, Quota, RestorePreview, SaveState, shown
from sidecar.settings import Settings
from sidecar.showing import Showing, forget_showing, keep_showing, read_showing, remove_added
from sidecar.state import WAITING, State

log = logging.getLogger("datamount.sidecar")

Answer = TypeVar("Answer")

AGAIN = 20.0
"""Seconds until saved work that could not be brought back is asked for once more."""
NEAR = 0.9
"""Of a quota: from here on the student is warned."""


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
        self._worker = ThreadPoolExecutor(1, "save")
        self._state = State(settings, self._scan(), read_showing(settings.folder))
        # What was changed in a shared version before this process began is not known.
        self._may_have_changed = self._state.showing is not None
        self._final: Future[bool] | None = None
        self._again: threading.Timer | None = None
        self.closing = threading.Event()
        self._autosave = Autosave(
            Debounce(settings.quiet, settings.at_most),
            self._look,
            self._autosave_once,
            check=self._check_once,
            check_every=settings.check_every,
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
        if self._again:
            self._again.cancel()
        self._final = self._worker.submit(self._flush)
        self._state.notify()

    def close(self) -> bool:
        """Finish the final save; whether everything in the folder is saved now."""
        self.begin_close()
        self._worker.shutdown(wait=True)
        return self._final is None or self._final.result()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` from any thread at each change of the state, until the returned function is called."""
        return self._state.listen(listener)

    # --- What is true now -----------------------------------------------------------------------------------------
    def state(self) -> SaveState:
        """Whether the student's work is on the store, and everything that a panel says about that."""
        return self._state.document()

    def workspace(self) -> Workspace:
        """The opened workspace; raises what opening the store raises."""
        with self._opening:
            if self._workspace is None:
                self._workspace = self._open_workspace()
            return self._workspace

    # --- What it does -------------------------------------------------------------------------------------------
    def save(self, *, message: str = "", reason: Reason = "manual") -> Future[SaveResult]:
        """Save what is in the folder now. The future's result means durable; its exception is ours."""
        return self._queue(lambda: self._save(reason, message))

    def restore(self, version: str, paths: Sequence[str], into: str | None) -> Future[tuple[str, RestoreReport]]:
        """Bring back a version, or some paths of it, after saving what is there now.

        `into` is a folder below the session's folder; without it files go where they were. When the save before it
        fails, nothing is restored.
        """
        target = self._inside(into) if into else self.settings.folder
        return self._queue(lambda: self._restore(version, tuple(paths), target))

    def preview(self, version: str, paths: Sequence[str], into: str | None) -> RestorePreview:
        """What `restore` would do to the folder as it is now; writes nothing."""
        target = self._inside(into) if into else self.settings.folder
        return self._previewed(self.workspace().preview(version, target, paths=tuple(paths)), target)

    def merged(self) -> MergeReport | None:
        """What the launch merged."""
        return read_merge_report(self.settings.state)

    # --- The work behind a key or a link --------------------------------------------------------------------------
    def resume(self, key: SecretStr) -> Future[tuple[dict[str, Any], tuple[str, RestoreReport] | None]]:
        """Go on with the work under another work key; what the gateway knows of it, and what a restore brought back.

        Refused for a wrong key; nothing has changed then.
        """
        return self._queue(lambda: self._resume(key))

    def preview_resume(self, key: SecretStr) -> tuple[dict[str, Any], Version | None, RestorePreview | None]:
        """What `resume` would do: what the gateway knows, the version that would come, and what it would change."""
        workspace = under_key(self.workspace(), key)
        found = gateway_of(workspace).resume(key)
        if not found["versions"]:
            return found, None, None
        coming = self._resuming(workspace)
        return found, coming.version, self._previewed(coming.preview(), self.settings.folder)

    def show(self, secret: SecretStr, into: str | None) -> Future[tuple[str, RestoreReport]]:
        """Bring somebody's version here, after saving what is there now; that version's id, and the report.

        With `into` its files go below that folder of the student's, and nothing else changes. Without, they take the
        place of the student's files, and the session is read-only until `end_show`.
        """
        target = self._inside(into) if into else self.settings.folder
        return self._queue(lambda: self._show(secret, target))

    def preview_show(self, secret: SecretStr, into: str | None) -> tuple[Version, RestorePreview]:
        """What `show` would do; writes nothing."""
        target = self._inside(into) if into else self.settings.folder
        version = shared.look(gateway_of(self.workspace()).client, secret)
        return version, self._previewed(self.workspace().preview(version, target), target)

    def end_show(self, *, keep: bool) -> Future[tuple[Sequence[str], Sequence[str]]]:
        """Take the student's own files back, or `keep` what is shown as theirs; saving goes on in either case.

        Gives the paths that were restored and removed.

        Where the student changed something of what was shown, that becomes a version before it goes.
        """
        return self._queue(lambda: self._end_show(keep=keep), own=False)

    def _resume(self, key: SecretStr) -> tuple[dict[str, Any], tuple[str, RestoreReport] | None]:
        found = gateway_of(self.workspace()).resume(key)
        with self._opening:
            self._workspace = None
        if not found["versions"]:
            return found, None
        coming = self._resuming(self.workspace())
        done = f"{'Merged' if coming.preview().merged else 'Restored'} {coming.version.info.id}"
        # Should this session end in the middle, the next one brings the work and not what was here.
        before = before_restoring(coming.version.info.id)
        return found, self._replace(self.settings.folder, coming.preview, coming.run, before, done, always=True)

    def _resuming(self, workspace: Workspace) -> Resuming:
        own = self.settings
        return Resuming.of(workspace, work_of(workspace), own.folder, own.state, own.course_ref or "")

    def _show(self, secret: SecretStr, target: Path) -> tuple[str, RestoreReport]:
        client = gateway_of(self.workspace()).client
        here = target == self.settings.folder
        with self._state.restoring(), shared.copied(client, secret, self.settings.state) as (source, version):
            before = self._save("auto", "Before a shared version")
            self._check_kept(before, target, lambda: source.preview(version, target))
            undo = before.version
            assert undo is not None
            if here:
                # Before the first file changes: whatever happens on the way, it is not saved as the student's.
                self._set_showing(Showing.of(version.info, undo.id, source.preview(version, target).new))
            report = source.restore(version, target, inside=self._root(target), seen=self._saved_in(target))
            if here:
                self._state.cover(self._scan())
                self._may_have_changed = False
        return undo.id, report

    def _end_show(self, *, keep: bool) -> tuple[Sequence[str], Sequence[str]]:
        showing = self._state.showing
        if showing is None:
            return (), ()
        restored: Sequence[str] = ()
        removed: Sequence[str] = ()
        if not keep:
            folder, undo = self.settings.folder, showing.share.undo
            unkept: Sequence[str] = ()
            if self._may_have_changed or changes(self._state.covered, self._scan()):
                made = self._save("auto", "A shared version, with changes made here")
                self._check_kept(made, folder, lambda: self.workspace().preview(undo, folder))
                unkept = made.too_large
            with self._state.restoring():
                seen, here = self._state.covered, self._scan()
                # What no version holds as it is now stays.
                kept = [p for p in showing.added if p not in unkept and seen.get(p) == here.get(p)]
                removed = remove_added(folder, kept)
                restored = self.workspace().restore(undo, folder, seen=seen).restored
        self._set_showing(None)
        self._save(*(("manual", "Kept a shared version") if keep else ("auto", "Own files after a shared version")))
        return restored, removed

    def _previewed(self, preview: Preview, target: Path) -> RestorePreview:
        there = scan(target, self._ignored) if target.is_dir() else {}
        touched = {*preview.new, *preview.replaced, *preview.unchanged, *preview.not_stored, *preview.merged}
        return RestorePreview.of(preview, sorted(there.keys() - touched))

    def _queue(self, work: Callable[[], Answer], *, own: bool = True) -> Future[Answer]:
        """Have the worker do it. Refused when the session is ending or too much is under way, and with `own` where
        somebody's version stands in place of the student's files, now or when its turn comes."""
        self._check_open()
        if own:
            self._check_own()
        self._state.begin(within=WAITING)
        return self._worker.submit(self._begun, work, own=own)

    def _begun(self, work: Callable[[], Answer], *, own: bool = True) -> Answer:
        try:
            if own:
                self._check_own()
            return work()
        finally:
            self._state.ended()

    def _check_open(self) -> None:
        if self.closing.is_set():
            raise UsageError("the session is ending; its final save is under way.", hint="Start it again.", who="you")

    def _check_own(self) -> None:
        if self._state.showing:
            raise ReadOnly(
                "this session shows work that somebody shared, so nothing is saved or restored.",
                hint="Go back to your own files, or keep what is shown as yours; then save.",
                who="you",
            )

    def _set_showing(self, showing: Showing | None) -> None:
        if showing:
            keep_showing(self.settings.folder, showing)
        else:
            forget_showing(self.settings.folder)
        self._state.show(showing)

    # --- Saving and restoring, in the worker ----------------------------------------------------------------------
    def _save(self, reason: Reason, message: str, *, always: bool = False) -> SaveResult:
        before = self._scan()
        try:
            result = self._store_version(reason, message, always=always)
        except BaseException as error:
            found = problem(error)
            log.warning("save failed", extra={"problem": found})
            self._state.refused(found)
            raise
        self._state.saved(LastSave.of(result), self._measured(result), before, self._scan())
        return result

    def _store_version(self, reason: Reason, message: str, *, always: bool) -> SaveResult:
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
            always=always,
        )
        if result.version is None:
            # Nothing has changed since a version whose header was not needed to find that out.
            result = replace(result, version=workspace.version(last_version(workspace, own) or "latest").info)
        return result

    def _measured(self, result: SaveResult) -> Quota | None:
        """The tightest of the limits; a hub's gateway is asked for its own once."""
        assert result.version is not None
        full = bool(result.too_large)
        found = []
        if self.settings.max_bytes:
            used, limit = result.version.bytes, self.settings.max_bytes
            found.append(Quota(used=used, limit=limit, near=full or used >= NEAR * limit, per="version"))
        store = self.workspace().store
        # What is saved is saved, also when nobody tells how much room is left.
        with suppress(DatamountError):
            if isinstance(store, Limited):
                room = store.room()
                near = full or room.used >= NEAR * room.limit
                found.append(Quota(used=room.used, limit=room.limit, near=near, per="work"))
        return max(found, key=lambda quota: quota.used / quota.limit, default=None)

    def _restore(self, version: str, paths: tuple[str, ...], target: Path) -> tuple[str, RestoreReport]:
        workspace = self.workspace()
        chosen = workspace.version(version)

        def bring(seen: Fingerprint, _undo: str) -> RestoreReport:
            return workspace.restore(chosen, target, inside=self._root(target), seen=seen, paths=paths)

        done = f"Restored {'files of ' if paths else ''}{chosen.info.id}"
        before = f"Before going back to {chosen.info.id}"
        return self._replace(target, lambda: workspace.preview(chosen, target, paths=paths), bring, before, done)

    def _replace(
        self,
        target: Path,
        preview: Callable[[], Preview],
        bring: Callable[[Fingerprint, str], RestoreReport],
        before: str,
        done: str,
        *,
        always: bool = False,
    ) -> tuple[str, RestoreReport]:
        """Save what is there, bring a version into the target, and save that; the id of what was there, the report.

        `bring` gets what the save covers, and its id; `before` and `done` are the messages of the two versions, and
        with `always` there is a second one though the folder is as it was.
        """
        with self._state.restoring():
            undo = self._save("auto", before)
            assert undo.version is not None
            self._check_kept(undo, target, preview)
            report = bring(self._saved_in(target), undo.version.id)
            self._save("auto", done, always=always)
        return undo.version.id, report

    def _check_kept(self, before: SaveResult, target: Path, preview: Callable[[], Preview]) -> None:
        """Refused where a restore would replace what the save before it could not keep for its size: it is nowhere
        else."""
        if not before.too_large:
            return
        folder = self.settings.folder.resolve()
        found = preview()
        replaced = {
            (target.resolve() / path).relative_to(folder).as_posix() for path in (*found.replaced, *found.merged)
        }
        lost = sorted(replaced & set(before.too_large))
        if lost:
            raise Refused(
                f"{shown(lost[0])} is too large to be saved, and this would replace it"
                + (f", with {len(lost) - 1} more files like it." if len(lost) > 1 else "."),
                hint="Rename or move it first, or restore into another folder.",
                who="you",
            )

    def _first_save(self) -> None:
        """Find what an earlier session left unsaved. A course that was never saved from here waits for a change."""
        try:
            known = last_version(self.workspace(), self.settings)
        except DatamountError as error:
            self._state.refused(error.problem())
            if self.settings.home_first:
                self._again = threading.Timer(AGAIN, self._first_save_again)
                self._again.daemon = True
                self._again.start()
            return
        self._state.answered()
        if self._state.showing:
            return
        if known or self.settings.save_at_start:
            self._state.cover({})
            self._attempt("auto")

    def _first_save_again(self) -> None:
        with suppress(RuntimeError):  # the session is ending
            self._worker.submit(self._first_save)

    def _attempt(self, reason: Reason) -> bool:
        if self._state.showing:
            return True  # shown while this waited for its turn
        self._state.begin()
        try:
            self._begun(lambda: self._save(reason, ""))
        except Exception:
            log.debug("save failed", exc_info=True)
            return False
        return True

    def _autosave_once(self) -> bool:
        """Called by the autosave thread; waits for the worker."""
        if self.closing.is_set() or self._state.showing:
            return True
        try:
            return self._worker.submit(self._attempt, "auto").result()
        except RuntimeError:
            return True

    def _check_once(self) -> None:
        """Called by the autosave thread when nothing was saved for long: a save of what has not changed asks whether
        the last version is still there, and makes it again where it is not."""
        if self._state.ever_saved:
            self._autosave_once()

    def _flush(self) -> bool:
        """The last save, only where something is unsaved."""
        if self._state.showing or not (self._state.failed or changes(self._state.covered, self._scan())):
            return True
        return self._attempt("exit")

    # --- The folder -----------------------------------------------------------------------------------------------
    def _scan(self) -> Fingerprint:
        return scan(self.settings.folder, self._ignored)

    def _look(self) -> tuple[Fingerprint, Fingerprint]:
        current = self._scan()
        self._state.looked(current)
        return self._state.covered, current

    def _root(self, target: Path) -> Path | None:
        """What a restore into a folder of the student's must not be led out of: the save before it takes its time, in
        which programs here may put a link in the folder's place, and we may write where they may not."""
        return None if target == self.settings.folder else self.settings.folder.resolve()

    def _saved_in(self, target: Path) -> Fingerprint:
        """What the last save covers of a folder. A restore replaces nothing else: what a program has written since is
        saved nowhere."""
        root = self._root(target)
        top = "".join(f"{part}/" for part in target.relative_to(root).parts) if root else ""
        return {path[len(top) :]: seen for path, seen in self._state.covered.items() if path.startswith(top)}

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
