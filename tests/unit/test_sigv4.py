"""Our signatures of listings and reads beside those of botocore."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamount.drivers import sigv4

NOW = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=40)
WORD = st.text("abcDEF019/+=-", min_size=1, max_size=40)


class Frozen(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return NOW if tz else NOW.replace(tzinfo=None)

    @classmethod
    def utcnow(cls) -> Any:
        return NOW.replace(tzinfo=None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    key=TEXT,
    query=st.dictionaries(st.sampled_from(["prefix", "versions", "list-type", "key-marker", "versionId"]), TEXT),
    token=st.none() | WORD,
    secret=WORD,
    region=st.sampled_from(["us-east-1", "eu-central-1", "auto"]),
    pays=st.booleans(),
    port=st.sampled_from(["", ":8333"]),
)
def test_the_signature_is_botocores(
    *, key: str, query: dict[str, str], token: str | None, secret: str, region: str, pays: bool, port: str
) -> None:
    """Whatever key, query, token, region and header: the Authorization is the one that botocore computes."""
    encoded = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
    url = f"https://s3.example.org{port}/bucket/{quote(key, safe='/~')}" + (f"?{encoded}" if encoded else "")
    more = {"x-amz-request-payer": "requester"} if pays else {}
    request = AWSRequest("GET", url, headers=dict(more), data=b"")
    request.context["payload_signing_enabled"] = True
    parts = urlsplit(url)
    with patch("botocore.auth.get_current_datetime", lambda *_, **__: NOW), patch.object(sigv4, "datetime", Frozen):
        S3SigV4Auth(Credentials("AKEXAMPLE", secret, token), "s3", region).add_auth(request)
        ours = sigv4.sign(parts.netloc, parts.path, parts.query, sigv4.Keys("AKEXAMPLE", secret, token), region, more)
    assert ours["Authorization"] == request.headers["Authorization"]
    assert ours["x-amz-date"] == request.headers["X-Amz-Date"]
