"""What a launch is about to do to the folder, written down before it does it.

A launch may be killed at any instant. The next one cannot tell from a half-done folder what the course had there and
what the student: so it goes on with what was decided, and decides nothing anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from datamount.merge import FileChange, Node, Step, Tree
from datamount.status import write_atomic

FILE = "homecoming.json"
DATA = "homecoming"
_FORMAT = 1


@dataclass(frozen=True)
class Begun:
    """A homecoming that has not ended. Without `steps` nothing was decided yet, and the folder is untouched."""

    version: str
    """The saved version that comes home."""
    basis: str | None
    """The version that the folder came from."""
    before: str | None = None
    """The version that holds what was in the folder."""
    other: str = ""
    """What the other side of the merge is (`Other.word`)."""
    here: Tree = field(default_factory=dict)
    """What was in the folder."""
    steps: tuple[Step, ...] | None = None
    changes: tuple[FileChange, ...] = ()

    @property
    def side(self) -> Literal["mine", "theirs"]:
        """Which side of the merge is in the folder."""
        return "mine" if self.other == "saved" else "theirs"

    @property
    def parent(self) -> str:
        """What the version at the end builds on."""
        return self.before or self.version

    def final(self, saved: Tree) -> dict[str, Node]:
        """The files and links in the end; `saved` are those of the saved version."""
        return {
            step.path: Node(hashlib.sha256(step.data).hexdigest(), size=len(step.data))
            if step.take == "bytes"
            else (self.here if step.take == self.side else saved)[step.source]
            for step in self.steps or ()
        }


def write(state_dir: Path, begun: Begun) -> None:
    """Write it down, durably; replaces what was there."""
    shutil.rmtree(state_dir / DATA, ignore_errors=True)
    steps = None if begun.steps is None else [_step(state_dir, step) for step in begun.steps]
    document = {
        "format": _FORMAT,
        "version": begun.version,
        "basis": begun.basis,
        "before": begun.before,
        "other": begun.other,
        "here": {path: asdict(node) for path, node in begun.here.items()},
        "steps": steps,
        "changes": [change.model_dump() for change in begun.changes],
    }
    write_atomic(state_dir / FILE, json.dumps(document).encode(), 0o600)


def read(state_dir: Path) -> Begun | None:
    """What has not ended; None when there is nothing, or nothing that can be read whole."""
    try:
        document = json.loads((state_dir / FILE).read_bytes())
        if document["format"] != _FORMAT:
            return None
        steps = document["steps"]
        return Begun(
            version=str(document["version"]),
            basis=document["basis"],
            before=document["before"],
            other=str(document["other"]),
            here={path: Node(**node) for path, node in document["here"].items()},
            steps=None if steps is None else tuple(_read_step(state_dir, step) for step in steps),
            changes=tuple(FileChange.model_validate(change) for change in document["changes"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def end(state_dir: Path) -> None:
    """The folder is as it was decided, and saved."""
    (state_dir / FILE).unlink(missing_ok=True)
    shutil.rmtree(state_dir / DATA, ignore_errors=True)


def _step(state_dir: Path, step: Step) -> dict[str, Any]:
    document = {"path": step.path, "take": step.take, "source": step.source}
    if step.take == "bytes":
        document["sha256"] = hashlib.sha256(step.data).hexdigest()
        write_atomic(state_dir / DATA / document["sha256"], step.data, 0o600)
    return document


def _read_step(state_dir: Path, document: dict[str, Any]) -> Step:
    data = b""
    if document["take"] == "bytes":
        data = (state_dir / DATA / document["sha256"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != document["sha256"]:
            raise ValueError("the content of a merged file is damaged")
    return Step(document["path"], document["take"], document["source"], data)
