"""status.json: what is there, what is coming, what is missing and who can mend it.

Written by the fetch engine, read by the sidecar, the Jupyter panel and `datamount status`. A reader sees either the
old or the new whole file.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

NOTES_FILE = "notes.json"
"""Beside status.json, which has one writer at a time."""

State = Literal["pending", "fetching", "ready", "partial", "failed"]


class DatasetStatus(BaseModel):
    """One dataset. `error` is an RFC 9457 problem document; `bytes_total` is None until the plan is known."""

    kind: str
    state: State = "pending"
    title: str | None = None
    license: str | None = None
    citation: str | None = None
    path: str = ""
    optional: bool = False
    background: bool = False
    files_done: int = 0
    files_total: int | None = None
    bytes_done: int = 0
    bytes_total: int | None = None
    seconds: float = 0.0
    pin: dict[str, Any] | None = None
    locked: bool = False
    variables: dict[str, str] = Field(default_factory=dict)
    """Names and values a notebook sees; values that hold a secret are replaced by "…"."""
    warnings: list[str] = Field(default_factory=list)
    error: dict[str, Any] | None = None


class Status(BaseModel):
    version: Literal[1] = 1
    state: State = "pending"
    updated: datetime = Field(default_factory=lambda: datetime.now(UTC))
    course: str = ""
    error: dict[str, Any] | None = None
    """A fault of the whole course, such as a manifest that cannot be read."""
    notes: list[str] = Field(default_factory=list)
    """What the student should know beside the datasets, such as saved work that could not be brought back."""
    datasets: dict[str, DatasetStatus] = Field(default_factory=dict)

    def overall(self) -> State:
        """One state for the whole: failed only when nothing was delivered."""
        states = [d.state for d in self.datasets.values()]
        if self.error or (states and all(s == "failed" for s in states)):
            return "failed"
        if any(s in ("pending", "fetching") for s in states):
            return "fetching"
        return "ready" if all(s == "ready" for s in states) else "partial"


class StatusFile:
    """The only writer of one status.json; safe from threads."""

    def __init__(self, path: Path, status: Status) -> None:
        self.path = path
        self.status = status
        self._lock = threading.Lock()

    def write(self) -> None:
        """Replace the file atomically with the current status."""
        with self._lock:
            self.status.state = self.status.overall()
            self.status.updated = datetime.now(UTC)
            write_atomic(self.path, (self.status.model_dump_json(indent=1) + "\n").encode())


def read_status(path: Path) -> Status | None:
    """The status, or None where there is none (or none that can be read) yet. Includes what `add_note` left."""
    try:
        status = Status.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None
    status.notes = list(dict.fromkeys([*status.notes, *_notes(path)]))
    return status


def add_note(path: Path, note: str) -> None:
    """Have every reader of the status at `path` see a note, whoever writes the status. Not safe from threads."""
    write_atomic(path.with_name(NOTES_FILE), (json.dumps([*_notes(path), note]) + "\n").encode())


def _notes(path: Path) -> list[str]:
    try:
        return [str(note) for note in json.loads(path.with_name(NOTES_FILE).read_bytes())]
    except (OSError, ValueError, TypeError):
        return []


def write_atomic(path: Path, data: bytes | Iterable[bytes], mode: int = 0o644) -> None:
    """Replace `path` by `data`: temp file in the same folder, fsync, rename. Nothing is left behind on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.writelines([data] if isinstance(data, bytes) else data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
