"""What a folder holds when a session starts: the course as it was shipped, or somebody's work."""

from __future__ import annotations

import hashlib
import os
import stat as st
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from datamount import names
from datamount.merge import Node
from datamount.session.launch import git
from datamount.snapshots import Entry, Version, pristine
from datamount.snapshots.excludes import Excludes
from datamount.snapshots.scan import Stamp, scan, stamp

_OWN_COMMITS = ("commit", "merge", "rebase", "cherry-pick", "am", "revert")


def is_clean(folder: Path) -> bool:
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


def is_a_clone(folder: Path) -> bool:
    """Whether the commit that is checked out is somebody else's: what is committed here is the student's work."""
    if not git(folder, "remote"):
        return False
    if git(folder, "for-each-ref", "--count=1", "--contains=HEAD", "refs/remotes"):
        return True
    moves = (git(folder, "reflog", "--format=%gs") or "").splitlines()
    # A log that is not there proves nothing: saves leave out one with a login in it.
    return bool(moves) and not any(line.startswith(_OWN_COMMITS) for line in moves)


def is_as_recorded(folder: Path, state_dir: Path) -> bool:
    """Whether the folder holds exactly what was recorded as the course, at this or an earlier launch."""
    known = pristine.load_pristine(state_dir)
    found = [item for item in scan(folder, Excludes()).found if item.is_file]
    if not known.files or known.files.keys() != {item.path for item in found}:
        return False
    if any(item.stat.st_size != known.sizes[item.path] for item in found):
        return False
    return all(_is_shipped(folder / item.path, known.files[item.path]) for item in found)


def work_is_there(version: Version, folder: Path) -> bool:
    """Whether any of the student's own files in the version is in the folder in a form that is not the course's."""
    own = [e for e in version.entries if e.type == "file" and not e.pristine and not e.path.startswith(".git/")]
    return not own or any(not _is_shipped(folder / entry.path, entry.base) for entry in own)


def _is_shipped(path: Path, base: str) -> bool:
    """Whether the path is absent, or as the course shipped it (`base`, empty for what it did not ship)."""
    try:
        return sha256_of(path) == base
    except OSError:
        return True


def ours(version: Version, folder: Path) -> list[Entry]:
    """The entries that may be restored here: the repo's own files belong to the clone that is there."""
    return [entry for entry in version.entries if not is_of_the_clone(entry.path, folder)]


def is_of_the_clone(path: str, folder: Path) -> bool:
    """Whether a path is among the own files of the repo that is in the folder."""
    return (path == ".git" or path.startswith(".git/")) and os.path.lexists(folder / ".git")


def tree_of(entries: Iterable[Entry]) -> dict[str, Node]:
    """Files and links of a version."""
    return {
        e.path: Node(e.target, is_link=True) if e.type == "link" else Node(e.sha256, size=e.size)
        for e in entries
        if e.type != "folder"
    }


def stamps_at(folder: Path, paths: Iterable[str]) -> dict[str, Stamp]:
    """What the files and links at these paths look like now."""
    found: dict[str, Stamp] = {}
    for path in paths:
        with suppress(OSError, ValueError):
            stat = os.lstat(folder / path)
            if not st.S_ISDIR(stat.st_mode):
                found[path] = stamp(stat)
    return found


def nodes_at(folder: Path, paths: Iterable[str]) -> dict[str, Node | None]:
    """What is at these paths now."""
    found: dict[str, Node | None] = {}
    for path in paths:
        found[path] = None
        with suppress(OSError):
            target = folder / path
            is_link = target.is_symlink()
            if is_link or target.is_file():
                found[path] = Node(os.readlink(target) if is_link else sha256_of(target), is_link)  # noqa: PTH115
    return found


def with_parents(path: str) -> list[str]:
    """`a/b/c` → `a`, `a/b`, `a/b/c`."""
    parts = path.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
