"""The pod's side of the controller: leases that survive a container, the store gateway, progress on the launch page.

A controller that is down costs a launch some seconds and its datasets with a credential, nothing else.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from datamount import names
from datamount.controller_client import ControllerClient
from datamount.credentials import Credential
from datamount.errors import DatamountError, Refused, Unavailable
from datamount.fetch.environment import read_environment
from datamount.manifest import Manifest
from datamount.objectstore.gateway import GatewayStore
from datamount.pod.leased import LeasedCredentials, Renewer, entries
from datamount.pod.settings import PodSettings
from datamount.progress import Lines, line
from datamount.snapshots import Workspace
from datamount.status import DatasetStatus

if TYPE_CHECKING:
    from typing import TextIO

BOOK, WORK_KEY = "leases", "work-key.json"
"""In the state folder, which the notebook cannot see."""
TRIES = 2
"""Of one request at a launch, which must not wait long for a controller that is away."""
AWAY_SECONDS = 20.0
"""How long a controller that did not answer is not asked again for credentials."""
TOLD_SECONDS = 1.0
"""How long the end of a fetch waits for its last progress to be told."""


def open_client(settings: PodSettings, tries: int = TRIES) -> ControllerClient:
    """The client of this pod's controller. Makes no request."""
    assert settings.controller is not None
    token = os.environ.get(names.ENV_TOKEN_FILE) or f"{names.TOKEN_DIR}/token"
    authority = os.environ.get(names.ENV_CA_FILE)
    # The ConfigMap may be missing; the system's authorities are then the only ones, and the error names them.
    ca_file = Path(authority) if authority and Path(authority).is_file() else None
    return ControllerClient(settings.controller, Path(token), ca_file, tries=tries)


def open_workspace(settings: PodSettings, course: str) -> Workspace:
    """The student's workspace behind the gateway. Refused where the controller keeps no work."""
    client = open_client(settings, tries=5)
    if not client.session().get("saves"):
        raise Refused(
            "this hub keeps no work: its controller has no store.",
            hint="Download what you want to keep.",
            who="the hub's operator",
        )
    store = GatewayStore(client, key_file=settings.state / WORK_KEY)
    # Whose workspace it is, the controller decides by the pod; these two are for messages and logs.
    return Workspace(store, settings.owner, course)


class PodCredentials:
    """Leases for one manifest's datasets, taken once a session although several containers ask for them.

    A database account is in use from the notebook's start, so it is handed on as it is while the sidecar keeps it
    alive: what the kernels have in their environment cannot be changed any more.
    """

    def __init__(self, client: ControllerClient, manifest: Manifest, settings: PodSettings) -> None:
        self._manifest = manifest
        self._run = settings.at.run
        self._book = settings.state / BOOK
        self._leased = LeasedCredentials(client, manifest, self._book)
        self._away: tuple[float, Unavailable] | None = None

    def get(self, name: str, *, dataset: str) -> Credential:
        if carried := self._carried(dataset):
            return carried
        if self._away and time.monotonic() < self._away[0]:
            raise self._away[1]
        try:
            return self._leased.get(name, dataset=dataset)
        except Unavailable as error:
            if error.transient:
                self._away = (time.monotonic() + AWAY_SECONDS, error)
            raise

    def close(self) -> None:
        """End the leases that nothing uses any more."""
        self._leased.close()

    def _carried(self, dataset: str) -> Credential | None:
        """The account that this session's database has already, as its variable says it."""
        declared = self._manifest.datasets.get(dataset)
        if declared is None or declared.mysql is None:
            return None
        if dataset not in {found for _, found in entries(self._book).values()}:
            return None
        with suppress(OSError, ValueError):
            parts = urlsplit(read_environment(self._run)[names.variable(dataset, "URL")])
            if parts.username and parts.password:
                fields: dict[str, Any] = {"user": unquote(parts.username), "password": unquote(parts.password)}
                return Credential(**fields, host=parts.hostname, port=parts.port)
        return None


class LaunchPage(Lines):
    """Progress as lines of the log, and a few Events on the pod. Telling never delays a fetch, nor fails it."""

    def __init__(self, client: ControllerClient, stream: TextIO) -> None:
        super().__init__(stream)
        self._client = client
        self._begun: set[str] = set()
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._thread.start()

    def update(self, name: str, status: DatasetStatus) -> None:
        if name not in self._begun and status.state == "fetching" and status.bytes_total:
            self._begun.add(name)
            self.tell(dataset=name, state="fetching", message=f"Data {name}: {status.bytes_total / 1e6:.0f} MB coming")

    def finish(self, name: str, status: DatasetStatus) -> None:
        super().finish(name, status)
        told: dict[str, Any] = {"dataset": name, "message": f"Data {line(name, status)}"}
        told |= {"state": "ready" if status.state == "ready" else "failed", "kind": status.kind}
        self.tell(**told, bytes=status.bytes_done, seconds=status.seconds)

    def tell(self, **progress: Any) -> None:
        """Put one more thing to tell behind the others."""
        self._queue.put(progress)

    def close(self) -> None:
        """Wait a little for what is left to tell."""
        self._queue.put(None)
        self._thread.join(TOLD_SECONDS)

    def _tell(self) -> None:
        while (told := self._queue.get()) is not None:
            with suppress(DatamountError):
                self._client.tell(**told)


def keep_leases(settings: PodSettings, ended: Callable[[str], None]) -> Renewer:
    """Renew the session's leases from now on; `ended` is called with a dataset that needs another one."""
    renewer = Renewer(open_client(settings), settings.state / BOOK, ended)
    renewer.start()
    return renewer
