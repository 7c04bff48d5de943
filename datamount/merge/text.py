"""Three-way merge of lines: what both sides changed apart is joined, and nothing else is.

Own code, because the packaged ones are under the GPL (merge3, pygit2) or change characters instead of lines
(three-merge), and a pod has no git. The rule is git's: changes that overlap or touch are a conflict, unless they are
the same change.
"""

from __future__ import annotations

import ast
import json
import tomllib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import PurePosixPath
from typing import Any

import yaml

PAIRS_LIMIT = 300_000
"""Pairs of equal lines in the part that differs: what comparing takes. A table of a thousand equal rows is over it,
and no merge by lines would mean anything there."""


def merge_lines(base: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> list[str] | None:
    """The lines with the changes of both sides; None where these overlap or touch, or are too many to compare."""
    if ours == theirs:
        return list(ours)
    start = _common(base, ours, theirs)
    stop = _common(base[start:][::-1], ours[start:][::-1], theirs[start:][::-1])
    middle = [side[start : len(side) - stop] for side in (base, ours, theirs)]
    old, one, two = middle
    if any(_pairs(old, side) > PAIRS_LIMIT for side in (one, two)):
        return None
    changes = sorted(set(_changes(old, one)) | set(_changes(old, two)))
    merged: list[str] = list(base[:start])
    at = 0
    for number, (begin, end, lines) in enumerate(changes):
        if number and begin <= changes[number - 1][1]:
            return None
        merged += [*old[at:begin], *lines]
        at = end
    merged += [*old[at:], *base[len(base) - stop :]]
    return merged


def merge_text(base: str, ours: str, theirs: str) -> str | None:
    """The text with the changes of both sides; None for a conflict. Holds every line that either side added."""
    lines = [text.splitlines(keepends=True) for text in (base, ours, theirs)]
    merged = merge_lines(*lines)
    if merged is None or "".join(merged).splitlines(keepends=True) != merged:
        return None
    return "".join(merged) if keeps(merged, lines[0], lines[1]) and keeps(merged, lines[0], lines[2]) else None


def merge_file(path: str, base: bytes, ours: bytes, theirs: bytes) -> bytes | None:
    """The content of a text file with the changes of both sides; None for a conflict, for what is not UTF-8 text, and
    for a merge that its language does not parse though it parses both sides."""
    try:
        texts = [data.decode() for data in (base, ours, theirs)]
    except UnicodeDecodeError:
        return None
    if any("\0" in text for text in texts):
        return None
    merged = merge_text(*texts)
    parse = _PARSERS.get(PurePosixPath(path).suffix.lower())
    if merged is None or (parse and all(_parses(parse, text) for text in texts[1:]) and not _parses(parse, merged)):
        return None
    return merged.encode()


def keeps(merged: Sequence[str], base: Sequence[str], side: Sequence[str]) -> bool:
    """Whether every line that the side added to the base is in the merge, as often."""
    return not (Counter(side) - Counter(base)) - Counter(merged)


def _changes(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """(first, past the last, lines instead of them), in the order of the old lines."""
    codes = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(i1, i2, tuple(new[j1:j2])) for tag, i1, i2, j1, j2 in codes if tag != "equal"]


def _pairs(old: Sequence[str], new: Sequence[str]) -> int:
    counts = Counter(new)
    return sum(times * counts[line] for line, times in Counter(old).items())


def _common(*sides: Sequence[str]) -> int:
    """How many first lines are the same on all sides."""
    count = 0
    for lines in zip(*sides, strict=False):
        if len(set(lines)) > 1:
            break
        count += 1
    return count


def _parses(parse: Callable[[str], Any], text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parse(text)
    except (ValueError, SyntaxError, yaml.YAMLError, RecursionError, MemoryError):
        return False
    return True


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".py": ast.parse,
    ".toml": tomllib.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}
