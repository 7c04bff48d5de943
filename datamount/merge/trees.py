"""Three-way merge of a course with the work that a student did on an earlier version of it.

`base` is the course as it was when the work was saved, `theirs` the course now, `mine` the saved work:

- what the student did not touch is the course's; what the course did not touch is the student's;
- a notebook that both changed is merged cell by cell (`merge.notebook`), a text line by line;
- where that cannot be, the student's file keeps its name and the course's stands beside it: `name.course-<ref>.ipynb`;
- what one side removed and the other changed, stays.

Pure: trees in, decisions and a report out. Nothing of either side is missing in the result without being named.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, Field

from datamount.merge.notebook import CellKind, MergedNotebook, merge_notebooks
from datamount.merge.text import merge_file
from datamount.snapshots.scan import printable

log = logging.getLogger(__name__)

TEXT_LIMIT = 4 << 20
NOTEBOOK_LIMIT = 20 << 20
"""Bytes of one side above which two changed files are kept beside each other, not merged."""

FileKind = Literal["updated", "added", "removed", "merged", "beside", "kept", "returned", "deleted"]

_TITLES = {
    "course": "The course has changed since you saved",
    "folder": "Saved work was merged with what was in the folder",
    "saved": "Work saved by another session was merged with the work here",
}
_HEADINGS: dict[FileKind, str] = {
    "beside": "Changed on both sides: yours keeps its name, the new one is beside it",
    "merged": "Merged with your work",
    "returned": "You had removed these, and they have changed since: they are there again",
    "kept": "Removed there; yours is kept",
    "updated": "New version; you had not changed these",
    "added": "New",
    "removed": "Removed; you had not changed these",
    "deleted": "Still removed, as you left it",
}


class CellChange(BaseModel):
    """What became of one cell, named by the beginning of its text."""

    kind: CellKind
    cell: str
    detail: str = ""


class FileChange(BaseModel):
    """What became of one file. `beside` is where the course's stands when yours kept the name."""

    path: str
    kind: FileKind
    detail: str = ""
    beside: str | None = None
    cells: list[CellChange] = Field(default_factory=list)
    conflicts: int = Field(default=0, description="Cells of the course that stand marked below yours.")


class MergeReport(BaseModel):
    """What a merge did, file by file; files that only one side has, and only that changed, are not named."""

    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    other: Literal["course", "folder", "saved"] = "course"
    version: str = Field("", description="The saved version that was merged.")
    course_before: str = ""
    course_now: str = ""
    saved_before: str | None = Field(None, description="The version that holds what was in the folder before.")
    files: list[FileChange] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)

    @property
    def to_look_at(self) -> int:
        """How many files hold something that a person has to decide."""
        return sum(file.kind in ("beside", "returned") or file.conflicts > 0 for file in self.files)

    def word(self) -> str:
        """What happened, as the beginning of a sentence."""
        return _TITLES[self.other]

    def summary(self) -> str:
        """One line, without the names of files."""
        count: dict[str, int] = defaultdict(int)
        for file in self.files:
            count[file.kind] += 1
        said = [f"{number} {kind}" for kind, number in sorted(count.items())]
        look = f"; {self.to_look_at} to look at" if self.to_look_at else ""
        return f"{', '.join(said) or 'nothing changed'}{look}"

    def markdown(self) -> str:
        """The whole report as a person reads it."""
        before, now = self.course_before[:7], self.course_now[:7]
        change = f" ({before} → {now})" if before and now and before != now else ""
        lines = [f"## {self.word()}{change}", ""]
        lines += [f"- **Problem:** {problem}" for problem in self.problems]
        if self.saved_before:
            lines += [f"What was in the folder before is version `{self.saved_before}`.", ""]
        for kind, heading in _HEADINGS.items():
            files = [file for file in self.files if file.kind == kind]
            if files:
                lines += [f"### {heading}", *(line for file in files for line in _lines(file)), ""]
        return "\n".join(lines).rstrip() + "\n"


