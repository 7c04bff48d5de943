"""Where a course's data, run files and state are on this machine.

In a pod the injected volumes are there under the names of the pod contract. Anywhere else each course has a folder in
the user's data folder, so that nothing is written into the course itself.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import platformdirs

from datamount import names
from datamount.course import Course
from datamount.status import write_atomic

HOME_VARIABLE = "DATAMOUNT_HOME"
FOLDER_FILE = "folder"
"""In the state: the folder that the places belong to."""


class Identified(Protocol):
    """What of a course names it: its identity (normalised repo URL, or folder) and a short name."""

    @property
    def identity(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Places:
    """`data`: the datasets, one folder each. `run`: env, status.json, connection files. `state`: all else that is
    kept for the course between launches."""

    data: Path
    run: Path
    state: Path


def base() -> Path:
    """$DATAMOUNT_HOME, else the user's data folder of datamount (`~/.local/share/datamount` on Linux)."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named).expanduser().absolute() if named else platformdirs.user_data_path("datamount")


def places(course: Identified, data: Path | None = None, run: Path | None = None) -> Places:
    """The places of a course; `data` and `run` override. Makes no folder.

    A pod's volumes (/data, /run/datamount) are used where both can be written inside a pod, unless $DATAMOUNT_HOME
    is set.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", course.name.lower()).strip("-")[:40] or "course"
    folder = base() / "courses" / f"{slug}-{hashlib.sha256(course.identity.encode()).hexdigest()[:12]}"
    pod = _in_pod()
    default_data = Path(names.DATA_DIR) if pod else folder / "data"
    default_run = Path(names.RUN_DIR) if pod else folder / "run"
    return Places(
        data=(data or default_data).absolute(), run=(run or default_run).absolute(), state=(folder / "state").absolute()
    )


def apart(course: Course) -> Course:
    """The course, named apart from other folders of this machine.

    One that is no clone of a repo has only its folder's name, and "homework" may be there twice: the second becomes
    "homework (2)", and neither gets the other's data or saved work. A name is had by the folder that it was kept for
    with `keep`; when that is gone (moved, say), the next folder of the name has it.
    """
    if course.repo_url:
        return course
    free = None
    for number in itertools.count(1):
        one = course if number == 1 else replace(course, identity=f"{course.identity} ({number})")
        folder = folder_of(one)
        if folder == course.folder:
            return one
        if folder is None:
            return free or one
        if free is None and not folder.is_dir():
            free = one
    raise AssertionError


def folder_of(course: Course) -> Path | None:
    """The folder that the course's places were kept for."""
    try:
        return Path(os.fsdecode((places(course).state / FOLDER_FILE).read_bytes()))
    except OSError:
        return None


def keep(course: Course) -> None:
    """Keep the course's name and places for its folder."""
    write_atomic(places(course).state / FOLDER_FILE, os.fsencode(course.folder))


def _in_pod() -> bool:
    if os.environ.get(HOME_VARIABLE) or not os.environ.get("KUBERNETES_SERVICE_HOST"):
        return False
    return all(os.path.isdir(place) and os.access(place, os.W_OK) for place in (names.DATA_DIR, names.RUN_DIR))  # noqa: PTH112
