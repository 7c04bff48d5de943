"""The container engine that the pod tests use: apart from the machine's own, and gone without a trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pod import engine as engines

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("podman"), pytest.mark.timeout(900)]


def test_containers_are_restricted(engine: engines.Engine, debian: str) -> None:
    """A container has the user it is given, no capability, and a root that it cannot write."""
    script = "id -u; grep CapEff /proc/self/status; touch /x /tmp/x || echo refused"
    done = engine.run(debian, ["sh", "-c", script], user="1000:1000", read_only=True)
    assert done.stdout.split() == ["1000", "CapEff:", "0000000000000000", "refused"]


def test_memory_is_bounded(engine: engines.Engine, debian: str) -> None:
    """A container that takes more memory than it may is killed."""
    done = engine.run(debian, ["python3", "-c", "b'x' * (200 << 20)"], memory="64m")
    assert done.code == 137


def test_pods_share_their_loopback(engine: engines.Engine, debian: str) -> None:
    """Containers of a pod reach each other on 127.0.0.1; those of another pod do not."""
    serve = "import http.server as h; h.HTTPServer(('127.0.0.1', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/', timeout=5).status)"
    for name in ("ada", "grace"):
        engine.podman("pod", "create", "--name", name, "--network", "none", "--share", "net,ipc,uts")
    engine.podman("run", "--detach", "--pod", "ada", debian, "python3", "-c", serve)
    retry = f"import time\nfor _ in range(1200):\n try:\n  {ask}; break\n except OSError:\n  time.sleep(0.1)"
    assert engine.run(debian, ["python3", "-c", retry], pod="ada").stdout == "200\n"
    assert engine.run(debian, ["python3", "-c", ask], pod="grace").code == 1


SLEEP = """
import os, shutil, tarfile
from pathlib import Path
from tests.pod import engine as engines
engine = engines.Engine().__enter__()
with tarfile.open(engine.folder / "tiny.tar", "w") as tar:
    tar.add(shutil.which("catatonit"), "catatonit")
image = engine.import_rootfs(engine.folder / "tiny.tar", "tiny")
engine.podman("run", "--detach", "--network", "none", image, "/catatonit", "-P")
"""
"""Starts an engine with a container that runs for ever, of an image with one static program."""


def test_nothing_is_left(engine: engines.Engine) -> None:
    """A closed engine leaves no process, mount or file, though a container was running."""
    made: dict[str, engines.Engine] = {}
    exec(SLEEP, made)
    other = made["engine"]
    assert engines.processes_of(other.folder)
    other.close()
    assert not other.folder.exists()
    assert engines.processes_of(other.folder) == []
    assert str(other.folder) not in Path("/proc/self/mounts").read_text()
    assert engine.folder.exists(), "another engine lives on"


def test_next_engine_removes_what_a_killed_one_left(engine: engines.Engine) -> None:
    """A test process that is killed leaves a container behind; the next engine ends it, and no other."""
    script = SLEEP + "print(engine.folder, flush=True); os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    folder = Path(killed.stdout.decode().strip())
    assert killed.returncode == -9, killed.stderr.decode()
    assert engines.processes_of(folder)
    with engines.Engine():
        assert not folder.exists()
        assert engines.processes_of(folder) == []
    assert engine.folder.exists()
