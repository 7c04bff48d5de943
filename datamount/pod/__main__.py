"""What runs in the injected containers: `python -m datamount.pod fetch|sidecar|ready|background`.

    fetch        init container: brings saved work and data, within the budget; always ends with 0
    sidecar      keeps the student's work, and starts `background`; goes on whatever happens
    ready        startup probe of the sidecar: waits for it a little; always ends with 0
    background   fetches what the start did not wait for, then ends

None of them may keep a notebook from opening. So nothing but the standard library is imported up here, everything
that goes wrong is written where the student reads it, and a container that dies hard (out of memory) does less when
it runs again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datamount import names

if TYPE_CHECKING:
    from datamount.pod.handover import Handover
    from datamount.pod.settings import PodSettings
    from datamount.progress import Progress
    from datamount.session.key_endpoint import Endpoint
    from datamount.snapshots import Workspace

WORK_FACTOR = 2.0
"""How many times the budget saved work may take: a notebook without the student's work is worse than a slow start.
With the default budget both stay within JupyterHub's 300 s."""
TRIES = 2
"""Runs of fetch that were killed, after which it no longer tries: the third start opens without it."""
DONE = ("ready", "partial", "failed")
LAST_SECONDS = 0.5
"""Of the budget, kept for what comes after the data."""
READY_SECONDS = 5.0
"""How long a notebook waits for a sidecar that does not answer."""
RETRY_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""Pauses before a sidecar that failed is started again; the last one repeats."""
AGAIN_SECONDS = (30.0, 120.0, 600.0)
"""Pauses before `background` tries again what was not available."""
COURSE, TRIED, RESTORED, STARTED = "course", "fetch-tries", "restored", "sidecar-started"
"""In the state folder: the manifest's copy, and marks of what was done in this pod."""
AGAIN = "DATAMOUNT_AGAIN"
"""Names a dataset for `background` that is there, but needs another credential."""
KEPT_VARIABLES = ("AWS_CA_BUNDLE",)
SECRET_FAMILIES = ("AWS_", "AZURE_", "GOOGLE_", "PACH", "PGP", "SSH_")
"""Variables of these families give rights: they are for our own store, and no dataset may use them by being silent."""


def main(arguments: list[str] | None = None) -> int:
    """Run one of the subcommands; see the module. An unknown one is the only failure."""
    commands: Mapping[str, Callable[[], int]] = {
        "fetch": fetch,
        "sidecar": sidecar,
        "ready": ready,
        "background": background,
    }
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or given[0] not in commands:
        print(f"usage: python -m datamount.pod {'|'.join(commands)}", file=sys.stderr)
        return 2
    return commands[given[0]]()


def say(text: str) -> None:
    """One line in the container's log."""
    print(f"datamount: {text}", flush=True)


# --- fetch -------------------------------------------------------------------------------------------------------


