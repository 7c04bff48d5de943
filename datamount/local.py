"""Laptop mode: one command that does what a hub does for a session, with the same parts and no cluster.

Fetches the data, brings saved work back, starts the sidecar and JupyterLab, watches over both, and at the end saves
what is unsaved before it stops them. Whatever is wrong with data, manifest or store: the notebook opens, and what is
missing is said here and in status.json.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import NoReturn

from datamount import names, progress
from datamount.course import Course
from datamount.credentials import FileCredentials
from datamount.errors import DatamountError, Unavailable, UsageError, explain
from datamount.fetch import fetch, remote_access
from datamount.fetch.environment import read_environment
from datamount.objectstore import ObjectStore, open_store
from datamount.session.children import Child
from datamount.session.homecoming import bring_home
from datamount.session.launch import bug, link_data, report_fault
from datamount.session.machine import answers, find_port, only_session
from datamount.session.opening import open_leniently
from datamount.session.places import HOME_VARIABLE, Places, apart, base, folder_of, keep, places
from datamount.snapshots import Workspace
from datamount.status import DatasetStatus, read_status, write_atomic

FETCH_BUDGET = 90.0
"""Seconds that the notebook waits for data; the rest goes on while it is open."""
JUPYTER_START = 180.0
"""The first start after an installation compiles all of it: half a minute on two busy cores, more from a slow disk."""
SIDECAR_START = 20.0
FLUSH = 120.0
"""Seconds that the last save may take."""
OWN_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
"""What AWS SDKs look at before the endpoint of ours."""
RESTART_DELAYS = (0.5, 1.0, 2.0, 5.0, 15.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What `datamount up` was asked for."""

    source: str = "."
    store: str | None = None
    endpoint_url: str | None = None
    owner: str = ""
    course_name: str | None = None
    port: int | None = None
    browser: bool = True
    budget: float = FETCH_BUDGET
    save_after: float | None = None


def up(options: Options, say: Callable[[str], None]) -> int:
    """Run a session until it is stopped (Ctrl-C, SIGTERM, or Shut Down in Jupyter); returns the exit code.

    0 when all work was saved, 5 when the last save failed. Raises UsageError for a source that is no course,
    Conflict when the course is open already, Unavailable when Jupyter does not start.
    """
    found, fault = open_leniently(options.source, say)
    course = apart(found)
    if course.identity != found.identity:
        say(f"note     {folder_of(found)} has the name {found.identity} already; this folder goes as {course.identity}")
    at = places(course)
    try:
        keep(course)
        at.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UsageError(
            f"{error.filename} cannot be used for the course's data and state ({error.strerror}).",
            hint=f"Set {HOME_VARIABLE} to a folder that you may write.",
            who="you",
        ) from error
    session = LocalSession(options, course, fault, at, say)
    with only_session(at.run):
        try:
            return session.run()
        finally:
            remote_access.release(at.run)


