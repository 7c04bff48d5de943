"""Who gets in: every token that is not the session's own is refused, and the refusal is in the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from datamount.controller import leases
from tests.kube.server import Object
from tests.kube.site import IMAGE, Site, bearer, running_site, session_pod

LEASE = {
    "dataset": "glossary",
    "kind": "url",
    "credential": "glossary",
    "source": {"url": "https://data.example.edu/g"},
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        rule = {"images": [IMAGE], "repos": ["https://github.com/org/course"], "users": ["ada"]}
        secret = {
            "token_file": site.secret_file("static", "planted-static"),
            "urls": ["https://data.example.edu/g", "https://data.example.edu/open/"],
        }
        site.write_policy({"credentials": {"glossary": {"static": True, "secret": secret, "allow": [rule]}}})
        yield site


@pytest.fixture
def pod(site: Site) -> Object:
    return site.kube.add_pod(session_pod("jupyter-ada"))


def lease(client: TestClient, token: str, **changes: Any) -> Any:
    return client.post("/v1/leases", json=LEASE | changes, headers=bearer(token))


def refused(site: Site, response: Any, status: int, reason: str) -> dict[str, Any]:
    """The problem document of a refusal that is audited, and tells nothing secret."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    line = site.audit()[-1]
    assert (line["event"], line["reason"]) == ("refused", reason)
    problem: dict[str, Any] = response.json()
    assert problem["detail"]
    assert problem["hint"]
    return problem


def test_the_sessions_own_token_is_enough(site: Site, client: TestClient, pod: Object) -> None:
    """The pod's own token gets the credential that the policy allows, and /v1/session says who it is."""
    token = site.kube.token(pod)
    given = lease(client, token)
    assert given.status_code == 201
    assert given.json()["credential"] == {"token": "planted-static"}
    assert given.headers["cache-control"] == "no-store"
    about = client.get("/v1/session", headers=bearer(token)).json()
    assert (about["user"], about["image"], about["credentials"]) == ("ada", f"{IMAGE}:abc123", ["glossary"])
    assert [line["event"] for line in site.audit()] == ["policy", "lease"]


def test_a_forged_repo_url_gets_nothing(site: Site, client: TestClient) -> None:
    """A pod of another image that says it is the course's repo is refused: the image decides."""
    forged = site.kube.add_pod(session_pod("jupyter-eve", image="registry.example.edu/binder/eve-2drepo:1"))
    problem = refused(site, lease(client, site.kube.token(forged)), 403, "image")
    assert "registry.example.edu/binder/eve-2drepo:1" in problem["detail"]


def test_an_image_that_begins_alike_gets_nothing(site: Site, client: TestClient) -> None:
    """An image whose name only continues the allowed one is another image."""
    alike = site.kube.add_pod(session_pod("jupyter-eve", image=f"{IMAGE}-of-eve:1"))
    refused(site, lease(client, site.kube.token(alike)), 403, "image")


def test_another_user_gets_nothing(site: Site, client: TestClient) -> None:
    """The same course opened by a user whom no rule names is refused."""
    pod = site.kube.add_pod(session_pod("jupyter-eve", user="eve"))
    problem = refused(site, lease(client, site.kube.token(pod)), 403, "user")
    assert problem["detail"] == 'dataset "glossary": "eve" may not use the credential "glossary".'


def test_a_user_is_who_the_api_server_says(site: Site, client: TestClient, pod: Object) -> None:
    """What a session says about itself, in the request or in its headers, changes nothing."""
    eve = site.kube.add_pod(session_pod("jupyter-eve", user="eve"))
    headers = bearer(site.kube.token(eve)) | {"X-Forwarded-User": "ada", "Impersonate-User": "ada"}
    assert client.post("/v1/leases", json=LEASE, headers=headers).status_code == 403
    assert client.post("/v1/leases", json=LEASE | {"user": "ada"}, headers=headers).status_code == 422


def test_an_expired_token_is_refused(site: Site, client: TestClient, pod: Object) -> None:
    """A token past its time is 401."""
    refused(site, lease(client, site.kube.token(pod, seconds=-5)), 401, "invalid token")


def test_a_token_for_another_audience_is_refused(site: Site, client: TestClient, pod: Object) -> None:
    """The pod's token for the Kubernetes API itself is not one for us."""
    wrong = site.kube.token(pod, audiences=("https://kubernetes.default.svc",))
    refused(site, lease(client, wrong), 401, "invalid token")


def test_a_token_without_a_pod_is_refused(site: Site, client: TestClient) -> None:
    """A service account's token that is bound to no pod tells no session."""
    refused(site, lease(client, site.kube.token(namespace="hub")), 401, "no pod binding")


def test_a_token_of_a_pod_that_is_gone_is_refused(site: Site, client: TestClient, pod: Object) -> None:
    """A deleted pod's token is worth nothing at once, though the API server believes it for some seconds more."""
    site.kube.clock = lambda: 0.0
    token = site.kube.token(pod)
    assert lease(client, token).status_code == 201
    site.kube.remove("pods", "hub", "jupyter-ada")
    refused(site, lease(client, token), 401, "pod is gone")
    site.kube.add_pod(session_pod("jupyter-ada"))
    refused(site, lease(client, token), 401, "pod is gone")
    site.kube.forget_tokens()
    refused(site, lease(client, token), 401, "invalid token")


