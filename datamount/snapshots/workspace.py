"""One student's work in one course: save, list, compare, restore. The format and its rules: the package's docstring."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datamount.errors import NotFound, UsageError
from datamount.objectstore import ObjectStore
from datamount.snapshots.bases import stored_bases
from datamount.snapshots.excludes import Excludes
from datamount.snapshots.history import History, encoded
from datamount.snapshots.index import read_index
from datamount.snapshots.restore import Preview, RestoreReport, preview_entries, restore_entries
from datamount.snapshots.saving import Draft, SaveResult, save
from datamount.snapshots.scan import Stamp, printable, scan, stamp
from datamount.snapshots.versionfile import (
    MESSAGE_LIMIT,
    Entry,
    Reason,
    Version,
    VersionInfo,
    tree_digest,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two versions. `before` or `after` is None for what was added or removed."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: Entry | None
    after: Entry | None


class Workspace(History):
    """All versions of one owner's work in one course. Safe to use from several threads and processes at once."""

    # --- Saving -------------------------------------------------------------------------------------------------

    def save(
        self,
        folder: Path,
        *,
        reason: Reason = "manual",
        message: str = "",
        author: str = "",
        course_ref: str = "",
        image: str = "",
        exclude: Sequence[str] = (),
        max_bytes: int | None = None,
        state_dir: Path | None = None,
        parent: str | None = None,
        always: bool = False,
    ) -> SaveResult:
        """A new version of `folder`, durable when this returns; or, for an unchanged tree, nothing at all.

        `message` is cut after 2,000 characters.
        `exclude` are patterns as in .gitignore, on top of the defaults (`!pattern` brings back what those leave out).
        Over `max_bytes` (of files) the largest are left out and named, notebooks last. `state_dir` keeps the local
        index and the course's pristine hashes; without it every file is read and the store is asked. The parent is
        `parent`, else the version that this folder comes from, else the latest. A manual save of a tree that only an
        autosave holds makes a version, and so does one with a new message: manual ones are never thinned out. `always`
        makes one in any case, for its message.
        Raises the store's errors; the versions that were there are untouched, and the same call may be repeated.
        """
        started = time.monotonic()
        draft = Draft(
            reason, message[:MESSAGE_LIMIT], author, course_ref, image, tuple(exclude), max_bytes, parent, always
        )
        folder = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would follow a link of the student's)
        if not folder.is_dir():
            raise UsageError(f"{printable(str(folder))} is not a folder.", who="you")
        result = save(self, folder, draft, state_dir)
        log.info(
            "saved owner=%s course=%s version=%s created=%s bytes=%d objects=%d seconds=%.2f",
            self.owner,
            self.course,
            result.version.id if result.version else "-",
            result.created,
            result.bytes_uploaded,
            result.objects_uploaded,
            time.monotonic() - started,
        )
        return result

    # --- Reading ------------------------------------------------------------------------------------------------

    def restore(
        self,
        version: Version | str,
        into: Path,
        *,
        inside: Path | None = None,
        seen: Mapping[str, Stamp] | None = None,
        paths: Sequence[str] = (),
        state_dir: Path | None = None,
        save_first: bool = False,
    ) -> RestoreReport:
        """Write a version, or only `paths` of it (files, or folders with all below), to the folder `into`.

        Each file appears whole, verified and synced, or not at all. What cannot be restored is in the report and
        does not stop the rest. Files that the version does not hold stay as they are. With `save_first` the folder
        as it is becomes a version before anything is written (`saved_before`), and is then the latest: save again to
        make the restored state that. Else, with `state_dir`, the next save of `into` builds on the restored version.
        NotFound when a path is not in the version. `inside` is a folder that `into` must not leave while its owner
        changes it: then a link on the way from the one to the other is Refused. `seen` is what may be replaced in
        `into`, by path: what is there now and was not seen so is left as it is, and fails. With `save_first` that is
        what the save holds; by default it is anything.
        """
        if isinstance(version, str):
            version = self.version(version)
        chosen = _chosen(version, paths)
        into = Path(os.path.abspath(into))  # noqa: PTH100
        before = None
        if save_first:
            before, seen = self._save_before(version, into, state_dir)
        report = restore_entries(chosen, into, self.content(), inside=inside, seen=seen)
        if state_dir is not None and before is None and not paths and not report.failed:
            self.adopt(version, into, state_dir)
        return replace(report, saved_before=before)

    def _save_before(
        self, version: Version, into: Path, state_dir: Path | None
    ) -> tuple[VersionInfo | None, dict[str, Stamp]]:
        """Save what a restore is about to replace: the version, where one was made, and what is surely saved."""
        if not into.is_dir() or not any(into.iterdir()):
            return None, {}
        # Looked at before it is read: what changes after that may have been read before.
        seen = {found.path: stamp(found.stat) for found in scan(into, Excludes()).found if not found.is_folder}
        saved = self.save(into, reason="auto", message=f"before restoring {version.info.id}", state_dir=state_dir)
        for skipped in saved.skipped:
            seen.pop(skipped.path, None)
        return saved.version if saved.created else None, seen

    def adopt(self, version: Version, folder: Path, state_dir: Path) -> None:
        """Let the next save of `folder` build on a version that was just restored to it."""
        index = read_index(state_dir, self.identity, Path(os.path.abspath(folder)))  # noqa: PTH100
        index.last = version.info
        index.locations = {e.sha256: e.location for e in version.entries if e.location}
        index.bases = stored_bases(version)
        index.seen = time.time()
        with suppress(OSError):
            index.write(state_dir)

    def preview(self, version: Version | str, into: Path, *, paths: Sequence[str] = ()) -> Preview:
        """What a restore would do, with nothing written."""
        if isinstance(version, str):
            version = self.version(version)
        return preview_entries(_chosen(version, paths), Path(os.path.abspath(into)))  # noqa: PTH100

    def basis(self, folder: Path, state_dir: Path) -> VersionInfo | None:
        """The version that this folder comes from, as far as this machine knows: the last saved from it or restored
        to it whole. No request."""
        return read_index(state_dir, self.identity, Path(os.path.abspath(folder))).last  # noqa: PTH100

    def diff(self, a: Version | str, b: Version | str) -> list[Change]:
        """What changed from `a` to `b`, by path; times do not count."""
        old, new = (self.version(v) if isinstance(v, str) else v for v in (a, b))
        before, after = old.by_path(), new.by_path()
        changes = []
        for path in sorted(before.keys() | after.keys()):
            was, now = before.get(path), after.get(path)
            if was is None or now is None:
                changes.append(Change(path, "added" if was is None else "removed", was, now))
            elif tree_digest([was]) != tree_digest([now]):
                changes.append(Change(path, "changed", was, now))
        return changes


