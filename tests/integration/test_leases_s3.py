"""Keys of STS sessions on a real S3 server, and tokens of Pachyderm robots: they read what they were given, briefly."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.kube.server import Object
from tests.kube.site import IMAGE, Site, bearer, running_site, session_pod
from tests.servers import PachydermServer, S3Server


@pytest.fixture
def site(tmp_path: Path, s3: S3Server) -> Iterator[Site]:
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"icd/a.csv": b"a", "icd/sub/b.csv": b"b", "icd-private/c.csv": b"c", "one.csv": b"1"})
    with running_site(tmp_path) as site:
        admin = s3.identities["admin"]
        grant = {
            "endpoint_url": s3.endpoint_url,
            "region": s3.region,
            "role_arn": s3.role_arn,
            "access_key_id_file": site.secret_file("s3-id", admin.access_key_id),
            "secret_access_key_file": site.secret_file("s3-key", admin.secret_access_key),
            "urls": [f"s3://{bucket}/icd/", f"s3://{bucket}/one.csv"],
        }
        allow = [{"images": [IMAGE]}]
        whole = grant | {"urls": [f"s3://{bucket}"]}
        wrong = grant | {"secret_access_key_file": site.secret_file("wrong", "planted-wrong")}
        credentials = {
            "icd": grant,
            "whole": whole,
            "wrong": wrong,
            "down": grant | {"endpoint_url": "http://127.0.0.1:9"},
        }
        site.write_policy({"credentials": {name: {"s3": one, "allow": allow} for name, one in credentials.items()}})
        yield site


@pytest.fixture
def client(site: Site) -> Iterator[TestClient]:
    with site.client() as client:
        yield client


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
