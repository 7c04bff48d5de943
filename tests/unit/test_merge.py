"""Three-way merge of notebooks, text and trees: what is taken, what stands beside, and what is said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from datamount.merge import Merged, MergeReport, Node, beside, merge_trees
from datamount.merge.align import align
from datamount.merge.notebook import MergedNotebook, merge_notebooks
from datamount.merge.text import merge_file, merge_text
from tests import merge_cases

Cell = dict[str, Any]


def code(id: str | None, text: str, **more: Any) -> Cell:
    cell = {"cell_type": "code", "metadata": {}, "source": text, "outputs": [], "execution_count": None} | more
    return cell if id is None else cell | {"id": id}


def prose(id: str, text: str) -> Cell:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": text}


def notebook(*cells: Cell, minor: int = 5, **metadata: Any) -> bytes:
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor}).encode()


def merged(base: bytes, mine: bytes, theirs: bytes) -> tuple[list[Cell], MergedNotebook]:
    found = merge_notebooks(base, mine, theirs, "abc1234")
    assert found
    assert merge_cases.valid(found.data)
    return [cell | {"source": "".join(cell["source"])} for cell in json.loads(found.data)["cells"]], found


def sources(cells: list[Cell]) -> list[str]:
    return [cell["source"] for cell in cells]


def output(text: str) -> dict[str, Any]:
    return {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}], "execution_count": 3}


def test_both_sides_of_a_notebook() -> None:
    """Cells that one side changed, added or removed are as that side has them, each side's in its place."""
    base = notebook(prose("a", "Title"), code("bb", "x = 1"), code("cc", "y"), prose("dd", "bye"))
    mine = notebook(
        prose("a", "Title"), code("bb", "x = 1"), code("mm", "mine"), code("cc", "answer"), prose("dd", "bye")
    )
    theirs = notebook(prose("a", "New title"), code("bb", "x = 1"), code("tt", "theirs"), code("cc", "y"))
    cells, found = merged(base, mine, theirs)
    assert sources(cells) == ["New title", "x = 1", "mine", "theirs", "answer"]
    assert found.conflicts == 0
    assert {(n.kind, n.cell) for n in found.notes} == {
        ("updated", "New title"),
        ("added", "theirs"),
        ("removed", "bye"),
    }


def test_lines_of_one_cell_are_joined() -> None:
    """A cell that both changed at different lines has both changes, and the student's outputs."""
    text = "one\ntwo\nthree\nfour"
    base, mine = code("a", text), code("a", text.replace("one", "ONE"), **output("1"))
    cells, found = merged(notebook(base), notebook(mine), notebook(code("a", text.replace("four", "FOUR"))))
    assert sources(cells) == ["ONE\ntwo\nthree\nFOUR"]
    assert cells[0]["execution_count"] == 3
    assert [n.kind for n in found.notes] == ["merged"]


def test_a_conflict_stands_below_and_does_not_run() -> None:
    """The student's cell is as it was; the course's follows as a raw cell, marked, without its grading metadata."""
    graded = {"nbgrader": {"grade_id": "q1", "solution": True}}
    base = code("ccc", "raise NotImplementedError", metadata=graded)
    mine = code("ccc", "return 42", metadata=graded, **output("42"))
    theirs = code("ccc", "raise NotImplementedError()", metadata=graded | {"tags": ["new"]})
    cells, found = merged(notebook(base), notebook(mine), notebook(theirs))
    assert [cell["cell_type"] for cell in cells] == ["code", "markdown", "raw"]
    assert cells[0] == json.loads(notebook(mine))["cells"][0] | {
        "metadata": graded | {"tags": ["new"]},
        "outputs": cells[0]["outputs"],
    }
    assert "abc1234" in cells[1]["source"]
    assert cells[2]["source"] == "raise NotImplementedError()"
    assert cells[2]["metadata"] == {
        "datamount": {"merge": "course", "ref": "abc1234", "cell_type": "code", "of": "ccc"}
    }
    assert found.conflicts == 1


