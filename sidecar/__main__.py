"""`python -m sidecar`: serve one session until SIGTERM or SIGINT, then save what is unsaved and end.

Exit code 0 when everything was saved, 5 when the last save failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import ValidationError

from datamount import names
from datamount.errors import DatamountError, Unavailable, UsageError
from datamount.objectstore import open_store
from datamount.session.homecoming import NotAllBack, bring_home
from datamount.snapshots import Workspace
from datamount.snapshots.excludes import Excludes
from datamount.status import write_atomic
from sidecar.app import create_app
from sidecar.priority import lower_priority
from sidecar.session import Session
from sidecar.settings import Settings

log = logging.getLogger("datamount.sidecar")

TOKEN_FILE = "sidecar.token"  # noqa: S105  (a file's name)
HOME_TRIES = 5
"""How often saved work that comes in part only keeps a session from saving; then what came has to do."""
GRACE_SECONDS = 2
"""How long answers in progress may take at the end, in seconds; the final save does not wait for them."""


class Server(uvicorn.Server):
    """uvicorn, but the final save begins with the signal and not after the last connection has closed."""

    def __init__(self, config: uvicorn.Config, session: Session) -> None:
        super().__init__(config)
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        # Not called right here: a signal may come while the main thread holds a lock of the worker's queue.
        if self._loop:
            self._loop.call_soon_threadsafe(self._session.begin_close)
        super().handle_exit(sig, frame)


def main(arguments: list[str] | None = None, open_workspace: Callable[[Settings], Workspace] | None = None) -> int:
    """Serve; returns the exit code. `open_workspace` stands in for opening the store that the settings name."""
    settings = read_settings(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    listener = listen(settings)
    token = keep_token(settings.run / TOKEN_FILE)
    session = make_session(settings, open_workspace)
    config = uvicorn.Config(
        create_app(session, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    place = settings.run / names.SIDECAR_FILE
    write_atomic(place, (json.dumps({"url": url, "token": token}) + "\n").encode(), mode=0o600)
    server = Server(config, session)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn raises the signals again after it has ended: that must not end us before the exit code is known.
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    lower_priority()
    asyncio.run(server.serve([listener]))
    return 0 if session.close() else Unavailable.exit_code


def make_session(settings: Settings, opener: Callable[[Settings], Workspace] | None = None) -> Session:
    """The session of these settings; the store is opened when it is first needed."""
    excludes = Excludes(settings.exclude)
    known: dict[tuple[str, bool], bool] = {}
    in_part: list[NotAllBack] = []

    def ignored(path: str, is_folder: bool) -> bool:
        # Matching costs more than looking at the file, and the answer never changes.
        key = (path, is_folder)
        if key not in known:
            if len(known) > 200_000:
                known.clear()
            known[key] = excludes.reason(path, folder=is_folder) is not None
        return known[key]

    def open_workspace() -> Workspace:
        if opener is not None:
            workspace = opener(settings)
        else:
            store = open_store(settings.store, settings.endpoint_url)
            workspace = Workspace(store, settings.owner, settings.course)
        if settings.home_first:
            try:
                _bring_home(workspace, settings, insist=len(in_part) < HOME_TRIES)
            except NotAllBack as error:
                in_part.append(error)
                raise
        return workspace

    return Session(settings, open_workspace, ignored)


def _bring_home(workspace: Workspace, settings: Settings, *, insist: bool) -> None:
    """Do what the launch could not. Raises Unavailable while the store does not answer, and NotAllBack; nothing else
    stops saving."""
    try:
        bring_home(
            workspace,
            settings.folder,
            settings.state,
            course_ref=settings.course_ref or "",
            image=settings.image or "",
            exclude=settings.exclude,
            max_bytes=settings.max_bytes,
            insist=insist,
            say=log.info,
        )
    except Unavailable:
        raise
    except Exception:
        log.exception("saved work could not be brought back; saving goes on without it")


def listen(settings: Settings) -> socket.socket:
    """A listening socket, so that callers who read sidecar.json at once are not refused."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"the sidecar could not listen on {settings.host}:{settings.port} ({error.strerror}).",
            hint="Choose another --port, or 0 for a free one.",
            who="you",
        ) from error
    listener.listen(128)
    return listener


def keep_token(path: Path) -> str:
    """The token of this run folder: made at the first start and kept, so that a restart breaks no open page."""
    try:
        # No link: on a laptop the folder is the student's own, and what is read here is shown to them.
        with open(path, encoding="ascii", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
            token = file.read().strip()
    except (OSError, ValueError):
        token = ""
    if len(token) < 32:
        token = secrets.token_urlsafe(32)
    write_atomic(path, token.encode(), mode=0o600)
    return token


def read_settings(arguments: list[str] | None = None) -> Settings:
    """The settings of the command line, over those of the file that --settings names."""
    parser = argparse.ArgumentParser("python -m sidecar", description="Save-back service of one notebook session.")
    parser.add_argument("--settings", type=Path, help="JSON file with the same names, '-' written as '_'")
    for name in ("folder", "run", "state"):
        parser.add_argument(f"--{name}", type=Path, default=argparse.SUPPRESS)
    for name in ("store", "endpoint-url", "owner", "course", "course-ref", "image", "author", "host", "ends-at"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    for name in ("port", "max-bytes"):
        parser.add_argument(f"--{name}", type=int, default=argparse.SUPPRESS)
    for name in ("quiet", "at-most", "check-every"):
        parser.add_argument(f"--{name}", type=float, default=argparse.SUPPRESS)
    parser.add_argument("--exclude", action="append", default=argparse.SUPPRESS, help="gitignore pattern; repeatable")
    parser.add_argument("--no-autosave", dest="autosave", action="store_false", default=argparse.SUPPRESS)
    parser.add_argument("--save-at-start", action="store_true", default=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    file = given.pop("settings")
    try:
        base = json.loads(file.read_bytes()) if file else {}
        return Settings.model_validate(base | given)
    except (OSError, ValueError) as error:
        said = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise UsageError(f"the sidecar's settings are not valid: {said}.", hint="See --help.", who="you") from error


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DatamountError as fault:
        print(f"sidecar: {fault.sentence()}", file=sys.stderr)
        sys.exit(fault.exit_code)