def _lines(file: FileChange) -> list[str]:
    more = ": ".join(filter(None, [f"the new one is `{file.beside}`" if file.beside else "", file.detail]))
    cells = [f"  - {c.kind}: {c.cell}{f' ({c.detail})' if c.detail else ''}".rstrip() for c in file.cells]
    return [f"- `{file.path}`{f' – {more}' if more else ''}", *cells]


@dataclass(frozen=True, slots=True)
class Node:
    """A file or a link, by its sha256 or its target."""

    digest: str
    is_link: bool = False
    size: int = field(default=0, compare=False)


Tree = Mapping[str, Node]
Read = Callable[[str], bytes | None]
"""The content at a path of one side; None when it is not to be had."""


@dataclass(frozen=True, slots=True)
class Step:
    """What stands at a path in the end: a side's content (of `source`, where that is another path), or new bytes."""

    path: str
    take: Literal["mine", "theirs", "bytes"]
    source: str
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Merged:
    """The tree in the end, sorted by path. What is not in it is not in the result."""

    steps: tuple[Step, ...]
    changes: tuple[FileChange, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """What the other side is called: in names of files (`name.<word>-<ref>`) and in sentences."""

    word: Literal["course", "folder", "saved"] = "course"
    phrase: str = "the course"


def merge_trees(  # noqa: PLR0917
    base: Tree,
    mine: Tree,
    theirs: Tree,
    read_base: Read,
    read_mine: Read,
    read_theirs: Read,
    ref: str = "",
    other: Other = Other(),
) -> Merged:
    """Decide for every path of the three trees. Content is read only of files that both sides changed."""
    return _Trees(base, mine, theirs, (read_base, read_mine, read_theirs), ref[:7], other).merged()


@dataclass
class _Trees:
    base: Tree
    mine: Tree
    theirs: Tree
    read: tuple[Read, Read, Read]
    ref: str
    other: Other
    steps: dict[str, Step] = field(default_factory=dict)
    changes: dict[str, FileChange] = field(default_factory=dict)

    def merged(self) -> Merged:
        for path in sorted(self.base.keys() | self.mine.keys() | self.theirs.keys()):
            self._decide(path)
        self._apart()
        self._name_renames()
        steps = tuple(self.steps[path] for path in sorted(self.steps))
        return Merged(steps, tuple(self.changes[path] for path in sorted(self.changes)))

    def _decide(self, path: str) -> None:
        base, mine, theirs = self.base.get(path), self.mine.get(path), self.theirs.get(path)
        if theirs in (mine, base):
            if mine is not None:
                self._take(path, "mine")
            elif base is not None and theirs is not None:
                self._say(path, "deleted")
        elif mine == base:
            if theirs is not None:
                self._take(path, "theirs")
            self._say(path, "removed" if theirs is None else "updated" if base else "added")
        elif mine is None:
            self._take(path, "theirs")
            self._say(path, "returned")
        elif theirs is None:
            self._take(path, "mine")
            self._say(path, "kept")
        else:
            self._both(path, base, mine, theirs)

    def _both(self, path: str, base: Node | None, mine: Node, theirs: Node) -> None:
        merged = self._join(path, base, mine, theirs)
        if merged is None:
            self._take(path, "mine")
            self._beside(path, path)
            return
        data, notebook = merged
        self.steps[path] = Step(path, "bytes", path, data)
        self._say(path, "merged")
        if notebook:
            cells = [CellChange(kind=n.kind, cell=n.cell, detail=n.detail) for n in notebook.notes]
            self.changes[path].cells, self.changes[path].conflicts = cells, notebook.conflicts

    def _join(
        self, path: str, base: Node | None, mine: Node, theirs: Node
    ) -> tuple[bytes, MergedNotebook | None] | None:
        notebook = path.endswith(".ipynb")
        limit = NOTEBOOK_LIMIT if notebook else TEXT_LIMIT
        if base is None or any(node.is_link or node.size > limit for node in (base, mine, theirs)):
            return None
        old, own, new = (read(path) for read in self.read)
        if old is None or own is None or new is None:
            return None
        text: bytes | None = None
        found: MergedNotebook | None = None
        try:
            if notebook:
                found = merge_notebooks(old, own, new, self.ref, self.other.phrase)
            else:
                text = merge_file(path, old, own, new)
        except Exception:  # a fault of ours or of a library: the files stand beside each other, and the launch goes on
            log.exception("merging failed path=%s", printable(path))
        if found is not None:
            return found.data, found
        return None if text is None else (text, None)

    def _beside(self, path: str, named: str) -> None:
        """The course's file under a name of its own; `named` is the part of the path that the name is for."""
        node = self.theirs[path]
        label = f"{self.other.word}-{self.ref or node.digest[:7]}"
        number = 1
        if named == path and (place := self._was_beside(path, node)):
            self._say(path, "beside")
            self.changes[path].beside = printable(place)
            return
        while True:
            place = beside(named, label if number == 1 else f"{label}-{number}") + path[len(named) :]
            if self._has(place, node):
                break  # from an earlier launch
            if not any(place in tree for tree in (self.mine, self.theirs, self.steps)):
                self.steps[place] = Step(place, "theirs", path)
                break
            number += 1
        self._say(path, "beside")
        self.changes[path].beside = printable(place)

    def _was_beside(self, path: str, node: Node) -> str | None:
        """Where an earlier merge, perhaps one that was killed, put exactly this content under whichever label."""
        before, after = beside(path, "\0").split("\0")
        form = re.compile(f"{re.escape(before)}(course|folder|saved)-[^/]+{re.escape(after)}")
        return next(
            (p for tree in (self.mine, self.theirs) for p, n in tree.items() if n == node and form.fullmatch(p)), None
        )

    def _has(self, place: str, node: Node) -> bool:
        step = self.steps.get(place)
        if step and step.take == "theirs":
            return self.theirs.get(step.source) == node
        return self.mine.get(place) == node and place not in self.theirs

    def _apart(self) -> None:
        """A path cannot be both a file and a folder: the student's stays, the course's goes beside."""
        for path in sorted(self.steps):
            parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
            for file in filter(self.steps.__contains__, parents):
                if self.steps[file].take == "theirs":
                    del self.steps[file]
                    self._beside(file, file)
                elif self.steps[path].take == "theirs":
                    source = self.steps.pop(path).source
                    self._beside(source, file)
                    break

    def _name_renames(self) -> None:
        """Say where a removed file went, when exactly its content is elsewhere."""
        news = {side: _places(tree, self.base) for side, tree in (("mine", self.mine), ("theirs", self.theirs))}
        for path, change in self.changes.items():
            if change.kind in ("removed", "kept"):
                to = news["theirs"].get(self.base[path].digest)
                if to and (moved := self.changes.get(to)) and moved.kind == "added":
                    change.detail = f"{self.other.phrase} has it as {printable(to)} now"
                    moved.detail = f"was {printable(path)}"
            elif change.kind in ("returned", "deleted"):
                to = news["mine"].get(self.base[path].digest)
                if to:
                    change.detail = f"yours is {printable(to)}"

    def _take(self, path: str, side: Literal["mine", "theirs"]) -> None:
        self.steps[path] = Step(path, side, path)

    def _say(self, path: str, kind: FileKind) -> None:
        self.changes[path] = FileChange(path=printable(path), kind=kind)


def beside(path: str, label: str) -> str:
    """The name beside: `a/b.ipynb` → `a/b.<label>.ipynb`, cut where it would be longer than file systems allow."""
    pure = PurePosixPath(path)
    stem, suffix = pure.stem, f".{label}{pure.suffix}"
    while len(os.fsencode(stem + suffix)) > 255:
        stem = stem[:-1]
    return str(pure.with_name(stem + suffix))


def _places(tree: Tree, base: Tree) -> dict[str, str]:
    """Digest → path of what the tree has at a path that the base has not."""
    return {node.digest: path for path, node in tree.items() if path not in base and node.digest}