def test_results_are_no_conflict() -> None:
    """Outputs and counts go with their text: the student's runs stay, and a new text takes the course's."""
    base = notebook(code("a1", "x"), code("b1", "y"))
    mine = notebook(code("a1", "x", **output("mine")), code("b1", "y", **output("mine")))
    theirs = notebook(code("a1", "x", **output("theirs")), code("b1", "new", **output("theirs")))
    cells, found = merged(base, mine, theirs)
    assert ["".join(cell["outputs"][0]["text"]) for cell in cells] == ["mine", "theirs"]
    assert [(n.kind, n.detail) for n in found.notes] == [
        ("updated", "what it showed was of the former text: run it again")
    ]


def test_removed_on_one_side_and_changed_on_the_other() -> None:
    """Neither is dropped: the student's changed cell stays and is named, the course's changed one comes marked."""
    base = notebook(code("a1", "first"), code("b1", "second"), code("c1", "third"))
    mine = notebook(code("a1", "first, mine"), code("c1", "third"))
    theirs = notebook(code("b1", "second, new"), code("c1", "third"))
    cells, found = merged(base, mine, theirs)
    assert "first, mine" in sources(cells)
    assert [cell["cell_type"] for cell in cells if cell["source"] == "second, new"] == ["raw"]
    assert {n.kind for n in found.notes} == {"kept", "conflict"}


def test_order() -> None:
    """The course's new order is taken when the student left the order alone; else the student's stays, and is named."""
    a, b, c = prose("a1", "alpha"), prose("b1", "beta"), prose("c1", "gamma")
    own = prose("m1", "mine below alpha")
    cells, _ = merged(notebook(a, b, c), notebook(a, own, b, c), notebook(c, a, b))
    assert sources(cells) == ["gamma", "alpha", "mine below alpha", "beta"]
    cells, found = merged(notebook(a, b, c), notebook(b, a, c), notebook(c, a, b))
    assert sources(cells) == ["beta", "alpha", "gamma"]
    assert [n.kind for n in found.notes] == ["order"]


def test_the_same_new_cell_on_both_sides() -> None:
    """A cell that both added is there once; one with the same ID and another text is there as well, marked."""
    base = notebook(code("a1", "x"))
    cells, _ = merged(
        base, notebook(code("a1", "x"), code("m1", "same")), notebook(code("a1", "x"), code("t1", "same"))
    )
    assert sources(cells) == ["x", "same"]
    cells, found = merged(
        base, notebook(code("a1", "x"), code("z1", "me")), notebook(code("a1", "x"), code("z1", "it"))
    )
    assert [s for s in sources(cells) if not s.startswith(">")] == ["x", "me", "it"]
    assert found.conflicts == 1


def test_cells_without_ids_and_with_ids_of_a_tool() -> None:
    """Cells are found by their text when IDs are missing, new on each save, or only count."""
    text = [f"value_{n} = compute({n})" for n in range(6)]
    base = [code(None, t) for t in text]
    mine = [code(f"m{n}", t) for n, t in enumerate(text)]
    assert align(base, mine) == {n: n for n in range(6)}
    numbered = [code(str(n), t) for n, t in enumerate(text)]
    shifted = [code(str(n), t) for n, t in enumerate(["inserted = True", *text])]
    assert align(numbered, shifted) == {n: n + 1 for n in range(6)}


def test_settings_of_notebook_and_cells() -> None:
    """Metadata is merged key by key; where both changed one, the student's stays and the course's is named."""
    base = notebook(code("a1", "x"), title="t", authors=[{"name": "a"}])
    mine = notebook(code("a1", "x", metadata={"tags": ["mine"]}), title="mine", authors=[{"name": "a"}])
    theirs = notebook(code("a1", "x"), title="new", authors=[{"name": "b"}])
    found = merge_notebooks(base, mine, theirs, "abc1234")
    assert found
    document = json.loads(found.data)
    assert document["metadata"] == {"title": "mine", "authors": [{"name": "b"}]}
    assert document["cells"][0]["metadata"] == {"tags": ["mine"]}
    assert [(n.kind, n.detail) for n in found.notes] == [
        ("settings", 'title: set to "new" by the course; yours is kept')
    ]


