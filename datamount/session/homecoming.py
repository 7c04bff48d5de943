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

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from datamount.errors import NotFound, Unavailable, VerificationFailed
from datamount.merge import Merged, MergeReport, Node, Other, Read, Tree, merge_trees
from datamount.session import changing, journal
from datamount.session.folder import (
    is_a_clone,
    is_as_recorded,
    is_clean,
    is_of_the_clone,
    nodes_at,
    ours,
    sha256_of,
    stamps_at,
    tree_of,
    with_parents,
    work_is_there,
)
from datamount.session.journal import Begun
from datamount.session.settling import Settling
from datamount.snapshots import RestoreReport, Version, VersionInfo, Workspace, pristine
from datamount.snapshots.excludes import Excludes
from datamount.snapshots.owed import Owed, keep_owed, read_owed
from datamount.snapshots.placing import TEMPORARY
from datamount.snapshots.scan import Stamp, printable, scan, stamp
from datamount.status import write_atomic

MERGE_FILE = "merge.json"
"""In the state folder: the report of the last merge."""

COURSE, FOLDER = Other("course", "the course"), Other("folder", "the folder")
SESSION = Other("saved", "another session of yours")


@dataclass(frozen=True, slots=True)
class Homecoming:
    """What was brought back. `saved_before` is the version of what was in the folder, where that was needed."""

    version: Version | None = None
    report: RestoreReport | None = None
    saved_before: str | None = None
    shrunk: str | None = None
    """The newest version when it was passed over: over half of its parent's files are missing in it."""
    damaged: str | None = None
    """The same, when it cannot be read."""
    cut_off: str | None = None
    """The same, when it holds only what was in a folder that work was about to come home to."""
    merge: MergeReport | None = None
    """What a newer course, or another session, changed; None when nothing did."""


