"""What the containers tell: the log, and the student where the data's state is shown.

Nothing of ours is imported up here: it must be possible to say what is wrong with any of it.
"""

from __future__ import annotations

import threading
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING

from datamount import names

if TYPE_CHECKING:
    from datamount.errors import DatamountError
    from datamount.pod.settings import PodSettings

_noting = threading.Lock()


def say(text: str) -> None:
    """One line in the container's log."""
    print(f"datamount: {text}", flush=True)


def note(settings: PodSettings, text: str) -> None:
    """Tell the student, beside the datasets, and the log."""
    from datamount.status import add_note

    say(text)
    with _noting, suppress(OSError):
        add_note(settings.at.run / names.STATUS_FILE, text)


def report(settings: PodSettings, error: BaseException) -> None:
    """Write a status that says why nothing was fetched, and an environment without datasets where there is none."""
    from datamount.session.launch import bare_course, report_fault

    fault = fault_of(error)
    say(fault.sentence())
    report_fault(bare_course(settings.course_copy, settings.course_url), settings.at, fault)


def sentence(error: BaseException) -> str:
    """What is wrong, in words for the student; the traceback of an error that should not happen goes to the log."""
    return fault_of(error).sentence()


def fault_of(error: BaseException) -> DatamountError:
    """The error itself when it is one of ours; else the one that stands for it, and its traceback in the log."""
    from datamount.errors import DatamountError
    from datamount.session.launch import bug

    if isinstance(error, DatamountError):
        return error
    traceback.print_exception(error)
    return bug(error)
