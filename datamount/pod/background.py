"""A process beside the sidecar: fetches what the start did not wait for, then ends.

It begins together with the sidecar, which the notebook waits for. So it is nice, and loads what fetches only when the
sidecar is there.
"""

from __future__ import annotations

import os
import time

from datamount import names
from datamount.pod.notices import report
from datamount.pod.probe import ready
from datamount.pod.settings import read_settings

AGAIN_SECONDS = (30.0, 120.0, 600.0)
"""Pauses before it tries again what was not available."""


def background() -> int:
    """Fetch what is not there, with some patience for sources that are down."""
    os.nice(10)
    ready()
    from datamount.pod.delivery import deliver, hand_over
    from datamount.pod.rights import open_to_notebook, strip_environment
    from datamount.status import read_status

    settings = read_settings()
    strip_environment()
    for pause in (*AGAIN_SECONDS, None):
        try:
            handover = hand_over(settings)
            deliver(settings, handover, background=True)
            open_to_notebook(settings, handover)
        except Exception as error:
            report(settings, error)
        status = read_status(settings.at.run / names.STATUS_FILE)
        missing = [found for found in (status.datasets if status else {}).values() if found.state != "ready"]
        if pause is None or not any((found.error or {}).get("status") == 503 for found in missing):
            break
        time.sleep(pause)
    return 0
