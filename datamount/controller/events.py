"""Progress as Events on the session's pod, where the launch pages of JupyterHub and BinderHub show them.

Only *new* Events show there (a patched count does not), each moves the bar, and etcd keeps each for an hour: so they
are few, and the same state of a dataset is told once. The limits are each replica's own, so N replicas may tell N times
as much.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import kubernetes
from pydantic import BaseModel, ConfigDict, Field

from datamount.controller.identity import PodSession
from datamount.controller.kube import Kube
from datamount.controller.metrics import Metrics
from datamount.controller.settings import Events as Limits
from datamount.manifest import DatasetName

MAX_MESSAGE = 1000
"""The API server takes 1,024 characters."""
REMEMBERED = 2048
_REASON = {"ready": "DataReady", "failed": "DataMissing", "restored": "WorkRestored"}
_SECRET = re.compile(r"(?i)(password|secret|token|signature|credential)(=|%3d|:\s?)\S+|://[^/\s@]+@")


class Progress(BaseModel):
    """What a session tells about one dataset. `kind`, `bytes` and `seconds` are for the metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: DatasetName | None = None
    state: Literal["pending", "fetching", "ready", "failed", "background", "restored"]
    message: Annotated[str, Field(min_length=1, max_length=4000)]
    kind: Literal["mysql", "s3", "quilt", "pachyderm", "url"] | None = None
    bytes: Annotated[int, Field(ge=0, le=2**60)] | None = None
    seconds: Annotated[float, Field(ge=0, le=10**7, allow_inf_nan=False)] | None = None


class ProgressEvents:
    """Stores Events through the API server, within the limits."""

    def __init__(self, kube: Kube, limits: Limits, metrics: Metrics) -> None:
        self._kube = kube
        self._limits = limits
        self._metrics = metrics
        self._told: OrderedDict[str, list[tuple[str, str]]] = OrderedDict()
        self._lock = threading.Lock()

    def tell(self, session: PodSession, progress: Progress) -> bool:
        """Whether an Event was stored; not when the limits or an equal one before forbid it."""
        if not self._admit(session.uid, progress):
            return False
        self._kube.create_event(session.namespace, _event(session, progress))
        if progress.state in ("ready", "failed"):
            self._metrics.datasets.labels(progress.state).inc()
        if progress.state == "ready" and progress.kind is not None:
            if progress.seconds is not None:
                self._metrics.dataset_seconds.labels(progress.kind).observe(progress.seconds)
            if progress.bytes is not None:
                self._metrics.dataset_bytes.labels(progress.kind).inc(progress.bytes)
        return True

    def _admit(self, uid: str, progress: Progress) -> bool:
        dataset = progress.dataset or ""
        with self._lock:
            told = self._told.setdefault(uid, [])
            self._told.move_to_end(uid)
            while len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
            of_dataset = [state for name, state in told if name == dataset]
            if (
                len(told) >= self._limits.per_pod
                or len(of_dataset) >= self._limits.per_dataset
                or (of_dataset and of_dataset[-1] == progress.state)
            ):
                return False
            told.append((dataset, progress.state))
            return True


def _event(session: PodSession, progress: Progress) -> Any:
    k: Any = kubernetes.client
    now = datetime.now(UTC).replace(microsecond=0)  # the API's Time has whole seconds
    return k.CoreV1Event(
        metadata=k.V1ObjectMeta(name=f"{session.pod[:200]}.{secrets.token_hex(8)}", namespace=session.namespace),
        involved_object=k.V1ObjectReference(
            api_version="v1", kind="Pod", name=session.pod, namespace=session.namespace, uid=session.uid
        ),
        type="Warning" if progress.state == "failed" else "Normal",
        reason=_REASON.get(progress.state, "DataProgress"),
        message=clean(progress.message),
        source=k.V1EventSource(component="datamount"),
        reporting_component="datamount",
        first_timestamp=now,
        last_timestamp=now,
        count=1,
    )


def clean(message: str) -> str:
    """One line of text without what looks like a secret: everyone in the namespace may read Events."""
    line = " ".join(message.split())
    return _SECRET.sub("…", line)[:MAX_MESSAGE]
