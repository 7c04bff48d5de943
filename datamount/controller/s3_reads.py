"""Presigned reads of a bucket, for stores without STS: the operator's key stays here, a session gets URLs.

Each URL reads one object, or one page of a list, for a few minutes, and is signed only after the policy was asked
again: a right that is taken away ends with the URLs that are out. So this gives away less than an STS session, and
costs one request to the controller for every hundred objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, model_validator

from datamount.controller.policy import S3Grant, read_secret
from datamount.controller.presign import bucket_address, presigned
from datamount.controller.s3_leases import Place
from datamount.errors import Refused

SECONDS = 300
"""How long a URL is valid: a read begins at once, and one that has begun may take longer."""
MOST = 200
_LISTING = ("encoding-type", "max-keys", "continuation-token", "key-marker", "version-id-marker", "versions")
Text = Annotated[str, Field(max_length=1100)]


class Read(BaseModel):
    """A GET of `key`, or of the list of what begins with `prefix`; `query` is more of the list's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket: Annotated[str, Field(max_length=63)]
    key: Text | None = None
    version_id: Text | None = None
    prefix: Text | None = None
    query: dict[Annotated[str, Field(max_length=40)], Text] = Field(default_factory=dict, max_length=10)

    @model_validator(mode="after")
    def _one_of_two(self) -> Read:
        if (self.key is None) == (self.prefix is None):
            raise ValueError("name `key` or `prefix`")
        if self.key is not None and self.query:
            raise ValueError("`query` is for lists")
        if unknown := self.query.keys() - {*_LISTING, "list-type"}:
            raise ValueError(f"a list knows no {sorted(unknown)[0]}")
        return self


class Reads(BaseModel):
    """What a session wants to read next."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reads: list[Read] = Field(min_length=1, max_length=MOST)


class SignedReads(BaseModel):
    """A URL for each, in order, valid for `seconds`; `Range` and `If-Match` may be sent along."""

    seconds: int
    urls: list[str]


def sign(credential: str, grant: S3Grant, places: Sequence[Place], reads: Reads, *, dataset: str) -> SignedReads:
    """URLs for these reads, all within `places`. Refused, for all of them, where one is not."""
    from botocore.credentials import Credentials

    for read in reads.reads:
        wanted = Place(read.bucket, str(read.key if read.key is not None else read.prefix))
        inside = any(_covers(place, wanted, listing=read.key is None) for place in places)
        if not inside or ".." in wanted.key.split("/"):
            raise Refused(
                f'dataset "{dataset}": the policy grants no access to "s3://{wanted.bucket}/{wanted.key}" with this '
                "credential.",
                hint="Ask the hub's operator to grant it, or mend the URL in the manifest.",
                who="the hub's operator",
            )
    what = f'the key of "{credential}"'
    assert grant.access_key_id_file is not None
    assert grant.secret_access_key_file is not None
    keys = Credentials(
        read_secret(grant.access_key_id_file, what).get_secret_value(),
        read_secret(grant.secret_access_key_file, what).get_secret_value(),
    )
    return SignedReads(seconds=SECONDS, urls=[_url(grant, read, keys) for read in reads.reads])


def _covers(place: Place, wanted: Place, *, listing: bool) -> bool:
    """As the session policy of an STS lease has it: an object, or all below a folder; lists of the folder only."""
    if not listing or place.key == wanted.key:
        return place.covers(wanted)
    return place.bucket == wanted.bucket and place.key[-1:] in ("", "/") and wanted.key.startswith(place.key)


def _url(grant: S3Grant, read: Read, keys: Any) -> str:
    region = grant.region or "us-east-1"
    address = bucket_address(grant.endpoint_url, read.bucket, region)
    if read.key is not None:
        query = {"versionId": read.version_id} if read.version_id else {}
        return presigned("GET", f"{address}/{quote(read.key, safe='/-_.~')}", keys, region, SECONDS, query=query)
    return presigned("GET", address, keys, region, SECONDS, query={**read.query, "prefix": str(read.prefix)})