def workspaces(store: ObjectStore, owner: str | None = None, course: str | None = None) -> Iterator[Workspace]:
    """Every workspace in a store, or those of one owner, or in one course, or the one of both; found one after the
    other, so that memory does not grow with the store."""
    owners = store.folders("workspaces/") if owner is None else [encoded(owner)]
    for mine in sorted(owners):
        for name in sorted(store.folders(f"workspaces/{mine}/")):
            found = Workspace.at(store, mine, name)
            # Some stores name folders whose objects were deleted.
            if (course is None or name == encoded(course)) and any(store.list(found.prefix)):
                yield found


def _chosen(version: Version, paths: Sequence[str]) -> list[Entry]:
    if not paths:
        return list(version.entries)
    wanted = [p.strip("/").removeprefix("./") for p in paths]
    chosen = {
        e.path: e
        for e in version.entries
        for w in wanted
        if w in ("", ".") or e.path == w or e.path.startswith(f"{w}/")
    }
    for w in wanted:
        if w not in ("", ".") and not any(p == w or p.startswith(f"{w}/") for p in chosen):
            raise NotFound(
                f"Version {version.info.id} has nothing at {printable(w)!r}.",
                hint="`datamount diff` and `datamount history` show what a version holds.",
                who="you",
            )
    return list(chosen.values())
