"""Bringing saved work back when a session starts, without overwriting anything silently."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datamount import names, pristine
from datamount.errors import NotFound
from datamount.scan import Excludes, scan
from datamount.snapshots import RestoreReport, Version, Workspace


@dataclass(frozen=True, slots=True)
class Homecoming:
    """What was brought back. `saved_before` is the version of what was in the folder, where that was needed."""

    version: Version | None = None
    report: RestoreReport | None = None
    saved_before: str | None = None
    shrunk: str | None = None
    """The newest version when it was passed over: over half of its parent's files are missing in it."""


def bring_back(
    workspace: Workspace,
    folder: Path,
    state_dir: Path,
    *,
    exclude: Sequence[str] = (),
    max_bytes: int | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Homecoming:
    """Restore the newest version into `folder`, unless the folder already comes from it.

    `fresh` promises that the folder is as the course ships it and that `pristine` was recorded, as in a new pod.

    A folder that comes from the newest version but has none of the student's files any more (a fresh clone at the
    same place) is restored again. What is in the folder and is not as git has it is saved as a version of its own
    first. Raises what the store raises; nothing in the folder has changed then, or only whole files have.
    """
    clean = fresh or _clean(folder)
    if clean and not fresh and (folder / ".git").exists():
        pristine.record(folder, state_dir)
    version, shrunk = _newest(workspace)
    if version is None:
        return Homecoming(shrunk=shrunk)
    last = workspace.basis(folder, state_dir)
    if last and last.id == version.info.id and _work_is_there(version, folder):
        return Homecoming(shrunk=shrunk)
    say(f"restoring {version.info.files} files saved {version.info.created:%Y-%m-%d %H:%M} UTC")
    before = None
    if not clean:
        saved = workspace.save(
            folder,
            reason="auto",
            message=f"Before restoring {version.info.id}",
            exclude=exclude,
            max_bytes=max_bytes,
            state_dir=state_dir,
        )
        before = saved.version.id if saved.created and saved.version else None
    paths: list[str] = []
    if (folder / ".git").exists():
        # The repo's own files belong to the clone that is there; mixing two of them breaks both.
        paths = sorted({entry.path.partition("/")[0] for entry in version.entries} - {".git"})
        if not paths:
            return Homecoming(version=version, saved_before=before, shrunk=shrunk)
    # Without a version in between, the next save builds on the restored one; else on that, and becomes the newest.
    report = workspace.restore(version, folder, paths=paths, state_dir=None if before else state_dir)
    if before or paths:
        workspace.save(
            folder,
            reason="auto",
            message=f"Restored {version.info.id}",
            exclude=exclude,
            max_bytes=max_bytes,
            state_dir=state_dir,
            parent=before or version.info.id,
        )
    return Homecoming(version, report, before, shrunk)


def _newest(workspace: Workspace) -> tuple[Version | None, str | None]:
    """The newest version that lost no half of its files, and the id of a newer one that did."""
    try:
        newest = workspace.version("latest")
    except NotFound:
        return None, None
    if not newest.info.shrunk:
        return newest, None
    whole = next((info for info in workspace.versions() if not info.shrunk), None)
    return (workspace.version(whole.id) if whole else None), newest.info.id


def _work_is_there(version: Version, folder: Path) -> bool:
    """Whether any of the student's own files in the version is in the folder in a form that is not the course's."""
    own = [e for e in version.entries if e.type == "file" and not e.pristine and not e.path.startswith(".git/")]
    return not own or any(not _is_shipped(folder / entry.path, entry.base) for entry in own)


def _is_shipped(path: Path, base: str) -> bool:
    """Whether the path is absent, or as the course shipped it (`base`, empty for what it did not ship)."""
    try:
        with path.open("rb") as file:
            return bool(base) and hashlib.file_digest(file, "sha256").hexdigest() == base
    except OSError:
        return True


def _clean(folder: Path) -> bool:
    """Whether nothing in the folder can be lost: no file that a save would hold and that git does not have."""
    kept = [found for found in scan(folder, Excludes()).found if not found.is_folder]
    if not kept:
        return True
    if not (folder / ".git").exists():
        return False
    try:
        done = subprocess.run(
            # Ignored files count: git has no copy of them.
            ["git", "--no-optional-locks", "-C", os.fspath(folder), "status", "--porcelain", "-z", "--ignored"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    if done.returncode:
        return False
    excludes = Excludes()
    for line in filter(None, done.stdout.split(b"\0")):
        path = os.fsdecode(line[3:])
        ours = path in (names.DATA_LINK, f"{names.DATA_LINK}/") and (folder / names.DATA_LINK).is_symlink()
        if not ours and excludes.reason(path.rstrip("/"), folder=path.endswith("/")) is None:
            return False
    return True
