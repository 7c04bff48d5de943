"""Three-way merge of notebooks, cell by cell.

The student's cells stay where they are and as they are. A cell that only the course changed is the course's new one;
one that both changed is joined line by line; where that cannot be, the student's stays and the course's follows it
below a note: as a raw cell when it is code, so that "Run All" still runs what the student wrote, and both marked with
`datamount` in their metadata. Results of running (outputs, counts) never conflict: they go with the text they belong
to. nbdime says which cell is which; deciding is done here, because its own strategies write conflict markers into
cells, or take one side and say nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datamount.merge.align import Cell, align, same, source
from datamount.merge.text import keeps, merge_text

MARK = "datamount"
_RESULTS = ("outputs", "execution_count")
_OF_A_RUN = frozenset({"collapsed", "scrolled", "autoscroll", "execution", "ExecuteTime", "language_info", "widgets"})
"""Metadata that programs write whenever a notebook is opened or run: a difference there is nobody's change."""
_TITLE = 60

CellKind = Literal["updated", "added", "removed", "merged", "conflict", "kept", "settings", "order"]
Key = tuple[str, int]
"""("b", index in base), or ("m"/"t", index) of a cell that only mine or theirs has."""


@dataclass(frozen=True, slots=True)
class CellNote:
    """What became of one cell, by the beginning of its text."""

    kind: CellKind
    cell: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MergedNotebook:
    """A valid notebook and what was done to get it; `conflicts` are cells of the course that stand beside."""

    data: bytes
    notes: tuple[CellNote, ...]
    conflicts: int


def merge_notebooks(
    base: bytes, mine: bytes, theirs: bytes, ref: str, other: str = "the course"
) -> MergedNotebook | None:
    """The student's notebook (`mine`) with what the course changed since `base`; `ref` names the course's version,
    `other` is whom the notes name for it.

    None when one of the three is no valid notebook of format 4, or when the merge would not hold every line of both.
    """
    found = [_read(data) for data in (base, mine, theirs)]
    if any(notebook is None for notebook in found):
        return None
    old, own, new = (notebook for notebook in found if notebook is not None)
    work = _Merge(old, own, new, ref, other)
    document = work.document()
    if _faulty(document) or not _holds(document, old, own) or not _holds(document, old, new):
        return None
    conflicts = sum(note.kind == "conflict" for note in work.notes)
    return MergedNotebook(_write(document), tuple(work.notes), conflicts)


