"""Calls that run ahead of whoever takes their results, in order, with a bound on how many results wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`call` of each item, in the order of the items; at most `ahead` are under way or wait to be taken. The first
    exception comes out in its place; calls that have not begun by then are not made."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
