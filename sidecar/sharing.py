"""Routes for links to a version and for going on with work under a key: what only the controller's gateway can do.

Over a folder or a bucket of one's own these routes answer 409 and say so: whoever may read a plain store may read all
of it, so there is no link to a part.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Path, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from datamount.errors import UsageError
from sidecar.models import Restored

if TYPE_CHECKING:
    from datamount.objectstore.gateway import GatewayStore
    from sidecar.session import Session

ShareId = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="Of `/shares`; not the secret.")]


class NotWithThisStore(UsageError):
    http_status = 409
    title = "Not available with this store"


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
    """The one answer with the secret. `link` is null where browsers cannot reach the hub's controller."""

    secret: str
    link: str | None = None


class ResumeKey(BaseModel):
    """Whose the work is: a user's of the hub, or whoever has `key`, which is null before the first save."""

    kind: Literal["user", "work-key", "store"]
    key: str | None = Field(description="Keep it like a password: it opens this work in another session.")


class Resume(BaseModel):
    """The key of earlier work."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"key": "dmk_…"}})

    key: SecretStr = Field(min_length=1, max_length=200)


class Resumed(BaseModel):
    """What is kept under the key. `restored` is null where it holds no version of this course: `made_for` names the
    course that the key was made in."""

    versions: int
    course: str
    made_for: str
    restored: Restored | None = None


def add(app: FastAPI, session: Session) -> None:
    """Add the routes to a sidecar's application."""

    @app.post("/api/v1/shares", tags=["shares"], status_code=201)
    def create_share(body: NewShare, response: Response) -> GivenShare:
        """Make a read-only link to a version. Its secret is in this answer and nowhere else."""
        response.headers["Cache-Control"] = "no-store"
        return GivenShare.model_validate(gateway(session).share(body.version, body.days))

    @app.get("/api/v1/shares", tags=["shares"])
    def list_shares() -> list[Share]:
        """The links that are valid, newest first."""
        return [Share.model_validate(found) for found in gateway(session).shares()]

    @app.delete("/api/v1/shares/{id}", tags=["shares"], status_code=204)
    def revoke_share(id: ShareId) -> None:
        """End a link now; no error for one that has ended."""
        gateway(session).revoke(id)

    @app.get("/api/v1/resume", tags=["shares"])
    def resume_key(response: Response) -> ResumeKey:
        """What a student needs to keep to come back to this work."""
        response.headers["Cache-Control"] = "no-store"
        try:
            store = gateway(session)
        except NotWithThisStore:
            return ResumeKey(kind="store", key=None)
        key = store.work_key()
        by_key = key is not None or store.about()["owner"] == "work-key"
        return ResumeKey(kind="work-key" if by_key else "user", key=key.get_secret_value() if key else None)

    @app.post("/api/v1/resume", tags=["shares"])
    async def resume(body: Resume) -> Resumed:
        """Go on with the work under a key: its newest version is restored here, and saves go there from now on. What
        is in the folder now is saved first, as `restored.undo`."""
        found, restored = await asyncio.shield(asyncio.wrap_future(session.resume(body.key)))
        shown = Restored.of(restored[1], restored[0]) if restored else None
        return Resumed(**found, restored=shown)


def gateway(session: Session) -> GatewayStore:
    """The session's store, where it is a gateway's; NotWithThisStore where it is not."""
    from datamount.objectstore.gateway import GatewayStore

    store: Any = session.workspace().store
    if not isinstance(store, GatewayStore):
        raise NotWithThisStore(
            "this session keeps its work in a store of its own, from which no link to a version can be given.",
            hint="Download the version as a zip file and send that.",
            who="you",
        )
    return store
