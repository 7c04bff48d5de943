"""`datamount up` with a real JupyterLab: opens whatever is broken, keeps work through kills, leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datamount.objectstore import open_store
from datamount.snapshots import Workspace
from tests import servers
from tests.jupyter_client import Jupyter
from tests.pod_processes import wait_for

MANIFEST = """\
version: 1
datasets:
  glossary: {{url: "file://{source}/glossary.csv"}}
  broken: {{url: "file://{source}/none.csv"}}
"""


class Up:
    """One `datamount up` and everything that it starts."""

    def __init__(self, folder: Path, course: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.home = folder / "home"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "datamount", "up", str(course), "--no-browser"),
                    # Not "0": until Jupyter has it, seconds later, somebody else may.
                    *("--port", str(servers.free_port()), "--owner", "ada"),
                    *("--store", (folder / "store").as_uri(), *options),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"DATAMOUNT_HOME": str(self.home)},
                start_new_session=True,
                preexec_fn=servers.dying_with_us(signal.SIGKILL),
            )

    def text(self) -> str:
        return self.log.read_text()

    def open(self) -> Jupyter:
        """The server, once its URL is printed, and the line after it, and the sidecar behind it answers."""

        def said() -> re.Match[str] | None:
            assert self.process.poll() is None, self.text()
            return re.search(r"^open +(\S+)/lab\?token=(\S+)\nCtrl-C saves and stops\.\n", self.text(), re.M)

        jupyter = Jupyter(*wait_for(said).groups())
        wait_for(lambda: jupyter.datamount("GET", "status").is_success)  # `up` itself does not wait for it for ever
        return jupyter

    def processes(self) -> dict[int, str]:
        """All that runs with this session's environment, by pid."""
        mark = f"DATAMOUNT_HOME={self.home}".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found

    def pid_of(self, part: str) -> int:
        return next(pid for pid, command in self.processes().items() if part in command)

    def kill_all(self) -> None:
        """SIGKILL to all of it; none runs any more afterwards, nor one that was being started meanwhile."""

        def gone() -> bool:
            found = self.processes()
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        wait_for(gone)
        self.process.wait(60)

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(200)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A published course as a student clones it."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "glossary.csv").write_text("term,meaning\n")
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "datamount.yaml").write_text(MANIFEST.format(source=source))
    (origin / "lesson.txt").write_text("Exercise 1\n")
    git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for step in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "course"]):
        subprocess.run([*git, *step], check=True)
    clone(tmp_path)
    return tmp_path / "course"


def clone(folder: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(folder / "origin"), str(folder / "course")], check=True)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*arguments: Any) -> Up:
        started.append(Up(tmp_path, *arguments))
        return started[-1]

    yield start
    for session in started:
        session.kill_all()


def test_work_survives_the_death_of_everything(course: Path, up: Callable[..., Up]) -> None:
    """Data, variables and saved work are there after every process was killed and the folder replaced by a clone."""
    session = up(course)
    jupyter = session.open()
    code = "import os; print(os.environ['GLOSSARY_PATH']); print(open('data/glossary/glossary.csv').read())"
    printed = jupyter.run(code)
    assert printed.split() == [str(next(session.home.glob("courses/*/data")) / "glossary"), "term,meaning"]
    broken = jupyter.datamount("GET", "status").json()["data"]["datasets"]["broken"]
    assert broken["state"] == "failed"
    assert "none.csv" in broken["error"]["detail"]
    assert "broken" in session.text()

    jupyter.run("open('lesson.txt', 'a').write('my answer\\n'); open('own.txt', 'w').write('mine')")
    saved = jupyter.datamount("POST", "snapshots", json={"message": "by hand"})
    assert saved.status_code == 201, saved.text
    session.kill_all()
    shutil.rmtree(course)
    clone(course.parent)

    again = up(course)
    again.open()
    assert (course / "lesson.txt").read_text() == "Exercise 1\nmy answer\n"
    assert (course / "own.txt").read_text() == "mine"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=course, capture_output=True, text=True, check=True)
    assert status.stdout.split("\n") == [" M lesson.txt", "?? own.txt", ""]
    (course / "own.txt").write_text("mine, later")
    assert again.stop() == 0, again.text()
    wait_for(lambda: not again.processes())

    third = up(course)
    third.open()
    assert (course / "own.txt").read_text() == "mine, later"
    assert "restoring" not in third.text()
    assert third.stop(signal.SIGTERM) == 0
    wait_for(lambda: not third.processes())


def test_a_killed_parent_leaves_no_process_and_loses_nothing(course: Path, up: Callable[..., Up]) -> None:
    """When only `datamount up` is killed, the sidecar saves and ends, and Jupyter with its kernels ends."""
    session = up(course, "--save-after", "600")
    session.open()
    (course / "own.txt").write_text("unsaved")
    os.kill(session.process.pid, signal.SIGKILL)
    session.process.wait(60)
    wait_for(lambda: not session.processes())
    shutil.rmtree(course)
    clone(course.parent)
    up(course).open()
    assert (course / "own.txt").read_text() == "unsaved"


def test_autosave_without_anyone_asking(course: Path, up: Callable[..., Up]) -> None:
    """A change is in the store after the pause, and a SIGKILL of everything then loses nothing."""
    session = up(course, "--save-after", "0.5")
    jupyter = session.open()
    (course / "own.txt").write_text("never saved by hand")
    wait_for(lambda: jupyter.datamount("GET", "status").json()["save"]["state"] == "saved")
    last = jupyter.datamount("GET", "snapshots").json()
    assert [version["reason"] for version in last] == ["auto"]
    session.kill_all()
    shutil.rmtree(course)
    clone(course.parent)
    up(course).open()
    assert (course / "own.txt").read_text() == "never saved by hand"