def fetch() -> NoReturn:
    """Bring what the session needs, within the budget, and end the process with success."""
    started = time.monotonic()
    settings: PodSettings | None = None
    try:
        from datamount.pod.settings import read_settings

        settings = read_settings()
        _end_after(settings.budget * WORK_FACTOR + 10)
        _prepare(settings)
        Launch(settings, started).run()
        (settings.state / TRIED).unlink(missing_ok=True)
    except BaseException as error:  # also MemoryError and SystemExit: nothing may keep the notebook closed
        traceback.print_exception(error)
        with suppress(BaseException):
            if settings is not None:
                _report(settings, error)
    # At once: transfers may be stopped at any instant, and go on in the sidecar.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class Launch:
    """One run of fetch, in order."""

    def __init__(self, settings: PodSettings, started: float) -> None:
        self.settings = settings
        self.started = started
        self.work_done = threading.Event()
        self.data_done = threading.Event()

    def run(self) -> None:
        settings = self.settings
        self._equip_jupyter()
        if _killed_before(settings):
            return
        handover = hand_over(settings)
        for problem in handover.problems:
            note(settings, problem)
        opened = open_work(settings, handover)
        strip_environment()
        data = threading.Thread(target=self._data, args=(handover,), name="data", daemon=True)
        work = threading.Thread(target=self._work, args=(handover, opened), name="work", daemon=True)
        work.start()
        data.start()
        self.data_done.wait(max(self._left(), 0))
        if not self.work_done.wait(max(self._left(WORK_FACTOR), 0)):
            note(settings, "Your saved work was not all back in time. It is safe: see History.")
        for name in _coming(settings, handover):
            say(f"{name}: still coming after {settings.budget:g} s; the notebook opens meanwhile")
        open_to_notebook(settings, handover)

    def _equip_jupyter(self) -> None:
        if self.settings.jupyter is None:
            return
        try:
            from sidecar.jupyter import install

            if not install(self.settings.jupyter):
                say("the Lab extension has not been built into this image: there is no Save button, only the page")
        except Exception as error:
            note(self.settings, f"The Save button is not there. {_sentence(error)}")

    def _left(self, factor: float = 1.0) -> float:
        return self.started + self.settings.budget * factor - time.monotonic()

    def _data(self, handover: Handover) -> None:
        try:
            deliver(self.settings, handover, background=False, budget=max(self._left() - LAST_SECONDS, 0.1))
        except BaseException as error:
            _report(self.settings, error)
        finally:
            self.data_done.set()

    def _work(self, handover: Handover, opened: Callable[[], Workspace]) -> None:
        try:
            bring_work(self.settings, handover, opened)
        except BaseException as error:
            note(self.settings, f"Your saved work could not be brought back. {_sentence(error)}")
        finally:
            self.work_done.set()


def hand_over(settings: PodSettings) -> Handover:
    """The course, as it came out of its image."""
    from datamount.pod.handover import read_handover, take_from_image

    if settings.image_dir:
        volume = None if settings.kept else settings.folder
        take_from_image(settings.image_dir, settings.folder, volume, settings.handover)
    found = read_handover(
        settings.handover,
        settings.state / COURSE,
        image=settings.image,
        url=settings.course_url,
        ref=settings.course_ref,
    )
    say(f"course {found.course.identity}, {len(found.course.manifest.datasets)} datasets")
    return found


def _coming(settings: PodSettings, handover: Handover) -> list[str]:
    """The datasets that the start waited for, and that are not done."""
    from datamount.status import read_status

    status = read_status(settings.at.run / names.STATUS_FILE)
    done = {name for name, found in (status.datasets if status else {}).items() if found.state in DONE}
    waited = (name for name, dataset in handover.course.manifest.datasets.items() if dataset.when == "start")
    return [name for name in waited if name not in done]


def deliver(settings: PodSettings, handover: Handover, *, background: bool, budget: float | None = None) -> None:
    """Fetch the datasets that the start waits for, or (`background`) all that are not there. Writes env and status.

    After `budget` seconds what is not done is left for the next call.
    """
    from datamount.fetch import fetch as run_fetch
    from datamount.fetch import remote_access
    from datamount.session.launch import report_fault
    from datamount.status import read_status

    if handover.fault:
        say(handover.fault.sentence())
        report_fault(handover.course, settings.at, handover.fault)
        return
    only: list[str] = []
    if background:
        status = read_status(settings.at.run / names.STATUS_FILE)
        ready = {name for name, found in (status.datasets if status else {}).items() if found.state == "ready"}
        again = os.environ.get(AGAIN)
        only = [name for name in handover.course.manifest.datasets if name not in ready or name == again]
        if not only:
            return
    given, shown = sources(settings, handover)
    if remote_access.wanted(handover.course.manifest):
        remote_access.reserve(settings.at.run)  # the sidecar serves it
    try:
        run_fetch(
            handover.course,
            settings.at.data,
            settings.at.run,
            credentials=given,
            only=only,
            background=None if background else False,
            progress=shown,
            budget=budget,
        )
    finally:
        with suppress(Exception):
            given.close()