class LocalSession:
    """The steps of one session, in order."""

    def __init__(
        self, options: Options, course: Course, fault: DatamountError | None, at: Places, say: Callable[[str], None]
    ) -> None:
        self.options = options
        self.course = course
        self.fault = fault
        self.at = at
        self.say = say
        self.store = options.store or (base() / "store").as_uri()
        self.name = options.course_name or course.identity
        # Two checkouts of one course are two works in progress.
        self.state = at.state / f"work-{_digest(str(course.folder))}"
        self.stopping = threading.Event()
        self._signals = 0
        self._home_first = False
        self._fetching: threading.Thread | None = None

    def run(self) -> int:
        """All of it; see `up`."""
        self.say(f"course   {self.course.name} in {self.course.folder}")
        # What is wrong with the store's URL and the port is said now, not after the data has come.
        store = open_store(self.store, self.options.endpoint_url)
        if self.options.port is not None:
            find_port(self.options.port)
        self._catch_signals()
        self.state.mkdir(parents=True, exist_ok=True)
        self._keep_lock()
        self._serve_keys()
        waited = self._start_fetch()
        self._bring_back(store)
        link_data(self.course.folder, self.at.data)
        self._wait_for_data(waited)
        if self.stopping.is_set():
            self.say("stopped before Jupyter was opened; what has arrived of the data stays.")
            return 130
        sidecar = self._sidecar()
        jupyter, url = self._jupyter()
        try:
            sidecar.start()
            jupyter.start()
            self._wait_for_sidecar(sidecar)
            self._wait_for_jupyter(jupyter, url)
            if not self.stopping.is_set():
                self.say(f"open     {url}")
                self.say("Ctrl-C saves and stops.")
                if self.options.browser:
                    webbrowser.open(url)
            self._watch(sidecar, jupyter)
            code = self._stop(sidecar, jupyter)
        finally:
            for child in (jupyter, sidecar):
                child.kill()
        if self._fetching and self._fetching.is_alive():
            leave(code)
        return code

    def _keep_lock(self) -> None:
        """Fetch by the lock as the course has it: saved work may bring another one back while the fetch goes on."""
        copy = self.at.run / names.LOCK
        copy.unlink(missing_ok=True)
        if self.course.lock_path.is_file():
            write_atomic(copy, self.course.lock_path.read_bytes())
        self.course = replace(self.course, lock_path=copy)

    def _serve_keys(self) -> None:
        """Serve AWS keys for datasets that stay remote, before the environment that names the endpoint is written."""
        remote_access.release(self.at.run)
        served = remote_access.wanted(self.course.manifest)
        if not served:
            return
        try:
            from datamount.session.key_endpoint import Endpoint

            Endpoint(self.course.manifest, FileCredentials(), self.at.run, lasting=True)
        except DatamountError as error:
            remote_access.release(self.at.run)
            self.say(f"problem  no keys for {', '.join(served)}: {error.sentence()}")
            return
        if own := [name for name in OWN_KEYS if os.environ.get(name)]:
            self.say(f"problem  programs will use your own {own[0]} and not the course's credential; unset it for that")

    # --- Data -----------------------------------------------------------------------------------------------------
    def _start_fetch(self) -> threading.Event:
        """Start to fetch; the event is set when the datasets that the start waits for are done."""
        done = threading.Event()
        if self.fault is not None:
            self.say(f"problem  {explain(self.fault.problem())}")
            report_fault(self.course, self.at, self.fault)
            done.set()
            return done
        self._fetching = threading.Thread(target=self._fetch, args=(done,), name="fetch", daemon=True)
        self._fetching.start()
        return done

    def _fetch(self, done: threading.Event) -> None:
        shown: progress.Progress = progress.Bars() if sys.stderr.isatty() else Spoken(self.say)
        try:
            for background in (False, True):
                fetch(
                    self.course,
                    self.at.data,
                    self.at.run,
                    credentials=FileCredentials(),
                    background=background,
                    # Bars would go on over what else is printed, so those that come later end in a line each.
                    progress=Spoken(self.say) if background else shown,
                )
                done.set()
        except Exception as error:
            problem = error if isinstance(error, DatamountError) else bug(error)
            report_fault(self.course, self.at, problem)
            self.say(f"problem  {explain(problem.problem())}")
        finally:
            done.set()

    def _wait_for_data(self, waited: threading.Event) -> None:
        until = time.monotonic() + self.options.budget
        while not waited.is_set() and time.monotonic() < until and not self.stopping.is_set():
            waited.wait(0.2)
        status = read_status(self.at.run / names.STATUS_FILE)
        for name, dataset in (status.datasets if status else {}).items():
            if dataset.state in ("pending", "fetching"):
                self.say(f"data     {name}: still coming; the notebook opens meanwhile")

    # --- Work -----------------------------------------------------------------------------------------------------
    def _bring_back(self, store: ObjectStore) -> None:
        """Restore saved work; a store that does not answer is said, and the session goes on without."""
        self.say(f"store    {self.store} (owner {self.options.owner}, course {self.name})")
        workspace = Workspace(store, self.options.owner, self.name)
        try:
            home = bring_home(
                workspace,
                self.course.folder,
                self.state,
                course_ref=self.course.ref or "",
                exclude=self.course.manifest.save.exclude,
                max_bytes=self.course.manifest.save.max_bytes,
                say=lambda text: self.say(f"work     {text}"),
            )
        except DatamountError as error:
            self._home_first = True
            self.say(f"problem  saved work could not be brought back: {explain(error.problem())}")
            return
        if home.shrunk:
            self.say(f"work     version {home.shrunk} lacks over half of the files of the one before; not restored")
        if home.report:
            restored = progress.counted(len(home.report.restored), "file")
            self.say(f"work     {restored} restored, {len(home.report.unchanged)} were there")
            for path, why in home.report.failed.items():
                self.say(f"problem  {path} was not restored: {why}")
        elif not home.version:
            self.say("work     nothing to restore")
        if home.damaged:
            self.say(f"problem  version {home.damaged} is damaged in the store; the one before it is here")
        if home.cut_off:
            self.say(
                f"work     version {home.cut_off} holds what a session found that ended while your work came to it"
            )
        if home.merge:
            self.say(f"work     {home.merge.word()}: {home.merge.summary()}; the panel says more")
        if home.saved_before:
            self.say(f"work     what was in the folder is kept as version {home.saved_before}")

    # --- Programs -------------------------------------------------------------------------------------------------
    def _sidecar(self) -> Child:
        save = self.course.manifest.save
        settings = {
            "folder": self.course.folder,
            "run": self.at.run,
            "state": self.state,
            "store": self.store,
            "endpoint_url": self.options.endpoint_url,
            "owner": self.options.owner,
            "course": self.name,
            "course_ref": self.course.ref,
            "exclude": list(save.exclude),
            "max_bytes": save.max_bytes,
            "home_first": self._home_first,
        }
        if self.options.save_after is not None:
            settings["quiet"] = self.options.save_after
        file = self.state / "sidecar-settings.json"
        file.write_text(json.dumps(settings, default=str))
        (self.at.run / names.SIDECAR_FILE).unlink(missing_ok=True)
        command = [sys.executable, "-m", "sidecar", "--settings", str(file)]
        return Child("the saving service", command, self.at.run / "sidecar.log")

    def _jupyter(self) -> tuple[Child, str]:
        from sidecar.jupyter import install

        extensions = self.state / "jupyter"
        if not install(extensions):
            self.say("problem  the Save button has not been built (make labextension); save at <address>/datamount/")
        port = find_port(self.options.port)
        token = secrets.token_urlsafe(24)
        environment = dict(os.environ) | read_environment(self.at.run) | {names.ENV_RUN: str(self.at.run)}
        others = [environment["JUPYTER_CONFIG_PATH"]] if environment.get("JUPYTER_CONFIG_PATH") else []
        environment["JUPYTER_CONFIG_PATH"] = os.pathsep.join([*others, str(extensions)])
        environment["JUPYTER_TOKEN"] = token
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser"),
            *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
            f"--ServerApp.root_dir={self.course.folder}",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.append("--allow-root")
        child = Child("JupyterLab", command, self.at.run / "jupyter.log", environment, self.course.folder)
        return child, f"http://127.0.0.1:{port}/lab?token={token}"

    def _wait_for_sidecar(self, sidecar: Child) -> None:
        """Not an error when it does not come: the notebook opens, and says that saving is not available."""
        place = self.at.run / names.SIDECAR_FILE
        until = time.monotonic() + SIDECAR_START
        while sidecar.running and time.monotonic() < until and not self.stopping.is_set():
            if place.exists() and answers(json.loads(place.read_bytes())["url"] + "/healthz"):
                self.say("saving   every few seconds after a change, and at the end")
                return
            time.sleep(0.05)
        self.say(f"problem  saving does not work yet; see {sidecar.log}")

    def _wait_for_jupyter(self, jupyter: Child, url: str) -> None:
        until = time.monotonic() + JUPYTER_START
        status = url.replace("/lab?", "/api/status?")
        while not answers(status):
            if self.stopping.is_set():
                return
            if not jupyter.running or time.monotonic() > until:
                raise Unavailable(
                    f"JupyterLab did not start. The end of {jupyter.log}:\n{jupyter.tail()}",
                    hint="Check that jupyterlab is installed beside datamount: pip install 'datamount[local]'.",
                    who="you",
                )
            time.sleep(0.1)

    def _watch(self, sidecar: Child, jupyter: Child) -> None:
        """Until told to stop, or until Jupyter has ended. A sidecar that dies is started again."""
        restarts = 0
        while not self.stopping.wait(0.5):
            if not jupyter.running:
                self.say("Jupyter has ended.")
                return
            if not sidecar.running:
                delay = RESTART_DELAYS[min(restarts, len(RESTART_DELAYS) - 1)]
                self.say(f"problem  the saving service ended ({sidecar.exit_code}); it is started again")
                if self.stopping.wait(delay):
                    return
                sidecar.start()
                restarts += 1

    def _stop(self, sidecar: Child, jupyter: Child) -> int:
        asked = self._signals  # two at once, of an impatient hand, are one
        self.say("saving what is unsaved … (Ctrl-C leaves without)")
        if not sidecar.running and jupyter.exit_code is None:
            sidecar.start()
            time.sleep(1.0)
        sidecar.terminate()
        until = time.monotonic() + FLUSH
        while sidecar.running and self._signals == asked and time.monotonic() < until:
            sidecar.wait(0.2)
        code = sidecar.exit_code
        jupyter.terminate()
        saved = code == 0
        if saved:
            self.say("saved; all work is in the store.")
        else:
            self.say(f"problem  the last changes were not saved; they are in {self.course.folder}. See {sidecar.log}")
        jupyter.wait(10.0)
        return 0 if saved else Unavailable.exit_code

    def _catch_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            self.stopping.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)


class Spoken(progress.Silent):
    """Says each dataset's outcome."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def finish(self, name: str, status: DatasetStatus) -> None:
        self._say(f"data     {progress.line(name, status)}")


def leave(code: int) -> NoReturn:
    """End at once: a fetch may be killed at any instant, and waiting for its network calls could take minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]
