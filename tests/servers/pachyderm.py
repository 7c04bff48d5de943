"""Pachyderm: the stand-in for pachd of tests/pachyderm, or a real one that runs already."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.base import Server
from tests.servers.process import free_port


class PachydermServer(Server):
    """The stand-in for pachd of tests/pachyderm. With `root_token`, auth is on; with a certificate, TLS."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        port: int | None = None,
        root_token: str = "",
        certificate: Path | None = None,
        private_key: Path | None = None,
        finish_seconds: float = 0.0,
    ) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self.host = "127.0.0.1"
        self.root_token = root_token
        self.certificate = certificate
        self.private_key = private_key
        self.finish_seconds = finish_seconds

    @property
    def address(self) -> str:
        """As a manifest's `address`."""
        return f"{'grpcs' if self.certificate else 'grpc'}://{self.host}:{self.port}"

    def command(self) -> Sequence[str | Path]:
        command: list[str | Path] = [sys.executable, Path(__file__).resolve().parents[1] / "pachyderm"]
        command += ["--port", str(self.port), "--folder", self.folder / "pfs"]
        command += ["--finish-seconds", str(self.finish_seconds)]
        if self.root_token:
            command += ["--root-token", self.root_token]
        if self.certificate and self.private_key:
            command += ["--certificate", self.certificate, "--private-key", self.private_key]
        return command

    def ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    def client(self, token: str | None = None) -> Any:
        """A python_pachyderm client; with auth on, as root when no token is given. Not for a server with TLS."""
        import python_pachyderm

        return python_pachyderm.Client(self.host, self.port, auth_token=token or self.root_token or None)

    def put(self, repo: str, files: Mapping[str, bytes], *, branch: str = "master", project: str = "default") -> str:
        """Store files in one new commit (the repo is made if there is none); the commit's ID."""
        client = self.client()
        client.create_repo(repo, project_name=project, update=True)
        with client.commit(repo, branch, project_name=project) as commit, client.modify_file_client(commit) as change:
            for path, body in files.items():
                change.put_file_from_bytes(path, body[: 2 << 20])
                for start in range(2 << 20, len(body), 2 << 20):  # a pachd in tests takes messages up to 4 MiB
                    change.put_file_from_bytes(path, body[start : start + (2 << 20)], append=True)
        return str(commit.id)


class RunningPachd(PachydermServer):
    """A pachd that somebody else runs, so that what the stand-in is used for can be tried on the real one."""

    def __init__(self, address: str, *, root_token: str = "") -> None:
        host, _, port = address.rpartition(":")
        super().__init__(port=int(port), root_token=root_token)
        self.host = host

    def start(self) -> None:
        """Nothing: it runs."""
