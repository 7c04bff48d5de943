"""The S3 server with TLS beside plain HTTP, its certificate signed by an authority that nobody trusts yet."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from datamount.controller.certificates import make_authority, make_certificate
from tests.servers.process import free_port
from tests.servers.s3 import S3Server


class TLSS3Server(S3Server):
    """`https_url` serves the same as `endpoint_url`; `authority` is the file that a client has to trust."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.https_port = free_port(offset=10_000)
        now = datetime.now(UTC)
        authority = make_authority(now)
        pair = make_certificate(authority, ["localhost"], now, 30)
        self.authority = self.folder / "ca.pem"
        self.authority.write_bytes(authority.certificate)
        self._certificate, self._key = self.folder / "tls.pem", self.folder / "tls.key"
        self._certificate.write_bytes(pair.certificate)
        self._key.write_bytes(pair.key)

    @property
    def https_url(self) -> str:
        return f"https://localhost:{self.https_port}"

    def command(self) -> Sequence[str | Path]:
        files = [f"-s3.cert.file={self._certificate}", f"-s3.key.file={self._key}"]
        return [*super().command(), f"-s3.port.https={self.https_port}", *files]
