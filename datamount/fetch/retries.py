"""When the engine tries again: only for errors that say they may pass, within a budget for each dataset."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from datamount.errors import DatamountError, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds and counts. `attempts` is for one call or object; `seconds` of trouble and `retries` for the dataset.

    Both are given back while objects arrive (`Budget.progressed`): what ends a dataset is a source in trouble, and not
    that a transfer of hours has seen two.

    `stall`: how long a source may be silent (or send next to nothing) in the middle of an answer. Drivers notice a
    dead connection sooner; this bounds what they do not notice. Long, because a slow link shares itself out among
    many objects, of which some drivers hand on the bytes two MiB at a time.
    """

    attempts: int = 6
    retries: int = 60
    seconds: float = 300.0
    base: float = 0.2
    cap: float = 20.0
    longest_retry_after: float = 60.0
    stall: float = 300.0


GIVEN_BACK = 0.1
"""Of a retry, for each object that arrives: a source may fail one object in ten for as long as it likes."""
STEP = 8 << 20
"""Bytes of an object that must have come since its last error, for the next one to count as its first."""


class Budget:
    """What a dataset may still spend on retries; shared by all threads that work for it."""

    def __init__(self, policy: Policy, stop: threading.Event) -> None:
        self.policy = policy
        self.stop = stop
        self._retries = 0.0
        self._deadline: float | None = None
        self._mutex = threading.Lock()

    def call(self, action: Callable[[], T], *, there: Callable[[], int] = lambda: 0) -> T:
        """The action's result; it is called again after transient errors, after a wait with full jitter.

        The error that ends it is raised as it was. A Retry-After is waited for, unless it is longer than the policy
        allows, which ends it. `there`: bytes that the action need not bring again; while they become more, its errors
        do not add up.
        """
        attempt = most = 0
        while True:
            try:
                return action()
            except DatamountError as error:
                if (now := there()) >= most + STEP:
                    attempt, most = 0, now
                    self.progressed(1.0)
                attempt += 1
                pause = self._pause(error, attempt)
                if pause is None or self.stop.wait(pause):
                    raise

    def progressed(self, retries: float = GIVEN_BACK) -> None:
        """An object arrived, or much of one: the clock of the next error starts anew."""
        if self._retries:
            with self._mutex:
                self._deadline = None
                self._retries = max(0.0, self._retries - retries)

    def _pause(self, error: DatamountError, attempt: int) -> float | None:
        """Seconds to wait before the next attempt, or None to give up. The clock starts at the first error."""
        policy = self.policy
        if not error.transient or attempt >= policy.attempts or self.stop.is_set():
            return None
        if error.retry_after is not None and error.retry_after > policy.longest_retry_after:
            return None
        pause = random.uniform(0, min(policy.cap, policy.base * 2 ** (attempt - 1)))  # noqa: S311
        pause = max(pause, error.retry_after or 0.0)
        with self._mutex:
            now = time.monotonic()
            if self._deadline is None:
                self._deadline = now + policy.seconds
            if self._retries >= policy.retries or now + pause > self._deadline:
                return None
            self._retries += 1
        return pause


class Stopped(Unavailable):
    """Work that was left because the fetch ends now: nobody's failure."""


def stopped(dataset: str) -> Stopped:
    """The error of work that was left because the fetch is being stopped."""
    return Stopped(
        f'dataset "{dataset}": the fetch was stopped.', hint="Run it again: it goes on from here.", transient=True
    )


def or_stopped(error: DatamountError | None, dataset: str, stop: threading.Event) -> DatamountError | None:
    """Where the fetch is being stopped, what would have been tried again is nobody's failure yet."""
    return stopped(dataset) if error is not None and error.transient and stop.is_set() else error


def silent(dataset: str, what: str, seconds: float) -> Unavailable:
    """The error of a source that neither answers nor fails."""
    return Unavailable(
        f'dataset "{dataset}": {what} was given up: the source sent nothing (or next to nothing) for {seconds:g} s.',
        hint="Try again later; if it lasts, tell the data's owner.",
        who="the data's owner",
        transient=True,
    )
