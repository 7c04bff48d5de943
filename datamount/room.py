"""How much may be written below a folder: what its disk has free, and in a pod no more than its volume may hold.

A volume of a pod has a size that its file system does not know. Kubernetes ends a pod over it, and a session that is
ended for its data does not open, so what would not fit must be left out before it is written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from datamount import names

_KEPT_BACK = 32
"""A part of the volume, one over this, that is not used: folders take room, too, and counting is not exact."""


def free(path: Path, environment: Mapping[str, str] = os.environ) -> int:
    """Bytes that may be written below `path`, which exists. Below 0 where there is too much already."""
    disk = shutil.disk_usage(path).free
    found = bound(path, environment)
    return disk if found is None else min(disk, found[1] - found[1] // _KEPT_BACK - used(found[0]))


def bound(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[Path, int] | None:
    """The bounded volume that `path` is on, and the bytes that it may hold; None where there is none."""
    for folder, size in _bounds(environment):
        if path.absolute().is_relative_to(folder):
            return folder, size
    return None


def used(folder: Path) -> int:
    """Bytes of the disk that everything below a folder takes."""
    total = 0
    waiting = [os.fspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
        except OSError:
            continue  # gone meanwhile
    return total


def _bounds(environment: Mapping[str, str]) -> Iterator[tuple[Path, int]]:
    for variable, folder in (
        (names.ENV_DATA_BYTES, environment.get(names.ENV_DATA) or names.DATA_DIR),
        (names.ENV_STATE_BYTES, environment.get(names.ENV_STATE) or names.STATE_DIR),
    ):
        if environment.get(variable, "").isdecimal():
            yield Path(folder), int(environment[variable])
