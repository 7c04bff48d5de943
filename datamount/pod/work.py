"""The student's work in a pod: the workspace it is kept in, and how it comes back at a launch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from datamount.errors import DatamountError, Refused
from datamount.pod.handover import Handover, link_data
from datamount.pod.notices import note, say
from datamount.pod.settings import PodSettings
from datamount.progress import counted

if TYPE_CHECKING:
    from datamount.session.homecoming import Homecoming
    from datamount.snapshots import Workspace


def open_work(settings: PodSettings, handover: Handover) -> Callable[[], Workspace]:
    """How to open the student's workspace; calling it raises Refused where this hub keeps no work. Makes no request.

    Call it before `strip_environment`: stores take their keys when they are made.
    """
    if settings.controller:
        from datamount.pod.controller import open_workspace

        return lambda: open_workspace(settings, handover.course.identity)
    fault: DatamountError = Refused(
        "this hub keeps no work: no store is set up for it.",
        hint="Download what you want to keep.",
        who="the hub's operator",
    )
    if settings.store:
        from datamount.objectstore import open_store

        try:
            store = open_store(settings.store, settings.store_endpoint)
        except DatamountError as error:
            fault = error
        else:

            def opened() -> Workspace:
                from datamount.snapshots import Workspace

                return Workspace(store, settings.owner, handover.course.identity)

            return opened

    def refuse() -> Workspace:
        raise fault

    return refuse


def bring_work(settings: PodSettings, handover: Handover, opened: Callable[[], Workspace]) -> None:
    """Remember the course as shipped, then restore the newest saved version over it, once in a pod's life.

    A home that outlives the pod is left as it is: it has the newest work already.
    """
    from datamount.session.homecoming import bring_home
    from datamount.snapshots import pristine

    done = settings.restored
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


def _tell(settings: PodSettings, home: Homecoming) -> None:
    if home.shrunk:
        note(settings, f"Version {home.shrunk} lacks over half of the files of the one before, so that one is here.")
    if home.damaged:
        note(settings, f"Version {home.damaged} is damaged in the store; the one before it is here.")
    if home.cut_off:
        note(settings, f"Version {home.cut_off} holds what a session found that ended while your work came to it.")
    if home.merge:
        note(settings, f"{home.merge.word()}: {home.merge.summary()}. The panel says more.")
    if home.report:
        restored = f"{counted(len(home.report.restored), 'file')} restored"
        say(restored)
        if settings.controller:
            from datamount.pod.controller import open_client

            with suppress(Exception):
                open_client(settings).tell(state="restored", message=f"Saved work: {restored}")
        for path, why in list(home.report.failed.items())[:10]:
            note(settings, f"{path} could not be brought back: {why}")