def sources(settings: PodSettings, handover: Handover) -> tuple[Any, Progress]:
    """Where the datasets' credentials come from in this pod, and who is told how the fetch goes."""
    if settings.controller:
        from datamount.pod.controller import LaunchPage, PodCredentials, open_client

        client = open_client(settings)
        return PodCredentials(client, handover.course.manifest, settings), LaunchPage(client, sys.stdout)
    from datamount.pod.credentials import OperatorCredentials
    from datamount.progress import Lines

    return OperatorCredentials(settings.credentials, settings.state / "credentials.yaml"), Lines(sys.stdout)


def open_work(settings: PodSettings, handover: Handover) -> Callable[[], Workspace]:
    """How to open the student's workspace; calling it raises Refused where this hub keeps no work. Makes no request.

    Call it before `strip_environment`: stores take their keys when they are made.
    """
    from datamount.errors import DatamountError, Refused
    from datamount.objectstore import open_store
    from datamount.snapshots import Workspace

    if settings.controller:
        from datamount.pod.controller import open_workspace

        return lambda: open_workspace(settings, handover.course.identity)
    fault: DatamountError = Refused(
        "this hub keeps no work: no store is set up for it.",
        hint="Download what you want to keep.",
        who="the hub's operator",
    )
    if settings.store:
        try:
            store = open_store(settings.store, settings.store_endpoint)
            return lambda: Workspace(store, settings.owner, handover.course.identity)
        except DatamountError as error:
            fault = error

    def refuse() -> Workspace:
        raise fault

    return refuse


def bring_work(settings: PodSettings, handover: Handover, opened: Callable[[], Workspace]) -> None:
    """Remember the course as shipped, then restore the newest saved version over it, once in a pod's life.

    A home that outlives the pod is left as it is: it has the newest work already.
    """
    from datamount.pod.handover import link_data
    from datamount.session.homecoming import bring_home
    from datamount.snapshots import pristine

    done = settings.state / RESTORED
    if not settings.kept and not done.exists():
        # Only once: after a kill in the middle the student's files are there too, and are not the course's.
        fresh = not (settings.state / pristine.FILE).exists()
        if fresh:
            pristine.record(settings.folder, settings.state)
        if settings.keeps_work:
            save = handover.course.manifest.save
            home = bring_home(
                opened(),
                settings.folder,
                settings.state,
                course_ref=handover.course.ref or "",
                image=settings.image or "",
                exclude=save.exclude,
                max_bytes=save.max_bytes,
                fresh=fresh,
                say=say,
            )
            _tell(settings, home)
        done.touch()
    link_data(settings.folder, settings.at.data)


def _tell(settings: PodSettings, home: Any) -> None:
    if home.shrunk:
        note(settings, f"Version {home.shrunk} lacks over half of the files of the one before, so that one is here.")
    if home.merge:
        note(settings, f"{home.merge.word()}: {home.merge.summary()}. The panel says more.")
    if home.report:
        restored = f"{len(home.report.restored)} files restored"
        say(restored)
        if settings.controller:
            from datamount.pod.controller import open_client

            with suppress(Exception):
                open_client(settings).tell(state="restored", message=f"Saved work: {restored}")
        for path, why in list(home.report.failed.items())[:10]:
            note(settings, f"{path} could not be brought back: {why}")


def open_to_notebook(settings: PodSettings, handover: Handover) -> None:
    """Let another user than ours read the run folder, where the course's image has one.

    The folder is in memory and seen by this pod's containers alone.
    """
    if handover.uid in (None, os.getuid()):
        return
    note(
        settings,
        f"The course's image runs as user {handover.uid} and datamount as {os.getuid()}: files that datamount brings "
        "back may be read-only. The hub's operator can set the user of the pods, or default_uid.",
    )
    for path in settings.at.run.rglob("*"):
        with suppress(OSError):
            path.chmod(0o755 if path.is_dir() else 0o644)


