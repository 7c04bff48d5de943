"""The ways of signing in that need a token: a pod's web identity at a real STS, and a person's SSO session."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from datamount.drivers import open_driver
from datamount.errors import Refused
from datamount.manifest import Dataset
from tests.servers import S3Server


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Answering(BaseHTTPRequestHandler):
    """Answers each GET with the JSON that `answers` has for the path."""

    answers: dict[str, Any]
    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        body = json.dumps(self.answers.get(path, {})).encode()
        self.send_response(200 if path in self.answers else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    """A server of JSON documents."""
    Answering.answers, Answering.seen = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Issuer:
    """An OpenID Connect issuer, as a cluster is one for its pods: its keys, and tokens signed with them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._key = rsa.generate_private_key(65537, 2048)
        numbers = self._key.public_key().public_numbers()
        n, e = numbers.n.to_bytes(256), numbers.e.to_bytes(3)
        key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": encoded(n), "e": encoded(e)}
        Answering.answers |= {
            "/keys": {"keys": [key]},
            "/.well-known/openid-configuration": {"issuer": url, "jwks_uri": f"{url}/keys"},
        }

    def token(self, subject: str, *, lives: int = 600) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "sub": subject, "aud": "course", "iat": now, "nbf": now - 5, "exp": now + lives}
        head = {"alg": "RS256", "typ": "JWT", "kid": "1"}
        text = ".".join(encoded(json.dumps(part).encode()) for part in (head, claims))
        return f"{text}.{encoded(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


class Federated(S3Server):
    """SeaweedFS whose role may be assumed with a token of an issuer."""

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        file = self.folder / "iam.json"
        iam = json.loads(file.read_text())
        config = {"issuer": issuer.url, "clientId": "course", "jwksUri": f"{issuer.url}/keys"}
        iam["providers"] = [{"name": "cluster", "type": "oidc", "enabled": True, "config": config}]
        statement = {"Effect": "Allow", "Principal": {"Federated": "cluster"}}
        iam["roles"][0]["trustPolicy"]["Statement"].append(statement | {"Action": ["sts:AssumeRoleWithWebIdentity"]})
        file.write_text(json.dumps(iam))


def delivered(url: str, endpoint: str) -> dict[str, bytes]:
    driver = open_driver("codes", Dataset.model_validate({"s3": {"url": url, "endpoint_url": endpoint}}))
    return {item.path: b"".join(bytes(chunk) for chunk in driver.open(item)) for item in driver.plan(driver.resolve())}


@pytest.fixture
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.usefixtures("_nobody")
def test_a_web_identity(web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN are enough, as in a pod with a role; a bad token is a refusal."""
    issuer = Issuer(web)
    with Federated(issuer) as s3:
        s3.put(s3.make_bucket(s3.reader_bucket), {"web/a": b"1"})
        file = tmp_path / "token"
        file.write_text(issuer.token("system:serviceaccount:courses:default"))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ROLE_ARN", s3.role_arn)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3.endpoint_url)
        assert delivered(f"s3://{s3.reader_bucket}/web/", s3.endpoint_url) == {"a": b"1"}
        file.write_text(issuer.token("somebody", lives=-60))
        with pytest.raises(Refused, match="no AWS credential could be read"):
            delivered(f"s3://{s3.reader_bucket}/web/", s3.endpoint_url)


def test_an_sso_session(web: str, s3: S3Server, tmp_path: Path) -> None:
    """A profile with an sso_session, after `aws sso login`, gets the role's keys from the portal and reads with them.

    The portal is a stand-in: nobody but AWS has one.
    """
    bucket = s3.make_bucket()
    s3.put(bucket, {"sso/a": b"1"})
    admin = s3.identities["admin"]
    later = datetime.now(UTC) + timedelta(hours=1)
    Answering.answers = {
        "/federation/credentials": {
            "roleCredentials": {
                "accessKeyId": admin.access_key_id,
                "secretAccessKey": admin.secret_access_key,
                "sessionToken": "",
                "expiration": int(later.timestamp() * 1000),
            }
        }
    }
    cache = tmp_path / ".aws/sso/cache"
    cache.mkdir(parents=True)
    (tmp_path / ".aws/config").write_text(
        "[profile course]\nsso_session = school\nsso_account_id = 000000000000\nsso_role_name = Reader\n"
        "[sso-session school]\nsso_region = us-east-1\nsso_start_url = https://school.example/start\n"
    )
    token = {"accessToken": "from-the-login", "expiresAt": later.strftime("%Y-%m-%dT%H:%M:%SZ")}
    (cache / f"{hashlib.sha1(b'school').hexdigest()}.json").write_text(json.dumps(token))
    source = {"url": f"s3://{bucket}/sso/", "endpoint_url": s3.endpoint_url}
    (tmp_path / "datamount.yaml").write_text(json.dumps({"version": 1, "datasets": {"codes": {"s3": source}}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "datamount", "fetch", tmp_path, "--data", tmp_path / "data", "--run", tmp_path / "run"],
        env=environment | {"HOME": str(tmp_path), "AWS_PROFILE": "course", "AWS_ENDPOINT_URL_SSO": web},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/codes/a").read_bytes() == b"1"
    path, headers = Answering.seen[0]
    assert "role_name=Reader" in path
    assert headers["x-amz-sso_bearer_token"] == "from-the-login"
