"""The one error that a dataset ends with, made of all that went wrong on its way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from datamount import names
from datamount.drivers.base import Driver
from datamount.errors import Conflict, DatamountError, NotFound, VerificationFailed
from datamount.fetch.pins import LockEntry, drift_at
from datamount.fetch.transfer import local_error


def as_ours(error: BaseException, dataset: str, kind: str) -> DatamountError:
    """The error as one of ours; a driver's bug is named as one, with its traceback under DATAMOUNT_DEBUG."""
    if isinstance(error, DatamountError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return local_error(error, dataset)
    wrapped = DatamountError(
        f'dataset "{dataset}": an error that should not happen ({type(error).__name__}) while reading from {kind}.',
        hint="Please report it, with the output of `datamount fetch` under DATAMOUNT_DEBUG=1.",
        who="the developers of datamount",
    )
    wrapped.__cause__ = error
    if os.environ.get("DATAMOUNT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return wrapped


def failure(
    dataset: str, errors: Sequence[DatamountError], entry: LockEntry | None, driver: Driver[Any]
) -> DatamountError:
    """One error for all failed objects: the first verification error, else the first, with what drifted."""
    first = next((e for e in errors if isinstance(e, VerificationFailed)), errors[0])
    if entry and isinstance(first, VerificationFailed | NotFound | Conflict):
        return drifted(dataset, entry, driver, first)
    if len(errors) == 1:
        return first
    more = len(errors) - 1
    error = type(first)(
        f"{first.message} The same dataset has {more} more failed file{'' if more == 1 else 's'}.",
        hint=first.hint,
        who=first.who,
    )
    error.__cause__ = first
    return error


def drifted(dataset: str, entry: LockEntry, driver: Driver[Any], first: DatamountError) -> VerificationFailed:
    """Say what is different at the source from what the lock pins."""
    changes: list[str] = []
    with suppress(DatamountError):  # the first error says enough
        changes = drift_at(driver, entry, driver.resolve())
    shown = "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")
    where = f" Changed since the lock: {shown}." if shown else ""
    prefix = f'dataset "{dataset}": '
    error = VerificationFailed(
        f"{prefix}the source does not have the bytes that {names.LOCK} pins.{where} "
        f"{first.message.removeprefix(prefix)}",
        hint=f"If the change is meant, run `datamount lock --upgrade {dataset}` and commit {names.LOCK}.",
        who="the course's author",
    )
    error.__cause__ = first
    return error