def _prepare(settings: PodSettings) -> None:
    os.umask(0o022)
    # A repo's configuration names programs, which must not run beside our token: no git in here finds a repo.
    os.environ["GIT_DIR"] = os.devnull
    for folder in (settings.state / "tmp", settings.at.run):
        folder.mkdir(parents=True, exist_ok=True)


def _killed_before(settings: PodSettings) -> bool:
    """Whether earlier runs were killed so often that this one should let the notebook open; counts this one."""
    counter = settings.state / TRIED
    try:
        tries = int(counter.read_text())
    except (OSError, ValueError):
        tries = 0
    if tries < TRIES:
        counter.write_text(str(tries + 1))
        return False
    from datamount.errors import Unavailable

    _report(
        settings,
        Unavailable(
            f"bringing the data was stopped {tries} times, perhaps because it ran out of memory or disk.",
            hint="It goes on beside the notebook. If it lasts, more memory for datamount-fetch may help.",
            who="the hub's operator",
        ),
    )
    return True


def _end_after(seconds: float) -> None:
    """End the process with success after this time, wherever it hangs."""
    timer = threading.Timer(seconds, lambda: os._exit(0))
    timer.daemon = True
    timer.start()


def _report(settings: PodSettings, error: BaseException) -> None:
    """Write a status that says why nothing was fetched, and an environment without datasets where there is none."""
    from datamount.errors import DatamountError
    from datamount.session.launch import bare_course, bug, report_fault

    fault = error if isinstance(error, DatamountError) else bug(error)
    if fault is not error:
        traceback.print_exception(error)
    say(fault.sentence())
    report_fault(bare_course(settings.state / COURSE, settings.course_url), settings.at, fault)


_noting = threading.Lock()


def note(settings: PodSettings, text: str) -> None:
    """Tell the student, beside the datasets, and the log."""
    from datamount.status import add_note

    say(text)
    with _noting, suppress(OSError):
        add_note(settings.at.run / names.STATUS_FILE, text)


def _sentence(error: BaseException) -> str:
    from datamount.errors import DatamountError
    from datamount.session.launch import bug

    if not isinstance(error, DatamountError):
        traceback.print_exception(error)
        error = bug(error)
    return error.sentence()


def strip_environment() -> None:
    """Forget the variables that give rights, and close the way to the metadata service.

    A dataset without a credential is public, or is refused: it must never be read with the keys of our own store, or
    with the rights of the node.
    """
    for name in list(os.environ):
        if name.startswith(SECRET_FAMILIES) and name not in KEPT_VARIABLES:
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    from datamount.drivers.reach import current, guard_connections

    rules = current()
    if rules:
        guard_connections(rules)


# --- sidecar -----------------------------------------------------------------------------------------------------


def sidecar() -> int:
    """Serve until SIGTERM; a service that fails is started again. Ends with its exit code."""
    child: subprocess.Popen[bytes] | None = None
    attempt = 0
    while True:
        try:
            from datamount.pod.settings import read_settings

            settings = read_settings()
            _prepare(settings)
            if child is None:
                (settings.at.run / names.SIDECAR_FILE).unlink(missing_ok=True)
                child = _start_background()
                _reap(child)
            code = serve(settings)
        except Exception:
            traceback.print_exc()
        except SystemExit as ended:
            say(f"the saving service ended ({ended.code})")
        else:
            child.terminate()
            return code
        time.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])
        attempt += 1


