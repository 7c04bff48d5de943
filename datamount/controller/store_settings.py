"""The gateway's part of the controller's settings: `store:`. Keys are the controller's usual AWS variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ByteSize, ConfigDict, Field

URL = Annotated[str, Field(pattern=r"^https?://[^/?#\s]+/?$")]


class StoreSettings(BaseModel):
    """Where saved work is kept and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^s3://[^/@?#\s]+(/[A-Za-z0-9._/-]*)?$", description="s3://BUCKET or s3://BUCKET/PREFIX.")
    endpoint_url: URL | None = Field(None, description="The S3 server as the controller reaches it; AWS without one.")
    public_endpoint_url: URL | None = Field(
        None, description="The same server as the sessions reach it; endpoint_url without one."
    )
    region: str = Field("us-east-1", description="Of the bucket.")
    anonymous: bool = Field(
        False,
        description="The hub makes up a user at every launch (BinderHub without auth_enabled): work belongs to whoever "
        "has its key, not to a user.",
    )
    home_namespace: str | None = Field(
        None,
        description="The session namespace whose users are known by their bare names in the store; those of other "
        "namespaces are users of other hubs, and have the namespace before it. The first session namespace without it.",
    )
    image_prefix: str | None = Field(
        None,
        description="BinderHub's image_prefix: a session's repo counts only when its image is this and the repo's "
        "slug. Without it any prefix will do.",
    )
    quota: ByteSize = Field(
        ByteSize(5 * 10**9), gt=0, description="Bytes in the store for one person in one course, all versions together."
    )
    max_version: ByteSize = Field(ByteSize(32 << 20), gt=0, description="Largest version object: the list of files.")
    url_seconds: int = Field(900, ge=60, le=3600, description="How long a presigned URL is valid.")
    append_only: bool = Field(
        True,
        description="Sessions add objects and can neither replace nor remove any (but thin out their autosaves). False "
        "only for a store that knows no conditional writes.",
    )
    share_days: int = Field(90, ge=1, le=3650, description="The longest that a read-only link is valid, in days.")
    hub_url: Annotated[str, Field(pattern=r"^https?://[^?#\s]+$")] | None = Field(
        None,
        description="BinderHub's public address, or JupyterHub's where there is no BinderHub: resume and share links "
        "open a session there. Without it BinderHub's own variables in the pod are believed.",
    )
    public_url: Annotated[str, Field(pattern=r"^https?://[^?#\s]+$")] | None = Field(
        None, description="The controller's address for browsers, for links that open outside of a session."
    )
