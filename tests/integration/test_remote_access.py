"""`access: remote`: the usual programs read the bucket by keys of the session's endpoint; nothing else holds any."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from datamount.course import open_course
from datamount.credentials import Credential, FileCredentials
from datamount.fetch import fetch
from datamount.fetch.environment import read_environment
from datamount.fetch.remote_access import ADDRESS, HOST, TOKEN, address, reserve
from datamount.local import LocalSession, Options
from datamount.session.key_endpoint import Endpoint
from datamount.session.places import Places
from tests import servers
from tests.gateway import COURSE_IMAGE, serving
from tests.kube.site import running_site, session_pod
from tests.pod_processes import Pod, wait_for

# Sessions of one user that begin at the same time may choose the same port, and the second one says so.
pytestmark = pytest.mark.xdist_group("aws-keys")
PROGRAMS = {
    "boto3": "import boto3; b, k = url[5:].split('/', 1); "
    "print(boto3.client('s3').get_object(Bucket=b, Key=k + 'a.csv')['Body'].read().decode())",
    "s3fs": "import s3fs; print(s3fs.S3FileSystem().cat(url + 'a.csv').decode())",
    "pandas": "import pandas; print(pandas.read_csv(url + 'a.csv', header=None).iloc[0, 0])",
    "pyarrow": "import pyarrow.fs as f; s, p = f.FileSystem.from_uri(url + 'a.csv'); "
    "print(s.open_input_file(p).read().decode())",
    "obstore": "from obstore.store import from_url; import os; import obstore; "
    "print(bytes(obstore.get(from_url(url, endpoint=os.environ['AWS_ENDPOINT_URL_S3'], "
    "client_options={'allow_http': True}), 'a.csv').bytes()).decode())",
}


class Sessions:
    """Credentials as STS gives them: 15 minutes, one prefix. `ends` is what programs are told."""

    def __init__(self, s3: servers.S3Server, *, ends: timedelta | None = None) -> None:
        self.s3, self.ends, self.given = s3, ends, 0

    def get(self, name: str, *, dataset: str) -> Credential:
        self.given += 1
        made = self.s3.client(service="sts").assume_role(
            RoleArn=self.s3.role_arn, RoleSessionName="ada", DurationSeconds=900
        )["Credentials"]
        return Credential(
            access_key_id=made["AccessKeyId"],
            secret_access_key=SecretStr(made["SecretAccessKey"]),
            session_token=SecretStr(made["SessionToken"]),
            endpoint_url=self.s3.endpoint_url,
            region=self.s3.region,
            expires=datetime.now(UTC) + self.ends if self.ends else made["Expiration"],
        )


class Static:
    """The key of the bucket's reader, which never ends."""

    def __init__(self, s3: servers.S3Server) -> None:
        self.s3 = s3

    def get(self, name: str, *, dataset: str) -> Credential:
        reader = self.s3.identities["reader"]
        return Credential(
            access_key_id=reader.access_key_id,
            secret_access_key=SecretStr(reader.secret_access_key),
            endpoint_url=self.s3.endpoint_url,
            region=self.s3.region,
        )


@pytest.fixture
def course(tmp_path: Path, s3: servers.S3Server) -> Any:
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"remote/a.csv": b"42", "remote/sub/b.csv": b"b"})
    folder = tmp_path / "course"
    folder.mkdir()
    (folder / "datamount.yaml").write_text(
        f"version: 1\ndatasets:\n  icd: {{s3: {{url: s3://{bucket}/remote/, access: remote, credential: reader}}}}\n"
    )
    return open_course(str(folder))


@pytest.fixture
def serve(course: Any, tmp_path: Path) -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def start(credentials: Any, *, lasting: bool = False) -> Endpoint:
        made.append(Endpoint(course.manifest, credentials, tmp_path / "run", lasting=lasting))
        return made[-1]

    yield start
    for endpoint in made:
        endpoint.close()


def deliver(course: Any, credentials: Any, tmp_path: Path) -> dict[str, str]:
    status = fetch(course, tmp_path / "data", tmp_path / "run", credentials=credentials)
    assert status.datasets["icd"].state == "ready", status.datasets["icd"].error
    return read_environment(tmp_path / "run")


