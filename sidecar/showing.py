"""That a session shows somebody's shared version in place of the student's files. Kept on the disk: a sidecar that is
started again must not take those files for the student's.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from datamount.snapshots import VersionInfo
from datamount.status import write_atomic
from sidecar.models import ShownShare

FILE = "share.json"


class Showing(BaseModel):
    """What is shown, and the files that were not there before."""

    share: ShownShare
    added: list[str]

    @classmethod
    def of(cls, info: VersionInfo, undo: str, added: Iterable[str]) -> Showing:
        share = ShownShare(version=info.id, time=info.created, message=info.message, undo=undo)
        return cls(share=share, added=list(added))


def read_showing(state: Path) -> Showing | None:
    """What the session shows; None where it has the student's own files."""
    try:
        return Showing.model_validate_json((state / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def keep_showing(state: Path, showing: Showing) -> None:
    write_atomic(state / FILE, showing.model_dump_json().encode(), 0o600)


def forget_showing(state: Path) -> None:
    (state / FILE).unlink(missing_ok=True)


def remove_added(folder: Path, added: Iterable[str]) -> list[str]:
    """Remove files that came with a shared version, and the folders that this leaves empty; what was removed.

    Follows no link.
    """
    root = folder.resolve()
    removed = []
    for path in added:
        place = root / path
        if place.parent.resolve() != place.parent or root not in place.parents:
            continue
        with suppress(OSError):
            place.unlink()
            removed.append(path)
            above = place.parent
            while above != root:
                above.rmdir()  # not one that holds something
                above = above.parent
    return removed
