"""Ends what its session left behind: accounts past their time, and accounts whose pod is gone.

Runs in every replica and needs no leader: what it does may be done twice. It knows nothing by itself; the accounts
are in the databases, the pods in the API server. On any doubt about the pods it drops only what has expired, because
an API server that is down must not take the data from running sessions.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from datamount.controller.audit import Audit
from datamount.controller.auth import has_ended
from datamount.controller.kube import Kube
from datamount.controller.metrics import Metrics
from datamount.controller.mysql_leases import Account, MySQLLeases, pod_hash
from datamount.controller.policy import MySQLGrant, PolicyFile, mysql_grants
from datamount.controller.settings import Settings
from datamount.errors import DatamountError

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Servers that are looked at side by side."""


class Reaper:
    """One pass after the other, in a thread; `pass_once` is a pass by itself."""

    def __init__(
        self,
        kube: Kube,
        policy: PolicyFile,
        settings: Settings,
        audit: Audit,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._kube = kube
        self._policy = policy
        self._settings = settings
        self._audit = audit
        self._metrics = metrics
        self._clock = clock
        self._servers: dict[tuple[str, int, str], tuple[str, MySQLGrant]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pass_once(self) -> int:
        """How many accounts were ended. Never raises for a server that is down: it is looked at again next time."""
        installation = self._settings.installation
        servers = [MySQLLeases(name, grant, installation=installation) for name, grant in self._known_servers()]
        # Side by side: one that is down must not keep the others beyond their minute.
        with ThreadPoolExecutor(max(1, min(AT_ONCE, len(servers)))) as pool:
            ended = list(pool.map(self._try, servers))
        if None in ended:
            self._metrics.reaper_failures.inc()
        else:
            self._metrics.reaper_last.set(self._clock())
        return sum(number or 0 for number in ended)

    def _try(self, server: MySQLLeases) -> int | None:
        try:
            return self._reap(server)
        except DatamountError as error:
            log.warning("reaper: %s", error.sentence())
            return None

    def _known_servers(self) -> list[tuple[str, MySQLGrant]]:
        """The servers of the policy, one of each, and those it named before: their accounts must end, too."""
        try:
            policy = self._policy.current()
        except DatamountError as error:
            log.warning("reaper: %s", error.sentence())
            return list(self._servers.values())
        for name, _, grant in mysql_grants(policy):
            self._servers[grant.host, grant.port, grant.admin_user] = (name, grant)
        return list(self._servers.values())

    def _reap(self, server: MySQLLeases) -> int:
        # Accounts first, pods after: a pod that comes between the two is not taken for one that is gone.
        accounts = server.accounts()
        self._metrics.leases_live.labels(server.credential).set(len(accounts))
        alive = self._pods_alive() if accounts else set()
        now = datetime.fromtimestamp(self._clock(), UTC)
        doomed: dict[str, str] = {}
        for account in accounts:
            reason = _reason(account, now, alive if account.whose == server.whose else None)
            if reason:
                doomed[account.name] = reason
        server.end(set(doomed))
        for name, reason in doomed.items():
            self._metrics.reaped.labels(reason).inc()
            self._audit.write("reaped", None, handle=name, credential=server.credential, reason=reason)
        return len(doomed)

    def _pods_alive(self) -> set[str] | None:
        """Hashes of the pods that run; None when they cannot be known now."""
        if not self._settings.namespaces:
            return None
        try:
            pods = self._kube.session_pods(self._settings.namespaces)
        except DatamountError as error:
            self._metrics.reaper_failures.inc()
            log.warning("reaper: only what has expired is ended: %s", error.sentence())
            return None
        now = datetime.fromtimestamp(self._clock(), UTC)
        return {pod_hash(pod["metadata"]["uid"]) for pod in pods if not has_ended(pod, now)}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                self.pass_once()
            except Exception:
                # A bug must not end the passes; what it met is met again.
                self._metrics.reaper_failures.inc()
                log.exception("reaper: a pass failed")
            # Uneven, so that replicas do not pass at the same instant.
            if self._stop.wait(self._settings.reaper_seconds * random.uniform(0.8, 1.0)):  # noqa: S311
                return

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(10)


def _reason(account: Account, now: datetime, alive: set[str] | None) -> str:
    if account.expires <= now:
        return "expired"
    return "pod is gone" if alive is not None and account.pod not in alive else ""