def serve(settings: PodSettings) -> int:
    """One run of the saving service."""
    from datamount.pod.handover import read_handover
    from datamount.status import write_atomic
    from sidecar.__main__ import main as run

    # The hand-over is read again, not remembered: this container may start on its own after a crash.
    handover = read_handover(
        settings.handover,
        settings.state / f"{COURSE}-sidecar",
        image=settings.image,
        url=settings.course_url,
        ref=settings.course_ref,
    )
    opened = open_work(settings, handover)

    started = settings.state / STARTED
    save = handover.course.manifest.save
    document = {
        "folder": str(settings.folder),
        "run": str(settings.at.run),
        "state": str(settings.state),
        "store": settings.store or "",
        "owner": settings.owner,
        "course": handover.course.identity,
        "course_ref": handover.course.ref,
        "image": settings.image,
        "exclude": list(save.exclude),
        "max_bytes": save.max_bytes,
        "autosave": settings.keeps_work,
        "home_first": settings.keeps_work and not settings.kept and not (settings.state / RESTORED).exists(),
        # A sidecar that was restarted does not know what changed meanwhile.
        "save_at_start": started.exists(),
    }
    file = settings.state / "sidecar-settings.json"
    write_atomic(file, json.dumps(document).encode())
    started.touch()
    if handover.uid not in (None, os.getuid()):
        threading.Thread(target=_open_when_listening, args=(settings, handover), daemon=True).start()
    renewer = None
    if settings.controller:
        from datamount.pod.controller import keep_leases

        renewer = keep_leases(settings, lambda dataset: _reap(_start_background(dataset)))
    keys = serve_keys(settings, handover)
    try:
        return run(["--settings", str(file)], lambda _: opened())
    finally:
        if keys:
            keys.close()
        if renewer:
            renewer.close()


def serve_keys(settings: PodSettings, handover: Handover) -> Endpoint | None:
    """Serve AWS keys for datasets that stay remote; None where there are none, or where it failed (which is said)."""
    from datamount.fetch import remote_access

    manifest = handover.course.manifest
    if not remote_access.wanted(manifest):
        return None
    try:
        from datamount.session.key_endpoint import Endpoint

        given: Any
        if settings.controller:
            from datamount.pod.controller import open_client
            from datamount.pod.leased import LeasedCredentials

            given = LeasedCredentials(open_client(settings), manifest)
        else:
            given, _ = sources(settings, handover)
        return Endpoint(manifest, given, settings.at.run, lasting=False)
    except Exception as error:
        note(settings, f"Programs get no keys for data that stays remote. {_sentence(error)}")
        return None


def _open_when_listening(settings: PodSettings, handover: Handover) -> None:
    while not (settings.at.run / names.SIDECAR_FILE).exists():
        time.sleep(0.1)
    open_to_notebook(settings, handover)


def _start_background(again: str = "") -> subprocess.Popen[bytes]:
    """Start what is left to fetch, as a process of its own: its memory is free again when it has ended."""
    command = [sys.executable, "-m", "datamount.pod", "background"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | {AGAIN: again})


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child in a thread, so that it leaves no zombie behind: this process is the container's first."""
    threading.Thread(target=child.wait, name="background", daemon=True).start()


def background() -> int:
    """Fetch what is not there, with some patience for sources that are down."""
    from datamount.pod.settings import read_settings
    from datamount.status import read_status

    os.nice(10)
    settings = read_settings()
    strip_environment()
    ready()  # the notebook waits for the sidecar, which should not have to share the processor until then
    for pause in (*AGAIN_SECONDS, None):
        try:
            handover = hand_over(settings)
            deliver(settings, handover, background=True)
            open_to_notebook(settings, handover)
        except Exception as error:
            _report(settings, error)
        status = read_status(settings.at.run / names.STATUS_FILE)
        missing = [found for found in (status.datasets if status else {}).values() if found.state != "ready"]
        if pause is None or not any((found.error or {}).get("status") == 503 for found in missing):
            break
        time.sleep(pause)
    return 0


def ready() -> int:
    """Wait for the sidecar to answer, or a few seconds. Always a success: a failure would keep the notebook closed."""
    run = Path(os.environ.get(names.ENV_RUN) or names.RUN_DIR)
    until = time.monotonic() + READY_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until:
        with suppress(OSError, ValueError, KeyError, TypeError):
            url = json.loads((run / names.SIDECAR_FILE).read_bytes())["url"]
            with opener.open(f"{url}/healthz", timeout=1) as answer:
                if answer.status == 200:
                    return 0
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
