"""Where snapshots are kept: a few calls over a folder, a bucket, or the controller's gateway.

Keys are relative, `/`-separated, made of [A-Za-z0-9._%=/-]: the snapshot engine makes them, so no store has to
escape. An object appears whole or not at all. Safety of the snapshots never depends on `if_absent`: stores that
ignore it only lose an optimisation.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from datamount.errors import UsageError
from datamount.objectstore.base import Body, Limited, ObjectInfo, ObjectStore, Room, check_key

__all__ = ["Body", "Limited", "ObjectInfo", "ObjectStore", "Room", "check_key", "open_store"]


def open_store(url: str, endpoint_url: str | None = None) -> ObjectStore:
    """The store at `file:///folder`, `s3://bucket/prefix` or `az://container/prefix`.

    Credentials come from the variables that the provider's own tools read. The address of an S3 server comes from
    `endpoint_url`, else AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL. No request is made here. UsageError for any other
    URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        from datamount.objectstore.folder import FolderStore

        return FolderStore(Path(unquote(parts.path)))
    if parts.netloc and "@" not in parts.netloc and not parts.query:
        bucket, prefix = parts.netloc, unquote(parts.path).strip("/")
        if parts.scheme == "s3":
            from datamount.objectstore.s3 import S3Store

            return S3Store(bucket, prefix, endpoint_url=endpoint_url)
        if parts.scheme == "az":
            from datamount.objectstore.azure import AzureStore

            return AzureStore(bucket, prefix, endpoint_url=endpoint_url)
    raise UsageError(
        "The store's URL is not one that datamount knows.",
        hint="Write file:///path/of/a/folder, s3://bucket/prefix or az://container/prefix, without credentials in it.",
        who="you",
    )
