"""From a projected token to the session that it belongs to, or a refusal that is audited.

The token proves pod name and UID (the API server binds it to the pod, and it stops being valid when the pod is
deleted). Everything else, image, user, repo, is read from the pod itself. Student code cannot forge any of it but
the repo's URL: the notebook container has no token, and the pod's image and annotations are the hub's.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import SecretStr

from datamount import names
from datamount.controller.audit import Audit
from datamount.controller.identity import PodSession, course_identity
from datamount.controller.kube import Kube, Object
from datamount.controller.links import launch_request
from datamount.controller.metrics import Metrics
from datamount.controller.rates import Failures, source
from datamount.controller.settings import Settings
from datamount.errors import Refused, Unauthenticated

MAX_TOKEN = 16 << 10
REMEMBERED = 4096
FAILURES = 60
"""Bad tokens in a row from one address; a hub's network may have many pods behind one."""
FAILURE_SECONDS = 1.0
_ENDED = ("Succeeded", "Failed")


class Authenticator:
    """Checks tokens against the API server. A yes is believed for `review_seconds`, a no never."""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        audit: Audit,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._settings = settings
        self.proxies = settings.trusted_proxies
        self._audit = audit
        self._metrics = metrics
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, PodSession]] = OrderedDict()
        self._lock = threading.Lock()
        self._failures = Failures(FAILURES, FAILURE_SECONDS, clock=clock)

    def session(self, token: SecretStr, address: str = "") -> PodSession:
        """The session behind a token. Raises Unauthenticated or Refused, audited, or Unavailable; TooMany, without
        asking anybody, for a new token from an `address` that has sent too many bad ones."""
        digest = hashlib.sha256(token.get_secret_value().encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            until, known = self._known.get(digest, (0.0, None))
        if known is not None and self._clock() < until:
            return known
        if known is None:
            # One that was good before is asked about again, whatever its neighbours behind the address send.
            self._failures.check(address)
        try:
            session = self._check(token)
        except Refused:
            if self._failures.count(address):
                self._audit.write("limited", None, what="authentication")
                self._metrics.refusals.labels("too many bad tokens").inc()
            raise
        with self._lock:
            self._known[digest] = (self._clock() + self._settings.review_seconds, session)
            self._known.move_to_end(digest)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return session

    def _check(self, token: SecretStr) -> PodSession:
        if not token.get_secret_value() or len(token.get_secret_value()) > MAX_TOKEN:
            raise self._unauthenticated("no token", "the request has no token.")
        owner = self._kube.review_token(token, self._settings.audience)
        if owner is None:
            raise self._unauthenticated(
                "invalid token",
                "the session's token is not valid: it has expired, its pod is gone, or it is not for this service.",
            )
        if not owner.pod or not owner.uid or not owner.namespace:
            raise self._unauthenticated(
                "no pod binding",
                "the token is not bound to a pod, so no session can be told from it.",
                username=owner.username,
            )
        about = {"namespace": owner.namespace, "pod": owner.pod, "uid": owner.uid}
        if owner.namespace not in self._settings.namespaces:
            raise self._refused(
                "namespace", f'pods of the namespace "{owner.namespace}" are no sessions here.', **about
            )
        pod = self._kube.pod(owner.namespace, owner.pod)
        if pod is None or (pod.get("metadata") or {}).get("uid") != owner.uid:
            raise self._unauthenticated("pod is gone", f'the pod "{owner.pod}" of this token is gone.', **about)
        if (pod.get("status") or {}).get("phase") in _ENDED:
            raise self._refused("pod has ended", f'the pod "{owner.pod}" has ended.', **about)
        if (pod["metadata"].get("annotations") or {}).get(names.ANNOTATION_STATUS) != names.STATUS_INJECTED:
            raise self._refused("not injected", f'the pod "{owner.pod}" is not one that datamount equipped.', **about)
        session = read_session(pod)
        if session is None:
            raise self._refused("no notebook", f'the pod "{owner.pod}" has no notebook container.', **about)
        return session

    def _unauthenticated(self, reason: str, message: str, **about: Any) -> Unauthenticated:
        self._note(reason, about)
        return Unauthenticated(message, hint="Start the session again.", who="you")

    def _refused(self, reason: str, message: str, **about: Any) -> Refused:
        self._note(reason, about)
        return Refused(message, hint="Ask the hub's operator whether this is meant.", who="the hub's operator")

    def _note(self, reason: str, about: dict[str, Any]) -> None:
        self._audit.write("refused", None, what="authentication", reason=reason, **about)
        self._metrics.refusals.labels(reason).inc()


def read_session(pod: Object) -> PodSession | None:
    """What a pod's own object says about its session; None where no container is the notebook."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    notebook = _notebook(spec.get("containers") or [])
    if notebook is None:
        return None
    environment = {str(entry.get("name")): str(entry.get("value") or "") for entry in notebook.get("env") or []}
    repo_url = environment.get("BINDER_REPO_URL", "")
    image = str(notebook.get("image") or "")
    return PodSession(
        pod=str(metadata["name"]),
        uid=str(metadata["uid"]),
        namespace=str(metadata["namespace"]),
        user=str((metadata.get("annotations") or {}).get(names.ANNOTATION_USERNAME) or ""),
        image=image,
        repo_url=repo_url,
        course_identity=course_identity(image, repo_url),
        launch=launch_request(environment),
        launch_host=environment.get("BINDER_LAUNCH_HOST", ""),
    )


def _notebook(containers: list[Object]) -> Object | None:
    """The same container that `inject` takes for the notebook."""
    for container in containers:
        if container.get("name") == names.NOTEBOOK_CONTAINER:
            return container
    for container in containers:
        if any(port.get("name") == names.NOTEBOOK_PORT for port in container.get("ports") or []):
            return container
    return None


def has_ended(pod: Object, now: datetime, *, grace: float = 10.0) -> bool:
    """Whether the pod's session is over, though the object may still be there.

    A pod that is being deleted carries the time when its grace ends; on a lost node it stays long after.
    """
    if (pod.get("status") or {}).get("phase") in _ENDED:
        return True
    deletion = (pod.get("metadata") or {}).get("deletionTimestamp")
    return deletion is not None and (now - datetime.fromisoformat(deletion)).total_seconds() > grace


def require_pod(request: Request) -> PodSession:
    """FastAPI dependency: the session that makes this request. Runs in a worker thread, as it asks the API server."""
    authenticator: Authenticator = request.app.state.authenticator
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return authenticator.session(SecretStr(token.strip() if scheme.lower() == "bearer" else ""), where_from(request))


def where_from(request: Request) -> str:
    """FastAPI dependency: the address that bad tokens and links are counted by. Neither logged nor stored."""
    return source(request, request.app.state.authenticator.proxies)


def require_pod_if_any(request: Request) -> PodSession | None:
    """FastAPI dependency: the session that makes this request; None where it does not say to be one."""
    return require_pod(request) if "Authorization" in request.headers else None


Session = Annotated[PodSession, Depends(require_pod)]
AnySession = Annotated[PodSession | None, Depends(require_pod_if_any)]
Source = Annotated[str, Depends(where_from)]
