"""Projected service-account tokens, signed and checked as the API server does (RFC 7519, RS256, bound claims)."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

ISSUER = "https://kubernetes.default.svc.cluster.local"


class Issuer:
    """Signs tokens with a key of its own."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def sign(
        self,
        *,
        namespace: str,
        account: str = "default",
        audiences: list[str],
        seconds: float,
        pod: str = "",
        uid: str = "",
    ) -> str:
        """A token as the kubelet projects it; without `pod` it is bound to nothing."""
        now = int(time.time())
        bound: dict[str, Any] = {"namespace": namespace, "serviceaccount": {"name": account, "uid": f"sa-{account}"}}
        if pod:
            bound["pod"] = {"name": pod, "uid": uid}
        claims = {
            "aud": audiences,
            "exp": int(now + seconds),
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "kubernetes.io": bound,
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        signed = (
            f"{_encode(json.dumps({'alg': 'RS256', 'typ': 'JWT'}).encode())}.{_encode(json.dumps(claims).encode())}"
        )
        return f"{signed}.{_encode(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def claims(self, token: str, audiences: list[str]) -> tuple[dict[str, Any] | None, str]:
        """The claims of a token that is signed by this issuer, in time and for one of the audiences; else why not."""
        try:
            signed, _, signature = token.rpartition(".")
            self._key.public_key().verify(_decode(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims: dict[str, Any] = json.loads(_decode(signed.partition(".")[2]))
        except (ValueError, InvalidSignature, UnicodeError):
            return None, "[invalid bearer token, square/go-jose: error in cryptographic primitive]"
        if time.time() > claims["exp"]:
            return None, "[invalid bearer token, service account token has expired]"
        if not set(claims["aud"]) & set(audiences):
            return (
                None,
                f"[invalid bearer token, token audiences {claims['aud']!r} is invalid for the target audiences]",
            )
        return claims, ""


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
