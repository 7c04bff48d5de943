"""Random three-way merges: 1,000 notebooks and 1,000 texts (DATAMOUNT_MERGE_RUNS), beside what git does."""

from __future__ import annotations

import json
import os

import pytest

from tests import merge_cases

RUNS = int(os.environ.get("DATAMOUNT_MERGE_RUNS", "1000"))

pytestmark = pytest.mark.slow


def test_notebooks_lose_nothing() -> None:
    """No student line is lost, no course line is dropped without a name, no notebook is invalid."""
    tally = merge_cases.by_us(merge_cases.notebooks(RUNS), True)
    assert (tally.merges, tally.student_lost, tally.course_dropped, tally.invalid) == (RUNS, 0, 0, 0)
    assert tally.beside == 0, "a valid notebook is merged, not put beside as a whole"
    assert tally.clean > RUNS // 20


def test_texts_lose_nothing() -> None:
    """No student line is lost and no course line dropped: merged where git merges too, else the file is beside."""
    tally = merge_cases.by_us(merge_cases.texts(RUNS), False)
    assert (tally.merges, tally.student_lost, tally.course_dropped) == (RUNS, 0, 0)
    assert tally.clean > RUNS // 20


def test_every_change_of_the_course_is_taken_or_named() -> None:
    """A cell that the course changed, added or removed is as the course has it, is marked, or has a note."""
    for case in merge_cases.notebooks(RUNS):
        merged = merge_cases.merge(case, "l.ipynb")
        data, _ = merge_cases.result(case, merged, "l.ipynb")
        notes = [cell for change in merged.changes for cell in change.cells]
        base, mine, theirs, found = (_cells(d) for d in (case.base, case.mine, case.theirs, data))
        for text in base:
            stayed = text in mine and text not in theirs and text in found
            assert not stayed, f"the course alone changed or removed {text!r}"
        for text in theirs:
            joined = any(note.kind == "merged" for note in notes)
            assert text in base or text in found or joined, f"the course's {text!r} is not there"
        assert sum(_marked(data)) == sum(note.kind == "conflict" for note in notes)


def test_the_student_keeps_the_order() -> None:
    """Cells of the student's stand in the order they had, unless the course moved cells."""
    for case in merge_cases.notebooks(RUNS):
        if case.moved_by_course:
            continue
        data, _ = merge_cases.result(case, merge_cases.merge(case, "l.ipynb"), "l.ipynb")
        mine, found = _cells(case.mine), _cells(data)
        there = [text for text in mine if mine.count(text) == found.count(text) == 1]
        assert [text for text in found if text in there] == there


def test_git_drops_what_we_keep() -> None:
    """The comparison of docs/benchmarks/merge.md still says something: git loses the course's lines in silence."""
    cases = list(merge_cases.notebooks(50))
    assert merge_cases.by_git(iter(cases), True).with_loss > 10
    assert merge_cases.by_us(iter(cases), True).with_loss == 0


def _cells(data: bytes) -> list[str]:
    """The texts that say who wrote them: not the notes that a merge puts in."""
    return [text for cell in json.loads(data)["cells"] if "_" in (text := "".join(cell["source"]))]


def _marked(data: bytes) -> list[bool]:
    cells = json.loads(data)["cells"]
    return [cell["metadata"].get("datamount", {}).get("merge") == "course" for cell in cells]
