"""The stand-in itself: an HTTP server on 127.0.0.1, in a thread, that stores objects of the client's own models.

    with KubeServer() as kube:
        pod = kube.add_pod({...})
        token = kube.token(pod)
        client = kube.client()                    # kubernetes.client.ApiClient, as the controller

It knows what the controller asks for, and answers all else with 404 as an API server does for an unknown path. What
it checks as a real one: bearer token of the caller, fields that the models require, resourceVersion on replace and in
patches, name conflicts, label selectors, paging, tokens by signature, time, audience and bound pod. What it does not:
RBAC (it records what was asked, so that a test can compare that with the chart's rules), admission, watches, other
content types than JSON. `python -m tests.kube.compare` holds it to a real API server.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jsonpatch
import kubernetes.client as k

from tests.kube.quantities import canonical_pod
from tests.kube.tokens import Issuer

Object = dict[str, Any]
BELIEVED_SECONDS = 10.0
"""An API server believes a token that it has checked for so long, even when its pod is deleted meanwhile."""
SERVED = {
    "pods": ("v1", "Pod", k.V1Pod),
    "events": ("v1", "Event", k.CoreV1Event),
    "secrets": ("v1", "Secret", k.V1Secret),
    "configmaps": ("v1", "ConfigMap", k.V1ConfigMap),
    "mutatingwebhookconfigurations": (
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        k.V1MutatingWebhookConfiguration,
    ),
}
_BASES = {"v1": "/api/v1", "admissionregistration.k8s.io/v1": "/apis/admissionregistration.k8s.io/v1"}


class Status(Exception):
    """An error as the API server words it: a Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }
        if not reason:
            del self.document["reason"]


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


