"""The admission webhook over HTTP: what it changes, and that nothing in a request makes it refuse or fail."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
from collections.abc import Callable
from typing import Any

import jsonpatch
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamount import names
from datamount.controller import webhook
from datamount.controller.app import Controller, create_app
from datamount.controller.settings import Settings
from datamount.inject import InjectSettings, inject

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
INJECT = InjectSettings()
SECRET = "planted-secret"
QUICK, FULL = 500, int(os.environ.get("DATAMOUNT_FUZZ_REVIEWS", "10000"))


def make_pod() -> dict[str, Any]:
    """A pod as Zero-to-JupyterHub makes it, and fields that no model of ours knows."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "jupyter-ada",
            "namespace": "hub",
            "labels": {"app": "jupyterhub", "component": "singleuser-server"},
            "annotations": {"hub.jupyter.org/username": "ada"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "futureField": {"kept": [1, 2.5, None, {"a~b/c": ""}]},
            "containers": [
                {
                    "name": "notebook",
                    "image": "registry.example.edu/binder/org-2dcourse:abc",
                    "ports": [{"name": "notebook-port", "containerPort": 8888}],
                    "env": [{"name": "JUPYTERHUB_API_TOKEN", "value": "planted-secret"}],
                }
            ],
            "volumes": [],
        },
    }


def make_review(pod: Any, **changes: Any) -> dict[str, Any]:
    request = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "hub",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:hub:hub"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request | changes}


@pytest.fixture
def client() -> TestClient:
    made = Controller(Settings(), INJECT)
    client = TestClient(create_app(made), raise_server_exceptions=False)
    client.metrics = made.metrics.text  # type: ignore[attr-defined]
    return client


def post(client: TestClient, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post("/mutate", content=content, headers={"Content-Type": "application/json"})


def outcome(response: Any, pod: Any) -> Any:
    """The pod after the answer, which must be an AdmissionReview that any API server takes."""
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = json.loads(response.content)
    assert set(answer) == {"apiVersion", "kind", "response"}
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    reply = answer["response"]
    assert reply["allowed"] is True
    assert isinstance(reply["uid"], str)
    assert set(reply) in ({"uid", "allowed"}, {"uid", "allowed", "patchType", "patch"})
    if "patch" not in reply:
        return pod
    assert reply["patchType"] == "JSONPatch"
    patch = json.loads(base64.b64decode(reply["patch"], validate=True), parse_constant=refuse_constant)
    assert patch
    return jsonpatch.apply_patch(copy.deepcopy(pod), patch)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def count(client: TestClient, name: str) -> float:
    lines = [line for line in client.metrics().decode().splitlines() if line.startswith(name + " ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


def test_a_session_is_injected(client: TestClient) -> None:
    """The answer's patch leads to exactly what `inject` makes of the pod, unknown fields kept."""
    pod = make_pod()
    response = post(client, make_review(pod))
    assert response.json()["response"]["uid"] == UID
    changed = outcome(response, pod)
    assert changed == inject(pod, INJECT)
    assert changed["metadata"]["annotations"][names.ANNOTATION_STATUS] == "injected"
    assert changed["spec"]["futureField"] == pod["spec"]["futureField"]
    assert count(client, 'datamount_admissions_total{outcome="injected"}') == 1
    assert count(client, "datamount_launches_total") == 1


def test_a_reinvocation_changes_nothing(client: TestClient) -> None:
    """A pod that comes by a second time, as the API server may send it, stays as it is."""
    once = outcome(post(client, make_review(make_pod())), make_pod())
    assert outcome(post(client, make_review(once)), once) == once


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "build pod": lambda: make_review(make_pod() | {"metadata": {"labels": {"component": "binderhub-build"}}}),
    "another kind": lambda: make_review({"kind": "Secret"}, kind={"group": "", "version": "v1", "kind": "Secret"}),
    "a subresource": lambda: make_review(make_pod(), subResource="ephemeralcontainers"),
    "an update": lambda: make_review(make_pod(), operation="UPDATE"),
    "a deletion": lambda: make_review(None, operation="DELETE"),
    "an older protocol": lambda: make_review(make_pod()) | {"apiVersion": "admission.k8s.io/v1beta1"},
    "no object": lambda: make_review(None),
    "a pod that is a list": lambda: make_review([make_pod()]),
    "a kind that is text": lambda: make_review(make_pod(), kind="Pod"),
    "a number JSON does not have": lambda: make_review(make_pod() | {"spec": float("nan")}),
    "half a character": lambda: make_review(make_pod(), uid="\ud800", kind="x"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_not_ours_goes_through_unchanged(client: TestClient, case: str) -> None:
    """Whatever is no new session pod is allowed and not patched."""
    body = OTHERS[case]()
    pod = body["request"]["object"]
    assert outcome(post(client, body), pod) is pod


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"%s","object":{"spec":'
        % UID.encode(),
        json.dumps(make_review(make_pod())).encode()[:-1],
        json.dumps(make_review("#")).encode().replace(b'"#"', b"[" * 100_000 + b"]" * 100_000),
        json.dumps(make_review("#")).encode().replace(b'"#"', b"1" * 5000),
    ],
    ids=["torn", "no end", "deep", "huge number"],
)
def test_a_broken_body_is_allowed_where_its_uid_shows(client: TestClient, body: bytes) -> None:
    """A body that cannot be read still gets its uid back, because a refusal would keep the notebook closed."""
    response = post(client, body)
    assert outcome(response, "as it came") == "as it came"
    assert response.json()["response"]["uid"] == UID
    assert count(client, 'datamount_admissions_total{outcome="doubt"}') == 1


def test_a_body_over_the_limit_is_not_read(client: TestClient) -> None:
    """A pod of several megabytes is allowed unchanged without being parsed."""
    body = make_review(make_pod() | {"padding": "x" * (5 << 20)})
    ordered = json.dumps({"request": body.pop("request"), **body}).encode()
    response = post(client, ordered)
    assert outcome(response, "as it came") == "as it came"
    assert count(client, 'datamount_admissions_total{outcome="doubt"}') == 1


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"\xff\xfe", b'{"request":{"uid":5}}', b'{"request":{}}'])
def test_a_body_without_a_uid_is_a_bad_request(client: TestClient, body: bytes) -> None:
    """No answer can be made without a uid: a problem document with 400, never a 500."""
    response = post(client, body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert count(client, 'datamount_admissions_total{outcome="unreadable"}') == 1


def _raising(_: dict[str, Any]) -> dict[str, Any]:
    raise KeyError(SECRET)


def _halfway(pod: dict[str, Any]) -> dict[str, Any]:
    pod["spec"]["containers"].clear()
    raise RuntimeError(SECRET)


def _not_json(pod: dict[str, Any]) -> dict[str, Any]:
    return pod | {"spec": float("inf")}


@pytest.mark.parametrize("broken", [_raising, _halfway, _not_json, lambda _: None])
def test_a_fault_of_ours_changes_nothing(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An injection that fails, even halfway, leaves the pod as it came, and the log without the pod's values."""
    pod = make_pod()
    answer = webhook.review(json.dumps(make_review(pod)).encode(), broken)
    assert answer is not None
    assert answer.outcome == "doubt"
    assert answer.body["response"] == {"uid": UID, "allowed": True}
    assert SECRET not in caplog.text + answer.reason


# --- Fuzzing ------------------------------------------------------------------------------------------------------


def _mutate(rng: random.Random, value: Any) -> Any:
    """A JSON document with one to six places changed, dropped, doubled or replaced by something of another type."""
    odd = [None, True, 0, -1, 1e308, 2**63, "", "\x00", "é\u2028", "\ud800", "../..", "$(A)", [], {}, [[]], {"": None}]
    odd += [{"name": 1}, [None], ["notebook"], {"name": "notebook"}, "datamount-home", "/home/jovyan", "a" * 300]
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 6)):
        places: list[tuple[Any, Any]] = []

        def walk(node: Any, places: list[tuple[Any, Any]] = places) -> None:
            entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
            for key, child in list(entries):
                places.append((node, key))
                walk(child)

        walk(value)
        if not places:
            break
        node, key = rng.choice(places)
        action = rng.randrange(5)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, list):
            node.insert(key, copy.deepcopy(rng.choice(node)))
        elif action == 2:
            node[key] = copy.deepcopy(rng.choice(places)[0])
        elif action == 3 and isinstance(node, dict):
            node[rng.choice(["spec", "name", "volumes", "env", "x", "", "initContainers"])] = node[key]
        else:
            node[key] = copy.deepcopy(rng.choice(odd))
    return value


