"""What every launch of a course does, on a laptop and in a pod."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamount import names
from datamount.course import Course, normalise_url
from datamount.errors import DatamountError, ManifestError, sayable
from datamount.manifest import Manifest
from datamount.session.places import Places, base
from datamount.status import Status, StatusFile, read_status


def bare_course(folder: Path, origin: str | None) -> Course:
    """The course in a folder of which there is no manifest that can be used; it declares nothing."""
    url = normalise_url(origin) if origin else None
    return Course(
        folder=folder,
        manifest_path=folder / names.MANIFEST,
        lock_path=folder / names.LOCK,
        manifest=Manifest(version=1),
        repo_url=url,
        ref=git(folder, "rev-parse", "HEAD") if url else None,
        name=(url or "").rpartition("/")[2] or sayable(folder.name),
        identity=url or sayable(folder.name),
    )


def report_fault(course: Course, at: Places, fault: DatamountError) -> None:
    """Write status.json and `env` for a course of which nothing can be fetched."""
    from datamount.fetch.environment import write_environment  # with the engine, which a sidecar never needs

    file = at.run / names.STATUS_FILE
    status = read_status(file) if not isinstance(fault, ManifestError) else None
    status = status or Status(course=course.identity)
    status.error = fault.problem()
    if not (at.run / names.ENV_FILE).exists() or isinstance(fault, ManifestError):
        write_environment({}, at.data, at.run)
    StatusFile(file, status).write()


def link_data(folder: Path, data: Path) -> None:
    """A link `data` in the course's folder, hidden from git, where the course has no such entry."""
    link = folder / names.DATA_LINK
    if link.is_symlink() and base() in link.readlink().parents and link.readlink() != data:
        link.unlink()
    if not os.path.lexists(link):
        data.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(data)
        except OSError:
            return
    if not link.is_symlink() or link.readlink() != data:
        return
    exclude = git(folder, "rev-parse", "--git-path", "info/exclude")
    if exclude:
        file = folder / exclude
        line = f"/{names.DATA_LINK}"
        with suppress(OSError):
            text = file.read_text() if file.exists() else ""
            if line not in text.splitlines():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n")


def git(folder: Path, *arguments: str) -> str | None:
    """What git prints in a folder that is a repo; None where it is none, or git is not there or fails."""
    if not (folder / ".git").exists():
        return None
    try:
        done: Any = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip() or None) if done.returncode == 0 else None


def bug(error: BaseException) -> DatamountError:
    """The error that stands for one which is none of ours."""
    return DatamountError(
        f"an error that should not happen ({type(error).__name__}: {error}).", who="the developers of datamount"
    )
