"""Giving way to the kernels of the same machine."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import suppress

NICENESS = 5
"""A third of a kernel's share of a busy processor: still enough for a save to end, and for an answer to come."""
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_BEST_EFFORT_LOWEST = (2 << 13) | 7


def lower_priority() -> None:
    """Let the calling thread, and those that it starts from now on, give way. Where a system has no such thing, nothing
    happens.

    All threads of the sidecar alike: one that saves with less than those that answer would keep them waiting for the
    interpreter's lock whenever it is not its turn.
    """
    with suppress(OSError, AttributeError):
        # On Linux the niceness belongs to the thread, and 0 is the calling one.
        os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))
    number = _IOPRIO_SET.get(platform.machine())
    if number and platform.system() == "Linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_BEST_EFFORT_LOWEST)