def run(program: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What a notebook of this session would see; nothing but the session's variables tells it anything."""
    return subprocess.run(
        [sys.executable, "-c", f"import os; url = os.environ['ICD_URL']\n{PROGRAMS[program]}"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "AWS_EC2_METADATA_DISABLED": "true"} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def get(url: str, token: str | None) -> tuple[int, Any]:
    request = urllib.request.Request(url, headers={"Authorization": token} if token is not None else {})
    try:
        # The first keys are a lease: on a busy machine pod, controller and STS have taken over ten seconds together.
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def listens(url: str) -> bool:
    try:
        get(url, None)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_read_the_bucket(
    course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path, program: str
) -> None:
    """Each program reads an object with the session's variables alone, by keys that STS gave."""
    credentials = Sessions(s3)
    serve(credentials)
    variables = deliver(course, credentials, tmp_path)
    before = credentials.given
    done = run(program, variables)
    assert done.stdout.strip() == "42", done.stderr[-2000:]
    assert credentials.given > before
    assert list((tmp_path / "data" / "icd").iterdir()) == []


READ_IN_R = """
    place <- sub("s3:/", Sys.getenv("AWS_ENDPOINT_URL_S3"), Sys.getenv("ICD_URL"))
    signed <- curl::new_handle(
      aws_sigv4 = paste0("aws:amz:", Sys.getenv("ICD_REGION"), ":s3"),
      userpwd = paste0(Sys.getenv("AWS_ACCESS_KEY_ID"), ":", Sys.getenv("AWS_SECRET_ACCESS_KEY")),
      httpheader = c(
        "x-amz-content-sha256: UNSIGNED-PAYLOAD",
        paste("x-amz-security-token:", Sys.getenv("AWS_SESSION_TOKEN"))
      )
    )
    cat(rawToChar(curl::curl_fetch_memory(paste0(place, "a.csv"), signed)$content))
"""


def test_r_reads_the_bucket(course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path) -> None:
    """The lines for R on the manifest's page bring keys with which R reads an object of the server."""
    page = (Path(__file__).parents[2] / "docs/authors/manifest.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```r\n(.*?)^```$", page, re.M | re.S)
    credentials = Sessions(s3)
    serve(credentials)
    variables = deliver(course, credentials, tmp_path)
    done = subprocess.run(
        [servers.program("Rscript", hint="apt-get install r-base-core r-cran-jsonlite r-cran-curl"), "-"],
        input=lines + READ_IN_R,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "42", done.stderr[-2000:]


def test_keys_are_asked_for_again_before_they_end(
    course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client that lives longer than its keys goes on with others, without anyone doing anything."""
    import boto3

    # boto3 renews what has less than ten minutes left; keys that ended on their way to it would be an error.
    credentials = Sessions(s3, ends=timedelta(minutes=5))
    serve(credentials)
    for name, value in deliver(course, credentials, tmp_path).items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    client = session.client("s3")
    keys = set()
    for _ in range(3):
        assert client.get_object(Bucket=s3.reader_bucket, Key="remote/a.csv")["Body"].read() == b"42"
        keys.add(session.get_credentials().get_frozen_credentials().access_key)
    assert len(keys) > 1


def test_no_key_is_written_anywhere(
    course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path
) -> None:
    """The variables and all files of the session hold no key; the token's file is for the owner alone."""
    serve(Static(s3), lasting=True)
    variables = deliver(course, Static(s3), tmp_path)
    assert variables["AWS_ENDPOINT_URL_S3"] == s3.endpoint_url
    reader = s3.identities["reader"]
    for path in [*(tmp_path / "run").rglob("*"), *(tmp_path / "data").rglob("*")]:
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            assert reader.access_key_id not in text, path
            assert reader.secret_access_key not in text, path
    token = Path(variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"])
    assert token.stat().st_mode & 0o777 == 0o600
    assert run("boto3", variables).stdout.strip() == "42"


def test_nobody_else_gets_keys(
    course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path
) -> None:
    """Without the session's token, or for a dataset that is not remote, the endpoint gives nothing."""
    serve(Sessions(s3))
    url = f"{address(tmp_path / 'run')}/icd"
    token = (tmp_path / "run/aws/token").read_text()
    assert get(url, None)[0] == 401
    assert get(url, "")[0] == 401
    assert get(url, token[:-1])[0] == 401
    assert get(url, token + "ü".encode().decode("latin-1"))[0] == 401
    assert get(f"{address(tmp_path / 'run')}/other", token)[0] == 404
    status, answer = get(url, token)
    assert status == 200
    assert set(answer) == {"AccessKeyId", "SecretAccessKey", "Token", "Expiration"}


def test_a_key_without_an_end_never_enters_a_pod(
    course: Any, serve: Callable[..., Endpoint], s3: servers.S3Server, tmp_path: Path
) -> None:
    """Where static keys may not pass, the program reads in its error who can help, and no key."""
    serve(Static(s3), lasting=False)
    done = run("boto3", deliver(course, Static(s3), tmp_path))
    assert done.returncode != 0
    assert "never enter a session" in done.stderr
    assert "hub's operator" in done.stderr
    assert s3.identities["reader"].access_key_id not in done.stderr


def test_without_an_endpoint_nothing_points_to_one(course: Any, s3: servers.S3Server, tmp_path: Path) -> None:
    """A lone fetch names bucket, region and server, and no endpoint that nobody serves."""
    variables = deliver(course, Static(s3), tmp_path)
    assert variables["ICD_URL"] == f"s3://{s3.reader_bucket}/remote/"
    assert variables["ICD_REGION"] == variables["AWS_REGION"] == s3.region
    assert variables["ICD_ENDPOINT_URL"] == variables["AWS_ENDPOINT_URL_S3"] == s3.endpoint_url
    assert not [name for name in variables if "CREDENTIALS" in name]


def test_the_standard_variables_are_those_of_one_dataset(s3: servers.S3Server, tmp_path: Path) -> None:
    """Two remote datasets have their own variables each; the AWS ones are all of the first, never a mixture."""
    folder = tmp_path / "two"
    folder.mkdir()
    s3.put(s3.make_bucket(s3.public_bucket), {"x": b"1"})
    s3.put(s3.make_bucket(s3.reader_bucket), {"remote/a.csv": b"42"})
    first = f"{{url: s3://{s3.public_bucket}, access: remote, anonymous: true, endpoint_url: {s3.endpoint_url}}}"
    second = f"{{url: s3://{s3.reader_bucket}/remote/, access: remote, credential: reader, region: eu-west-1}}"
    text = f"version: 1\ndatasets:\n  open: {{s3: {first}}}\n  icd: {{s3: {second}}}\n"
    (folder / "datamount.yaml").write_text(text)
    reserve(tmp_path / "run")
    variables = deliver(open_course(str(folder)), Static(s3), tmp_path)
    assert variables["ICD_CREDENTIALS_URI"] == f"{address(tmp_path / 'run')}/icd"
    assert variables["AWS_REGION"] == "us-east-1"
    assert not [name for name in variables if name.startswith("AWS_CONTAINER")]


def test_a_pod_serves_keys_of_the_controller(
    tmp_path: Path, s3: servers.S3Server, pods: Callable[..., Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod the variables are there when the notebook opens, and the sidecar answers with leased keys that read the
    declared prefix and nothing else."""
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"remote/a.csv": b"42", "other/a.csv": b"0"})
    source = {"url": f"s3://{bucket}/remote/", "access": "remote", "credential": "icd"}
    with running_site(tmp_path) as site:
        grant = site.s3_grant(s3, f"s3://{bucket}/remote/")
        image = COURSE_IMAGE
        site.write_policy({"credentials": {"icd": {"s3": grant, "allow": [{"images": [image]}]}}})
        with serving(site) as url:
            made = site.kube.add_pod(session_pod("jupyter-ada-1", user="ada", image=f"{image}:1"))
            token = tmp_path / "pod-token"
            token.write_text(site.kube.token(made))
            more = {"DATAMOUNT_TOKEN_FILE": str(token)}
            pod = pods({"version": 1, "datasets": {"icd": {"s3": source}}}, more, controller_url=url)
            # A pod has a loopback of its own. On this one another session may take the port before the sidecar does.
            (pod.run / ADDRESS).parent.mkdir()
            (pod.run / ADDRESS).write_text(f"http://{HOST}:{servers.free_port()}")
            (pod.run / TOKEN).write_text("of-this-pod")
            log = pod.fetch()
            assert pod.status()["datasets"]["icd"]["state"] == "ready", log
            pod.sidecar()
            variables = read_environment(pod.run)
            token_of_session = (pod.run / TOKEN).read_text()
            wait_for(lambda: listens(variables["ICD_CREDENTIALS_URI"]))
            assert get(variables["ICD_CREDENTIALS_URI"], token_of_session)[0] == 200, pod.log()
            for program in ("boto3", "pyarrow"):
                done = run(program, variables)
                assert done.stdout.strip() == "42", done.stderr[-2000:]
            variables["ICD_URL"] = f"s3://{bucket}/other/"
            assert "AccessDenied" in run("boto3", variables).stderr
            assert s3.identities["admin"].secret_access_key not in (pod.run / "env").read_text()


def test_up_serves_the_keys_of_the_credentials_file(
    course: Any, s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datamount up` serves what the person's credentials file holds; a place left over from before is forgotten."""
    reader = s3.identities["reader"]
    known = {"access_key_id": reader.access_key_id, "secret_access_key": reader.secret_access_key}
    file = tmp_path / "credentials.yaml"
    file.write_text(json.dumps({"reader": known | {"endpoint_url": s3.endpoint_url, "region": s3.region}}))
    file.chmod(0o600)
    monkeypatch.setenv("DATAMOUNT_CREDENTIALS", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    run_folder = tmp_path / "run"
    (run_folder / "aws").mkdir(parents=True)
    (run_folder / "aws/address").write_text("http://127.0.0.1:9")
    said: list[str] = []
    at = Places(data=tmp_path / "data", run=run_folder, state=tmp_path / "state")
    LocalSession(Options(), course, None, at, said.append)._serve_keys()
    assert run("boto3", deliver(course, FileCredentials(), tmp_path)).stdout.strip() == "42"
    assert [line for line in said if "AWS_PROFILE" in line]
