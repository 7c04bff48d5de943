"""What the fetch container and the sidecar are told, in the variables that `inject` sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from datamount import names
from datamount.session.places import Places

AGAIN = "DATAMOUNT_AGAIN"
"""The sidecar's word to `background`: a dataset that is there, but needs another credential."""


@dataclass(frozen=True, slots=True)
class PodSettings:
    """One pod's session. `kept`: the home outlives the pod by itself. `budget` and `lasts` in seconds: how long the
    launch may take, and how long the pod lives at most."""

    folder: Path
    kept: bool
    at: Places
    handover: Path
    jupyter: Path | None
    """Folder to fill for Jupyter; None where an image volume has it."""
    image_dir: Path | None
    """Where the course's image is mounted; None where a seed container has run."""
    image: str
    owner: str
    course_url: str | None
    course_ref: str | None
    budget: float
    controller: str | None
    store: str | None
    store_endpoint: str | None
    credentials: Path | None
    lasts: float | None = None

    @property
    def begun(self) -> Path:
        """A file as old as the session."""
        return self.state / "begun"

    @property
    def ends_at(self) -> datetime | None:
        """When the pod is ended for certain, where that is known."""
        if self.lasts is None or not 0 < self.lasts < 1e9 or not self.begun.exists():
            return None
        return datetime.fromtimestamp(self.begun.stat().st_mtime, UTC) + timedelta(seconds=self.lasts)

    @property
    def state(self) -> Path:
        """What fetch and sidecar keep between their runs in this pod. The notebook cannot see it."""
        return self.at.state

    @property
    def course_copy(self) -> Path:
        """Our copy of what the seed container handed over."""
        return self.state / "course"

    @property
    def restored(self) -> Path:
        """A file that is there once saved work has come back in this pod."""
        return self.state / "restored"

    @property
    def keeps_work(self) -> bool:
        """Whether the hub has a store for the student's work."""
        return bool(self.store or self.controller)


def read_settings(environment: Mapping[str, str] = os.environ) -> PodSettings:
    """The settings of these variables; what is missing has the default of the pod contract."""

    def path(name: str) -> Path | None:
        return Path(environment[name]) if environment.get(name) else None

    def seconds(name: str) -> float | None:
        try:
            return float(environment.get(name, ""))
        except ValueError:
            return None

    return PodSettings(
        folder=path(names.ENV_FOLDER) or Path(names.HOME_DIR),
        kept=environment.get(names.ENV_FOLDER_KEPT) == "1",
        at=Places(
            data=path(names.ENV_DATA) or Path(names.DATA_DIR),
            run=path(names.ENV_RUN) or Path(names.RUN_DIR),
            state=path(names.ENV_STATE) or Path(names.STATE_DIR),
        ),
        handover=path(names.ENV_COURSE_DIR) or Path(names.COURSE_DIR),
        jupyter=path(names.ENV_JUPYTER_DIR),
        image_dir=path(names.ENV_SEED_IMAGE_DIR),
        image=environment.get(names.ENV_IMAGE, ""),
        owner=environment.get(names.ENV_OWNER) or environment.get(names.ENV_POD_NAME) or "unknown",
        course_url=environment.get(names.ENV_COURSE_URL) or None,
        course_ref=environment.get(names.ENV_COURSE_REF) or None,
        budget=seconds(names.ENV_FETCH_SECONDS) or 90.0,
        controller=environment.get(names.ENV_CONTROLLER) or None,
        store=environment.get(names.ENV_STORE) or None,
        store_endpoint=environment.get(names.ENV_STORE_ENDPOINT) or None,
        credentials=path(names.ENV_CREDENTIALS),
        lasts=seconds(names.ENV_SESSION_SECONDS),
    )
