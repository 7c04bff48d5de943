"""What all the servers are: a process, its folder and its readiness."""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.servers.process import Missing, Process


def require(reason: str) -> NoReturn:
    """Skip the running test because something is missing; a failure where DATAMOUNT_REQUIRE_ALL=1 (as in CI)."""
    import pytest

    if os.environ.get("DATAMOUNT_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but missing: {reason}", pytrace=False)
    pytest.skip(reason)


class Server:
    """A process, its folder and its readiness; the base of the servers below."""

    start_seconds = 120.0
    """Until it answers; one that ends before is a failure at once."""

    def __init__(self, folder: Path | None = None) -> None:
        self._own_folder = folder is None
        # Short, because the path of a Unix socket has at most 107 bytes.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dm-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: Process | None = None

    def command(self) -> Sequence[str | Path]:
        raise NotImplementedError

    def ready(self) -> bool:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str] | None:
        return None

    def start(self) -> None:
        """Start and wait until it answers. Raises Missing or ServerFailed."""
        if self.process is not None and self.process.running:
            return
        process = Process(self.command(), log=self.folder / "server.log", env=self.environment(), cwd=self.folder)
        process.start()
        self.process = process
        process.wait_ready(self.ready, seconds=self.start_seconds)

    def stop(self) -> None:
        """Stop the process; the data stay, and `start` serves them again on the same port."""
        if self.process is not None:
            self.process.stop()

    def close(self) -> None:
        """Stop, and remove the folder when it was a temporary one."""
        self.stop()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Any:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def answers(url: str) -> int | None:
    """The HTTP status of `url`, or None while nobody answers."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return None


def running(server: Server) -> Iterator[Any]:
    """For a pytest fixture: the started server, closed afterwards; skips with the reason where it is not installed."""
    try:
        server.start()
    except Missing as missing:
        server.close()
        require(str(missing))
    except BaseException:
        server.close()
        raise
    try:
        yield server
    finally:
        server.close()