class KubeServer:
    """State and server. `down = True` makes every answer a 503; `asked` has (verb, resource, namespace) of calls;
    `clock` is what a checked token is believed by."""

    def __init__(self) -> None:
        self.issuer = Issuer()
        self.caller = secrets.token_hex(16)
        self.objects: dict[str, dict[tuple[str, str], Object]] = {resource: {} for resource in SERVED}
        self.asked: list[tuple[str, str, str]] = []
        self.down = False
        self.clock: Callable[[], float] = time.monotonic
        self._believed: dict[tuple[str, ...], tuple[float, Object]] = {}
        self._version = 1
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> KubeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    # --- For tests ------------------------------------------------------------------------------------------------

    def client(self) -> k.ApiClient:
        configuration = k.Configuration(host=self.url)
        configuration.api_key = {"authorization": f"Bearer {self.caller}"}
        configuration.verify_ssl = False
        return k.ApiClient(configuration)

    def kubeconfig(self) -> Object:
        """For a controller in a process of its own."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": self.caller}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }

    def add(self, resource: str, document: Object) -> Object:
        """Store an object as if it had been created through the API."""
        metadata = document.get("metadata") or {}
        return self.create(resource, str(metadata.get("namespace") or ""), document)

    def add_pod(self, pod: Object, *, phase: str = "Running") -> Object:
        """A pod that was scheduled and runs."""
        stored = self.add("pods", pod)
        with self._lock:
            stored["status"] = {"phase": phase}
        return stored

    def remove(self, resource: str, namespace: str, name: str) -> None:
        with self._lock:
            del self.objects[resource][namespace, name]

    def token(
        self,
        pod: Object | None = None,
        *,
        audiences: tuple[str, ...] = ("datamount",),
        seconds: float = 600,
        namespace: str = "",
        bound: bool = True,
    ) -> str:
        """What the kubelet would project into this pod."""
        metadata = pod["metadata"] if pod else {}
        binding = {"pod": metadata["name"], "uid": metadata["uid"]} if pod and bound else {}
        return self.issuer.sign(
            namespace=namespace or metadata.get("namespace", "hub"),
            audiences=list(audiences),
            seconds=seconds,
            **binding,
        )

    def events(self) -> list[Object]:
        with self._lock:
            return list(self.objects["events"].values())

    def forget_tokens(self) -> None:
        """As if BELIEVED_SECONDS had passed."""
        self._believed.clear()

    # --- The API --------------------------------------------------------------------------------------------------

    def review_token(self, document: Object) -> Object:
        review = validate(k.V1TokenReview, document)
        audiences = list(review.spec.audiences or ["https://kubernetes.default.svc"])
        question = (review.spec.token or "", *audiences)
        until, believed = self._believed.get(question, (0.0, {}))
        if self.clock() < until:
            return document | {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": believed}
        claims, why = self.issuer.claims(review.spec.token or "", audiences)
        user: Object = {}
        if claims is not None:
            bound = claims["kubernetes.io"]
            user = {
                "username": claims["sub"],
                "uid": bound["serviceaccount"]["uid"],
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{bound['namespace']}",
                    "system:authenticated",
                ],
            }
            if "pod" in bound:
                pod = self.objects["pods"].get((bound["namespace"], bound["pod"]["name"]))
                if pod is None or pod["metadata"]["uid"] != bound["pod"]["uid"]:
                    claims, why = None, "[invalid bearer token, service account token has been invalidated]"
                user["extra"] = {
                    "authentication.kubernetes.io/pod-name": [bound["pod"]["name"]],
                    "authentication.kubernetes.io/pod-uid": [bound["pod"]["uid"]],
                }
        if claims is None:
            status: Object = {"user": {}, "error": why}
        else:
            status = {"authenticated": True, "user": user, "audiences": [a for a in audiences if a in claims["aud"]]}
            self._believed[question] = (self.clock() + BELIEVED_SECONDS, status)
        return document | {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status}

    def create(self, resource: str, namespace: str, document: Object) -> Object:
        version, kind, model = SERVED[resource]
        if kind == "Pod":
            document = _read_quantities(document)
        validate(model, document)
        metadata = dict(document.get("metadata") or {})
        name = metadata.get("name")
        if not name:
            raise Status(422, "Invalid", f'{kind} "" is invalid: metadata.name: Required value: name is required')
        if metadata.get("namespace", namespace) != namespace:
            raise Status(
                400,
                "BadRequest",
                "the namespace of the provided object does not match the namespace sent on the request",
            )
        if metadata.get("resourceVersion"):
            raise Status(500, "", "resourceVersion should not be set on objects to be created")
        if kind == "Event":
            _check_event(document, namespace)
            document = document | {key: _time(document[key]) for key in _EVENT_TIMES if document.get(key)}
        with self._lock:
            if (namespace, name) in self.objects[resource]:
                raise Status(409, "AlreadyExists", f'{resource} "{name}" already exists')
            metadata |= {
                "uid": metadata.get("uid") or str(uuid.uuid4()),
                "resourceVersion": self._next(),
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            if namespace:
                metadata["namespace"] = namespace
            stored = {"apiVersion": version, "kind": kind} | document | {"metadata": metadata}
            self.objects[resource][namespace, name] = stored
            return stored

    def read(self, resource: str, namespace: str, name: str) -> Object:
        with self._lock:
            found = self.objects[resource].get((namespace, name))
            if found is None:
                raise Status(404, "NotFound", f'{_full(resource)} "{name}" not found')
            return found

    def replace(self, resource: str, namespace: str, name: str, document: Object) -> Object:
        validate(SERVED[resource][2], document)
        with self._lock:
            found = self.read(resource, namespace, name)
            sent = (document.get("metadata") or {}).get("resourceVersion")
            if sent and sent != found["metadata"]["resourceVersion"]:
                raise Status(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {_full(resource)} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again",
                )
            kept = {key: found["metadata"][key] for key in ("uid", "creationTimestamp")}
            metadata = document["metadata"] | kept | {"resourceVersion": self._next()}
            if namespace:
                metadata["namespace"] = namespace
            stored = {"apiVersion": found["apiVersion"], "kind": found["kind"]} | document | {"metadata": metadata}
            self.objects[resource][namespace, name] = stored
            return stored

    def patch(self, resource: str, namespace: str, name: str, patch: Any, content_type: str) -> Object:
        if content_type != "application/json-patch+json":
            raise Status(415, "UnsupportedMediaType", f"the stand-in does not know {content_type}")
        with self._lock:
            found = self.read(resource, namespace, name)
            try:
                changed = jsonpatch.apply_patch(found, patch)
            except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
                raise Status(
                    422, "Invalid", "the server rejected our request due to an error in our request"
                ) from error
            return self.replace(resource, namespace, name, changed)

    def list(self, resource: str, namespace: str, query: dict[str, list[str]]) -> Object:
        version, kind, _ = SERVED[resource]
        wanted = dict(part.split("=", 1) for part in (query.get("labelSelector") or [""])[0].split(",") if part)
        with self._lock:
            found = [
                item
                for (place, _), item in sorted(self.objects[resource].items())
                if place == namespace
                and all(((item["metadata"].get("labels") or {}).get(key)) == value for key, value in wanted.items())
            ]
            start = int(base64.b64decode((query.get("continue") or [""])[0] or b"MA=="))
            limit = int((query.get("limit") or ["0"])[0]) or len(found)
            metadata = {"resourceVersion": str(self._version)}
            if start + limit < len(found):
                metadata["continue"] = base64.b64encode(str(start + limit).encode()).decode()
            items = json.loads(json.dumps(found[start : start + limit]))
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": metadata, "items": items}

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def _full(resource: str) -> str:
    version = SERVED[resource][0]
    return resource if version == "v1" else f"{resource}.{version.partition('/')[0]}"


def validate(model: Any, document: Object) -> Any:
    """The document as the client's model. A field that the model requires and that is missing is a 422."""

    try:
        return model.from_dict(document)
    except (ValueError, AttributeError, TypeError) as error:
        raise Status(422, "Invalid", str(error).splitlines()[0]) from error


