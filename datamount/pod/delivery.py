"""The course's data, as fetch and sidecar bring it: the course that was handed over, its credentials, one fetch."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from datamount import names
from datamount.fetch import fetch as run_fetch
from datamount.fetch import remote_access
from datamount.pod.handover import Handover, read_handover, take_from_image
from datamount.pod.notices import say
from datamount.pod.settings import AGAIN, PodSettings
from datamount.progress import Progress, counted
from datamount.session.launch import report_fault
from datamount.status import read_status


def hand_over(settings: PodSettings) -> Handover:
    """The course, as it came out of its image."""
    if settings.image_dir:
        volume = None if settings.kept else settings.folder
        take_from_image(settings.image_dir, settings.folder, volume, settings.handover)
    found = read_handover(
        settings.handover,
        settings.course_copy,
        image=settings.image,
        url=settings.course_url,
        ref=settings.course_ref,
    )
    say(f"course {found.course.identity}, {counted(len(found.course.manifest.datasets), 'dataset')}")
    return found


def deliver(settings: PodSettings, handover: Handover, *, background: bool, budget: float | None = None) -> None:
    """Fetch the datasets that the start waits for, or (`background`) all that are not there. Writes env and status.

    After `budget` seconds what is not done is left for the next call.
    """
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
