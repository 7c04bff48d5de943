"""The container datamount-sidecar: the saving service, what fetches beside it, the leases, and keys for remote data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from datamount import names
from datamount.pod.notices import note, say, sentence

if TYPE_CHECKING:
    from datamount.pod.handover import Handover
    from datamount.pod.settings import PodSettings
    from datamount.session.key_endpoint import Endpoint

RETRY_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""Pauses before a service that failed is started again; the last one repeats."""
STARTED = "sidecar-started"
"""In the state folder: a sidecar has served in this pod before."""


def sidecar() -> int:
    """Serve until SIGTERM; a service that fails is started again. Ends with its exit code."""
    child: subprocess.Popen[bytes] | None = None
    attempt = 0
    while True:
        try:
            from datamount.pod.rights import prepare
            from datamount.pod.settings import read_settings

            settings = read_settings()
            prepare(settings)
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
    from datamount.pod.work import open_work
    from datamount.status import write_atomic
    from sidecar.__main__ import main as run

    # The hand-over is read again, not remembered: this container may start on its own after a crash.
    handover = read_handover(
        settings.handover,
        settings.course_copy.with_name(f"{settings.course_copy.name}-sidecar"),
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
        "ends_at": settings.ends_at.isoformat() if settings.ends_at else None,
        "autosave": settings.keeps_work,
        "home_first": settings.keeps_work and not settings.kept and not settings.restored.exists(),
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
            from datamount.pod.delivery import sources

            given, _ = sources(settings, handover)
        return Endpoint(manifest, given, settings.at.run, lasting=False)
    except Exception as error:
        note(settings, f"Programs get no keys for data that stays remote. {sentence(error)}")
        return None


def _open_when_listening(settings: PodSettings, handover: Handover) -> None:
    from datamount.pod.rights import open_to_notebook

    while not (settings.at.run / names.SIDECAR_FILE).exists():
        time.sleep(0.1)
    open_to_notebook(settings, handover)


def _start_background(again: str = "") -> subprocess.Popen[bytes]:
    """Start what is left to fetch, as a process of its own: its memory is free again when it has ended."""
    from datamount.pod.settings import AGAIN

    command = [sys.executable, "-m", "datamount.pod", "background"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ | {AGAIN: again})


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child in a thread, so that it leaves no zombie behind: this process is the container's first."""
    threading.Thread(target=child.wait, name="background", daemon=True).start()
