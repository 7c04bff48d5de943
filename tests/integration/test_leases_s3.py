"""Keys of STS sessions on a real S3 server, and tokens of Pachyderm robots: they read what they were given, briefly."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from datamount.batches import Batches
from datamount.controller_client import ControllerClient
from datamount.course import read_course
from datamount.fetch.engine import fetch
from datamount.pod.leased import LeasedCredentials
from tests.gateway import serving
from tests.kube.server import Object
from tests.kube.site import IMAGE, Site, bearer, running_site, session_pod
from tests.servers import PachydermServer, S3Server


@pytest.fixture
def site(tmp_path: Path, s3: S3Server) -> Iterator[Site]:
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"icd/a.csv": b"a", "icd/sub/b.csv": b"b", "icd-private/c.csv": b"c", "one.csv": b"1"})
    with running_site(tmp_path) as site:
        grant = site.s3_grant(s3, f"s3://{bucket}/icd/", f"s3://{bucket}/one.csv", f"s3://{bucket}/many/")
        allow = [{"images": [IMAGE]}]
        signed = {key: value for key, value in grant.items() if key != "role_arn"} | {"presigned": True}
        whole = grant | {"urls": [f"s3://{bucket}"]}
        wrong = grant | {"secret_access_key_file": site.secret_file("wrong", "planted-wrong")}
        credentials = {
            "icd": grant,
            "signed": signed,
            "whole": whole,
            "wrong": wrong,
            "down": grant | {"endpoint_url": "http://127.0.0.1:9"},
        }
        site.write_policy({"credentials": {name: {"s3": one, "allow": allow} for name, one in credentials.items()}})
        yield site


@pytest.fixture
def pod(site: Site) -> Object:
    return site.kube.add_pod(session_pod("jupyter-ada", user="Ada Löwe@example.edu"))


def lease(
    client: TestClient, token: str, *, kind: str = "s3", credential: str = "icd", status: int = 201, **source: Any
) -> Any:
    body = {"dataset": "codes", "kind": kind, "credential": credential, "source": source}
    response = client.post("/v1/leases", json=body, headers=bearer(token))
    assert response.status_code == status, response.text
    return response.json()


def connect(s3: S3Server, given: Any) -> Any:
    import boto3

    credential = given["credential"]
    assert credential["endpoint_url"] == s3.endpoint_url
    return boto3.client(
        "s3",
        endpoint_url=credential["endpoint_url"],
        region_name=credential["region"],
        aws_access_key_id=credential["access_key_id"],
        aws_secret_access_key=credential["secret_access_key"],
        aws_session_token=credential["session_token"],
    )


def refused(call: Any, **arguments: Any) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as error:
        call(**arguments)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_keys_read_the_prefix_and_nothing_else(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """The keys read and list the prefix; other keys, other prefixes, writing and deleting are refused by the store."""
    bucket = s3.reader_bucket
    given = lease(client, site.kube.token(pod), url=f"s3://{bucket}/icd/")
    keys = connect(s3, given)
    assert keys.get_object(Bucket=bucket, Key="icd/a.csv")["Body"].read() == b"a"
    listed = keys.list_objects_v2(Bucket=bucket, Prefix="icd/")["Contents"]
    assert sorted(item["Key"] for item in listed) == ["icd/a.csv", "icd/sub/b.csv"]
    refused(keys.get_object, Bucket=bucket, Key="icd-private/c.csv")
    refused(keys.get_object, Bucket=bucket, Key="one.csv")
    refused(keys.list_objects_v2, Bucket=bucket)
    refused(keys.list_objects_v2, Bucket=bucket, Prefix="icd-private/")
    refused(keys.put_object, Bucket=bucket, Key="icd/new.csv", Body=b"x")
    refused(keys.put_object, Bucket=bucket, Key="icd/a.csv", Body=b"x")
    refused(keys.delete_object, Bucket=bucket, Key="icd/a.csv")
    assert s3.client().get_object(Bucket=bucket, Key="icd/a.csv")["Body"].read() == b"a"
    expires = datetime.fromisoformat(given["expires"])
    assert timedelta(0) < expires - datetime.now(UTC) <= timedelta(seconds=920)


def test_one_object_is_one_object(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """A dataset of one key gets that key only."""
    keys = connect(s3, lease(client, site.kube.token(pod), url=f"s3://{s3.reader_bucket}/one.csv"))
    assert keys.get_object(Bucket=s3.reader_bucket, Key="one.csv")["Body"].read() == b"1"
    refused(keys.get_object, Bucket=s3.reader_bucket, Key="icd/a.csv")


def test_the_manifests_prefix_narrows_the_policys(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """A course that asks for a part of what it may read gets that part."""
    keys = connect(s3, lease(client, site.kube.token(pod), url=f"s3://{s3.reader_bucket}/icd/sub/"))
    assert keys.get_object(Bucket=s3.reader_bucket, Key="icd/sub/b.csv")["Body"].read() == b"b"
    refused(keys.get_object, Bucket=s3.reader_bucket, Key="icd/a.csv")


@pytest.mark.parametrize(
    "url",
    ["s3://course-data/", "s3://course-data/icd-private/", "s3://course-data/icd/../icd-private/", "s3://other/icd/"],
)
def test_more_than_the_policy_grants_is_refused(site: Site, client: TestClient, pod: Object, url: str) -> None:
    """A manifest that names another place gets no keys, and the refusal is audited."""
    problem = lease(client, site.kube.token(pod), status=403, url=url)
    assert url.rstrip("/") in problem["detail"]
    assert site.audit()[-1]["event"] == "refused"


def test_quilt_gets_the_bucket_that_is_granted(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """A Quilt package names objects anywhere in its bucket, so it gets all that the policy grants there."""
    registry = f"s3://{s3.reader_bucket}"
    keys = connect(s3, lease(client, site.kube.token(pod), kind="quilt", credential="whole", registry=registry))
    for key in ("icd/a.csv", "one.csv"):
        keys.get_object(Bucket=s3.reader_bucket, Key=key)
    keys = connect(s3, lease(client, site.kube.token(pod), kind="quilt", registry=registry))
    refused(keys.get_object, Bucket=s3.reader_bucket, Key="icd-private/c.csv")


# --- Presigned reads, for stores without STS ----------------------------------------------------------------------


def asked(client: TestClient, token: str, given: Any, *reads: Object, status: int = 200) -> Any:
    answer = client.post(f"/v1/leases/{given['lease']}/reads", json={"reads": reads}, headers=bearer(token))
    assert answer.status_code == status, answer.text
    return answer.json()


def got(url: str, **request: Any) -> tuple[int, bytes]:
    answer = httpx.request(request.pop("method", "GET"), url, trust_env=False, timeout=120, **request)
    return answer.status_code, answer.content


def test_presigned_reads_are_of_the_granted_place(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """Without STS a session gets no key but URLs: each reads one object or list of the place that was granted; the
    store takes them for nothing else, and nothing is signed beyond it, nor after the policy was changed."""
    bucket, token = s3.reader_bucket, site.kube.token(pod)
    given = lease(client, token, credential="signed", url=f"s3://{bucket}/icd/")
    assert given["credential"] == {"presigned": True, "endpoint_url": s3.endpoint_url, "region": s3.region}
    listing = {"bucket": bucket, "prefix": "icd/", "query": {"list-type": "2", "max-keys": "1000"}}
    signed = asked(client, token, given, {"bucket": bucket, "key": "icd/a.csv"}, listing)
    one, page = signed["urls"]
    assert got(one) == (200, b"a")
    assert got(page)[1].count(b"<Key>") == 2
    assert got(one, method="PUT", content=b"x")[0] == 403
    assert got(one, method="DELETE")[0] == 403
    assert got(one.replace("icd/a.csv", "one.csv"))[0] == 403
    assert got(page.replace("prefix=icd%2F", "prefix="))[0] == 403
    for beyond in (
        {"bucket": bucket, "key": "icd-private/c.csv"},
        {"bucket": bucket, "key": "icd/../one.csv"},
        {"bucket": "other-bucket", "key": "icd/a.csv"},
        {"bucket": bucket, "prefix": ""},
        {"bucket": bucket, "prefix": "icd"},
        {"bucket": bucket, "prefix": "icd-private/"},
    ):
        asked(client, token, given, {"bucket": bucket, "key": "icd/a.csv"}, beyond, status=403)
        assert site.audit()[-1]["what"] == "reads"
    for nonsense in ({"bucket": bucket}, listing | {"key": "icd/a.csv"}, listing | {"query": {"policy": ""}}):
        asked(client, token, given, nonsense, status=422)
    single = lease(client, token, credential="signed", url=f"s3://{bucket}/one.csv")
    assert got(asked(client, token, single, {"bucket": bucket, "key": "one.csv"})["urls"][0]) == (200, b"1")
    asked(client, token, single, {"bucket": bucket, "prefix": "one"}, status=403)

    with_keys = lease(client, token, url=f"s3://{bucket}/icd/")
    asked(client, token, with_keys, {"bucket": bucket, "key": "icd/a.csv"}, status=403)
    eve = site.kube.token(site.kube.add_pod(session_pod("jupyter-eve", image="registry.example.edu/other:1")))
    asked(client, eve, given, {"bucket": bucket, "key": "icd/a.csv"}, status=403)
    site.write_policy({"version": 1})
    client.policy.read()  # type: ignore[attr-defined]
    asked(client, token, given, {"bucket": bucket, "key": "icd/a.csv"}, status=403)
    assert not any(secret in str([given, signed]) for name, secret in site.secrets.items() if name != "s3-id")


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request for URLs is quicker than the threads that want more of them: how many come together is then what the
    fetch does, and not how busy the machine is."""
    serve = Batches._serve

    def serve_late(self: Batches[Any, str], wishes: list[Any]) -> None:
        until = time.monotonic() + 0.3
        while len(self._waiting) < 8 and time.monotonic() < until:
            time.sleep(0.005)
        serve(self, wishes)

    monkeypatch.setattr(Batches, "_serve", serve_late)


