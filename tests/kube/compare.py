"""Makes the same calls to a real API server and to the stand-in, and prints where they answer differently.

    python -m tests.kube.compare https://127.0.0.1:6443 --token TOKEN

The real one needs a caller who may do everything (group system:masters), and must be one that can be thrown away:
objects stay in it, in two new namespaces. Its certificate is not checked.
"""

from __future__ import annotations

import argparse
import json
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from tests.kube.server import BELIEVED_SECONDS, KubeServer, Object

RUN = secrets.token_hex(3)
HUB, OTHER, HOOK = f"hub-{RUN}", f"other-{RUN}", f"hook-{RUN}"
PODS, HOOKS = f"/api/v1/namespaces/{HUB}/pods", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
AUDIENCE = "datamount"


class Api:
    """One of the two, as a client sees it."""

    def __init__(
        self, url: str, caller: str, token: Callable[..., str], delete: Callable[[str], Any], wait: Callable[[], Any]
    ) -> None:
        self.url, self.caller, self.token, self.delete, self.wait = url, caller, token, delete, wait

    def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json", caller: str = ""
    ) -> tuple[int, Object]:
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {caller or self.caller}")
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.add_header("Content-Type", content_type)
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, timeout=20, context=trusting) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def review(self, token: str, audiences: list[str] | None = None) -> Object:
        """What the controller reads of a TokenReview's answer; uids of accounts are the cluster's own."""
        spec: Object = {"token": token} | ({"audiences": audiences} if audiences else {})
        code, answer = self.call("POST", "/apis/authentication.k8s.io/v1/tokenreviews", {"spec": spec})
        status = answer["status"]
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        return {
            "code": code,
            "kind": answer["kind"],
            "authenticated": status.get("authenticated"),
            "audiences": status.get("audiences"),
            "error": bool(status.get("error")),
            "username": user.get("username"),
            "groups": user.get("groups"),
            "pod": {key: len(extra[key]) for key in sorted(extra) if "/pod-" in key},
        }


def make_pod(name: str, **labels: str) -> Object:
    notebook = {"name": "notebook", "image": "registry.example.edu/course:1", "env": [{"name": "A", "value": "1"}]}
    annotations = {"hub.jupyter.org/username": "ada", "datamount.dev/status": "injected"}
    return {
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"serviceAccountName": "default", "containers": [notebook]},
    }


def make_event(name: str, **changes: Any) -> Object:
    return {
        "metadata": {"name": name, "namespace": HUB},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": "one", "namespace": HUB, "uid": "u"},
        "type": "Normal",
        "reason": "DataReady",
        "message": "labels: ready",
        "source": {"component": "datamount"},
        "reportingComponent": "datamount",
        "firstTimestamp": "2026-11-21T12:00:00+00:00",
        "lastTimestamp": "2026-11-21T12:00:00+00:00",
        "count": 1,
    } | changes


def failure(answer: tuple[int, Object]) -> Object:
    code, document = answer
    if document.get("kind") != "Status":
        return {"code": code}
    return {"code": code} | {key: document.get(key) for key in ("kind", "status", "reason")}


def read(answer: tuple[int, Object], *fields: str) -> Object:
    """Code, kind and some fields (a/b) of an object; the failure where it is one."""
    code, document = answer
    if code >= 400:
        return failure(answer)
    found: Object = {"code": code, "kind": document.get("kind"), "apiVersion": document.get("apiVersion")}
    for field in fields:
        value: Any = document
        for part in field.split("/"):
            value = (value or {}).get(part)
        found[field] = value
    return found


