"""One request for what many threads want at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from datamount.errors import DatamountError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Wish(Generic[T, R]):
    item: T
    done: threading.Event = field(default_factory=threading.Event)
    result: R | None = None
    error: BaseException | None = None


class Batches(Generic[T, R]):
    """Asks for items one by one, and gets them `most` at a time: whoever comes while a request is under way goes into
    the next, so a single thread waits for nobody.

    `ask` gives a result for each item, in order. What it raises for several items is found out for each alone, so
    that one that is refused takes no other with it.
    """

    def __init__(self, ask: Callable[[list[T]], Sequence[R]], *, most: int = 100) -> None:
        self._ask, self._most = ask, most
        self._lock = threading.Lock()
        self._waiting: list[_Wish[T, R]] = []
        self._asking = False

    def get(self, item: T) -> R:
        """The result for this item. Raises what `ask` raises for it."""
        wish: _Wish[T, R] = _Wish(item)
        with self._lock:
            self._waiting.append(wish)
            leads = not self._asking
            self._asking = True
        if leads:
            self._ask_for_all()
        wish.done.wait()
        if wish.error is not None:
            raise wish.error
        assert wish.result is not None
        return wish.result

    def _ask_for_all(self) -> None:
        """Ask until nobody waits. The one thread that does this serves all that come meanwhile."""
        while True:
            with self._lock:
                wishes, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                if not wishes:
                    self._asking = False
                    return
            try:
                self._serve(wishes)
            except DatamountError as error:
                if len(wishes) > 1 and not error.transient:
                    for wish in wishes:
                        self._serve_alone(wish)
                else:
                    _fail(wishes, error)
            except BaseException as error:
                _fail(wishes, error)
            for wish in wishes:
                wish.done.set()

    def _serve_alone(self, wish: _Wish[T, R]) -> None:
        try:
            self._serve([wish])
        except DatamountError as error:
            wish.error = error

    def _serve(self, wishes: list[_Wish[T, R]]) -> None:
        for wish, result in zip(wishes, self._ask([wish.item for wish in wishes]), strict=True):
            wish.result = result


def _fail(wishes: list[_Wish[T, R]], error: BaseException) -> None:
    for wish in wishes:
        wish.error = error
