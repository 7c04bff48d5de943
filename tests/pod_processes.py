"""The containers of an injected pod as processes of this machine, with the variables that inject gives them.

Not a pod: no images, users or mounts (`tests/pod` has those). The pod's paths are folders of the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datamount import names
from datamount.inject import SEED_SCRIPT, InjectSettings, inject
from tests import servers

POD = {
    "kind": "Pod",
    "metadata": {"name": "jupyter-ada", "labels": {"component": "singleuser-server"}},
    "spec": {
        "containers": [
            {
                "name": "notebook",
                "image": "registry.example.edu/course:4c1e",
                "env": [{"name": "BINDER_REPO_URL", "value": "https://github.com/org/course.git"}],
            }
        ]
    },
}


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    """What `what` returns, once that is true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)
    return found


class Pod:
    """The containers of one injected pod, on this machine. A second one with the same `work` is the next launch."""

    def __init__(self, folder: Path, image: Path, options: InjectSettings, more: Mapping[str, str]) -> None:
        self.folder = folder
        self.home, self.data, self.run, self.state = (folder / name for name in ("home", "data", "run", "state"))
        self.handover, self.jupyter = folder / "handover", folder / "jupyter"
        for path in (self.home, self.data, self.run, self.state, self.handover, self.jupyter):
            path.mkdir(parents=True)
        self.image = image
        pod = inject(POD, options)
        fetch = next(c for c in pod["spec"]["initContainers"] if c["name"] == names.FETCH_CONTAINER)
        given = {entry["name"]: entry["value"] for entry in fetch["env"] if "value" in entry}
        places = {
            names.ENV_FOLDER: self.home,
            names.ENV_DATA: self.data,
            names.ENV_RUN: self.run,
            names.ENV_STATE: self.state,
            names.ENV_COURSE_DIR: self.handover,
            names.ENV_JUPYTER_DIR: self.jupyter,
            "TMPDIR": self.state / "tmp",
            "HOME": self.state,
        }
        self.environment = {"PATH": os.environ["PATH"], names.ENV_OWNER: "ada"} | given
        self.environment |= {name: str(path) for name, path in places.items()} | dict(more)
        self.processes: list[subprocess.Popen[bytes]] = []

    def seed(self) -> None:
        command = ["/bin/sh", "-c", SEED_SCRIPT, "seed", self.image, "copy", self.home, self.handover]
        subprocess.run([os.fspath(part) for part in command], check=True, timeout=120)

    def fetch(self, *, program: Sequence[str] = ("-m", "datamount.pod"), **more: str) -> str:
        """The log of the fetch container, which must succeed."""
        done = subprocess.run(
            [sys.executable, *program, "fetch"],
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout.decode()

    def sidecar(self) -> subprocess.Popen[bytes]:
        with (self.folder / "sidecar.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "datamount.pod", "sidecar"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=servers.dying_with_us(signal.SIGKILL),
            )
        self.processes.append(process)
        return process

    def log(self) -> str:
        """What the sidecar wrote so far."""
        return (self.folder / "sidecar.log").read_text(errors="replace")

    def ready(self) -> int:
        command = [sys.executable, "-m", "datamount.pod", "ready"]
        return subprocess.run(command, env=self.environment, timeout=120, check=False).returncode

    def status(self) -> Any:
        return json.loads((self.run / names.STATUS_FILE).read_bytes())

    def state_of(self, dataset: str) -> str:
        """The state of one dataset; empty while no container has written any."""
        with contextlib.suppress(FileNotFoundError, KeyError):
            return str(self.status()["datasets"][dataset]["state"])
        return ""

    def notes(self) -> str:
        file = self.run / "notes.json"
        return "\n".join(json.loads(file.read_bytes())) if file.exists() else ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """What the sidecar's API answers, once there is a sidecar: its probe gives a busy machine only seconds."""
        place = wait_for(self._place)
        request = urllib.request.Request(
            f"{place['url']}/api/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Bearer {place['token']}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def _place(self) -> Any:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.run / names.SIDECAR_FILE).read_bytes())
        return None

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def make_image(folder: Path, manifest: Any) -> Path:
    """The home folder of a course's image."""
    home = folder / "image" / "jovyan"
    home.mkdir(parents=True)
    (home / "binder").mkdir()
    (home / "binder" / names.MANIFEST).write_text(manifest if isinstance(manifest, str) else yaml.safe_dump(manifest))
    (home / "lesson.txt").write_text("one\n")
    (home / ".hidden").write_text("kept\n")
    return home
