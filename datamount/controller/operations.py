"""Which single requests to the bucket a session may make in its workspace, and how each is signed."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from datamount.controller.presign import Presigner
from datamount.errors import Refused, UsageError
from datamount.objectstore import check_key

BATCH = 500
MAX_PUT = 5 << 30
"""Bytes; what S3 takes in one request."""
LARGE = 8 << 20
"""Bytes; a larger blob may not use the reserve of the quota."""
WRITE_HEADER = "x-amz-meta-datamount-write"
READABLE = ("versions", "blobs", "bundles", "base")
_WRITABLE = ("blobs", "bundles", "base")
_CONTENT = re.compile(r"(blobs|bundles|base)/[0-9a-f]{64}(\.[0-9a-f]{12})?(\.zst|\.zip)?")
Method = Literal["GET", "HEAD", "PUT", "CREATE", "PART", "COMPLETE", "ABORT"]
_HTTP = {"CREATE": "POST", "PART": "PUT", "COMPLETE": "POST", "ABORT": "DELETE"}


class Operation(BaseModel):
    """One request that a session wants to make. `size` in bytes and `md5` (base64) are of the body it will send."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method
    key: Annotated[str, Field(min_length=1, max_length=1024)]
    size: Annotated[int, Field(ge=0, le=MAX_PUT)] | None = None
    md5: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{22}==$")] | None = None
    if_absent: bool = False
    write: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")] | None = None
    """Stands in the object's metadata, so that a writer whose answer was lost knows its own object again."""
    upload: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    part: Annotated[int, Field(ge=1, le=10_000)] | None = None

    @property
    def sent(self) -> int:
        """Bytes that this request brings."""
        return (self.size or 0) if self.method in ("PUT", "PART") else 0

    @property
    def is_large(self) -> bool:
        """Whether it brings a large file, or a part of one."""
        return self.key.startswith("blobs/") and (self.method == "PART" or self.sent > LARGE)


class Batch(BaseModel):
    """Up to 500 operations; refused as a whole when one of them is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operations: list[Operation] = Field(min_length=1, max_length=BATCH)


class Signed(BaseModel):
    """A request that may be made as it stands: with exactly these headers, until the batch's `seconds` are over."""

    method: str
    url: str
    headers: dict[str, str] = {}


def check_operation(operation: Operation, *, append_only: bool) -> None:
    """Raises Refused or UsageError for a request that no session may make."""
    part = check_key(operation.key).partition("/")[0]
    reading = operation.method in ("GET", "HEAD")
    if part not in (READABLE if reading else _WRITABLE) or "/" not in operation.key:
        raise Refused(
            f'a session may not {"read" if reading else "write"} "{operation.key}" in its workspace.',
            hint="Versions are written by a commit." if part == "versions" else "",
            who="the developers of datamount",
        )
    if append_only and not reading and not _CONTENT.fullmatch(operation.key):
        raise Refused(f'"{operation.key}" is not named by its digest.', who="the developers of datamount")
    if operation.method in ("PUT", "PART") and (operation.size is None or operation.md5 is None):
        raise UsageError(f"{operation.method} needs `size` and `md5`.")
    if operation.method in ("PART", "COMPLETE", "ABORT") and operation.upload is None:
        raise UsageError(f"{operation.method} needs `upload`.")
    if operation.method == "PART" and operation.part is None:
        raise UsageError("PART needs `part`.")


def sign_operation(signer: Presigner, prefix: str, operation: Operation, *, append_only: bool) -> Signed:
    """The request, below the workspace's `prefix`; where the store is append-only it can replace nothing."""
    headers, query = {}, {}
    if operation.method in ("PUT", "PART"):
        headers = {"Content-Length": str(operation.size), "Content-MD5": operation.md5 or ""}
    if operation.method in ("PUT", "COMPLETE") and (append_only or operation.if_absent):
        headers["If-None-Match"] = "*"
    if operation.method in ("PUT", "CREATE") and operation.write:
        headers[WRITE_HEADER] = operation.write
    if operation.method == "CREATE":
        query = {"uploads": ""}
    elif operation.method == "PART":
        query = {"partNumber": str(operation.part), "uploadId": operation.upload or ""}
    elif operation.method in ("COMPLETE", "ABORT"):
        query = {"uploadId": operation.upload or ""}
    method = _HTTP.get(operation.method, operation.method)
    url = signer.url(method, prefix + operation.key, headers=headers, query=query)
    return Signed(method=method, url=url, headers=headers)
