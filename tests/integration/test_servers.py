"""What the tests' own servers promise."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests import servers

ROOT = Path(__file__).resolve().parents[2]


def test_a_server_dies_with_its_starter() -> None:
    """When the process that started a server is killed with SIGKILL, the server is gone soon after."""
    script = (
        "from tests import servers; import time; s = servers.HTTPServer(); s.start();"
        "print(s.process.pid, s.folder, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout:
        pid, folder = starter.stdout.readline().split()
    try:
        starter.send_signal(signal.SIGKILL)
        starter.wait(60)
        deadline = time.monotonic() + 60
        while _alive(int(pid)):
            assert time.monotonic() < deadline, "the server outlived its starter"
            time.sleep(0.05)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        # A zombie that nobody has reaped is dead too.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end between the opening of the file and the reading
        return False


def test_a_server_that_fails_says_why(tmp_path: Path) -> None:
    """The error of a server that does not start holds the tail of its log."""
    process = servers.Process([sys.executable, "-c", "raise SystemExit('no such thing')"], log=tmp_path / "log")
    process.start()
    with pytest.raises(servers.ServerFailed, match="no such thing"):
        process.wait_ready(lambda: False, seconds=120)


def test_stop_and_start_keep_port_and_data() -> None:
    """A server that was stopped answers nobody; started again it has its port and its files."""
    with servers.HTTPServer() as server:
        (server.root / "x").write_bytes(b"1")
        server.stop()
        assert not server.ready()
        server.start()
        assert urllib.request.urlopen(f"{server.url}/x", timeout=60).read() == b"1"


def test_a_missing_server_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """`require` skips with the reason, and fails where everything is required."""
    monkeypatch.delenv("DATAMOUNT_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no weed"):
        servers.require("no weed")
    monkeypatch.setenv("DATAMOUNT_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match="no weed"):
        servers.require("no weed")


@pytest.mark.xdist_group("together")
def test_a_group_stays_on_one_worker(request: pytest.FixtureRequest) -> None:
    """Where several workers share the tests, those of one group are kept together: what they need is started once."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@together")
