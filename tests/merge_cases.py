"""Random three-way merges, and what a merge did with each side's lines. Every line says who wrote it, once.

`python -m tests.merge_cases [RUNS]` prints the table of docs/benchmarks/merge.md.
"""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbdime.merging import merge_notebooks
from nbformat.validator import iter_validate

from datamount.merge import Merged, Node, merge_trees

Cell = dict[str, Any]
COMMON = ["", "import numpy as np", "# YOUR CODE HERE", ")"]


class Writer:
    """Makes lines that occur nowhere else, and a few that occur everywhere, as in real notebooks."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = 0

    def line(self, who: str) -> str:
        self.count += 1
        return self.chance.choice(["{0} = load('{1}')", "print('{1}', {0})", "# {1}: {0}", "plot({0}, {1!r})"]).format(
            f"{who}_{self.count}", self.chance.choice(["age", "ward", "dose", "text", "día", "肺"])
        )

    def text(self, who: str) -> list[str]:
        lines = [self.line(who) for _ in range(self.chance.randint(1, 7))]
        for common in self.chance.sample(
            ["", "import numpy as np", "# YOUR CODE HERE", ")"], self.chance.randint(0, 2)
        ):
            lines.insert(self.chance.randint(0, len(lines)), common)
        return lines

    def edit(self, lines: list[str], who: str) -> list[str]:
        """Some lines changed, added or removed."""
        lines = list(lines)
        for _ in range(self.chance.randint(1, 3)):
            at = self.chance.randint(0, len(lines))
            kind = self.chance.random()
            if kind < 0.4 and at < len(lines):
                lines[at] = self.line(who)
            elif kind < 0.8:
                lines[at:at] = [self.line(who) for _ in range(self.chance.randint(1, 3))]
            elif at < len(lines):
                del lines[at]
        return lines


@dataclass
class Case:
    """Three contents of one file."""

    base: bytes
    mine: bytes
    theirs: bytes
    moved_by_course: bool = False


@dataclass
class Tally:
    """What happened to the lines that only one side wrote. "Silently" means: nowhere and not named."""

    merges: int = 0
    student_lost: int = 0
    course_dropped: int = 0
    with_loss: int = 0
    invalid: int = 0
    clean: int = 0
    beside: int = 0
    seconds: float = 0.0


def notebooks(runs: int, seed: int = 7) -> Iterator[Case]:
    for number in range(runs):
        yield notebook_case(random.Random(f"{seed} {number}"))


def notebook_case(chance: random.Random) -> Case:
    write = Writer(chance)
    ids = chance.random() < 0.7
    base = [new_cell(write, "base", ids) for _ in range(chance.randint(1, 14))]
    mine = change(write, base, "mine", ids, run=True)
    theirs = change(write, base, "theirs", ids, run=chance.random() < 0.2)
    moved = chance.random() < 0.15 and len(theirs) > 2
    if moved:
        theirs.insert(chance.randint(0, len(theirs) - 1), theirs.pop(chance.randint(0, len(theirs) - 1)))
    minor = 5 if ids else 4
    upgraded = ids or chance.random() < 0.3  # Jupyter gives IDs to the cells of older notebooks when it opens them
    if upgraded and not ids:
        mine = [cell | {"id": f"{chance.getrandbits(32):08x}"} for cell in mine]
    return Case(dump(base, minor), dump(mine, 5 if upgraded else minor), dump(theirs, minor), moved)


def new_cell(write: Writer, who: str, ids: bool) -> Cell:
    kind = write.chance.choice(["code", "code", "markdown"])
    cell: Cell = {"cell_type": kind, "metadata": {}, "source": "\n".join(write.text(who))}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    if ids:
        cell["id"] = f"{write.chance.getrandbits(32):08x}"
    return cell


def change(write: Writer, base: list[Cell], who: str, ids: bool, *, run: bool) -> list[Cell]:
    chance = write.chance
    cells = []
    for old in base:
        cell = dict(old)
        kind = chance.random()
        if kind < 0.1:
            continue
        if kind < 0.4:
            cell["source"] = "\n".join(write.edit(cell["source"].split("\n"), who))
        elif kind < 0.47:
            cell["source"] = "\n".join(write.text(who))
        if run and cell["cell_type"] == "code" and chance.random() < 0.6:
            count = chance.randint(1, 99)
            output = {"output_type": "stream", "name": "stdout", "text": f"{who} {chance.random()}\n"}
            cell |= {"execution_count": count, "outputs": [output]}
        if chance.random() < 0.1:
            cell["metadata"] = {"tags": [who]}
        cells.append(cell)
        if chance.random() < 0.2:
            cells.append(new_cell(write, who, ids))
    return cells


def dump(cells: list[Cell], minor: int) -> bytes:
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    node = nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": minor})
    return (nbformat.writes(node) + "\n").encode()


def texts(runs: int, seed: int = 11) -> Iterator[Case]:
    for number in range(runs):
        chance = random.Random(f"{seed} {number}")
        write = Writer(chance)
        base = [line for _ in range(chance.randint(0, 12)) for line in write.text("base")]
        mine, theirs = list(base), list(base)
        for _ in range(chance.randint(1, 3)):
            mine = write.edit(mine, "mine")
            theirs = write.edit(theirs, "theirs")
        ends = [chance.choice(["\n", "\n", "\n", ""]) for _ in range(3)]
        sides = (("\n".join(lines) + end).encode() for lines, end in zip((base, mine, theirs), ends, strict=True))
        yield Case(*sides)


# --- What a merge did ---------------------------------------------------------------------------------------------


def merge(case: Case, name: str) -> Merged:
    """Ours, of one file."""
    sides = [{name: Node(str(hash(data)))} for data in (case.base, case.mine, case.theirs)]
    reads = [lambda _, data=data: data for data in (case.base, case.mine, case.theirs)]
    return merge_trees(*sides, *reads, ref="abc1234")


def result(case: Case, merged: Merged, name: str) -> tuple[bytes, bytes | None]:
    """The file, and the course's beside it."""
    contents = {
        step.path: {"mine": case.mine, "theirs": case.theirs, "bytes": step.data}[step.take] for step in merged.steps
    }
    found = contents.pop(name)
    assert len(contents) <= 1
    return found, next(iter(contents.values()), None)


