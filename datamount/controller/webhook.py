"""AdmissionReview in, AdmissionReview out: the pod as `inject` wants it, or unchanged on any doubt.

The answer is always an allowed one. A notebook without data opens and says so; a notebook that was refused, or held
up beyond the hub's three seconds, does not open at all. So whatever goes wrong here is logged and counted, and the
pod goes through as it came: never half changed, because the patch is made from a finished copy and tried on the
original before it is sent.

The protocol: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#request
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jsonpatch

log = logging.getLogger(__name__)

API_VERSION = "admission.k8s.io/v1"
Outcome = Literal["injected", "unchanged", "doubt"]
_UID = re.compile(rb'"request"\s*:\s*\{\s*"uid"\s*:\s*"([0-9A-Za-z._-]{1,64})"')
"""Where the API server writes the uid: first in the request, so even a torn or oversized body shows it."""
Inject = Callable[[dict[str, Any]], dict[str, Any]]
"""The pod as it should be. Gets a copy, so that nothing it does halfway is seen."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the API server, and what happened, for logs and metrics."""

    body: dict[str, Any]
    outcome: Outcome
    reason: str = ""


class _Doubt(Exception):
    """The pod goes through unchanged, for the reason told; the text holds no value of the pod."""


def review(body: bytes, inject: Inject) -> Answer | None:
    """The answer to one AdmissionReview; None where not even the request's uid can be found. Never raises."""
    uid = ""
    try:
        request = _request(body)
        uid = request["uid"] if isinstance(request.get("uid"), str) else ""
        if not uid:
            return None
        pod = _pod(request)
        patch = "" if pod is None else _patch(pod, inject)
    except _Doubt as doubt:
        return _through(uid, body, str(doubt))
    except Exception as error:
        # RecursionError of a deep document and every bug of ours end here. The error's own text may quote the pod.
        name = type(error).__name__
        log.warning("admission failed inside", exc_info=(RuntimeError, RuntimeError(name), error.__traceback__))
        return _through(uid, body, name)
    return Answer(_allowed(uid, patch), "injected" if patch else "unchanged")


def too_large(start: bytes) -> Answer | None:
    """The answer to a body that is not read to its end."""
    return _through("", start, "the AdmissionReview is too large")


def _through(uid: str, body: bytes, reason: str) -> Answer | None:
    if not uid:
        found = _UID.search(body, 0, 4096)
        uid = found[1].decode() if found else ""
    return Answer(_allowed(uid), "doubt", reason) if uid else None


def _request(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _Doubt("the body is not JSON") from error
    if not isinstance(document, dict) or document.get("kind") != "AdmissionReview":
        raise _Doubt("the body is not an AdmissionReview")
    if document.get("apiVersion") != API_VERSION:
        raise _Doubt(f"the AdmissionReview is not of {API_VERSION}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise _Doubt("the AdmissionReview has no request")
    return request


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _pod(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod to be created; None for what is none of our business. `namespace` and `name` are often only outside."""
    kind = request.get("kind")
    if not isinstance(kind, dict) or (kind.get("group") or "", kind.get("version"), kind.get("kind")) != (
        "",
        "v1",
        "Pod",
    ):
        return None
    if request.get("operation") != "CREATE" or request.get("subResource"):
        return None
    pod = request.get("object")
    if not isinstance(pod, dict):
        raise _Doubt("the request has no object")
    return pod


def _patch(pod: dict[str, Any], inject: Inject) -> str:
    """The JSON patch as text; empty where nothing changes."""
    wanted = inject(copy.deepcopy(pod))
    if not isinstance(wanted, dict):
        raise _Doubt("the injection did not keep to its contract")
    patch = jsonpatch.make_patch(pod, wanted)
    # A diff is only as good as its library, which has had faults with moves inside lists: what counts is the outcome.
    if _canonical(patch.apply(pod)) != _canonical(wanted):
        raise _Doubt("the patch does not lead to the pod that was meant")
    return json.dumps(patch.patch, separators=(",", ":"), allow_nan=False) if patch.patch else ""


def _canonical(pod: dict[str, Any]) -> str:
    return json.dumps(pod, sort_keys=True)


def _allowed(uid: str, patch: str = "") -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": True}
    if patch:
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch.encode()).decode()}
    return {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
