"""A store in an S3 bucket, of AWS or of anybody who speaks its protocol."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from obstore.store import S3Store as Client

from datamount.objectstore.remote import Kind, RemoteStore, client_options

_KIND = Kind(
    "bucket",
    "the AWS variables and the bucket's policy",
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of `aws configure`",
)


class S3Store(RemoteStore):
    """Objects below `prefix` of `bucket`. Credentials and region come from the usual AWS variables, else from the
    profile files."""

    def __init__(
        self, bucket: str, prefix: str = "", *, endpoint_url: str | None = None, region: str | None = None
    ) -> None:
        endpoint = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        settings: dict[str, Any] = {"region": region, "client_options": client_options(endpoint)}
        if endpoint:
            settings["endpoint"] = endpoint.rstrip("/")
        if provider := _profile():
            settings["credential_provider"] = provider
        super().__init__(_KIND, "s3", bucket, prefix, partial(Client, bucket, **settings))


def _profile() -> Any:
    """A provider for the AWS profile files, which obstore does not read itself; None where variables say all."""
    named = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if any(os.environ.get(name) for name in (*named, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_SKIP_SIGNATURE")):
        return None
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config")
    if not os.environ.get("AWS_PROFILE") and not any(Path(file).expanduser().exists() for file in files):
        return None
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()