def lines(data: bytes, notebook: bool) -> list[str]:
    if not notebook:
        return data.decode().splitlines()
    return [line for cell in json.loads(data)["cells"] for line in "".join(cell["source"]).split("\n")]


def written(case: Case, notebook: bool, who: str) -> set[str]:
    """The lines that one side wrote: each is in no other tree."""
    side = case.mine if who == "mine" else case.theirs
    return {line for line in lines(side, notebook) if f"{who}_" in line}


def valid(data: bytes) -> bool:
    """By the format's schema, with cell IDs that occur once."""
    try:
        document = json.loads(data)
        ids = [cell["id"] for cell in document["cells"] if "id" in cell]
        return len(ids) == len(set(ids)) and next(iter_validate(document), None) is None
    except Exception:
        return False


def measure(tally: Tally, case: Case, data: bytes, elsewhere: bytes | None, notebook: bool) -> None:
    tally.merges += 1
    if notebook and not valid(data):
        tally.invalid += 1
        tally.with_loss += 1
        return
    there = set(lines(data, notebook))
    beside = set(lines(elsewhere, notebook)) if elsewhere is not None else set()
    lost = written(case, notebook, "mine") - there
    dropped = written(case, notebook, "theirs") - there - beside
    tally.student_lost += len(lost)
    tally.course_dropped += len(dropped)
    tally.with_loss += bool(lost or dropped)
    tally.beside += elsewhere is not None


def by_us(cases: Iterator[Case], notebook: bool) -> Tally:
    name = "lesson.ipynb" if notebook else "lesson.txt"
    tally = Tally()
    for case in cases:
        began = time.perf_counter()
        merged = merge(case, name)
        tally.seconds += time.perf_counter() - began
        measure(tally, case, *result(case, merged, name), notebook)
        tally.clean += not any(change.beside or change.conflicts for change in merged.changes)
    return tally


def by_git(cases: Iterator[Case], notebook: bool) -> Tally:
    """What `git merge -Xours` makes of the file: the way nbgitpuller updates a student's clone."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lesson")

        def git(*arguments: str) -> None:
            options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"]
            subprocess.run(["git", "-C", folder, *options, *arguments], check=True, capture_output=True)

        def commit(branch: str, start: str, data: bytes) -> None:
            git("checkout", "-q", "-B", branch, start)
            file.write_bytes(data)
            git("commit", "-q", "-a", "--allow-empty", "-m", branch)

        git("init", "-q", "-b", "root")
        file.write_bytes(b"")
        git("add", ".")
        git("commit", "-q", "-m", "root")
        for case in cases:
            commit("base", "root", case.base)
            commit("theirs", "base", case.theirs)
            commit("mine", "base", case.mine)
            began = time.perf_counter()
            git("merge", "-q", "-Xours", "--no-edit", "theirs")
            tally.seconds += time.perf_counter() - began
            measure(tally, case, file.read_bytes(), None, notebook)
    return tally


def by_nbdime(cases: Iterator[Case], notebook: bool, strategy: str) -> Tally:
    """What nbdime's own merge makes of a notebook."""
    from nbdime.nbmergeapp import _build_arg_parser

    arguments = _build_arg_parser().parse_args(["--merge-strategy", strategy, "a", "b", "c"])
    tally = Tally()
    logging.disable(logging.WARNING)
    for case in cases:
        sides = [nbformat.from_dict(json.loads(data)) for data in (case.base, case.mine, case.theirs)]
        for side in sides:
            for cell in side.cells:
                cell.source = "".join(cell.source)
        began = time.perf_counter()
        try:
            found, _ = merge_notebooks(*sides, arguments)
            data = json.dumps(found).encode()
        except Exception:
            data = b""
        tally.seconds += time.perf_counter() - began
        measure(tally, case, data, None, notebook)
    logging.disable(logging.NOTSET)
    return tally


def main(runs: int) -> None:
    heads = ["", "merges", "student's lines lost", "course's lines dropped silently", "merges with a loss", "invalid"]
    print(f"| {' | '.join([*heads, 'course file beside', 'ms a merge'])} |\n|{'---|' * 8}")
    nbdime = {f"nbdime ({name})": partial(by_nbdime, strategy=name) for name in ("inline", "use-local")}
    tools: dict[str, Any] = {"datamount": by_us, "git merge -Xours": by_git}
    for kind, cases, notebook in (("notebooks", notebooks, True), ("text", texts, False)):
        for who, tool in (tools | (nbdime if notebook else {})).items():
            t = tool(cases(runs), notebook)
            print(
                f"| {kind}, {who} | {t.merges} | {t.student_lost} | {t.course_dropped} | {t.with_loss} "
                f"({t.with_loss / t.merges:.0%}) | {t.invalid} | {t.beside} | {t.seconds / t.merges * 1e3:.1f} |"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
