"""Which cell of one notebook is which cell of another.

By cell ID where IDs can be believed, else by content, and what is left by nbdime's comparison. Cells may have moved.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Cell = Mapping[str, Any]

PAIRS_LIMIT = 10_000
"""How many pairs of cells that match neither by ID nor exactly are compared by likeness."""
_ALIKE = 0.6
"""The part of the words that two cells without a common ID share when one is the other, edited."""
_WORD = re.compile(r"\w+")
_NUMBERED = re.compile(r"(cell-)?\d{1,5}")
"""IDs that tools write anew by position (nbstripout): they say nothing about which cell it is."""


def source(cell: Cell) -> str:
    """The cell's text, which the format allows as a string or as lines."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def same(a: Cell, b: Cell) -> bool:
    """Whether type, text and attachments are the same: what people write, not what running it gave."""
    return _content(a) == _content(b)


def align(one: Sequence[Cell], other: Sequence[Cell]) -> dict[int, int]:
    """Index in `one` → index in `other`, each at most once."""
    found: dict[int, int] = {}
    taken: set[int] = set()

    def pair(keys: Sequence[Any], others: Sequence[Any]) -> None:
        """Match what has a key that is nowhere else."""
        places = _unique(others, taken)
        for key, i in _unique(keys, found).items():
            if key in places:
                found[i] = places[key]
                taken.add(places[key])

    pair([_id(cell) for cell in one], [_id(cell) for cell in other])
    pair([_content(cell) if source(cell).strip() else None for cell in one], [_content(cell) for cell in other])
    left = [i for i in range(len(one)) if i not in found]
    right = [j for j in range(len(other)) if j not in taken]
    if left and right and len(left) * len(right) <= PAIRS_LIMIT:
        for i, j in _alike([one[i] for i in left], [other[j] for j in right]):
            # A cell that is merely similar did not move too.
            if not any((left[i] - x) * (right[j] - y) < 0 for x, y in found.items()):
                found[left[i]] = right[j]
    return found


def _alike(one: Sequence[Cell], other: Sequence[Cell]) -> list[tuple[int, int]]:
    """The longest run of pairs in order, the same ones before the similar ones."""
    from nbdime.diffing.snakes import compute_snakes_multilevel

    # nbdime's own likeness compares character by character: seconds for a hundred cells, at every launch.
    words = {id(cell): Counter(_WORD.findall(source(cell))) for cell in (*one, *other)}
    known: dict[tuple[int, int], bool] = {}

    def similar(a: Cell, b: Cell) -> bool:
        key = id(a), id(b)
        if key not in known:
            known[key] = a.get("cell_type") == b.get("cell_type") and _share(words[key[0]], words[key[1]]) >= _ALIKE
        return known[key]

    snakes = compute_snakes_multilevel(one, other, [similar, same])
    return [(i + k, j + k) for i, j, length in snakes for k in range(length)]


def _share(one: Counter[str], other: Counter[str]) -> float:
    """The part of all words that both have; 1 for two texts without a word."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _unique(keys: Sequence[Any], done: Mapping[int, int] | set[int]) -> dict[Any, int]:
    """Key → index, of the keys that one cell only has; None is no key."""
    times = Counter(keys)
    return {key: i for i, key in enumerate(keys) if key is not None and times[key] == 1 and i not in done}


def _id(cell: Cell) -> str | None:
    known = cell.get("id")
    return known if isinstance(known, str) and not _NUMBERED.fullmatch(known) else None


def _content(cell: Cell) -> tuple[str, str, str]:
    return str(cell.get("cell_type")), source(cell), repr(sorted((cell.get("attachments") or {}).items()))
