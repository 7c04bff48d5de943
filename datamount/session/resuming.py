"""Going on with saved work in a session that runs already, on the course as it is now.

Where nobody signs in, no launch can know whose work to bring: it comes later, with a key. The course may have moved on
meanwhile, so three trees meet as in a launch (`homecoming`): the course when the work was saved, the course of this
session as it was shipped, and the saved work. What the student has done in this session is none of them: it is saved
before, and gives way. Nothing is removed, also not what the student had removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datamount.merge import Node, Read, Tree, merge_trees
from datamount.session import changing
from datamount.session.folder import ours, tree_of, with_parents
from datamount.session.homecoming import (
    COURSE,
    course_reader,
    course_tree,
    keep_merge_report,
    newest_of,
    saved_reader,
)
from datamount.session.journal import Begun
from datamount.session.settling import Settling
from datamount.snapshots import RestoreReport, Version, Workspace, pristine
from datamount.snapshots.owed import keep_owed
from datamount.snapshots.restore import Preview
from datamount.snapshots.scan import Stamp


def work_of(workspace: Workspace) -> Version:
    """The version to go on with: the newest that a launch would bring. NotFound where there is none."""
    return newest_of(workspace).version or workspace.version()


@dataclass(frozen=True)
class Resuming:
    """What becomes of a folder when the work comes: decided, and not done yet."""

    workspace: Workspace
    folder: Path
    state_dir: Path
    course_ref: str
    version: Version
    begun: Begun

    @classmethod
    def of(cls, workspace: Workspace, version: Version, folder: Path, state_dir: Path, course_ref: str) -> Resuming:
        """Decide it. Raises what the store raises."""
        saved, here = tree_of(ours(version, folder)), _shipped(version, state_dir)
        # Without a course that was recorded, all of the folder is the student's, and all of the work comes as it is.
        base = {path: node for path, node in course_tree(version).items() if here and not _is_git(path)}
        merged = merge_trees(
            base,
            saved,
            here,
            course_reader(workspace, base, state_dir),
            saved_reader(workspace, version),
            _shipped_reader(workspace, here, folder, state_dir),
            course_ref,
            COURSE,
        )
        needed = {step.path for step in merged.steps} | {step.source for step in merged.steps}
        begun = Begun(
            version.info.id,
            None,
            other=COURSE.word,
            here={path: node for path, node in here.items() if path in needed},
            steps=merged.steps,
            # What the student had removed stays, so it is no news.
            changes=tuple(change for change in merged.changes if change.kind != "deleted"),
        )
        return cls(workspace, folder, state_dir, course_ref, version, begun)

    def preview(self) -> Preview:
        """What `run` would do; writes nothing."""
        steps = self.begun.steps or ()
        comes = {step.path for step in steps if step.take == "mine"}
        entries = tuple(entry for entry in self.version.entries if entry.path in comes)
        found = self.workspace.preview(replace(self.version, entries=entries), self.folder)
        beside = {step.path for step in steps if step.take == "theirs" and step.source != step.path}
        merged = tuple(step.path for step in steps if step.take == "bytes")
        return replace(found, new=tuple(sorted({*found.new, *beside})), merged=merged)

    def run(self, seen: Mapping[str, Stamp], before: str) -> RestoreReport:
        """Do it, and keep the report for the panel. Only what was `seen` is replaced, which version `before` has."""
        begun = replace(self.begun, before=before)
        final = begun.final(tree_of(ours(self.version, self.folder)))
        settling = Settling(self.workspace, self.folder, begun, self.version, final, seen)
        report = settling.run()
        # What did not come is work all the same: the version that is saved next has it.
        keep_owed(self.state_dir, self.workspace.identity, settling.owed(report))
        written = {s.path for s in begun.steps or () if s.take == "bytes" or s.source != s.path} - report.failed.keys()
        keep_merge_report(self.state_dir, begun, self.version, report, self.course_ref)
        return replace(report, restored=tuple(sorted({*report.restored, *written})))


def _shipped(version: Version, state_dir: Path) -> dict[str, Node]:
    """The course of this session as it was shipped, without what the version left out on purpose."""
    known = pristine.load_pristine(state_dir)
    left_out = {item.path.rstrip("/") for item in version.skipped}
    return {
        path: Node(digest, size=known.sizes[path])
        for path, digest in known.files.items()
        if not _is_git(path) and left_out.isdisjoint(with_parents(path))
    }


def _is_git(path: str) -> bool:
    """Whether a path is among a repo's own files, which are not merged."""
    return path.partition("/")[0] == ".git"


def _shipped_reader(workspace: Workspace, course: Tree, folder: Path, state_dir: Path) -> Read:
    kept = course_reader(workspace, course, state_dir)

    def read(path: str) -> bytes | None:
        if (content := kept(path)) is not None:
            return content
        try:
            content = changing.read(folder, path)
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == course[path].digest else None

    return read
