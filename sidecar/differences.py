"""What changed in one file between two versions, as people look at it: cells of notebooks, lines of text."""

from __future__ import annotations

import difflib
import json
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, Field

from datamount.errors import NotFound
from datamount.merge.align import Cell, align, source
from datamount.snapshots import Version, Workspace
from sidecar.models import shown

LIMIT = 2 * 1000 * 1000
"""Bytes of one side; larger files are told by size only."""
CONTEXT = 3


class CellDifference(BaseModel):
    """One cell that differs. `index` counts from 0 in the notebook that has the cell, the newer one where both do."""

    kind: Literal["added", "removed", "changed", "results"] = Field(description="results: outputs or metadata only.")
    index: int
    cell_type: str
    before: str | None = Field(description="The text before, null for an added cell.")
    after: str | None
    moved: bool = False
    lines: list[str] = Field(default_factory=list, description="As in a unified diff: ' ', '-' or '+' before each.")


class FileDifference(BaseModel):
    """What changed in one file. `cells` for notebooks, `lines` (a unified diff) for text; neither for the rest."""

    path: str
    kind: Literal["added", "removed", "changed", "same"]
    format: Literal["notebook", "text", "binary", "large"]
    before: int | None = Field(description="Size in bytes, null where the version has no such file.")
    after: int | None
    cells: list[CellDifference] = Field(default_factory=list)
    lines: list[str] = Field(default_factory=list)


def compare(workspace: Workspace, old: Version | None, new: Version, path: str) -> FileDifference:
    """What changed at `path` from `old` to `new`. NotFound when neither has such a file."""
    before, after = (version.by_path().get(path) if version else None for version in (old, new))
    entries = [entry if entry and entry.type == "file" else None for entry in (before, after)]
    if not any(entries):
        raise NotFound(f"neither version has a file {shown(path)!r}.", who="you")
    sizes = [entry.size if entry else None for entry in entries]
    digests = [entry.sha256 if entry else None for entry in entries]
    found = FileDifference(
        path=shown(path),
        kind="added" if not entries[0] else "removed" if not entries[1] else "changed",
        format="large",
        before=sizes[0],
        after=sizes[1],
    )
    if digests[0] == digests[1]:
        found.kind = "same"
    if any((size or 0) > LIMIT for size in sizes) or any(entry and entry.location is None for entry in entries):
        return found
    sides = [
        b"".join(workspace.read(version, path)) if version and entry else None
        for version, entry in zip((old, new), entries, strict=True)
    ]
    return _content(found, *sides)


def _content(found: FileDifference, before: bytes | None, after: bytes | None) -> FileDifference:
    if found.path.endswith(".ipynb"):
        notebooks = [_cells(side) for side in (before, after)]
        if notebooks[0] is not None and notebooks[1] is not None:
            found.format = "notebook"
            found.cells = list(_cell_changes(notebooks[0], notebooks[1]))
            return found
    try:
        texts = [(side or b"").decode() for side in (before, after)]
    except UnicodeDecodeError:
        found.format = "binary"
        return found
    found.format = "binary" if any("\0" in text for text in texts) else "text"
    if found.format == "text" and found.kind != "same":
        old, new = (text.splitlines() for text in texts)
        found.lines = list(difflib.unified_diff(old, new, lineterm="", n=CONTEXT))[2:]
    return found


def _cells(data: bytes | None) -> list[Cell] | None:
    """The cells of a notebook, none of a file that is not there; None for what is no notebook."""
    if data is None:
        return []
    try:
        cells: Any = json.loads(data)["cells"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(cells, list):
        return None
    texts = (cell.get("source", "") if isinstance(cell, dict) else None for cell in cells)
    good = (isinstance(t, str) or (isinstance(t, list) and all(isinstance(line, str) for line in t)) for t in texts)
    return cells if all(good) else None


def _cell_changes(old: list[Cell], new: list[Cell]) -> Iterator[CellDifference]:
    """In the order of the newer notebook; removed cells stand where they were."""
    to_new = align(old, new)
    to_old = {j: i for i, j in to_new.items()}
    in_order = _in_order([to_old[j] for j in sorted(to_old)])
    removed = [i for i in range(len(old)) if i not in to_new]
    for j, cell in enumerate(new):
        i = to_old.get(j)
        if i is None:
            yield _cell("added", j, None, cell)
            continue
        while removed and removed[0] < i and i in in_order:
            yield _cell("removed", removed[0], old[removed.pop(0)], None)
        if source(old[i]) != source(cell) or old[i].get("cell_type") != cell.get("cell_type"):
            yield _cell("changed", j, old[i], cell, moved=i not in in_order)
        elif i not in in_order or any(old[i].get(key) != cell.get(key) for key in ("outputs", "metadata")):
            yield _cell("results", j, old[i], cell, moved=i not in in_order)
    for i in removed:
        yield _cell("removed", i, old[i], None)


def _cell(
    kind: Literal["added", "removed", "changed", "results"],
    index: int,
    old: Cell | None,
    new: Cell | None,
    *,
    moved: bool = False,
) -> CellDifference:
    before, after = (source(cell) if cell is not None else None for cell in (old, new))
    lines: list[str] = []
    if kind == "changed":
        sides = (before or "").splitlines(), (after or "").splitlines()
        for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, *sides).get_opcodes():
            if tag == "equal":
                lines += [f" {line}" for line in sides[0][i1:i2]]
            else:
                lines += [*(f"-{line}" for line in sides[0][i1:i2]), *(f"+{line}" for line in sides[1][j1:j2])]
    return CellDifference(
        kind=kind,
        index=index,
        cell_type=str((new if new is not None else old or {}).get("cell_type")),
        before=before,
        after=after,
        moved=moved,
        lines=lines,
    )


def _in_order(numbers: list[int]) -> set[int]:
    """The members of a longest increasing run: what did not move."""
    tails: list[int] = []
    before: dict[int, int | None] = {}
    for number in numbers:
        at = bisect_left(tails, number)
        before[number] = tails[at - 1] if at else None
        tails[at:] = [number] if at == len(tails) else [number, *tails[at + 1 :]]
    found: set[int] = set()
    last: int | None = tails[-1] if tails else None
    while last is not None:
        found.add(last)
        last = before[last]
    return found
