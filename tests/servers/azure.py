"""Azure Blob Storage as Microsoft's own emulator has it: Azurite, from npm, over a folder."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.base import Server, answers
from tests.servers.process import Missing, free_port, node

PACKAGE = "azurite@3.35.0"
HOME = Path(__file__).parents[2] / ".cache/azurite"
_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{Path(sys.executable).parent}"


def script() -> Path:
    """Azurite's blob service, installed once with npm where it is not there yet. Raises Missing."""
    main = HOME / "node_modules/azurite/dist/src/blob/main.js"
    npm = shutil.which("npm", path=_PATH)
    if npm is None:
        raise Missing(f"Azurite needs Node: npm install {PACKAGE}")
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # each test process comes here
        if not main.exists():
            command = [npm, "install", "--prefix", str(HOME), "--no-audit", "--no-fund", "--ignore-scripts", PACKAGE]
            done = subprocess.run(
                command, env={**os.environ, "PATH": _PATH}, capture_output=True, text=True, timeout=600, check=False
            )
            if done.returncode:
                raise Missing(f"Azurite could not be installed: {done.stderr[-500:]}")
    return main


class AzureServer(Server):
    """Azurite with one account."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.port = free_port()
        self.account = "datamounttest"
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.account}"

    def env(self) -> dict[str, str]:
        """What a client needs."""
        return {"AZURE_STORAGE_ACCOUNT_NAME": self.account, "AZURE_STORAGE_ACCOUNT_KEY": self.key}

    def command(self) -> Sequence[str | Path]:
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", self.folder / "data"]
        return [node(), script(), *where, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]

    def environment(self) -> Mapping[str, str]:
        return {"PATH": _PATH, "HOME": str(self.folder), "AZURITE_ACCOUNTS": f"{self.account}:{self.key}"}

    def ready(self) -> bool:
        return answers(f"{self.endpoint_url}?comp=list") == 403

    def make_bucket(self) -> str:
        """A new container."""
        from azure.storage.blob import BlobServiceClient

        name = f"test-{secrets.token_hex(6)}"
        with BlobServiceClient(self.endpoint_url, credential=self.key) as client:
            client.create_container(name)
        return name
