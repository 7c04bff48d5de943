"""Datasets that stay in their bucket (`access: remote`): where this session's programs get AWS keys for them.

Every AWS SDK asks an endpoint for keys when $AWS_CONTAINER_CREDENTIALS_FULL_URI names one, and asks again before they
end. `key_endpoint` serves it, in `datamount up` and in the pod's sidecar; a lone `datamount fetch` has nobody who can,
and leaves the variables out. The place is reserved before anything listens, because kernels inherit variables that are
written before the sidecar starts.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

from datamount.errors import Conflict
from datamount.manifest import Manifest
from datamount.status import write_atomic

HOST = "127.0.0.1"
FIRST_PORT, PORTS = 21400, 100
"""Below what systems hand out by themselves, so that a reserved port is still free when the sidecar starts."""
ADDRESS, TOKEN = "aws/address", "aws/token"
"""In the run folder."""


def wanted(manifest: Manifest) -> list[str]:
    """The datasets whose keys an endpoint has to serve."""
    return [
        name
        for name, dataset in manifest.datasets.items()
        if dataset.s3 is not None and dataset.s3.access == "remote" and dataset.s3.credential is not None
    ]


def address(run: Path) -> str | None:
    """The endpoint's address ("http://127.0.0.1:21400") that was reserved for this session; None where none was."""
    try:
        return (run / ADDRESS).read_text(encoding="ascii") or None
    except (OSError, ValueError):
        return None


def reserve(run: Path) -> str:
    """Choose the endpoint's port and token, once a session. Conflict where no port is free."""
    known = address(run)
    if known is None:
        known = f"http://{HOST}:{_free_port()}"
        (run / ADDRESS).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(run / TOKEN, secrets.token_urlsafe(32).encode(), mode=0o600)
        write_atomic(run / ADDRESS, known.encode(), mode=0o600)
    return known


def release(run: Path) -> None:
    """Forget the place, so that no environment names an endpoint that nobody serves."""
    for name in (ADDRESS, TOKEN):
        (run / name).unlink(missing_ok=True)


def _free_port() -> int:
    # From a place of chance: several sessions of one machine begin at the same time.
    first = secrets.randbelow(PORTS)
    for port in (FIRST_PORT + (first + at) % PORTS for at in range(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise Conflict(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} of this machine is free.")