@dataclass
class _Merge:
    base: Mapping[str, Any]
    mine: Mapping[str, Any]
    theirs: Mapping[str, Any]
    ref: str
    other: str
    notes: list[CellNote] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        b, m, t = (nb["cells"] for nb in (self.base, self.mine, self.theirs))
        self.to_mine, self.to_theirs = align(b, m), align(b, t)
        added_m = [j for j in range(len(m)) if j not in set(self.to_mine.values())]
        added_t = [k for k in range(len(t)) if k not in set(self.to_theirs.values())]
        both = align([m[j] for j in added_m], [t[k] for k in added_t])
        self.both = {added_m[x]: added_t[y] for x, y in both.items()}
        minor = max(self.mine.get("nbformat_minor", 0), self.theirs.get("nbformat_minor", 0))
        cells = [dict(cell) for cell in self._woven()]
        _identify(cells, minor, self.ref)
        metadata = self._settings(
            "the notebook", *(nb.get("metadata", {}) for nb in (self.base, self.mine, self.theirs))
        )
        return {**self.mine, "cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}

    # --- Order ----------------------------------------------------------------------------------------------------

    def _woven(self) -> Iterator[Cell]:
        """All cells: in the course's order when the student left the order alone, else in the student's."""
        from_mine = {j: ("b", i) for i, j in self.to_mine.items()}
        from_theirs: dict[int, Key] = {k: ("b", i) for i, k in self.to_theirs.items()}
        from_theirs |= {k: ("m", j) for j, k in self.both.items()}
        mine: list[Key] = [from_mine.get(j, ("m", j)) for j in range(len(self.mine["cells"]))]
        theirs: list[Key] = [from_theirs.get(k, ("t", k)) for k in range(len(self.theirs["cells"]))]
        common = set(mine) & set(theirs)
        moved_by_course, moved_by_student = (
            (order := [key for key in side if key in common and key[0] == "b"]) != sorted(order)
            for side in (theirs, mine)
        )
        if moved_by_course:
            what = "yours is kept" if moved_by_student else "the new one is taken"
            self.notes.append(CellNote("order", "", f"{self.other} changed the order of cells; {what}"))
        first, second = (theirs, mine) if moved_by_course and not moved_by_student else (mine, theirs)
        follow: dict[Key | None, list[Key]] = {}
        anchor: Key | None = None
        for key in second:
            if key in common:
                anchor = key
            else:
                follow.setdefault(anchor, []).append(key)
        held: list[Key] = follow.pop(None, [])
        if first is theirs:
            # What the student wrote stays right below the cell that it was below.
            order = [*held, *(k for key in first for k in (key, *follow.get(key, [])))]
        else:
            order, held = [*held], []
            for key in first:
                if key in common:
                    order, held = [*order, *held], follow.get(key, [])
                order.append(key)
            order += held
        for key in order:
            yield from self._cells(key)

    # --- One cell -------------------------------------------------------------------------------------------------

    def _cells(self, key: Key) -> Iterator[Cell]:
        kind, index = key
        cells = self.mine["cells"], self.theirs["cells"]
        if kind == "t":
            yield cells[1][index]
            self._note("added", cells[1][index])
        elif kind == "m":
            yield from self._added(cells[0][index], self.both.get(index))
        else:
            mine, theirs = self.to_mine.get(index), self.to_theirs.get(index)
            if mine is not None and theirs is not None:
                yield from self._changed(self.base["cells"][index], cells[0][mine], cells[1][theirs])
            elif mine is not None:
                yield from self._removed_by_course(self.base["cells"][index], cells[0][mine])
            elif theirs is not None:
                yield from self._removed_by_student(self.base["cells"][index], cells[1][theirs])

    def _added(self, mine: Cell, theirs_index: int | None) -> Iterator[Cell]:
        yield mine
        if theirs_index is not None:
            theirs = self.theirs["cells"][theirs_index]
            if not same(mine, theirs):
                yield from self._beside(theirs, "has a new cell like the one above", mine)

    def _removed_by_course(self, base: Cell, mine: Cell) -> Iterator[Cell]:
        if same(base, mine):
            self._note("removed", mine, f"{self.other} removed it, and you had not changed it")
        else:
            yield mine
            self._note("kept", mine, f"{self.other} removed it; yours is kept")

    def _removed_by_student(self, base: Cell, theirs: Cell) -> Iterator[Cell]:
        if not same(base, theirs):
            yield from self._beside(theirs, "changed a cell that you had removed", theirs)

    def _changed(self, base: Cell, mine: Cell, theirs: Cell) -> Iterator[Cell]:
        own = dict(mine)
        own["metadata"] = self._settings(
            f"the cell “{title(mine)}”", *(cell.get("metadata", {}) for cell in (base, mine, theirs))
        )
        if same(mine, theirs) or same(base, theirs):
            untouched = same(base, mine) and all(mine.get(k) == base.get(k) for k in _RESULTS)
            yield own | ({k: theirs[k] for k in _RESULTS if k in theirs} if untouched else {})
        elif same(base, mine):
            yield {**theirs, "metadata": own["metadata"]} | ({"id": mine["id"]} if "id" in mine else {})
            lost = any(mine.get(k) != base.get(k) for k in _RESULTS) and mine.get("outputs")
            self._note("updated", theirs, "what it showed was of the former text: run it again" if lost else "")
        elif (text := self._joined(base, mine, theirs)) is not None:
            yield own | {"source": text}
            self._note("merged", mine)
        else:
            yield own
            yield from self._beside(theirs, "changed the cell above too", mine)

    @staticmethod
    def _joined(base: Cell, mine: Cell, theirs: Cell) -> str | None:
        if len({cell["cell_type"] for cell in (base, mine, theirs)}) > 1:
            return None
        if len({repr(cell.get("attachments")) for cell in (base, mine, theirs)}) > 1:
            return None
        return merge_text(source(base), source(mine), source(theirs))

    def _beside(self, theirs: Cell, why: str, about: Cell) -> Iterator[Cell]:
        """The course's cell below a note. Without its own metadata: a grading ID or a tag must not be there twice."""
        code = theirs["cell_type"] == "code"
        use = "To use it, select it and press Y." if code else "Keep what you want of it."
        text = f"> **{_capital(self.other)} {why}** ({self.ref or 'new version'}). Its text is below. {use}"
        yield {"cell_type": "markdown", "metadata": {MARK: {"merge": "note", "ref": self.ref}}, "source": text}
        mark = {"merge": "course", "ref": self.ref, "cell_type": theirs["cell_type"]}
        if "id" in theirs:
            mark["of"] = theirs["id"]
        copy = {"cell_type": "raw" if code else theirs["cell_type"], "metadata": {MARK: mark}}
        attachments = {"attachments": theirs["attachments"]} if theirs.get("attachments") else {}
        yield copy | attachments | {"source": source(theirs)}
        self._note("conflict", about, "yours is as you left it; the new one is below it, marked")

    def _note(self, kind: CellKind, cell: Cell, detail: str = "") -> None:
        self.notes.append(CellNote(kind, title(cell), detail))

    # --- Metadata ---------------------------------------------------------------------------------------------------

    def _settings(
        self, where: str, base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any], path: str = ""
    ) -> dict[str, Any]:
        """Key by key: who changed it decides; where both did, the student, and the course's value is named."""
        merged: dict[str, Any] = {}
        absent = object()
        for key in [*mine, *(k for k in theirs if k not in mine)]:
            old, own, new = (side.get(key, absent) for side in (base, mine, theirs))
            name = f"{path}{key}"
            if own in (old, new):
                chosen = new
            elif new == old:
                chosen = own
            elif key in _OF_A_RUN:
                chosen = new if own is absent else own
            elif all(isinstance(side, Mapping) for side in (own, new)):
                chosen = self._settings(where, old if isinstance(old, Mapping) else {}, own, new, f"{name}.")
            else:
                chosen = own
                now = "removed" if new is absent else f"set to {json.dumps(new, ensure_ascii=False)[:200]}"
                self.notes.append(CellNote("settings", where, f"{name}: {now} by {self.other}; yours is kept"))
            if chosen is not absent:
                merged[key] = chosen
        return merged


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def title(cell: Cell) -> str:
    """A cell as a report names it: the beginning of its first line with text."""
    line = next((line.strip() for line in source(cell).splitlines() if line.strip()), "empty cell")
    return line if len(line) <= _TITLE else f"{line[: _TITLE - 1]}…"