def test_another_issuers_token_is_refused(site: Site, client: TestClient, pod: Object) -> None:
    """A token with the right claims and a wrong signature is refused."""
    from tests.kube.tokens import Issuer

    metadata = pod["metadata"]
    forged = Issuer().sign(
        namespace="hub", audiences=["datamount"], seconds=600, pod=metadata["name"], uid=metadata["uid"]
    )
    refused(site, lease(client, forged), 401, "invalid token")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer " + "x" * 20_000])
def test_no_token_is_refused(site: Site, client: TestClient, header: str) -> None:
    """A request without a usable bearer token is 401, and the API server is not asked."""
    headers = {"Authorization": header} if header else {}
    refused(site, client.post("/v1/leases", json=LEASE, headers=headers), 401, "no token")
    assert site.kube.asked == []


def test_a_pod_of_another_namespace_is_no_session(site: Site, client: TestClient) -> None:
    """Who may create pods elsewhere chooses image and annotations there, so such a pod gets nothing."""
    pod = site.kube.add_pod(session_pod("jupyter-ada", namespace="elsewhere"))
    refused(site, lease(client, site.kube.token(pod)), 403, "namespace")


def test_a_pod_without_our_containers_is_no_session(site: Site, client: TestClient) -> None:
    """A pod that the webhook did not equip has no container of ours, so nobody else may speak for it."""
    pod = session_pod("jupyter-ada")
    del pod["metadata"]["annotations"]["datamount.dev/status"]
    refused(site, lease(client, site.kube.token(site.kube.add_pod(pod))), 403, "not injected")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ended_gets_nothing(site: Site, client: TestClient, phase: str) -> None:
    """The token of a pod that has ended is refused."""
    pod = site.kube.add_pod(session_pod("jupyter-ada"), phase=phase)
    refused(site, lease(client, site.kube.token(pod)), 403, "pod has ended")


def test_without_the_api_server_nobody_gets_in(site: Site, client: TestClient, pod: Object) -> None:
    """When the API server does not answer, the request is 503 and may be tried again."""
    site.kube.down = True
    response = lease(client, site.kube.token(pod))
    assert response.status_code == 503
    assert response.json()["type"] == "urn:datamount:problem:unavailable"


def test_a_no_is_asked_again_and_a_yes_is_remembered(tmp_path: Path) -> None:
    """A checked token is believed for the set time only, so that 200 sidecars do not ask for each request."""
    from pydantic import SecretStr

    from datamount.controller.auth import Authenticator
    from datamount.controller.kube import Kube
    from datamount.errors import Unauthenticated

    with running_site(tmp_path) as site:
        now = [0.0]
        replica = site.replica()
        believing = site.settings.model_copy(update={"review_seconds": 10.0})
        kube = Kube(site.kube.client())
        auth = Authenticator(kube, believing, replica.audit, replica.metrics, clock=lambda: now[0])
        token = SecretStr(site.kube.token(site.kube.add_pod(session_pod("jupyter-ada"))))
        auth.session(token)
        site.kube.remove("pods", "hub", "jupyter-ada")
        assert auth.session(token).user == "ada"
        now[0] = 10.5
        with pytest.raises(Unauthenticated):
            auth.session(token)


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("url", {"url": "https://evil.example/g"}, "urls"),
        ("url", {"url": "https://data.example.edu.evil.example/"}, "urls"),
        ("url", {"url": "https://data.example.edu@evil/"}, "urls"),
        ("url", {"url": "https://data.example.edu/open/../private"}, "urls"),
        ("url", {"url": "https://data.example.edu/open/%2e%2E/private"}, "urls"),
        ("url", {"url": "https://data.example.edu/open/%252e%252e%5cprivate"}, "urls"),
        ("url", {"url": "https://data.example.edu/open/a.zip::https://evil.example/"}, "urls"),
        ("mysql", {"host": "evil.example", "database": "d"}, "host"),
        ("pachyderm", {"address": "grpc://evil.example:30650", "repo": "r"}, "address"),
    ],
)
def test_a_static_secret_goes_only_where_the_policy_says(
    site: Site, client: TestClient, pod: Object, kind: str, source: dict[str, Any], reason: str
) -> None:
    """A course that names another server, or another place on the same one, does not get the operator's secret for
    it; and where the policy names no server, no server gets it."""
    token = site.kube.token(pod)
    assert lease(client, token, source={"url": "https://data.example.edu/open/g..csv"}).status_code == 201
    refused(site, lease(client, token, kind=kind, source=source), 403, reason)


