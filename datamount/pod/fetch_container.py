"""The init container datamount-fetch: the student's work and the course's data, within the budget.

What brings them is imported where it is used: the first request should not wait for the last module, and what cannot
be imported should cost only what needs it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from datamount import names
from datamount.pod.notices import note, report, say, sentence

if TYPE_CHECKING:
    from datamount.pod.handover import Handover
    from datamount.pod.settings import PodSettings
    from datamount.snapshots import Workspace

WORK_FACTOR = 2.0
"""How many times the budget saved work may take: a notebook without the student's work is worse than a slow start.
With the default budget both stay within JupyterHub's 300 s."""
TRIES = 2
"""Runs of fetch that were killed, after which it no longer tries: the third start opens without it."""
TRIED = "fetch-tries"
"""In the state folder: how many runs began and did not end."""
DONE = ("ready", "partial", "failed")
LAST_SECONDS = 0.5
"""Of the budget, kept for what comes after the data."""


def fetch() -> NoReturn:
    """Bring what the session needs, within the budget, and end the process with success."""
    started = time.monotonic()
    settings: PodSettings | None = None
    try:
        from datamount.pod.settings import read_settings

        settings = read_settings()
        _end_after(settings.budget * WORK_FACTOR + 10)
        from datamount.pod.rights import prepare

        prepare(settings)
        Launch(settings, started).run()
        (settings.state / TRIED).unlink(missing_ok=True)
    except BaseException as error:  # also MemoryError and SystemExit: nothing may keep the notebook closed
        traceback.print_exception(error)
        with suppress(BaseException):
            if settings is not None:
                report(settings, error)
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
        """Equip Jupyter, then data and work side by side, each as long as it may take."""
        from datamount.pod.delivery import hand_over
        from datamount.pod.rights import open_to_notebook, strip_environment
        from datamount.pod.work import open_work

        settings = self.settings
        self._equip_jupyter()
        if _killed_before(settings):
            return
        handover = hand_over(settings)
        for problem in handover.problems:
            note(settings, problem)
        self._hand_on_config_path(handover)
        opened = open_work(settings, handover)
        strip_environment()
        data = threading.Thread(target=self._data, args=(handover,), name="data", daemon=True)
        work = threading.Thread(target=self._work, args=(handover, opened), name="work", daemon=True)
        data.start()
        work.start()
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
            note(self.settings, f"The Save button is not there. {sentence(error)}")

    def _hand_on_config_path(self, handover: Handover) -> None:
        """Leave the image's own JUPYTER_CONFIG_PATH where our configuration of Jupyter finds it."""
        if self.settings.jupyter is None:
            return
        with suppress(OSError):
            file = self.settings.jupyter / names.IMAGE_CONFIG_FILE
            file.write_text(handover.jupyter_config_path, encoding="utf-8")

    def _left(self, factor: float = 1.0) -> float:
        return self.started + self.settings.budget * factor - time.monotonic()

    def _data(self, handover: Handover) -> None:
        try:
            from datamount.pod.delivery import deliver

            deliver(self.settings, handover, background=False, budget=max(self._left() - LAST_SECONDS, 0.1))
        except BaseException as error:
            report(self.settings, error)
        finally:
            self.data_done.set()

    def _work(self, handover: Handover, opened: Callable[[], Workspace]) -> None:
        try:
            from datamount.pod.work import bring_work

            bring_work(self.settings, handover, opened)
        except BaseException as error:
            note(self.settings, f"Your saved work could not be brought back. {sentence(error)}")
        finally:
            self.work_done.set()


def _coming(settings: PodSettings, handover: Handover) -> list[str]:
    """The datasets that the start waited for, and that are not done."""
    from datamount.status import read_status

    status = read_status(settings.at.run / names.STATUS_FILE)
    done = {name for name, found in (status.datasets if status else {}).items() if found.state in DONE}
    waited = (name for name, dataset in handover.course.manifest.datasets.items() if dataset.when == "start")
    return [name for name in waited if name not in done]


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

    report(
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
