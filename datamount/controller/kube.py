"""The few things the controller asks of the Kubernetes API, with our errors. The chart's RBAC names exactly these.

    tokenreviews                          create
    pods (in the session namespaces)      get, list
    events (in the session namespaces)    create
    configmaps (session namespaces)       get, create, update of `datamount-ca`
    secrets (own namespace)               get, create, update of `datamount-controller-tls`
    mutatingwebhookconfigurations         get, patch of `datamount`

Objects come back as plain dictionaries: pods have fields that no release of the client knows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import kubernetes
import urllib3
from kubernetes.client.exceptions import ApiException
from pydantic import SecretStr

from datamount.errors import Conflict, Refused, Unavailable, UsageError

SECONDS = 5.0
"""Bound of one call: a session's sidecar waits for it."""
PAGE = 500

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """What the API server says of a token that is valid for our audience."""

    username: str
    pod: str
    uid: str

    @property
    def namespace(self) -> str:
        """Of the service account; empty where the user is none."""
        parts = self.username.split(":")
        return parts[2] if len(parts) == 4 and parts[:2] == ["system", "serviceaccount"] else ""


class Kube:
    """Calls to one API server; safe from several threads. Raises Unavailable (transient) or Refused (RBAC)."""

    def __init__(self, client: Any) -> None:
        self._core: Any = kubernetes.client.CoreV1Api(client)
        self._authentication: Any = kubernetes.client.AuthenticationV1Api(client)
        self._admission: Any = kubernetes.client.AdmissionregistrationV1Api(client)

    @classmethod
    def from_environment(cls) -> Kube:
        """As the pod's service account; outside of a cluster, as the kubeconfig says. UsageError without either."""
        config: Any = kubernetes.config
        try:
            config.load_incluster_config()
        except config.ConfigException:
            try:
                config.load_kube_config()
            except config.ConfigException as error:
                raise UsageError(
                    "no Kubernetes API is known here: this is no pod, and there is no kubeconfig that can be used.",
                    hint="Run it in the cluster, as the chart does, or set KUBECONFIG; --check needs none.",
                    who="the hub's operator",
                ) from error
        return cls(kubernetes.client.ApiClient())

    # --- Sessions ---------------------------------------------------------------------------------------------

    def review_token(self, token: SecretStr, audience: str) -> TokenOwner | None:
        """Whose token it is; None when it is not valid, or not for this audience.

        `audiences` is compared here too: an API server that does not know audiences answers without them, and a
        token for anything else would then pass (TokenReview's documentation asks clients for this check).
        """
        k: Any = kubernetes.client
        spec = k.V1TokenReviewSpec(token=token.get_secret_value(), audiences=[audience])
        with _calling("checking a session's token"):
            answer = _json(self._authentication.create_token_review(k.V1TokenReview(spec=spec), **_raw()))
        status = answer.get("status") or {}
        if status.get("authenticated") is not True or audience not in (status.get("audiences") or []):
            return None
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        pod, uid = (_only(extra.get(f"authentication.kubernetes.io/pod-{key}")) for key in ("name", "uid"))
        return TokenOwner(str(user.get("username") or ""), pod, uid)

    def pod(self, namespace: str, name: str) -> Object | None:
        """One pod; None when there is none of that name."""
        with _calling("reading a session's pod"):
            return _found(lambda: self._core.read_namespaced_pod(name, namespace, **_raw()))

    def session_pods(self, namespaces: Sequence[str]) -> list[Object]:
        """All pods of the namespaces, read consistently: not from a cache that lags behind.

        Whatever their labels: a pod may be injected by its annotation, and one that is missed here would lose its data.
        """
        return [pod for namespace in namespaces for pod in self._pods(namespace)]

    def _pods(self, namespace: str) -> Iterator[Object]:
        following: str | None = None
        while True:
            more = {"_continue": following} if following else {}
            with _calling("listing the sessions' pods"):
                page = _json(self._core.list_namespaced_pod(namespace, limit=PAGE, **more, **_raw()))
                if page.get("kind") != "PodList":  # a session that is not on a list loses its data
                    raise ValueError("not a list of pods")
            yield from page.get("items") or []
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return

    def create_event(self, namespace: str, event: Any) -> None:
        """Store a CoreV1Event."""
        with _calling("reporting progress"):
            self._core.create_namespaced_event(namespace, event, **_raw())

    # --- Certificates -----------------------------------------------------------------------------------------

    def secret(self, namespace: str, name: str) -> tuple[Mapping[str, bytes], str] | None:
        """The data of a Secret and its resourceVersion; None when there is none."""
        with _calling(f'reading the Secret "{name}"'):
            found = _found(lambda: self._core.read_namespaced_secret(name, namespace, **_raw()))
        if found is None:
            return None
        data = {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return data, found["metadata"]["resourceVersion"]

    def put_secret(self, namespace: str, name: str, data: Mapping[str, bytes], version: str | None) -> None:
        """Create it (version None), or replace that version. Raises Conflict where another replica was first."""
        k: Any = kubernetes.client
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        metadata = k.V1ObjectMeta(name=name, namespace=namespace, resource_version=version)
        body = k.V1Secret(metadata=metadata, data=encoded, type="kubernetes.io/tls")
        with _calling(f'storing the Secret "{name}"'):
            if version is None:
                self._core.create_namespaced_secret(namespace, body, **_raw())
            else:
                self._core.replace_namespaced_secret(name, namespace, body, **_raw())

    def keep_config_map(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """Make a ConfigMap hold exactly this."""
        k: Any = kubernetes.client
        with _calling(f'keeping the ConfigMap "{name}" in "{namespace}"'):
            found = _found(lambda: self._core.read_namespaced_config_map(name, namespace, **_raw()))
            if found is not None and found.get("data") == dict(data):
                return
            version = found["metadata"]["resourceVersion"] if found else None
            metadata = k.V1ObjectMeta(name=name, namespace=namespace, resource_version=version)
            body = k.V1ConfigMap(metadata=metadata, data=dict(data))
            if found is None:
                self._core.create_namespaced_config_map(namespace, body, **_raw())
            else:
                self._core.replace_namespaced_config_map(name, namespace, body, **_raw())

    def keep_ca_bundle(self, webhook: str, bundle: bytes) -> None:
        """Make every webhook of a MutatingWebhookConfiguration trust this bundle (PEM)."""
        encoded = base64.b64encode(bundle).decode()
        with _calling(f'keeping the caBundle of "{webhook}"'):
            found = _json(self._admission.read_mutating_webhook_configuration(webhook, **_raw()))
            hooks = found.get("webhooks") or []
            if all(hook.get("clientConfig", {}).get("caBundle") == encoded for hook in hooks):
                return
            patch: list[Object] = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
            ]
            patch += [
                {"op": "add", "path": f"/webhooks/{number}/clientConfig/caBundle", "value": encoded}
                for number in range(len(hooks))
            ]
            try:
                self._admission.patch_mutating_webhook_configuration(webhook, patch, **_raw())
            except ApiException as error:
                if error.status == 422:  # how a `test` that does not hold is answered
                    raise Conflict(
                        f'the caBundle of "{webhook}" was changed by someone else.', transient=True
                    ) from None
                raise


def _raw() -> dict[str, Any]:
    return {"_preload_content": False, "_request_timeout": SECONDS}


def _json(response: Any) -> Object:
    document = json.loads(response.data)
    return document if isinstance(document, dict) else {}


def _found(call: Callable[[], Any]) -> Object | None:
    try:
        return _json(call())
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _only(values: Any) -> str:
    """The one value of an `extra` entry; empty where there is none or more."""
    return str(values[0]) if isinstance(values, list) and len(values) == 1 else ""


@contextmanager
def _calling(doing: str) -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        # The error's text repeats the server's answer; what matters is the status.
        if error.status == 409:
            raise Conflict(f"{doing} failed: someone else was first.", transient=True) from None
        if error.status in (401, 403):
            raise Refused(
                f"{doing} failed: the Kubernetes API does not allow it to the controller ({error.status}).",
                hint="Check the chart's RBAC.",
                who="the hub's operator",
            ) from None
        raise Unavailable(
            f"{doing} failed: the Kubernetes API answered {error.status}.", transient=True, who="the hub's operator"
        ) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise Unavailable(
            f"{doing} failed: the Kubernetes API did not answer usefully ({type(error).__name__}).",
            transient=True,
            who="the hub's operator",
        ) from error
