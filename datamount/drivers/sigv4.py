"""Signing a GET as AWS Signature Version 4 asks, with nothing but the standard library.

botocore's signer is the well-kept one, and the tests hold this one to its signatures; but importing it costs 31 ms of
each launch, 70 where `awscrt` is installed, of the 250 that a fetch has until its first request (docs/decisions).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Keys:
    """What to sign with; `expires` where it does not last."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires: datetime | None = None


def sign(  # noqa: PLR0917
    host: str, path: str, query: str, keys: Keys | None, region: str, more: Mapping[str, str]
) -> dict[str, str]:
    """The headers (`more` among them) of a GET without a body, signed as AWS Signature Version 4 asks; no keys: not.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html; `query` is sorted and encoded.
    """
    if keys is None:
        return {"Host": host}
    now = datetime.now(UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp, **more}
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"GET\n{path}\n{query}\n{lines}\n{names}\n{empty}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return headers