@pytest.mark.parametrize("bad", [b"", b"{", b"[]", b'{"nbformat": 3, "worksheets": []}', notebook(code("a", "x"))[:-9]])
def test_what_is_no_notebook_is_not_merged(bad: bytes) -> None:
    """A file that is not a valid notebook of format 4 on any side is left to stand beside."""
    good = notebook(code("a1", "x"))
    for sides in ((bad, good, good), (good, bad, good), (good, good, bad)):
        assert merge_notebooks(*sides, "abc1234") is None


def test_text() -> None:
    """Changes apart are joined; those that touch, and files that no longer parse, are a conflict."""
    base = "a\nb\nc\nd\ne\n"
    assert merge_text(base, "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n") == "A\nb\nc\nd\nE\n"
    assert merge_text(base, "A\nb\nc\nd\ne\n", "a\nB\nc\nd\ne\n") is None
    assert merge_text(base, base + "mine\n", base + "theirs\n") is None
    assert merge_text("a\nb", "z\na\nb", "a\nb\nc") == "z\na\nb\nc"
    assert merge_text("a\nb\n", "a\nb", "a\nb\nc\n") is None
    assert merge_text("", "x\n", "x\n") == "x\n"
    assert merge_file("a.bin", b"a\0", b"b\0", b"a\0\n") is None
    assert merge_file("a.txt", b"\xff\n1\n2\n", b"\xff\n0\n1\n2\n", b"\xff\n1\n2\n3\n") is None
    sides = (b"[\n1\n,\n2\n]\n", b"[\n1,\n1\n,\n2\n]\n", b"[\n1\n]\n")
    assert merge_file("a.txt", *sides) == b"[\n1,\n1\n]\n"
    code = (b"if a:\n  b\n  c\n  d\n", b"if a:\n  b\n  c\n  d\n  e\n", b"if a:\n b\n c\n d\n")
    assert merge_file("a.py", *code) is None


def tree(**files: str) -> dict[str, Node]:
    return {path.replace("__", "/"): Node(text) for path, text in files.items()}


def trees(base: dict[str, Node], mine: dict[str, Node], theirs: dict[str, Node]) -> Merged:
    def read(side: dict[str, Node]) -> Any:
        return lambda path: side[path].digest.encode()

    return merge_trees(base, mine, theirs, read(base), read(mine), read(theirs), ref="abc1234def")


def final(found: Merged) -> dict[str, tuple[str, str]]:
    return {step.path: (step.take, step.source) for step in found.steps}


def test_names_beside() -> None:
    """The course's file gets the ref before its suffix, within what file systems allow, and never a name in use."""
    assert beside("a/b.ipynb", "course-abc1234") == "a/b.course-abc1234.ipynb"
    assert beside("Makefile", "course-abc1234") == "Makefile.course-abc1234"
    assert len(beside("ü" * 127, "course-abc1234").encode()) <= 255
    found = trees(
        tree(a="1"),
        {"a": Node("2"), "a.course-abc1234": Node("own")},
        {"a": Node("3"), "a.course-abc1234-2": Node("own")},
    )
    assert final(found)["a.course-abc1234-3"] == ("theirs", "a")


def test_links() -> None:
    """A link that both sides changed is the student's, the course's is beside."""
    old, mine, theirs = ({"l": Node(to, is_link=True)} for to in ("x", "y", "z"))
    assert final(trees(old, mine, theirs)) == {"l": ("mine", "l"), "l.course-abc1234": ("theirs", "l")}


