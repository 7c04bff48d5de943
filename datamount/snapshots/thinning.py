"""Which versions stay: every one for an hour, then one an hour for a day, then one a day.

Only autosaves without a note go. What a person saved, shared or was told of stays, and so does whatever a folder
somewhere may take for granted: the newest version of each writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from datamount.errors import DatamountError, Unavailable
from datamount.snapshots.history import History
from datamount.snapshots.versionfile import VersionInfo

HOUR = 3600.0
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Dated:
    """A version and when it appeared in the store, by the store's clock."""

    info: VersionInfo
    appeared: float


def surplus(
    versions: Iterable[Dated], *, now: float, today: datetime, keep: Callable[[VersionInfo], bool] = lambda _: False
) -> list[str]:
    """The ids of the versions that may go, oldest first. `keep` spares more.

    `now` is of the store's clock, `today` of one like the writers'. Either may be wrong or jump: a version is as old as
    the one says that makes it younger.
    """
    ordered = sorted(versions, key=lambda v: (v.info.seq, v.appeared, v.info.id))
    newest_of = {v.info.writer: v.info.id for v in ordered}
    spared = set(newest_of.values())
    if ordered:
        spared.add(ordered[-1].info.id)
    # What a start restores instead of a version that lost most of its files.
    spared.update([v.info.id for v in ordered if not v.info.shrunk][-1:])
    last_of: dict[tuple[str, int], str] = {}
    for version in ordered:
        age = min(now - version.appeared, (today - version.info.created).total_seconds())
        if age > DAY:
            last_of["day", int(version.appeared // DAY)] = version.info.id
        elif age > HOUR:
            last_of["hour", int(version.appeared // HOUR)] = version.info.id
        else:
            spared.add(version.info.id)
    spared.update(last_of.values())
    return [
        v.info.id
        for v in ordered
        if v.info.id not in spared and v.info.reason != "manual" and not v.info.message and not keep(v.info)
    ]


def dated(history: History, appeared: Mapping[str, float]) -> list[Dated]:
    """The headers of these versions; Unavailable when one cannot be read: nothing is decided on half of a history."""
    found = []
    for id, when in appeared.items():
        info = history.header(id)
        if info is None:
            raise Unavailable(f"The version {id} cannot be read; nothing is thinned out.", who="the hub's operator")
        found.append(Dated(info, when))
    return found


def thin_own(history: History, made: VersionInfo) -> int:
    """Thin out what the writer of a version that was just made has saved; how many versions went.

    The time is when that version was made, and when it appeared: no clock is asked, and one that was wrong for a while,
    so that an older version seems to be of the future, makes nothing old. Faults of the store end it early and are not
    raised: the next time does the rest.
    """
    gone = 0
    try:
        appeared = history.appeared()
        if (now := appeared.get(made.id)) is None:
            return gone  # the list is stale
        shared = history.shared()
        versions = dated(history, appeared)
        for id in surplus(
            versions, now=now, today=made.created, keep=lambda info: info.writer != made.writer or info.id in shared
        ):
            history.store.delete(history.key(id))
            gone += 1
    except DatamountError:
        return gone
    return gone
