"""Bringing saved work back when a session starts, merged with the course as it is now; nothing is lost silently.

Three trees meet. In a folder that is as the course ships it: the course when the work was saved, the course now, and
the saved work. In a folder of the student's that comes from an older version than the newest (another machine saved
since): that version, the newest, and the folder. `datamount.merge` decides; here is what each tree is, and the order
of changes: what is in the folder and nowhere else becomes a version, all content is read, and only then the folder
changes, file by file.

What counts as the course: a new pod's home, and a clean git clone without commits of its own. Not a plain folder: a
student's file taken for the course's would be replaced by the next version of the course, so there every file is the
student's, is stored, and where it differs from saved work both stay.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from datamount import names
from datamount.errors import DatamountError, NotFound, Refused, VerificationFailed
from datamount.merge import Merged, MergeReport, Node, Other, Read, Tree, merge_trees
from datamount.session.launch import git
from datamount.snapshots import Entry, RestoreReport, Version, VersionInfo, Workspace, pristine
from datamount.snapshots.excludes import Excludes
from datamount.snapshots.scan import printable, scan
from datamount.status import write_atomic

MERGE_FILE = "merge.json"
"""In the state folder: the report of the last merge."""

COURSE, FOLDER = Other("course", "the course"), Other("folder", "the folder")
SESSION = Other("saved", "another session of yours")
_OWN_COMMITS = ("commit", "merge", "rebase", "cherry-pick", "am", "revert")


@dataclass(frozen=True, slots=True)
class Homecoming:
    """What was brought back. `saved_before` is the version of what was in the folder, where that was needed."""

    version: Version | None = None
    report: RestoreReport | None = None
    saved_before: str | None = None
    shrunk: str | None = None
    """The newest version when it was passed over: over half of its parent's files are missing in it."""
    merge: MergeReport | None = None
    """What a newer course, or another session, changed; None when nothing did."""