def observe(api: Api) -> dict[str, Any]:
    """What the API server answers to every kind of call that the controller makes, and to wrong ones."""
    seen: dict[str, Any] = {}
    pods = {
        name: api.call("POST", PODS, make_pod(name, component="singleuser-server")) for name in ("one", "two", "three")
    }
    api.call("POST", PODS, make_pod("other", component="hub"))
    api.call("POST", f"/api/v1/namespaces/{OTHER}/pods", make_pod("one", component="singleuser-server"))
    seen["create a pod"] = read(pods["one"], "metadata/name", "metadata/namespace", "metadata/annotations")
    seen["create it again"] = failure(api.call("POST", PODS, make_pod("one")))
    seen["a pod without a name"] = failure(api.call("POST", PODS, {"metadata": {}, "spec": make_pod("x")["spec"]}))
    elsewhere = make_pod("x") | {"metadata": {"name": "x", "namespace": OTHER}}
    sized = make_pod("sized")
    sized["spec"]["containers"][0]["resources"] = {"limits": {"cpu": 0.5, "memory": 1073741824}, "requests": {"cpu": 0}}
    sized["spec"]["volumes"] = [{"name": "v", "emptyDir": {"sizeLimit": 2000000}}]
    code, made = api.call("POST", PODS, sized)
    found = {"code": code, "resources": made["spec"]["containers"][0]["resources"]} if code == 201 else {"code": code}
    seen["quantities as numbers"] = found | {"volume": made["spec"]["volumes"][0] if code == 201 else None}
    sized["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "a lot"
    seen["a quantity that is none"] = failure(api.call("POST", PODS, sized))
    seen["a pod of another namespace"] = failure(api.call("POST", PODS, elsewhere))
    seen["a body that is not JSON"] = failure(api.call("POST", PODS, b"{"))
    seen["read a pod"] = read(api.call("GET", f"{PODS}/one"), "metadata/name", "metadata/labels")
    seen["read no pod"] = failure(api.call("GET", f"{PODS}/none"))
    seen["an unknown path"] = failure(api.call("GET", f"/api/v1/namespaces/{HUB}/nothings"))
    seen["a wrong caller"] = failure(api.call("GET", f"{PODS}/one", caller="wrong"))
    names, following, pages = [], "", 0
    while True:
        query = f"?labelSelector=component%3Dsingleuser-server&limit=2{'&continue=' + following if following else ''}"
        code, page = api.call("GET", PODS + query)
        names += [item["metadata"]["name"] for item in page["items"]]
        pages += 1
        following = page["metadata"].get("continue") or ""
        if not following:
            break
    seen["list pods in pages"] = {"code": code, "kind": page["kind"], "names": names, "pages": pages}

    uid = pods["one"][1]["metadata"]["uid"]
    bound = api.token("one", uid, [AUDIENCE])
    seen["the pod's token"] = api.review(bound, [AUDIENCE])
    seen["one of two audiences"] = api.review(bound, ["x", AUDIENCE])
    seen["for another audience"] = api.review(bound, ["x"])
    seen["for the default audience"] = api.review(bound)
    seen["a token for two audiences"] = api.review(api.token("one", uid, [AUDIENCE, "x"]), [AUDIENCE])
    seen["a token without a pod"] = api.review(api.token("", "", [AUDIENCE]), [AUDIENCE])
    seen["a torn token"] = api.review(bound[:-8], [AUDIENCE])
    seen["no token at all"] = api.review("x", [AUDIENCE])
    api.delete("one")
    seen["the token of a pod that has just gone"] = api.review(bound, [AUDIENCE])
    api.wait()
    seen["the token of a pod that is gone"] = api.review(bound, [AUDIENCE])
    api.call("POST", PODS, make_pod("one"))
    seen["the token of the pod before"] = api.review(bound, [AUDIENCE])

    events = f"/api/v1/namespaces/{HUB}/events"
    fields = ("reason", "message", "type", "count", "lastTimestamp", "involvedObject/uid", "reportingComponent")
    seen["an event"] = read(api.call("POST", events, make_event("e1")), *fields)
    seen["an event again"] = failure(api.call("POST", events, make_event("e1")))
    seen["an event of 1024 bytes"] = read(api.call("POST", events, make_event("e2", message="x" * 1024)))
    seen["an event of 1025 bytes"] = read(api.call("POST", events, make_event("e3", message="x" * 1025)))
    away = make_event("e4")["involvedObject"] | {"namespace": OTHER}
    seen["an event on another namespace"] = failure(api.call("POST", events, make_event("e4", involvedObject=away)))

    for resource, data in (("secrets", {"a": "Yg=="}), ("configmaps", {"a": "b"})):
        place = f"/api/v1/namespaces/{HUB}/{resource}"
        kept = {"metadata": {"name": "kept"}, "data": data}
        seen[f"{resource}: read none"] = failure(api.call("GET", f"{place}/kept"))
        created = api.call("POST", place, kept)
        seen[f"{resource}: create"] = read(created, "data", "metadata/name")
        seen[f"{resource}: create again"] = failure(api.call("POST", place, kept))
        version = created[1]["metadata"]["resourceVersion"]
        given = {"metadata": {"name": "fresh", "resourceVersion": version}, "data": data}
        seen[f"{resource}: create with a version"] = failure(api.call("POST", place, given))
        newer = {"metadata": {"name": "kept", "resourceVersion": version}, "data": data | {"c": "ZA=="}}
        seen[f"{resource}: replace"] = read(api.call("PUT", f"{place}/kept", newer), "data")
        seen[f"{resource}: replace an old version"] = failure(api.call("PUT", f"{place}/kept", newer))
        seen[f"{resource}: replace none"] = failure(
            api.call("PUT", f"{place}/none", {"metadata": {"name": "none", "resourceVersion": version}, "data": data})
        )

    client_config = {"service": {"name": "datamount-controller", "namespace": HUB, "path": "/mutate"}}
    hook = {
        "name": "m.datamount.dev",
        "clientConfig": client_config,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
    }
    made = api.call("POST", HOOKS, {"metadata": {"name": HOOK}, "webhooks": [hook]})
    seen["webhooks: create"] = read(made, "metadata/name")
    version = made[1]["metadata"]["resourceVersion"]
    bundle = {"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": "Q0E="}
    test = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
    json_patch = "application/json-patch+json"
    patched = api.call("PATCH", f"{HOOKS}/{HOOK}", [test, bundle], content_type=json_patch)
    seen["webhooks: patch"] = read(patched) | {"bundle": patched[1]["webhooks"][0]["clientConfig"].get("caBundle")}
    late = api.call("PATCH", f"{HOOKS}/{HOOK}", [test, bundle | {"value": "QQ=="}], content_type=json_patch)
    seen["webhooks: patch an old version"] = failure(late)
    wrong = [bundle | {"path": "/webhooks/7/clientConfig/caBundle"}]
    seen["webhooks: patch what is not there"] = failure(
        api.call("PATCH", f"{HOOKS}/{HOOK}", wrong, content_type=json_patch)
    )
    seen["webhooks: patch none"] = failure(api.call("PATCH", f"{HOOKS}/none", [bundle], content_type=json_patch))
    return seen


def real(url: str, caller: str) -> Api:
    def token(pod: str, uid: str, audiences: list[str]) -> str:
        spec: Object = {"audiences": audiences, "expirationSeconds": 600}
        if pod:
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        _, answer = api.call("POST", f"/api/v1/namespaces/{HUB}/serviceaccounts/default/token", body)
        found: str = answer["status"]["token"]
        return found

    def delete(pod: str) -> None:
        api.call("DELETE", f"{PODS}/{pod}", {"gracePeriodSeconds": 0})

    api = Api(url, caller, token, delete, lambda: time.sleep(BELIEVED_SECONDS + 2))
    for namespace in (HUB, OTHER):
        api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        account = {"metadata": {"name": "default"}}
        api.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    return api


def stand_in(kube: KubeServer) -> Api:
    def token(pod: str, uid: str, audiences: list[str]) -> str:
        found = {"metadata": {"name": pod, "uid": uid, "namespace": HUB}} if pod else None
        return kube.token(found, audiences=tuple(audiences), namespace=HUB)

    return Api(kube.url, kube.caller, token, lambda pod: kube.remove("pods", HUB, pod), kube.forget_tokens)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--token", required=True)
    options = parser.parse_args()
    with KubeServer() as kube:
        ours, theirs = observe(stand_in(kube)), observe(real(options.url, options.token))
    differing = [name for name in theirs if ours[name] != theirs[name]]
    for name in differing:
        print(f"{name}\n  real:     {json.dumps(theirs[name])}\n  stand-in: {json.dumps(ours[name])}")
    print(f"{len(theirs)} observations, {len(differing)} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
