"""A second S3 implementation: versitygw (Go) over a folder, so that no quirk of one server becomes our contract."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import Server, answers
from tests.servers.process import Missing, free_port
from tests.servers.s3 import Identity

MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
BINARIES = Path(__file__).parents[2] / ".cache/bin"


def binary() -> Path:
    """The program, built once with Go where it is not there yet. Raises Missing."""
    installed = shutil.which("versitygw", path=f"{BINARIES}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if installed:
        return Path(installed)
    go = shutil.which("go", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/local/go/bin")
    if go is None:
        raise Missing(f"versitygw is not installed, and neither is Go to build it: go install {MODULE}")
    BINARIES.mkdir(parents=True, exist_ok=True)
    with (BINARIES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # each test process comes here
        if not (BINARIES / "versitygw").exists():
            environment = _go_environment() | {"GOBIN": str(BINARIES)}
            command = [go, "install", MODULE]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
            if done.returncode:
                raise Missing(f"versitygw could not be built: {done.stderr[-500:]}")
    return BINARIES / "versitygw"


def _go_environment() -> dict[str, str]:
    """Ours, but with the Go caches of the person: tests run with another HOME."""
    home = Path(os.path.expanduser(f"~{os.environ.get('USER', 'root')}"))  # noqa: PTH111
    return {**os.environ, "GOPATH": str(home / "go"), "GOCACHE": str(home / ".cache/go-build"), "GOFLAGS": "-p=2"}


class VersityServer(Server):
    """versitygw with one account ("admin"), over a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.identities = {"admin": Identity(f"AK{secrets.token_hex(6).upper()}", secrets.token_hex(20))}

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str | Path]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        return [binary(), "--port", f"127.0.0.1:{self.port}", "--health", "/health", "--quiet", "posix", data]

    def environment(self) -> Mapping[str, str]:
        admin = self.identities["admin"]
        keys = {"ROOT_ACCESS_KEY": admin.access_key_id, "ROOT_SECRET_KEY": admin.secret_access_key}
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)} | keys

    def ready(self) -> bool:
        return answers(f"{self.endpoint_url}/health") == 200

    def client(self) -> Any:
        import boto3

        admin = self.identities["admin"]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id=admin.access_key_id,
            aws_secret_access_key=admin.secret_access_key,
        )

    def make_bucket(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name