def test_the_policy_is_read_again(site: Site, client: TestClient, pod: Object) -> None:
    """What is taken out of the policy is refused from then on, renewals too; a broken edit changes nothing."""
    token = site.kube.token(pod)
    given = lease(client, token).json()["lease"]
    site.write_policy("credentials: [planted-in-policy")
    client.policy.read()  # type: ignore[attr-defined]
    assert client.post(f"/v1/leases/{given}/renew", headers=bearer(token)).status_code == 200
    assert "datamount_policy_valid 0.0" in site.metrics().decode()
    assert "planted-in-policy" not in json.dumps(site.audit())
    site.write_policy({"version": 1})
    client.policy.read()  # type: ignore[attr-defined]
    assert "datamount_policy_valid 1.0" in site.metrics().decode()
    refused(site, client.post(f"/v1/leases/{given}/renew", headers=bearer(token)), 403, "no such credential")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"dataset": "UPPER"}', b"\xff"])
def test_a_request_that_is_not_one_is_a_problem(site: Site, client: TestClient, pod: Object, body: bytes) -> None:
    """A body that cannot be read is 422 with a problem document, never a 500."""
    response = client.post("/v1/leases", content=body, headers=bearer(site.kube.token(pod)))
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_not_read(client: TestClient, chunked: bool) -> None:
    """A large body is 413 before anybody is signed in, with and without a declared length."""
    body = b"x" * (300 << 10)
    content: Any = (body[at : at + 65536] for at in range(0, len(body), 65536)) if chunked else body
    response = client.post("/v1/leases", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.json()["type"] == "urn:datamount:problem:too-large"


@pytest.mark.parametrize("lease_id", ["x", "AAAA", "bnVsbA", "W10", "é", "a" * 20_000])
def test_a_guessed_lease_is_unknown(site: Site, client: TestClient, pod: Object, lease_id: str) -> None:
    """An id that we did not make is 404 (or 422 when it is too long), for renewal and for revocation."""
    headers = bearer(site.kube.token(pod))
    assert client.post(f"/v1/leases/{lease_id}/renew", headers=headers).status_code in (404, 422)
    assert client.delete(f"/v1/leases/{lease_id}", headers=headers).status_code in (404, 422)


def test_progress_is_told_in_few_new_events(site: Site, client: TestClient, pod: Object) -> None:
    """Each new state is a new Event on the pod with its time, repeated ones are not told, and secrets are cut out."""
    headers = bearer(site.kube.token(pod))

    def tell(state: str, message: str = "fetching", dataset: str = "labels") -> bool:
        body = {"dataset": dataset, "state": state, "message": message, "kind": "quilt", "bytes": 5, "seconds": 0.2}
        response = client.post("/v1/progress", json=body, headers=headers)
        assert response.status_code == 202, response.text
        shown: bool = response.json()["shown"]
        return shown

    assert tell("fetching")
    assert not tell("fetching", "still fetching")
    assert tell("ready", "labels: 5 B\nin 1 s, password=planted-1 mysql://ada:planted-2@db/x " + "x" * 3000)
    events = site.kube.events()
    assert [event["reason"] for event in events] == ["DataProgress", "DataReady"]
    assert all(event["involvedObject"]["uid"] == pod["metadata"]["uid"] for event in events)
    assert all(datetime.fromisoformat(event["lastTimestamp"]) for event in events)
    assert events[1]["message"].startswith("labels: 5 B in 1 s, …")
    assert len(events[1]["message"]) <= 1024
    assert "planted" not in json.dumps(events)
    states = [tell(("fetching", "failed")[number % 2], dataset=f"d{number // 10}") for number in range(200)]
    assert sum(states) == site.settings.events.per_pod - 2
    assert 'datamount_dataset_bytes_total{kind="quilt"} 5.0' in site.metrics().decode()


def test_what_the_controller_asks_of_the_api_server(site: Site, client: TestClient, pod: Object) -> None:
    """A lease and a message need three rights, which the chart gives."""
    headers = bearer(site.kube.token(pod))
    site.kube.asked.clear()
    client.post("/v1/leases", json=LEASE, headers=headers)
    client.post("/v1/progress", json={"state": "restored", "message": "your work is back"}, headers=headers)
    assert set(site.kube.asked) == {("create", "tokenreviews", ""), ("get", "pods", "hub"), ("create", "events", "hub")}


def test_clients_addresses_are_nowhere(site: Site, client: TestClient, pod: Object) -> None:
    """The address that BinderHub puts into the pod is neither audited nor told."""
    token = site.kube.token(pod)
    lease(client, token)
    seen = json.dumps(site.audit()) + client.get("/v1/session", headers=bearer(token)).text
    assert "203.0.113.77" not in seen


def test_a_busy_controller_says_so(site: Site, pod: Object, monkeypatch: pytest.MonkeyPatch) -> None:
    """When databases hang, further leases are told to come again instead of taking the threads that saves need."""
    monkeypatch.setattr(leases, "PATIENCE", 0.01)
    made = site.replica()
    assert made.leases is not None
    with site.client(made) as client, ExitStack() as stack:
        for _ in range(leases.AT_ONCE):
            stack.enter_context(made.leases._turn())
        response = lease(client, site.kube.token(pod))
        assert response.status_code == 503
        assert response.headers["retry-after"] == "3"
        stack.close()
        assert lease(client, site.kube.token(pod)).status_code == 201