@pytest.mark.usefixtures("gathered")
def test_a_course_is_fetched_by_presigned_reads(site: Site, pod: Object, s3: S3Server, tmp_path: Path) -> None:
    """The fetch of a pod whose lease is presigned delivers the dataset, with its lock, and asks for URLs in batches."""
    bucket = s3.reader_bucket
    s3.put(bucket, {f"many/{number:03}.csv": b"x" * number for number in range(300)} | {"many/sub/b.csv": b"b"})
    (tmp_path / "course").mkdir()
    manifest = {"s3": {"url": f"s3://{bucket}/many/", "credential": "signed", "endpoint_url": s3.endpoint_url}}
    document = {"version": 1, "datasets": {"codes": manifest}}
    (tmp_path / "course/datamount.yaml").write_text(json.dumps(document))
    (tmp_path / "token").write_text(site.kube.token(pod))
    course = read_course(tmp_path / "course")
    with serving(site) as url:
        credentials = LeasedCredentials(ControllerClient(url, tmp_path / "token"), course.manifest)
        status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=credentials)
        credentials.close()
    assert status.state == "ready", status
    assert len(list((tmp_path / "data/codes").glob("*.csv"))) == 300
    assert (tmp_path / "data/codes/sub/b.csv").read_bytes() == b"b"
    counted = site.metrics().decode().partition('action="reads",kind="s3"} ')[2].split()[0]
    assert float(counted) < 100


