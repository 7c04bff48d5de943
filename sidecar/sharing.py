"""Routes for links to a version and for going on with work under a key: what only the controller's gateway can do.

Over a folder or a bucket of one's own these routes answer 409 and say so: whoever may read a plain store may read all
of it, so there is no link to a part.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Literal

from fastapi import FastAPI, Path, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sidecar.errors import NotWithThisStore
from sidecar.gateway import gateway_of
from sidecar.models import Restored, RestorePreview, Snapshot
from sidecar.models import shown as shown_path
from sidecar.session import Session

ShareId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Of `/shares`; not the secret.")]


class NewShare(BaseModel):
    """Which version to share, and for how many days."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": "latest", "days": 7}})

    version: str = Field("latest", min_length=1, max_length=100)
    days: float = Field(14, gt=0, le=3650, allow_inf_nan=False)


class Share(BaseModel):
    """A read-only link to one version."""

    id: str
    version: str
    created: datetime
    expires: datetime


class GivenShare(Share):
    """The one answer with the secret. `session_link` shows the version in a new session of the course, `link` downloads
    it; null where the hub's or its controller's address for browsers is not known."""

    secret: str
    link: str | None = None
    session_link: str | None = None


class ResumeKey(BaseModel):
    """Whose the work is: a user's of the hub, or whoever has `key`, which is null before the first save."""

    kind: Literal["user", "work-key", "store"]
    key: str | None = Field(description="Keep it like a password: it opens this work in another session.")
    link: str | None = Field(default=None, description="Starts a session that offers this work; holds the key.")


class Resume(BaseModel):
    """The key of earlier work. With `dry_run` nothing changes, and the answer says what would."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"key": "dmk_…", "dry_run": True}})

    key: SecretStr = Field(min_length=1, max_length=200)
    dry_run: bool = False


class Resumed(BaseModel):
    """What is kept under the key. `restored` is null where it holds no version of this course: `made_for` names the
    course that the key was made in."""

    versions: int
    course: str
    made_for: str
    restored: Restored | None = None


class ResumePreview(BaseModel):
    """What going on with the work under a key would do. `version` and `preview` are null where the key holds no version
    of this course."""

    dry_run: Literal[True] = True
    versions: int
    course: str
    made_for: str
    version: Snapshot | None
    preview: RestorePreview | None


class Show(BaseModel):
    """The secret of a link to somebody's version, and where its files are to go: below the folder `into`, else in place
    of the student's own. With `dry_run` nothing changes, and the answer says what would."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"secret": "dms_…", "dry_run": True}})

    secret: SecretStr = Field(min_length=1, max_length=200)
    into: str | None = Field(None, min_length=1, max_length=1000)
    dry_run: bool = False


class ShowPreview(BaseModel):
    """What showing a shared version would do."""

    dry_run: Literal[True] = True
    version: Snapshot
    preview: RestorePreview


class EndShow(BaseModel):
    """How to end showing: back to the student's own files, or `keep` what is shown as theirs."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"keep": False}})

    keep: bool = False


class Ended(BaseModel):
    """The student's own files that were brought back, and those of the shared version that went."""

    restored: list[str]
    removed: list[str]


def add(app: FastAPI, session: Session) -> None:
    """Add the routes to a sidecar's application."""

    @app.post("/api/v1/shares", tags=["shares"], status_code=201)
    def create_share(body: NewShare, response: Response) -> GivenShare:
        """Make a read-only link to a version. Its secret is in this answer and nowhere else."""
        response.headers["Cache-Control"] = "no-store"
        return GivenShare.model_validate(gateway_of(session.workspace()).share(body.version, body.days))

    @app.get("/api/v1/shares", tags=["shares"])
    def list_shares() -> list[Share]:
        """The links that are valid, newest first."""
        return [Share.model_validate(found) for found in gateway_of(session.workspace()).shares()]

    @app.delete("/api/v1/shares/{id}", tags=["shares"], status_code=204)
    def revoke_share(id: ShareId) -> None:
        """End a link now; no error for one that has ended."""
        gateway_of(session.workspace()).revoke(id)

    @app.get("/api/v1/resume", tags=["shares"])
    def resume_key(response: Response) -> ResumeKey:
        """What a student needs to keep to come back to this work."""
        response.headers["Cache-Control"] = "no-store"
        try:
            store = gateway_of(session.workspace())
        except NotWithThisStore:
            return ResumeKey(kind="store", key=None)
        key = store.work_key()
        by_key = key is not None or store.about()["owner"] == "work-key"
        if key is None:
            return ResumeKey(kind="work-key" if by_key else "user", key=None)
        return ResumeKey(kind="work-key", key=key.get_secret_value(), link=store.link(key))

    @app.post("/api/v1/resume", tags=["shares"])
    async def resume(body: Resume) -> Resumed | ResumePreview:
        """Go on with the work under a key: its newest version is restored here, and saves go there from now on. What
        is in the folder now is saved first, as `restored.undo`."""
        if body.dry_run:
            found, version, preview = await asyncio.to_thread(session.preview_resume, body.key)
            return ResumePreview(**found, version=Snapshot.of(version.info) if version else None, preview=preview)
        found, restored = await asyncio.shield(asyncio.wrap_future(session.resume(body.key)))
        shown = Restored.of(restored[1], restored[0]) if restored else None
        return Resumed(**found, restored=shown)

    @app.post("/api/v1/shared", tags=["shares"])
    async def show(body: Show) -> Restored | ShowPreview:
        """Bring a version here that somebody shared. What is in the folder now is saved first, as `undo`. In place of
        the student's files it is shown read-only: nothing is saved until `/shared/end`."""
        if body.dry_run:
            version, preview = await asyncio.to_thread(session.preview_show, body.secret, body.into)
            return ShowPreview(version=Snapshot.of(version.info), preview=preview)
        undo, report = await asyncio.shield(asyncio.wrap_future(session.show(body.secret, body.into)))
        return Restored.of(report, undo)

    @app.post("/api/v1/shared/end", tags=["shares"])
    async def end_show(body: EndShow) -> Ended:
        """Take the student's own files back, or keep what is shown as theirs. Saving goes on."""
        restored, removed = await asyncio.shield(asyncio.wrap_future(session.end_show(keep=body.keep)))
        return Ended(restored=[shown_path(p) for p in restored], removed=[shown_path(p) for p in removed])
