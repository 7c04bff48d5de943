"""`datamount up` as a child process: started, found by its URL, interrupted, or killed with all that it started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.demo_jupyter import Jupyter
from tests.servers import dying_with_us, free_port

MARK = "DATAMOUNT_DEMO_MARK"
"""A variable that every process of one session inherits: how a session's processes are told from all others."""


class SessionFailed(AssertionError):
    """`datamount` did not do what was asked; the text ends with its output."""


def datamount(*arguments: str | Path, env: Mapping[str, str], cwd: Path | None = None) -> str:
    """The output of one `datamount` command. SessionFailed when it fails."""
    command = [sys.executable, "-m", "datamount", *map(str, arguments)]
    done = subprocess.run(
        command,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        raise SessionFailed(f"{' '.join(command[2:])}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def marked(mark: str) -> dict[int, str]:
    """The running processes (and their commands) that carry a mark."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        # Processes end while they are looked at, and those of others may not be read.
        with contextlib.suppress(OSError, ValueError):
            number = int(folder.name)
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[number] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def leaving(mark: str, *, seconds: float = 60) -> dict[int, str]:
    """What with this mark does not end within some time: the last of them may still be on their way out."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


class Session:
    """One `datamount up` with its JupyterLab, sidecar and kernels."""

    def __init__(
        self, course: Path, store: str, *, env: Mapping[str, str], log: Path, options: Sequence[str] = ()
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        self.port = free_port()
        self._env = dict(env) | {MARK: self.mark}
        self._command = [sys.executable, "-m", "datamount", "up", str(course), "--store", store]
        self._command += ["--port", str(self.port), "--no-browser", *options]
        self._child: subprocess.Popen[bytes] | None = None

    def open(self, *, seconds: float = 240) -> Jupyter:
        """Start, and return the Jupyter server once it answers at the URL that was printed."""
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=dying_with_us(signal.SIGKILL),
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._child.poll() is not None:
                raise SessionFailed(f"datamount up ended with {self._child.returncode}\n{self.output()}")
            # The line may be wrapped in colours; a URL has none of their characters.
            found = re.search(rf"http://(?:127\.0\.0\.1|localhost):{self.port}/[^\s\x1b]*token=[\w%-]+", self.output())
            if found and (server := Jupyter(found[0])).answers():
                return server
            time.sleep(0.1)
        raise SessionFailed(f"datamount up printed no URL that answers within {seconds} s\n{self.output()}")

    def output(self) -> str:
        """All that it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def processes(self) -> dict[int, str]:
        """What of it is running."""
        return marked(self.mark)

    def kill(self) -> list[str]:
        """SIGKILL to every process at once, as when a machine is lost; the commands that were running."""
        killed: list[str] = []
        # A process may have been started while the others were being killed.
        while found := self.processes():
            for number, command in found.items():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                    killed.append(command)
            if self._child is not None:
                self._child.wait(60)
            time.sleep(0.05)
        return killed

    def interrupt(self, *, seconds: float = 200) -> None:
        """Ctrl-C. SessionFailed when it does not end well, or leaves a process behind."""
        assert self._child is not None, "not started"
        self._child.send_signal(signal.SIGINT)
        try:
            code = self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise SessionFailed(f"Ctrl-C did not end datamount up within {seconds} s\n{self.output()}") from None
        left = leaving(self.mark)
        if code or left:
            raise SessionFailed(f"Ctrl-C: exit code {code}, still running: {left or 'nothing'}\n{self.output()}")
