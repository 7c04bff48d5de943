"""One replica, put together from its settings, and its server."""

from __future__ import annotations

import logging
import sys

from datamount.controller import serving, store
from datamount.controller.app import Controller, create_app
from datamount.controller.audit import Audit
from datamount.controller.auth import Authenticator
from datamount.controller.certificates import CHECK_SECONDS, FILE_SECONDS, Mounted, SelfSigned, Served
from datamount.controller.events import ProgressEvents
from datamount.controller.kube import Kube
from datamount.controller.leases import Leases
from datamount.controller.metrics import Metrics, MetricsServer
from datamount.controller.policy import PolicyFile
from datamount.controller.reaper import Reaper
from datamount.controller.settings import Settings
from datamount.inject import InjectSettings, read_inject_settings

log = logging.getLogger(__name__)


def controller(settings: Settings, kube: Kube) -> Controller:
    """All parts of a replica; nothing is started and nothing is asked yet."""
    metrics, audit = Metrics(), Audit(settings.audit)
    metrics.policy_valid.set(0)

    def policy_changed(problem: str) -> None:
        metrics.policy_valid.set(0 if problem else 1)
        audit.write("policy", None, problem=problem or None, file=settings.policy)

    policy = PolicyFile(settings.policy, seconds=settings.policy_seconds, changed=policy_changed)
    reaper = Reaper(kube, policy, settings, audit, metrics)
    made = Controller(
        settings,
        read_inject_settings(settings.inject) if settings.inject else InjectSettings(),
        metrics,
        audit,
        Authenticator(kube, settings, audit, metrics),
        Leases(policy, audit, metrics, installation=settings.installation),
        ProgressEvents(kube, settings.events, metrics),
    )
    if settings.store is not None:
        made.extend.append(store.routes(settings.store))
    made.start += [policy.start, reaper.start]
    made.stop += [policy.stop, reaper.stop]
    return made


def serve(settings: Settings, kube: Kube) -> None:
    """Serve until SIGTERM. Raises Unavailable or Refused where there is no certificate to serve with."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    made = controller(settings, kube)
    served = _served(settings, kube)
    if served is not None:
        made.start.append(served.start)
        made.stop.append(served.stop)
    if settings.metrics_port is not None:
        metrics = MetricsServer(made.metrics, settings.host, settings.metrics_port)
        made.start.append(metrics.start)
        made.stop.append(metrics.stop)
    leaving = serving.Leaving(create_app(made))
    made.not_ready.append(leaving.why_not_ready)
    log.info("controller: listening on %s:%d, sessions in %s", settings.host, settings.port, settings.namespaces)
    serving.serve(leaving, served, host=settings.host, port=settings.port, drain_seconds=settings.drain_seconds)


def _served(settings: Settings, kube: Kube) -> Served | None:
    if settings.tls.mode == "off":
        return None
    if settings.tls.mode == "files":
        return Served(Mounted(kube, settings).keep, seconds=FILE_SECONDS)
    keep = SelfSigned(kube, settings).keep
    return Served(lambda: keep()[0], seconds=CHECK_SECONDS)