def _read(data: bytes) -> dict[str, Any] | None:
    """A valid notebook of format 4, else None."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("nbformat") != 4 or _faulty(document):
        return None
    return document


def _faulty(document: dict[str, Any]) -> bool:
    from nbformat.validator import iter_validate

    try:
        return next(iter(iter_validate(document)), None) is not None  # type: ignore[no-untyped-call]
    except Exception:  # a format it does not know, or a structure its schemas choke on
        return True


def _write(document: dict[str, Any]) -> bytes:
    """As Jupyter writes it."""
    import nbformat

    text: str = nbformat.writes(nbformat.from_dict(document))  # type: ignore[no-untyped-call]
    return f"{text}\n".encode()


def _identify(cells: Sequence[dict[str, Any]], minor: int, ref: str) -> None:
    """Give cells without an ID one, and those with the ID of an earlier cell another; the same for the same input."""
    seen: set[str] = set()
    for number, cell in enumerate(cells):
        if minor < 5:
            cell.pop("id", None)
            continue
        known = cell.get("id")
        salt = 0
        while not known or known in seen:
            known = hashlib.sha256(f"{ref} {number} {salt} {source(cell)}".encode()).hexdigest()[:12]
            salt += 1
        cell["id"] = known
        seen.add(known)


def _holds(merged: Mapping[str, Any], base: Mapping[str, Any], side: Mapping[str, Any]) -> bool:
    """Whether every line that the side added to the base is in the merge."""
    lines = [[line for cell in nb["cells"] for line in source(cell).split("\n")] for nb in (merged, base, side)]
    return keeps(*lines)
