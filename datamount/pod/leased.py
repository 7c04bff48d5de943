"""Credentials of a pod: leases from the controller, renewed while the session lives and ended with it.

A database account must outlive the container that asked for it, because students use it all session long. So each
such lease leaves its id (which is no secret) in a folder of the pod's state, where the sidecar finds and renews it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from datamount.batches import Batches
from datamount.controller_client import ControllerClient
from datamount.credentials import Credential
from datamount.errors import DatamountError, NotFound, Refused
from datamount.manifest import Manifest
from datamount.status import write_atomic

EARLY = 60.0
"""Seconds before its end from which a credential is not handed out any more."""
LOOK_SECONDS = 5.0
"""How often the renewer looks for new leases and for those that are due."""
LASTING = ("mysql",)
"""Kinds of source whose credential is in use after the fetch."""
log = logging.getLogger(__name__)


class LeasedCredentials:
    """Credentials by name for the datasets of one manifest, from the controller.

    The same lease is handed out again while it is good. `close` ends those that nothing uses any more.
    """

    def __init__(self, client: ControllerClient, manifest: Manifest, book: Path | None = None) -> None:
        self._client = client
        self._manifest = manifest
        self._book = book
        self._leases: dict[str, tuple[dict[str, Any], Credential]] = {}
        self._lock = threading.Lock()

    def get(self, name: str, *, dataset: str) -> Credential:
        """A credential that is good for a minute at least. Raises what the controller refuses with, or Unavailable."""
        declared = self._manifest.datasets.get(dataset)
        if declared is None:
            raise Refused(f'dataset "{dataset}": the course does not declare it.', who="the course's author")
        with self._lock:
            known = self._leases.get(dataset)
            if known and known[0]["credential"] == name and _good(known[1]):
                return known[1]
            source = declared.source.model_dump(mode="json", exclude_none=True)
            wanted = {"dataset": dataset, "kind": declared.kind, "credential": name, "source": source}
            answer = self._client.call("POST", "/v1/leases", wanted)
            credential = Credential.model_validate(answer["credential"])
            if credential.presigned:
                reads = PresignedReads(self._client, str(answer["lease"]))
                credential = credential.model_copy(update={"reads": reads})
            self._leases[dataset] = ({"credential": name, "lease": answer["lease"]}, credential)
            if self._book is not None and declared.kind in LASTING:
                enter(self._book, dataset, str(answer["lease"]))
            return credential

    def close(self) -> None:
        """End the leases that were taken here and are not in the book. Never raises: all of them end by themselves."""
        with self._lock:
            kept = {lease for lease, _ in entries(self._book).values()} if self._book else set()
            for lease, _ in self._leases.values():
                if lease["lease"] not in kept:
                    with suppress(DatamountError):
                        self._client.call("DELETE", _path(lease["lease"]), tries=1)
            self._leases.clear()


class PresignedReads:
    """Has the reads of one lease signed by the controller, many in one request when many threads read."""

    def __init__(self, client: ControllerClient, lease: str) -> None:
        self._client, self._lease = client, lease
        self._batches: Batches[dict[str, Any], str] = Batches(self._ask)

    def object(self, bucket: str, key: str, version_id: str | None) -> str:
        version = {"version_id": version_id} if version_id else {}
        return self._batches.get({"bucket": bucket, "key": key} | version)

    def page(self, bucket: str, query: Mapping[str, str]) -> str:
        more = dict(query)
        return self._batches.get({"bucket": bucket, "prefix": more.pop("prefix", ""), "query": more})

    def _ask(self, reads: list[dict[str, Any]]) -> list[str]:
        answer = self._client.call("POST", f"{_path(self._lease)}/reads", {"reads": reads})
        return [str(url) for url in answer["urls"]]


class Renewer:
    """Keeps the leases of a book alive, in a thread, and ends them at the end.

    `ended` is called with a dataset whose lease cannot be renewed any more, once, from the thread: it needs another.
    """

    def __init__(
        self, client: ControllerClient, book: Path, ended: Callable[[str], None] = lambda dataset: None
    ) -> None:
        self._client = client
        self._book = book
        self._ended = ended
        self._due: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float = 3.0) -> None:
        """Stop, and end what is in the book, within about this time. Never raises."""
        self._stop.set()
        until = time.monotonic() + seconds
        self._thread.join(max(seconds / 2, 0))
        for name, (lease, _) in entries(self._book).items():
            if time.monotonic() > until:
                return
            with suppress(DatamountError):
                self._client.call("DELETE", _path(lease), tries=1)
            (self._book / name).unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS * random.uniform(0.8, 1.2)):  # noqa: S311
            try:
                self.renew_due()
            except Exception:
                log.exception("renewing leases")

    def renew_due(self) -> None:
        """Renew what is due; new entries are due at once, because nobody here knows when they end."""
        for name, (lease, dataset) in entries(self._book).items():
            if time.time() < self._due.get(name, 0.0):
                continue
            try:
                answer = self._client.call("POST", f"{_path(lease)}/renew", tries=1)
            except (Refused, NotFound) as error:
                log.warning("dataset=%s: its credential is not renewed: %s", dataset, error)
                (self._book / name).unlink(missing_ok=True)
                self._due.pop(name, None)
                self._ended(dataset)
            except DatamountError as error:
                # Asked again soon: half of the lease's life is left for the controller to come back.
                log.info("dataset=%s: its credential could not be renewed yet: %s", dataset, error)
            else:
                self._due[name] = next_time(answer)


def next_time(answer: Mapping[str, Any], now: float | None = None) -> float:
    """When to renew again: after half of what is left, with jitter so that a class does not renew in step."""
    now = time.time() if now is None else now
    expires = answer.get("expires")
    if not expires:
        return now + 3600.0
    left = datetime.fromisoformat(str(expires)).astimezone(UTC).timestamp() - now
    return now + max(left, 10.0) * random.uniform(0.4, 0.6)  # noqa: S311


def enter(book: Path, dataset: str, lease: str) -> None:
    """Note a lease that the sidecar has to keep alive. One of the same dataset before it is left to end by itself."""
    book.mkdir(parents=True, exist_ok=True)
    for name, (_, other) in entries(book).items():
        if other == dataset:
            (book / name).unlink(missing_ok=True)
    name = hashlib.sha256(lease.encode()).hexdigest()[:24]
    write_atomic(book / name, json.dumps({"dataset": dataset, "lease": lease}).encode(), 0o600)


def entries(book: Path) -> dict[str, tuple[str, str]]:
    """The leases of a book: entry → (lease, dataset)."""
    found = {}
    with suppress(FileNotFoundError):
        for path in book.iterdir():
            with suppress(OSError, ValueError, KeyError, TypeError):
                document = json.loads(path.read_bytes())
                found[path.name] = (str(document["lease"]), str(document["dataset"]))
    return found


def _path(lease: str) -> str:
    return f"/v1/leases/{quote(lease, safe='')}"


def _good(credential: Credential) -> bool:
    return credential.expires is None or credential.expires.timestamp() > time.time() + EARLY