def test_a_renewal_gives_new_keys(site: Site, client: TestClient, pod: Object, s3: S3Server) -> None:
    """Renewing an S3 lease answers other keys for the same place, on any replica."""
    token = site.kube.token(pod)
    given = lease(client, token, url=f"s3://{s3.reader_bucket}/icd/")
    with site.client() as other:
        renewed = other.post(f"/v1/leases/{given['lease']}/renew", headers=bearer(token)).json()
    assert renewed["credential"]["session_token"] != given["credential"]["session_token"]
    connect(s3, renewed).get_object(Bucket=s3.reader_bucket, Key="icd/a.csv")
    assert client.delete(f"/v1/leases/{given['lease']}", headers=bearer(token)).status_code == 204


@pytest.mark.parametrize(("credential", "status"), [("wrong", 403), ("down", 503)])
def test_a_store_that_refuses_is_told_without_a_secret(
    site: Site, client: TestClient, pod: Object, s3: S3Server, credential: str, status: int
) -> None:
    """A wrong key or a store that is down is named to the session; the key is not."""
    problem = lease(client, site.kube.token(pod), credential=credential, status=status, url="s3://course-data/icd/")
    assert credential in problem["detail"]
    assert not any(secret in str(problem) for secret in site.secrets.values())


def test_a_credential_serves_its_own_kind(site: Site, client: TestClient, pod: Object) -> None:
    """An S3 credential is not handed to a MySQL dataset."""
    problem = lease(client, site.kube.token(pod), kind="mysql", status=403, database="x")
    assert "is not one for mysql" in problem["detail"]


def test_a_robots_token_reads_its_repos_for_a_while(tmp_path: Path, pachyderm_auth: PachydermServer) -> None:
    """A Pachyderm lease is a robot's token with an end; a repo that the policy does not name is refused."""
    pachyderm_auth.put("radiology", {"/png/a.png": b"a"})
    import grpc
    from python_pachyderm.proto.v2.auth import auth_pb2, auth_pb2_grpc

    with (
        grpc.insecure_channel(f"{pachyderm_auth.host}:{pachyderm_auth.port}") as channel,
        running_site(tmp_path) as site,
    ):
        auth_pb2_grpc.APIStub(channel).ModifyRoleBinding(
            auth_pb2.ModifyRoleBindingRequest(
                resource=auth_pb2.Resource(type=auth_pb2.REPO, name="default/radiology"),
                principal="robot:course",
                roles=["repoReader"],
            ),
            metadata=(("authn-token", pachyderm_auth.root_token),),
        )
        grant = {
            "address": pachyderm_auth.address,
            "admin_token_file": site.secret_file("pachd", pachyderm_auth.root_token),
            "robot": "course",
            "repos": ["radiology"],
        }
        site.write_policy({"credentials": {"pach": {"pachyderm": grant, "allow": [{"images": [IMAGE]}]}}})
        token = site.kube.token(site.kube.add_pod(session_pod("jupyter-ada")))
        with site.client() as client:
            given = lease(client, token, kind="pachyderm", credential="pach", repo="radiology")
            lease(client, token, kind="pachyderm", credential="pach", repo="other", status=403)
        credential = given["credential"]
        assert credential["address"] == pachyderm_auth.address
        assert credential["token"] != pachyderm_auth.root_token
        who = auth_pb2_grpc.APIStub(channel).WhoAmI(
            auth_pb2.WhoAmIRequest(), metadata=(("authn-token", credential["token"]),)
        )
        assert who.username == "robot:course"
        left = who.expiration.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
        assert timedelta(minutes=10) < left <= timedelta(minutes=15)
        client_of_session = pachyderm_auth.client(credential["token"])
        assert client_of_session.get_file(("radiology", "master"), "/png/a.png").read() == b"a"