def bring_home(
    workspace: Workspace,
    folder: Path,
    state_dir: Path,
    *,
    course_ref: str = "",
    image: str = "",
    exclude: Sequence[str] = (),
    max_bytes: int | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Homecoming:
    """Merge the newest version into `folder`, unless the folder already comes from it.

    `fresh` promises that the folder is as the course ships it and that `pristine` was recorded, as in a new pod;
    without it, that is found out. A folder that comes from the newest version but has none of the student's files any
    more (a fresh clone at the same place) counts as the course. A version that lost over half of its parent's files
    is passed over. Raises what the store raises while the folder is as it was; a fault of one file is in the report.
    Safe to repeat after a kill: what stands beside is not doubled.
    """
    coming = _Coming(workspace, folder, state_dir, course_ref, image, tuple(exclude), max_bytes, say)
    return coming.home(fresh=fresh)


def read_merge_report(state_dir: Path) -> MergeReport | None:
    """What the last `bring_home` merged; None when it merged nothing."""
    try:
        return MergeReport.model_validate_json((state_dir / MERGE_FILE).read_bytes())
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class _Coming:
    workspace: Workspace
    folder: Path
    state_dir: Path
    course_ref: str
    image: str
    exclude: tuple[str, ...]
    max_bytes: int | None
    say: Callable[[str], None]

    def home(self, *, fresh: bool) -> Homecoming:
        clean = fresh or _clean(self.folder)
        shipped = fresh or (clean and _is_a_clone(self.folder))
        if shipped and not fresh:
            pristine.record(self.folder, self.state_dir)
        version, shrunk = _newest(self.workspace)
        if version is None:
            return Homecoming(shrunk=shrunk)
        last = self.workspace.basis(self.folder, self.state_dir)
        if last and last.id == version.info.id and _work_is_there(version, self.folder):
            return Homecoming(shrunk=shrunk)
        self.say(f"restoring what was saved {version.info.created:%Y-%m-%d %H:%M} UTC")
        before = None if clean else self._save(f"Before restoring {version.info.id}")
        basis = None if shipped or last is None or last.id == version.info.id else self._basis(last)
        here = self._folder_tree(version, shipped=shipped)
        other = SESSION if basis else COURSE if shipped else FOLDER
        merged = self._merge(version, basis, here, other)
        self._write_beside(merged, version, "mine" if basis else "theirs")
        report = self._carry_out(merged, version, here, "mine" if basis else "theirs", before)
        merge = self._reported(merged, version, report, other, before)
        return Homecoming(version, report, before, shrunk, merge)

    # --- The trees ------------------------------------------------------------------------------------------------

    def _merge(self, version: Version, basis: Version | None, here: Tree, other: Other) -> Merged:
        saved = _tree(self._ours(version))
        ref = version.info.id.rpartition("-")[2] if basis else self.course_ref
        if basis:
            base = _tree(self._ours(basis))
            return merge_trees(base, here, saved, self._read(basis), self._read_here, self._read(version), ref, other)
        base = _course_tree(version)
        if other is not COURSE:
            # What is not in a folder of unknown origin was not removed by the course.
            base = {path: node for path, node in base.items() if path in here}
        return merge_trees(base, saved, here, self._read_base(base), self._read(version), self._read_here, ref, other)

    def _basis(self, last: VersionInfo) -> Version | None:
        """The version that the folder comes from; None when it is not in the store any more."""
        try:
            return self.workspace.version(last.id)
        except (NotFound, VerificationFailed):
            return None

    def _folder_tree(self, version: Version, *, shipped: bool) -> dict[str, Node]:
        """What is in the folder, without what the version left out on purpose."""
        left_out = {item.path.rstrip("/") for item in version.skipped}
        known = pristine.load_pristine(self.state_dir).files if shipped else {}
        found: dict[str, Node] = {}
        for item in scan(self.folder, Excludes()).found:
            if item.is_folder or self._is_git(item.path) or not left_out.isdisjoint(_with_parents(item.path)):
                continue
            if not item.is_file:
                found[item.path] = Node(item.target, is_link=True)
                continue
            with suppress(OSError):
                digest = known.get(item.path) or _sha256(self.folder / item.path)
                found[item.path] = Node(digest, size=item.stat.st_size)
        return found

    def _ours(self, version: Version) -> list[Entry]:
        """The entries that may be restored here: the repo's own files belong to the clone that is there."""
        return [entry for entry in version.entries if not self._is_git(entry.path)]

    def _is_git(self, path: str) -> bool:
        return (path == ".git" or path.startswith(".git/")) and os.path.lexists(self.folder / ".git")

    def _read(self, version: Version) -> Read:
        def read(path: str) -> bytes | None:
            try:
                return b"".join(self.workspace.read(version, path))
            except (NotFound, VerificationFailed):
                return None

        return read

    def _read_base(self, base: Tree) -> Read:
        kept = pristine.load_pristine(self.state_dir)

        def read(path: str) -> bytes | None:
            digest = base[path].digest
            try:
                return kept.content(digest) or self.workspace.read_base(digest)
            except (NotFound, VerificationFailed):
                return None

        return read

    def _read_here(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except OSError:
            return None

    # --- The folder -----------------------------------------------------------------------------------------------

    def _write_beside(self, merged: Merged, version: Version, here: Literal["mine", "theirs"]) -> None:
        """First what would be written over or removed in the next step."""
        for step in merged.steps:
            if step.take != "bytes" and step.source != step.path:
                target = self._safe(step.path)
                if step.take == here:
                    _copy(self.folder / step.source, target)
                else:
                    entry = replace(version.by_path()[step.source], path=step.path)
                    self.workspace.restore(replace(version, entries=(entry,)), self.folder)

    def _carry_out(
        self, merged: Merged, version: Version, here: Tree, side: Literal["mine", "theirs"], before: str | None
    ) -> RestoreReport:
        entries = {entry.path: entry for entry in self._ours(version)}
        final = {step.path: step for step in merged.steps}
        for path in sorted(here.keys() - final.keys()):
            self._remove(path)
        failed: dict[str, str] = {}
        for step in merged.steps:
            if step.take == "bytes":
                with _noted(step.path, failed):
                    mode = entries[step.path].mode if step.path in entries else 0o644
                    write_atomic(self._safe(step.path), step.data, mode)
        chosen = [entries[s.path] for s in merged.steps if s.take not in ("bytes", side) and s.source == s.path]
        filled = {parent for entry in entries.values() for parent in _with_parents(entry.path)[:-1]}
        chosen += [entry for path, entry in entries.items() if entry.type == "folder" and path not in filled]
        saved = _tree(list(entries.values()))
        nodes = {
            s.path: None if s.take == "bytes" else (here if s.take == side else saved)[s.source] for s in merged.steps
        }
        if not before and nodes == _tree(version.entries):
            # The same tree as the version: the next save builds on it.
            return self.workspace.restore(version, self.folder, state_dir=self.state_dir)
        report = self.workspace.restore(replace(version, entries=tuple(chosen)), self.folder)
        report = replace(report, failed=report.failed | failed)
        self._save(_message(merged, version, self.course_ref), parent=before or version.info.id)
        return report

    def _remove(self, path: str) -> None:
        """A file or link, and the folders that are empty without it."""
        target = self._safe(path)
        with suppress(OSError):
            target.unlink()
            for parent in list(target.parents)[: path.count("/")]:
                parent.rmdir()

    def _safe(self, path: str) -> Path:
        """The place of a path. Refused when a link is on the way: what is behind it is not the folder's."""
        target = self.folder / path
        for parent in list(target.parents)[: path.count("/")]:
            if parent.is_symlink():
                raise Refused(f"{printable(path)} is left alone: {printable(parent.name)} is a link.")
        return target

    def _save(self, message: str, parent: str | None = None) -> str | None:
        saved = self.workspace.save(
            self.folder,
            reason="auto",
            message=message,
            course_ref=self.course_ref,
            image=self.image,
            exclude=self.exclude,
            max_bytes=self.max_bytes,
            state_dir=self.state_dir,
            parent=parent,
        )
        return saved.version.id if saved.created and saved.version else None

    def _reported(
        self, merged: Merged, version: Version, report: RestoreReport, other: Other, before: str | None
    ) -> MergeReport | None:
        """The report, kept for the panel; None, and no older one either, when nothing but a restore was done."""
        if not merged.changes:
            (self.state_dir / MERGE_FILE).unlink(missing_ok=True)
            return None
        found = MergeReport(
            other=other.word,
            version=version.info.id,
            course_before=version.info.course_ref,
            course_now=self.course_ref,
            saved_before=before,
            files=list(merged.changes),
            problems=[f"{printable(path)}: {why}" for path, why in report.failed.items()],
        )
        write_atomic(self.state_dir / MERGE_FILE, found.model_dump_json(indent=1).encode(), 0o600)
        return found


@contextmanager
def _noted(path: str, failed: dict[str, str]) -> Iterator[None]:
    """Put a fault of one file in a report and go on."""
    try:
        yield
    except DatamountError as error:
        failed[path] = error.message
    except OSError as error:
        failed[path] = error.strerror or str(error)


def _tree(entries: Sequence[Entry]) -> dict[str, Node]:
    """Files and links of a version."""
    return {
        e.path: Node(e.target, is_link=True) if e.type == "link" else Node(e.sha256, size=e.size)
        for e in entries
        if e.type != "folder"
    }


def _course_tree(version: Version) -> dict[str, Node]:
    """The course as it was when the version was saved, as far as the version says."""
    shipped = {e.path: e.sha256 if e.pristine else e.base for e in version.entries}
    return {path: Node(digest) for path, digest in (dict(version.deleted) | shipped).items() if digest}


def _message(merged: Merged, version: Version, ref: str) -> str:
    if not merged.changes:
        return f"Restored {version.info.id}"
    return f"Merged {version.info.id} with {f'the course at {ref[:7]}' if ref else 'what was in the folder'}"


def _copy(source: Path, target: Path) -> None:
    """A copy that appears whole, or a link with the same target."""
    temporary = target.with_name(f".datamount-{os.getpid()}-{hashlib.sha256(os.fsencode(target)).hexdigest()[:12]}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, temporary, follow_symlinks=False)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _with_parents(path: str) -> list[str]:
    """`a/b/c` → `a`, `a/b`, `a/b/c`."""
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _newest(workspace: Workspace) -> tuple[Version | None, str | None]:
    """The newest version that lost no half of its files, and the id of a newer one that did."""
    try:
        newest = workspace.version("latest")
    except NotFound:
        return None, None
    if not newest.info.shrunk:
        return newest, None
    whole = next((info for info in workspace.versions() if not info.shrunk), None)
    return (workspace.version(whole.id) if whole else None), newest.info.id


def _work_is_there(version: Version, folder: Path) -> bool:
    """Whether any of the student's own files in the version is in the folder in a form that is not the course's."""
    own = [e for e in version.entries if e.type == "file" and not e.pristine and not e.path.startswith(".git/")]
    return not own or any(not _is_shipped(folder / entry.path, entry.base) for entry in own)


def _is_shipped(path: Path, base: str) -> bool:
    """Whether the path is absent, or as the course shipped it (`base`, empty for what it did not ship)."""
    try:
        return _sha256(path) == base
    except OSError:
        return True


def _is_a_clone(folder: Path) -> bool:
    """Whether the commit that is checked out is somebody else's: what is committed here is the student's work."""
    if not git(folder, "remote"):
        return False
    if git(folder, "for-each-ref", "--count=1", "--contains=HEAD", "refs/remotes"):
        return True
    moves = (git(folder, "reflog", "--format=%gs") or "").splitlines()
    # A log that is not there proves nothing: saves leave out one with a login in it.
    return bool(moves) and not any(line.startswith(_OWN_COMMITS) for line in moves)


def _clean(folder: Path) -> bool:
    """Whether nothing in the folder can be lost: no file that a save would hold and that git does not have."""
    kept = [found for found in scan(folder, Excludes()).found if not found.is_folder]
    if not kept:
        return True
    if not (folder / ".git").exists():
        return False
    try:
        done = subprocess.run(
            # Ignored files count: git has no copy of them.
            ["git", "--no-optional-locks", "-C", os.fspath(folder), "status", "--porcelain", "-z", "--ignored"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done.returncode:
        return False
    excludes = Excludes()
    for line in filter(None, done.stdout.split(b"\0")):
        path = os.fsdecode(line[3:])
        ours = path in (names.DATA_LINK, f"{names.DATA_LINK}/") and (folder / names.DATA_LINK).is_symlink()
        if not ours and excludes.reason(path.rstrip("/"), folder=path.endswith("/")) is None:
            return False
    return True