class NotAllBack(Unavailable):
    """The store went away in the middle, or a file was being written: the folder is not what it should be yet."""


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
    insist: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Homecoming:
    """Merge the newest version into `folder`, unless the folder already comes from it.

    `fresh` promises that the folder is as the course ships it and that `pristine` was recorded, as in a new pod;
    without it, that is found out. A folder that comes from the newest version but has none of the student's files any
    more (a fresh clone at the same place) counts as the course. A version that lost over half of its parent's files
    is passed over. Raises what the store raises while the folder is as it was; a fault of one file is in the report.
    NotAllBack where another try may bring more (unless not to `insist`): the next call goes on with it. Safe to repeat
    after a kill: what stands beside is not doubled.
    """
    coming = _Coming(workspace, folder, state_dir, course_ref, image, tuple(exclude), max_bytes, insist, say)
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
    insist: bool
    say: Callable[[str], None]

    def home(self, *, fresh: bool) -> Homecoming:
        begun = journal.read(self.state_dir)
        if begun and (done := self._go_on(begun)):
            return done
        last = self.workspace.basis(self.folder, self.state_dir)
        # The pristine hashes are there and nothing was done since: a launch was killed before it began.
        recorded = not fresh and last is None and is_as_recorded(self.folder, self.state_dir)
        clean = fresh or recorded or is_clean(self.folder)
        shipped = fresh or recorded or (clean and is_a_clone(self.folder))
        if shipped and not fresh and not recorded:
            pristine.record(self.folder, self.state_dir)
        newest = newest_of(self.workspace)
        version = newest.version
        passed = Homecoming(shrunk=newest.shrunk, damaged=newest.damaged, cut_off=newest.cut_off)
        if version is None:
            return passed
        came_from, before = last.id if last else None, None
        ours_begun = begun if begun and not clean and begun.version == version.info.id else None
        if newest.cut_off and (ours_begun or (last and last.id == newest.cut_off)):
            # A launch was killed after it had saved what is in the folder, and before it decided anything.
            came_from, before = ours_begun.basis if ours_begun else None, newest.cut_off
        elif last and last.id == version.info.id and work_is_there(version, self.folder):
            return passed
        self._say_restoring(version)
        if not clean:
            journal.write(self.state_dir, Begun(version.info.id, came_from))
            before = self._save(before_restoring(version.info.id)) or before
        basis = None
        if came_from and came_from != version.info.id and not shipped:
            basis = self._basis(came_from)
        here, seen = self._folder_tree(version, as_recorded=fresh)
        other = SESSION if basis else COURSE if shipped else FOLDER
        merged = self._merge(version, basis, here, other)
        begun = Begun(version.info.id, came_from, before, other.word, here, merged.steps, merged.changes)
        journal.write(self.state_dir, begun)
        return self._carry_out(begun, version, seen, newest)

    def _say_restoring(self, version: Version) -> None:
        self.say(f"restoring what was saved {version.info.created:%Y-%m-%d %H:%M} UTC")

    # --- After a kill ---------------------------------------------------------------------------------------------

    def _go_on(self, begun: Begun) -> Homecoming | None:
        """Finish what an earlier launch had decided; None when it decided nothing, or when the folder or the store
        is not as it left them: then a person or another session has been at work, and all is looked at anew."""
        if begun.steps is None:
            return None
        found = newest_of(self.workspace)
        newest = found.version
        if newest is None or not (newest.info.id in (begun.version, begun.before) or self._is_ours(newest.info, begun)):
            return None
        try:
            version = self.workspace.version(begun.version)
        except (NotFound, VerificationFailed):
            return None
        final = begun.final(tree_of(ours(version, self.folder)))
        seen = stamps_at(self.folder, begun.here.keys() | final.keys())
        now = nodes_at(self.folder, begun.here.keys() | final.keys())
        if any(node not in (begun.here.get(path), final.get(path)) for path, node in now.items()):
            return None
        self._say_restoring(version)
        for item in scan(self.folder, Excludes()).skipped:
            if item.path.rpartition("/")[2].startswith(TEMPORARY):
                with suppress(OSError):
                    (self.folder / item.path).unlink()
        return self._carry_out(begun, version, seen, found, again=True)

    def _is_ours(self, info: VersionInfo, begun: Begun) -> bool:
        """Whether a version is what an earlier launch saved of this very homecoming."""
        return info.parent == begun.parent and info.message == self._message(begun)

    # --- The trees ------------------------------------------------------------------------------------------------

    def _merge(self, version: Version, basis: Version | None, here: Tree, other: Other) -> Merged:
        saved, read_saved = tree_of(ours(version, self.folder)), saved_reader(self.workspace, version)
        ref = version.info.id.rpartition("-")[2] if basis else self.course_ref
        if basis:
            base, read_base = tree_of(ours(basis, self.folder)), saved_reader(self.workspace, basis)
            return merge_trees(base, here, saved, read_base, self._read_here, read_saved, ref, other)
        base = course_tree(version)
        if other is not COURSE:
            # What is not in a folder of unknown origin was not removed by the course.
            base = {path: node for path, node in base.items() if path in here}
        read_base = course_reader(self.workspace, base, self.state_dir)
        return merge_trees(base, saved, here, read_base, read_saved, self._read_here, ref, other)

    def _basis(self, id: str) -> Version | None:
        """The version that the folder comes from; None when it is not in the store any more."""
        try:
            return self.workspace.version(id)
        except (NotFound, VerificationFailed):
            return None

    def _folder_tree(self, version: Version, *, as_recorded: bool) -> tuple[dict[str, Node], dict[str, Stamp]]:
        """What is in the folder, without what the version left out on purpose; and what it looked like then, also of
        what saves leave out and the version has nevertheless. `as_recorded` promises that nobody has been at work since
        `pristine` was recorded: else a file is what it is now, whatever it was a moment ago."""
        left_out = {item.path.rstrip("/") for item in version.skipped}
        known = pristine.load_pristine(self.state_dir).files if as_recorded else {}
        found: dict[str, Node] = {}
        items = [item for item in scan(self.folder, Excludes()).found if not item.is_folder]
        seen = stamps_at(self.folder, {e.path for e in version.entries} - {item.path for item in items})
        for item in items:
            if is_of_the_clone(item.path, self.folder) or not left_out.isdisjoint(with_parents(item.path)):
                continue
            with suppress(OSError):  # what cannot be read was not seen, and is not replaced
                if item.is_file:
                    digest = known.get(item.path) or sha256_of(self.folder / item.path)
                    found[item.path] = Node(digest, size=item.stat.st_size)
                else:
                    found[item.path] = Node(item.target, is_link=True)
                seen[item.path] = stamp(item.stat)
        for path, owed in self._owed().items():
            if found.get(path, Node("")).digest == owed.instead:
                # Saves hold it still: that it did not come does not mean that anybody removed it.
                found |= tree_of([owed.entry])
        return found, seen

    def _owed(self) -> dict[str, Owed]:
        """What an earlier launch could not bring back to this folder."""
        return read_owed(self.state_dir, self.workspace.identity)

    def _read_here(self, path: str) -> bytes | None:
        try:
            return changing.read(self.folder, path)
        except OSError:
            return None

    # --- The folder -----------------------------------------------------------------------------------------------

    def _carry_out(
        self, begun: Begun, version: Version, seen: Mapping[str, Stamp], newest: Newest, *, again: bool = False
    ) -> Homecoming:
        """Make the folder what was decided, save that, and say what was done. May be repeated (`again`).

        A version of a folder that lacks files because the store went away would be the newest, and be restored by the
        next launch: so there is none, while another try may do better.
        """
        saved = tree_of(ours(version, self.folder))
        final = begun.final(saved)
        settling = Settling(self.workspace, self.folder, begun, version, final, seen)
        report = settling.run()
        if report.again and self.insist:
            path = report.again[0]
            raise NotAllBack(
                f"{len(report.again)} files of the saved work are not back yet, {printable(path)} among them: "
                f"{report.failed[path]}",
                hint="What is saved is safe. It is tried again while you work.",
                who="you",
                transient=True,
            )
        still = {path: owed for path, owed in self._owed().items() if final.get(path) == tree_of([owed.entry])[path]}
        keep_owed(self.state_dir, self.workspace.identity, still | settling.owed(report))
        if begun.before or final != saved:
            parent = self._landed(begun) if again else begun.parent
            # Also of an unchanged folder: what was saved before must not stay the newest, as if this were cut off.
            self._save(self._message(begun), parent, always=parent == begun.before)
        elif not report.failed:
            # Nothing but a restore: the next save builds on the version.
            self.workspace.adopt(version, self.folder, self.state_dir)
        merge = keep_merge_report(self.state_dir, begun, version, report, self.course_ref)
        journal.end(self.state_dir)
        cut_off = newest.cut_off if newest.cut_off != begun.before else None
        return Homecoming(version, report, begun.before, newest.shrunk, newest.damaged, cut_off, merge)

    def _save(self, message: str, parent: str | None = None, *, always: bool = False) -> str | None:
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
            always=always,
        )
        return saved.version.id if saved.created and saved.version else None

    def _landed(self, begun: Begun) -> str | None:
        """What to build on: the version that an earlier launch saved at the end, though it was killed then."""
        ids = self.workspace.ids()
        later = [id for id, seq in ids.items() if seq > ids.get(begun.parent, 0)]
        return next((i.id for i in map(self.workspace.header, later) if i and self._is_ours(i, begun)), begun.parent)

    def _message(self, begun: Begun) -> str:
        if not begun.changes:
            return f"Restored {begun.version}"
        ref = self.course_ref[:7]
        return f"Merged {begun.version} with {f'the course at {ref}' if ref else 'what was in the folder'}"