def _read_quantities(pod: Object) -> Object:
    try:
        return canonical_pod(pod)
    except (ValueError, AttributeError, TypeError) as error:
        raise Status(400, "BadRequest", f'Pod in version "v1" cannot be handled as a Pod: {error}') from error


_EVENT_TIMES = ("firstTimestamp", "lastTimestamp")


def _time(text: str) -> str:
    """A metav1.Time as the API server writes it back."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_event(document: Object, namespace: str) -> None:
    involved = document.get("involvedObject") or {}
    if involved.get("namespace", "") != namespace:
        raise Status(
            422,
            "Invalid",
            f'Event "{document["metadata"]["name"]}" is invalid: involvedObject.namespace: Invalid value: '
            f'"{involved.get("namespace", "")}": does not match event.namespace',
        )


def _handler(kube: KubeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                code, document = self._route(json.loads(body) if body else None)
            except Status as status:
                code, document = status.code, status.document
            except ValueError:
                code, document = 400, Status(400, "BadRequest", "the body is not JSON").document
            data = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def _route(self, body: Any) -> tuple[int, Object]:
            if kube.down:
                raise Status(503, "ServiceUnavailable", "the stand-in is down")
            if self.headers.get("Authorization") != f"Bearer {kube.caller}":
                raise Status(401, "Unauthorized", "Unauthorized")
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            if parts.path == "/apis/authentication.k8s.io/v1/tokenreviews" and self.command == "POST":
                kube.asked.append(("create", "tokenreviews", ""))
                return 201, kube.review_token(body)
            resource, namespace, name = self._place(parts.path)
            act: dict[str, tuple[str, Callable[[], tuple[int, Object]]]] = {
                "GET": (
                    "get" if name else "list",
                    lambda: (
                        200,
                        kube.read(resource, namespace, name) if name else kube.list(resource, namespace, query),
                    ),
                ),
                "POST": ("create", lambda: (201, kube.create(resource, namespace, body))),
                "PUT": ("update", lambda: (200, kube.replace(resource, namespace, name, body))),
                "PATCH": (
                    "patch",
                    lambda: (200, kube.patch(resource, namespace, name, body, self.headers.get("Content-Type", ""))),
                ),
            }
            if self.command not in act:
                raise Status(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            verb, do = act[self.command]
            kube.asked.append((verb, resource, namespace))
            return do()

        def _place(self, path: str) -> tuple[str, str, str]:
            for resource, (version, _, _) in SERVED.items():
                base = _BASES[version]
                if not path.startswith(f"{base}/"):
                    continue
                parts = [unquote(part) for part in path.removeprefix(f"{base}/").split("/")]
                namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else ""
                rest = parts[2:] if namespace else parts
                if rest[0] == resource and len(rest) <= 2:
                    return resource, namespace, rest[1] if len(rest) == 2 else ""
            raise Status(404, "NotFound", "the server could not find the requested resource")

    return Handler
