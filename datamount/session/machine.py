"""What a session needs of this machine: a port, a run folder that nobody else has, and whether a server answers."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datamount.errors import Conflict

FIRST_PORT, PORTS = 8888, 50


@contextmanager
def only_session(run: Path) -> Iterator[None]:
    """Hold the run folder; Conflict when another session has it. The lock ends with the process, however it ends."""
    handle = os.open(run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise Conflict(
                "this course is open already in another `datamount up`.",
                hint="Use that one, or stop it first (Ctrl-C where it runs).",
                who="you",
            ) from error
        yield
    finally:
        os.close(handle)


def find_port(wanted: int | None) -> int:
    """The wanted port, or the first free one from 8888 on. Conflict when it is taken."""
    for port in [wanted] if wanted is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise Conflict(
        f"port {wanted or FIRST_PORT} of this machine is taken.", hint="Choose another with --port.", who="you"
    )


def answers(url: str) -> bool:
    """Whether a GET there is answered with success. Never goes through a proxy: it is this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False