def course_tree(version: Version) -> dict[str, Node]:
    """The course as it was when the version was saved, as far as the version says."""
    shipped = {e.path: e.sha256 if e.pristine else e.base for e in version.entries}
    return {path: Node(digest) for path, digest in (dict(version.deleted) | shipped).items() if digest}


def saved_reader(workspace: Workspace, version: Version) -> Read:
    """Reads files of a version."""

    def read(path: str) -> bytes | None:
        try:
            return b"".join(workspace.read(version, path))
        except (NotFound, VerificationFailed):
            return None

    return read


def course_reader(workspace: Workspace, course: Tree, state_dir: Path) -> Read:
    """Reads files of a course, now or then, where a launch or a save has kept them."""
    kept = pristine.load_pristine(state_dir)

    def read(path: str) -> bytes | None:
        digest = course[path].digest
        try:
            return kept.content(digest) or workspace.read_base(digest)
        except (NotFound, VerificationFailed):
            return None

    return read


def keep_merge_report(
    state_dir: Path, begun: Begun, version: Version, report: RestoreReport, course_ref: str
) -> MergeReport | None:
    """The report, kept for the panel; None, and no older one either, when nothing but a restore was done."""
    if not begun.changes:
        (state_dir / MERGE_FILE).unlink(missing_ok=True)
        return None
    found = MergeReport(
        other=next(other.word for other in (COURSE, FOLDER, SESSION) if other.word == begun.other),
        version=version.info.id,
        course_before=version.info.course_ref,
        course_now=course_ref,
        saved_before=begun.before,
        files=list(begun.changes),
        problems=[f"{printable(path)}: {why}" for path, why in report.failed.items()],
    )
    write_atomic(state_dir / MERGE_FILE, found.model_dump_json(indent=1).encode(), 0o600)
    return found


def before_restoring(version: str) -> str:
    """The message of the version of what is in a folder that work is about to come home to."""
    return f"Before restoring {version}"


@dataclass(frozen=True, slots=True)
class Newest:
    """What a launch brings back, and the newer versions that it does not: one that lost half of its files, one that
    cannot be read, and what a launch had found in its folder that was cut off before it had brought anything."""

    version: Version | None = None
    shrunk: str | None = None
    damaged: str | None = None
    cut_off: str | None = None


def newest_of(workspace: Workspace) -> Newest:
    """What a launch would bring back."""
    found = Newest()
    ids = list(workspace.newest_first())
    for id in ids:
        try:
            version = workspace.load(id)
        except NotFound:
            continue  # thinned out since it was listed
        except VerificationFailed:
            found = replace(found, damaged=found.damaged or id)
            continue
        if version.info.shrunk:
            found = replace(found, shrunk=found.shrunk or id)
            continue
        return _about_to(workspace, replace(found, version=version), ids)
    return found


def _about_to(workspace: Workspace, found: Newest, ids: Sequence[str]) -> Newest:
    """The same, but for a version of what a launch had found: then what that launch was about to bring."""
    aside = found.version
    if aside is None or aside.info.reason != "auto":
        return found
    for id in ids:
        if aside.info.message == before_restoring(id):
            with suppress(NotFound, VerificationFailed):
                return replace(found, version=workspace.load(id), cut_off=aside.info.id)
    return found
