"""URLs that let their holder make one request to the bucket for a few minutes: what a session gets instead of a key.

A URL fixes method, key and expiry, and whatever headers are signed with it: the length of the body and its MD5 (the
store refuses other bytes), and `If-None-Match: *` (the store refuses to replace what is there). Signing is arithmetic
and asks nobody, so a batch of a thousand takes some tens of milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from datamount.controller.store_settings import StoreSettings
from datamount.errors import Refused
from datamount.objectstore import check_key


class Presigner:
    """Signs requests to the store's bucket with the controller's own identity (the usual AWS variables or files)."""

    def __init__(self, settings: StoreSettings) -> None:
        parts = urlsplit(settings.url)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.seconds = settings.url_seconds
        self._region = settings.region
        self._base = bucket_address(settings.public_endpoint_url or settings.endpoint_url, self.bucket, self._region)
        self._credentials: Any = None
        self._lock = threading.Lock()

    def url(
        self,
        method: str,
        key: str,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> str:
        """The URL of one request to `key` of the store. Whoever uses it must send exactly these headers."""
        path = f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)
        target = f"{self._base}/{quote(path, safe='/-_.~')}"
        return presigned(method, target, self._frozen(), self._region, self.seconds, headers=headers, query=query)

    def _frozen(self) -> Any:
        """The credentials now; those of a role are renewed by botocore, whoever asks."""
        with self._lock:
            if self._credentials is None:
                import botocore.session

                self._credentials = botocore.session.get_session().get_credentials()
            if self._credentials is None:
                raise Refused(
                    "the controller has no credentials for the store of saved work.",
                    hint="Set the AWS variables of the controller (the chart's storeSecret).",
                    who="the hub's operator",
                )
            return self._credentials.get_frozen_credentials()


def presigned(
    method: str,
    target: str,
    keys: Any,
    region: str,
    seconds: int,
    *,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
) -> str:
    """The URL of one request to `target`, an encoded URL without a query, for whoever sends exactly these headers."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    if query:
        target += "?" + "&".join(f"{quote(n, safe='')}={quote(v, safe='')}" for n, v in query.items())
    request = AWSRequest(method, target, headers=dict(headers or {}))
    S3SigV4QueryAuth(keys, "s3", region, expires=seconds).add_auth(request)
    return str(request.url)


def bucket_address(endpoint: str | None, bucket: str, region: str) -> str:
    """The URL of a bucket: path style at an endpoint of one's own, the bucket's own host name at AWS."""
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    if "." in bucket:  # no certificate of AWS covers its host name
        return f"https://s3.{region}.amazonaws.com/{bucket}"
    return f"https://{bucket}.s3.{region}.amazonaws.com"