def test_a_dead_sidecar_is_started_again(course: Path, up: Callable[..., Up]) -> None:
    """Saving works again after the sidecar was killed, with the same open page."""
    session = up(course)
    jupyter = session.open()
    os.kill(session.pid_of("-m sidecar"), signal.SIGKILL)

    def saved() -> bool:
        (course / "own.txt").write_text(str(time.monotonic_ns()))  # each try has something to save
        return jupyter.datamount("POST", "snapshots", json={}).status_code == 201

    wait_for(saved)


def test_local_work_is_kept_before_saved_work_comes_back(course: Path, up: Callable[..., Up]) -> None:
    """Edits in a folder that the store knows nothing of become a version before older work is restored over them."""
    first = up(course)
    first.open()
    (course / "own.txt").write_text("saved on the first machine")
    assert first.stop() == 0
    shutil.rmtree(course)
    shutil.rmtree(first.home)
    clone(course.parent)
    (course / "own.txt").write_text("written on the second machine")
    second = up(course)
    jupyter = second.open()
    assert (course / "own.txt").read_text() == "saved on the first machine"
    contents = {
        jupyter.datamount("GET", f"snapshots/{version['id']}/files/own.txt").text
        for version in jupyter.datamount("GET", "snapshots").json()
    }
    assert contents == {"saved on the first machine", "written on the second machine"}
    assert "is kept as version" in second.text()
    assert second.stop() == 0
    third = up(course)
    third.open()
    assert (course / "own.txt").read_text() == "saved on the first machine"


def test_it_opens_with_a_broken_manifest(course: Path, up: Callable[..., Up]) -> None:
    """With a manifest that cannot be used, and no store either, Jupyter opens; output and status say why."""
    (course / "datamount.yaml").write_text("version: 1\ndatsets: {}\n")
    (course.parent / "store").write_text("a file where the store should be")
    session = up(course)
    jupyter = session.open()
    status = jupyter.datamount("GET", "status").json()
    assert "datsets" in status["data"]["error"]["detail"]
    assert "datsets" in session.text()
    assert jupyter.run("print(1 + 1)") == "2\n"
    (course / "own.txt").write_text("x")
    assert jupyter.datamount("POST", "snapshots", json={}).status_code >= 500
    assert session.stop() == 5
    assert "were not saved" in session.text()


def test_one_course_is_opened_once(course: Path, up: Callable[..., Up]) -> None:
    """A second `up` of the same course refuses and says what to do; the first is not disturbed."""
    first = up(course)
    jupyter = first.open()
    text = first.text()
    second = subprocess.run(
        [sys.executable, "-m", "datamount", "up", str(course), "--no-browser"],
        env=os.environ | {"DATAMOUNT_HOME": str(first.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 5
    assert "open already" in second.stderr
    assert jupyter.http.get("/api/status").status_code == 200
    assert first.text() == text


def test_a_taken_port_is_said_before_anything_is_fetched(course: Path, up: Callable[..., Up], tmp_path: Path) -> None:
    """With --port of a port that is taken, `up` ends at once, says so, and has fetched and restored nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        session = up(course, "--port", str(taken.getsockname()[1]))
        assert session.process.wait(120) == 5
    assert "Choose another with --port" in session.text()
    assert "data " not in session.text()
    assert not (course / "data").exists()


def test_a_second_ctrl_c_does_not_wait_for_the_last_save(course: Path, up: Callable[..., Up]) -> None:
    """A last save that hangs keeps nobody: a second Ctrl-C ends the session, and says where the changes are."""
    session = up(course)
    session.open()
    (course / "answer.txt").write_text("42\n")
    os.kill(session.pid_of("sidecar --settings"), signal.SIGSTOP)
    session.process.send_signal(signal.SIGINT)
    wait_for(lambda: "saving what is unsaved" in session.text())
    assert session.stop() == 5
    assert f"were not saved; they are in {course}" in session.text()
    wait_for(lambda: not session.processes())


def test_a_closed_terminal_saves_first(course: Path, tmp_path: Path) -> None:
    """When the window that `up` runs in is closed, what is unsaved is saved although nobody can be told."""
    store = (tmp_path / "store").as_uri()
    window, terminal = os.openpty()
    process = subprocess.Popen(
        [*(sys.executable, "-m", "datamount", "up", str(course), "--no-browser", "--port", "0", "--save-after", "600"),
         *("--store", store, "--owner", "ada", "--course-name", "c")],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"DATAMOUNT_HOME": str(tmp_path / "home")},
        start_new_session=True,
        preexec_fn=servers.dying_with_us(signal.SIGKILL),
    )  # fmt: skip
    os.close(terminal)
    try:
        shown = b""
        while b"Ctrl-C saves and stops" not in shown:
            shown += os.read(window, 4096)
        (course / "own.txt").write_text("not saved yet")
        os.close(window)
        process.send_signal(signal.SIGHUP)  # as the kernel does to what a terminal controls
        process.wait(120)
    finally:
        process.kill()
    assert "own.txt" in Workspace(open_store(store), "ada", "c").version("latest").by_path()
