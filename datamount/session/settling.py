"""Makes a folder what a homecoming has decided: what would be written over or removed comes first, then the rest.

A launch that ran out of time is finished while the student works. So every file is looked at right before it is
replaced or removed, and one that is not as the decision saw it stays as it is: to be looked at anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from datamount.errors import DatamountError, DiskFull, Refused
from datamount.merge import Tree
from datamount.session import changing
from datamount.session.folder import nodes_at, ours, stamps_at, tree_of, with_parents
from datamount.session.journal import Begun
from datamount.snapshots import Entry, RestoreReport, Version, Workspace
from datamount.snapshots.owed import Owed
from datamount.snapshots.restore import refusal
from datamount.snapshots.scan import Stamp, printable


@dataclass
class Settling:
    """One go at it; may be repeated. `final` is what the folder holds in the end, `seen` what it held at the decision.
    `run` reports the restored files, and faults of all."""

    workspace: Workspace
    folder: Path
    begun: Begun
    version: Version
    final: Tree
    seen: Mapping[str, Stamp]
    _failed: dict[str, str] = field(default_factory=dict)
    _again: set[str] = field(default_factory=set)

    def run(self) -> RestoreReport:
        self._write_beside()
        for path in sorted(self.begun.here.keys() - self.final.keys()):
            with self._noted(path):
                changing.remove(self.folder, path, self.seen)
        report = self._write_rest()
        again = tuple(sorted({*report.again, *self._again}))
        return replace(report, failed=dict(sorted((report.failed | self._failed).items())), again=again)

    def owed(self, report: RestoreReport) -> dict[str, Owed]:
        """What of the version `run` could not bring, for saves to carry on; not where somebody is at work instead."""
        entries = {
            step.path: replace(self.version.by_path()[step.source], path=step.path)
            for step in self.begun.steps or ()
            if step.take not in ("bytes", self.begun.side)
        }
        paths = [path for path in report.failed if path in entries and not refusal(entries[path])]
        there = nodes_at(self.folder, paths)
        looks = stamps_at(self.folder, paths)  # after what it stands for was read
        found = {}
        for path in paths:
            if looks.get(path) in (None, self.seen.get(path)):
                node = there[path]
                found[path] = Owed(entries[path], node.digest if node else "")
        return found

    def _write_beside(self) -> None:
        for step in self.begun.steps or ():
            if step.take == "bytes" or step.source == step.path:
                continue
            with self._noted(step.path):
                self._check_way(step.path)
                if nodes_at(self.folder, [step.path])[step.path] == self.final[step.path]:
                    continue
                if step.take == self.begun.side:
                    changing.copy(self.folder, step.source, step.path, self.seen)
                else:
                    report = self._restore([replace(self.version.by_path()[step.source], path=step.path)])
                    self._failed |= report.failed
                    self._again |= set(report.again)

    def _write_rest(self) -> RestoreReport:
        entries = {entry.path: entry for entry in ours(self.version, self.folder)}
        chosen = []
        for step in self.begun.steps or ():
            if step.take == "bytes":
                with self._noted(step.path):
                    mode = entries[step.path].mode if step.path in entries else 0o644
                    changing.write(self.folder, step.path, step.data, mode, self.seen)
            elif step.take != self.begun.side and step.source == step.path:
                chosen.append(entries[step.path])
        filled = {parent for entry in entries.values() for parent in with_parents(entry.path)[:-1]}
        chosen += [entry for path, entry in entries.items() if entry.type == "folder" and path not in filled]
        try:
            return self._restore(chosen)
        except DiskFull as error:
            wanted = tree_of(chosen)
            there = nodes_at(self.folder, wanted)
            missing = [path for path, node in wanted.items() if there[path] != node]
            restored = tuple(sorted(wanted.keys() - missing))
            return RestoreReport(restored, (), dict.fromkeys(missing, error.message), ())

    def _restore(self, entries: list[Entry]) -> RestoreReport:
        return self.workspace.restore(replace(self.version, entries=tuple(entries)), self.folder, seen=self.seen)

    def _check_way(self, path: str) -> None:
        """Refused when a link is on the way to a path: what is behind it is not the folder's."""
        for parent in list((self.folder / path).parents)[: path.count("/")]:
            if parent.is_symlink():
                raise Refused(f"{printable(path)} is left alone: {printable(parent.name)} is a link.")

    @contextmanager
    def _noted(self, path: str) -> Iterator[None]:
        """Put a fault of one file in the report and go on."""
        try:
            yield
        except DatamountError as error:
            self._failed[path] = error.message
            if error.transient:
                self._again.add(path)
        except OSError as error:
            self._failed[path] = error.strerror or str(error)