def fuzz(client: TestClient, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    seen = {"injected": 0, "same": 0, "unreadable": 0}
    for number in range(rounds):
        # Half of the changes fall into the pod, the others anywhere in the review or into the bytes.
        review = make_review(_mutate(rng, make_pod())) if number % 2 else _mutate(rng, make_review(make_pod()))
        body = json.dumps(review).encode()
        if number % 10 == 0:
            at = rng.randrange(len(body))
            body = rng.choice([body[:at], body[:at] + rng.randbytes(3) + body[at:]])
        response = post(client, body)
        if response.status_code == 400:
            assert response.json()["type"] == "urn:datamount:problem:usage-error"
            seen["unreadable"] += 1
            continue
        try:
            pod = json.loads(body)["request"]["object"]
        except (ValueError, KeyError, TypeError):
            pod = None
        changed = outcome(response, pod)
        assert changed == (pod if changed is pod else inject(pod, INJECT))
        seen["same" if changed is pod else "injected"] += 1
    assert seen["injected"] > rounds / 10, seen
    assert seen["same"] > rounds / 10, seen


def test_fuzzed_reviews(client: TestClient) -> None:
    """No mutated AdmissionReview gets an error, an ill-formed answer or half an injection."""
    fuzz(client, 1, QUICK)


@pytest.mark.slow
def test_ten_thousand_fuzzed_reviews(client: TestClient) -> None:
    """The same for 10,000 (DATAMOUNT_FUZZ_REVIEWS) reviews from another seed."""
    fuzz(client, 2, FULL)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pod=JSON, whole=st.booleans())
def test_any_json_is_answered(pod: Any, whole: bool) -> None:
    """Any JSON at all, as the pod or as the whole body, gets a well-formed answer or none."""
    body = json.dumps(pod if whole else make_review(pod)).encode()
    answer = webhook.review(body, lambda found: inject(found, INJECT))
    if answer is not None:
        assert answer.body["response"]["allowed"] is True
        assert "patch" not in answer.body["response"]
