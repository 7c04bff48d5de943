"""Read-only S3 keys for a session: an STS session whose policy names the prefix, and nothing else.

The role decides what the hub may hand out at most; the session policy takes from it all but GetObject and ListBucket
below one prefix (https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies.html#policies_session). STS keys
cannot be taken back: they end by themselves, 15 minutes after the last renewal at the latest, where STS takes no less.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from datamount.controller.policy import S3Grant, read_secret
from datamount.credentials import Credential
from datamount.errors import Refused, Unavailable

SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and the key or prefix (ending in "/", or empty) in it."""

    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> Place:
        bucket, _, key = url.removeprefix("s3://").partition("/")
        return cls(bucket, key)

    def covers(self, other: Place) -> bool:
        """Whether `other` is this place or below it. "icd" covers "icd/a" but not "icd-private/a"."""
        if self.bucket != other.bucket:
            return False
        folder = self.key if self.key.endswith("/") or not self.key else self.key + "/"
        return other.key == self.key or other.key.startswith(folder)


def granted(grant: S3Grant, bucket: str, key: str | None, *, dataset: str) -> list[Place]:
    """What a session gets: the place that it asks for; without a key, all of the bucket that the policy grants."""
    allowed = [place for place in map(Place.of, grant.urls) if place.bucket == bucket]
    if key is None and allowed:
        return allowed
    wanted = Place(bucket, key or "")
    if ".." in wanted.key.split("/") or not any(place.covers(wanted) for place in allowed):
        raise Refused(
            f'dataset "{dataset}": the policy grants no access to "s3://{bucket}/{key or ""}" with this credential.',
            hint="Ask the hub's operator to grant it, or mend the URL in the manifest.",
            who="the hub's operator",
        )
    return [wanted]


def session_policy(places: Sequence[Place]) -> str:
    """The policy document, read-only, small: STS takes at most 2,048 characters."""
    statements: list[dict[str, Any]] = []
    for place in places:
        below = f"{place.key}*" if place.key.endswith("/") or not place.key else place.key
        bucket = f"arn:aws:s3:::{place.bucket}"
        listing: dict[str, Any] = {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
            "Resource": [bucket],
        }
        if place.key:
            listing["Condition"] = {"StringLike": {"s3:prefix": [below]}}
        reading = {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": [f"{bucket}/{below}"],
        }
        statements += [listing, reading]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))


class S3Leases:
    """Keys from one role. Raises Unavailable or Refused, which name the endpoint, never a key."""

    def __init__(self, credential: str, grant: S3Grant) -> None:
        self.credential = credential
        self.grant = grant

    def create(self, session_name: str, places: Sequence[Place], *, lifetime: timedelta) -> Credential:
        """Keys that read these places for `lifetime`. `session_name` stands in the store's own audit log."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client().assume_role(
                RoleArn=self.grant.role_arn,
                RoleSessionName=re.sub(r"[^A-Za-z0-9_+=,.@-]", "-", session_name)[:64],
                Policy=session_policy(places),
                DurationSeconds=int(lifetime.total_seconds()),
            )
            keys = answer["Credentials"]
        except ClientError as error:
            raise self._failed(error) from None
        except (BotoCoreError, KeyError) as error:
            raise Unavailable(
                f'the credential "{self.credential}": STS at {self._where} did not answer ({type(error).__name__}).',
                who="the hub's operator",
                transient=True,
            ) from None
        return Credential(
            access_key_id=keys["AccessKeyId"],
            secret_access_key=SecretStr(keys["SecretAccessKey"]),
            session_token=SecretStr(keys["SessionToken"]),
            endpoint_url=self.grant.endpoint_url,
            region=self.grant.region,
            expires=keys["Expiration"],
        )

    @property
    def _where(self) -> str:
        return self.grant.sts_endpoint_url or self.grant.endpoint_url or "AWS"

    def _failed(self, error: Any) -> Refused | Unavailable:
        # By the status: stores agree on it where they do not on codes.
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = error.response.get("Error", {}).get("Code") or status
        head = f'the credential "{self.credential}": STS at {self._where} refused AssumeRole ({code}).'
        if (400 <= status < 500 and status != 429) or status == 501:
            return Refused(
                head,
                hint="Check the role's trust policy and the controller's key. A store without STS needs "
                "`presigned: true` instead of a role.",
                who="the hub's operator",
            )
        return Unavailable(head, who="the hub's operator", transient=True)

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        keys: dict[str, str] = {}
        if self.grant.access_key_id_file and self.grant.secret_access_key_file:
            what = f'the key of "{self.credential}"'
            keys["aws_access_key_id"] = read_secret(self.grant.access_key_id_file, what).get_secret_value()
            keys["aws_secret_access_key"] = read_secret(self.grant.secret_access_key_file, what).get_secret_value()
        return boto3.Session().client(
            "sts",
            endpoint_url=self.grant.sts_endpoint_url or self.grant.endpoint_url,
            region_name=self.grant.region or "us-east-1",
            config=Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2}),
            **keys,
        )
