"""What the sidecar is told at its start: from the command line, or from a file that the pod's volume holds."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Settings of one session. None of them is a secret: stores take theirs from the environment, as SDKs do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    """The student's work."""
    run: Path
    """Where status.json is read and sidecar.json is written."""
    state: Path
    """Where the snapshot engine keeps its index and the pristine hashes of the course. Losing it costs time only."""
    store: str
    """URL of the save store: file:///… or s3://bucket/prefix."""
    endpoint_url: str | None = None
    owner: str
    course: str
    course_ref: str | None = None
    image: str | None = None
    author: str | None = None
    exclude: tuple[str, ...] = ()
    """gitignore patterns of what is not saved, beside the built-in ones."""
    max_bytes: int | None = None
    """Upper bound of one version, in bytes."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    """0 takes a free port; sidecar.json tells which."""
    autosave: bool = True
    quiet: float = Field(10.0, gt=0)
    """Seconds without a change after which changes are saved. Jupyter's own autosave comes every 120 s."""
    at_most: float = Field(60.0, gt=0)
    """Seconds after the first unsaved change at which it is saved although changes go on."""
    check_every: float = Field(4 * 3600.0, gt=0)
    """Seconds without a save after which the store is asked whether the last version is still there."""
    ends_at: datetime | None = None
    """When the session ends for certain, where that is known."""
    save_at_start: bool = False
    """Save before the first change is seen: for a folder that may hold unsaved work of an earlier session."""
    home_first: bool = False
    """The saved work is not, or not all, in the folder: bring it back before the first save. A version made without
    it would be the newest one, and the next launch would show the student less than there is."""
    max_body: int = Field(64 * 1024, gt=0)
    """Largest request body, in bytes. Requests carry messages and lists of paths, never files."""