def test_file_against_folder() -> None:
    """One path is a file on one side and a folder on the other: the student's keeps the path."""
    found = trees({}, tree(a="file"), tree(a__b="1", a__c="2"))
    assert final(found) == {
        "a": ("mine", "a"),
        "a.course-abc1234/b": ("theirs", "a/b"),
        "a.course-abc1234/c": ("theirs", "a/c"),
    }
    assert final(trees({}, tree(a__b="1"), tree(a="file"))) == {
        "a/b": ("mine", "a/b"),
        "a.course-abc1234": ("theirs", "a"),
    }


def test_every_pair_of_fates() -> None:
    """Whatever each side did to a file, its content is in the result or the report names it."""
    states = {"absent": None, "old": "old\n", "mine": "mine\n", "theirs": "theirs\n"}
    for base in (None, "old\n"):
        for mine in (states["absent"], states["old"], states["mine"]):
            for theirs in (states["absent"], states["old"], states["theirs"]):
                sides = [{"f": Node(text)} if text is not None else {} for text in (base, mine, theirs)]
                found = trees(*sides)
                held = {
                    {"mine": mine, "theirs": theirs, "bytes": step.data.decode()}[step.take] for step in found.steps
                }
                named = {change.path for change in found.changes}
                case = f"base {base!r} mine {mine!r} theirs {theirs!r} → {held} {found.changes}"
                for side in (mine, theirs):
                    assert side in held or side in (None, base), case
                changed_by_course = theirs != base and theirs != mine
                assert bool(named) >= changed_by_course, case


def test_a_fault_of_the_merge_keeps_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """When merging one file fails for whatever reason, both files are there and the rest goes on."""

    def broken(*_: Any) -> None:
        raise AssertionError("a fault")

    monkeypatch.setattr("datamount.merge.trees.merge_notebooks", broken)
    found = trees({"a.ipynb": Node("1")}, {"a.ipynb": Node("2")}, {"a.ipynb": Node("3"), "b": Node("new")})
    assert set(final(found)) == {"a.ipynb", "a.course-abc1234.ipynb", "b"}


def test_the_report_reads_well() -> None:
    """Every changed file and cell is in the text, what has to be decided first."""
    base = {"l.ipynb": notebook(code("a1", "x = 1")).decode(), "t.txt": "1\n", "gone": "g"}
    mine = base | {"l.ipynb": notebook(code("a1", "x = 2")).decode(), "t.txt": "2\n"}
    theirs = {"l.ipynb": notebook(code("a1", "x = 3")).decode(), "t.txt": "3\n", "new": "n"}
    found = trees(*({path: Node(text) for path, text in side.items()} for side in (base, mine, theirs)))
    report = MergeReport(course_before="1" * 40, course_now="2" * 40, files=list(found.changes))
    text = report.markdown()
    assert text.splitlines()[0] == "## The course has changed since you saved (1111111 → 2222222)"
    for part in ("`t.txt`", "`t.course-abc1234.txt`", "`l.ipynb`", "conflict: x = 2", "`new`", "`gone`"):
        assert part in text
    assert text.index("t.txt") < text.index("`new`")
    assert report.summary() == "1 added, 1 beside, 1 merged, 1 removed; 2 to look at"


def test_a_few_random_merges() -> None:
    """A sample of the long campaign: nothing lost, nothing dropped silently, nothing invalid."""
    for tally in (merge_cases.by_us(merge_cases.notebooks(40), True), merge_cases.by_us(merge_cases.texts(40), False)):
        assert (tally.student_lost, tally.course_dropped, tally.invalid) == (0, 0, 0)


def test_a_table_of_equal_rows_costs_no_launch() -> None:
    """Files whose comparison would take minutes are a conflict at once."""
    base = "".join(f"{n % 7},{n % 3}\n" for n in range(20_000))
    assert merge_text(base, base.replace("3,0\n", "9,9\n"), base.replace("1,1\n", "8,8\n")) is None
