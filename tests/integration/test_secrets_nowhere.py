"""Every kind of secret that a hub knows, used and misused once, and then looked for wherever somebody could read it.

The containers are processes (`tests/pod_processes`); `tests/pod` does the same for real containers with one kind.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from datamount import names
from datamount.controller import gateway as controller_gateway
from datamount.controller import leases, s3_reads
from datamount.controller.gateway import Gateway
from datamount.controller.shares import Shares
from tests import servers
from tests.gateway import COURSE_IMAGE, serving
from tests.kube.site import Site, running_site, session_pod
from tests.pod_processes import Pod, wait_for

pytestmark = pytest.mark.xdist_group("mysql-leases")
SCHEMA = "secret_course"


@dataclass
class Secrets:
    """What must stand nowhere, by kind."""

    known: dict[str, set[str]] = field(default_factory=dict)

    def add(self, kind: str, value: str) -> None:
        assert len(value) > 6, f"{kind}: too short to look for"
        self.known.setdefault(kind, set()).add(value)

    def found_in(self, text: str, *but: str) -> list[str]:
        return [kind for kind, values in self.known.items() if kind not in but and any(v in text for v in values)]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    """Notes each secret at the one place where it is made or opened."""
    noted = Secrets()

    def watch(where: Any, name: str, note: Callable[..., None]) -> None:
        real = getattr(where, name)

        def watching(*arguments: Any, **more: Any) -> Any:
            made = real(*arguments, **more)
            note(made, *arguments)
            return made

        monkeypatch.setattr(where, name, watching)

    def note_lease(document: dict[str, Any], *_: Any) -> None:
        for name in ("password", "secret_access_key", "session_token", "token"):
            if name in document:
                noted.add(f"lease {name}", document[name])

    def note_url(url: str, *_: Any) -> None:
        noted.add("signature", parse_qs(urlsplit(url).query)["X-Amz-Signature"][0])

    watch(leases, "_plain", note_lease)
    watch(s3_reads, "presigned", note_url)
    watch(controller_gateway.Presigner, "url", note_url)
    watch(Gateway, "new_key", lambda key, *_: noted.add("work key", key))
    watch(Shares, "create", lambda made, *_: noted.add("share", made.secret))
    return noted


@pytest.fixture
def log() -> Iterator[Callable[[], str]]:
    """What the controller logs, ours to the last detail."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "httpx":  # the test's own client
                lines.append(self.format(record) + str(record.__dict__))

    handler, root = Keep(), logging.getLogger()
    root.addHandler(handler)
    before = root.level, logging.getLogger("datamount").level
    root.setLevel(logging.INFO)
    logging.getLogger("datamount").setLevel(logging.DEBUG)
    yield lambda: "\n".join(lines)
    root.removeHandler(handler)
    root.setLevel(before[0])
    logging.getLogger("datamount").setLevel(before[1])


@pytest.fixture
def site(
    tmp_path: Path,
    s3: servers.S3Server,
    mariadb: servers.MariaDBServer,
    pachyderm_auth: servers.PachydermServer,
    planted: Secrets,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """A hub without users, whose policy gives one credential of each kind."""
    for name, value in s3.env("admin").items():
        if not name.startswith("AWS_ENDPOINT"):
            monkeypatch.setenv(name, value)
    mariadb.make_database(SCHEMA)
    mariadb.execute(f"CREATE TABLE {SCHEMA}.notes (id INT)", f"INSERT INTO {SCHEMA}.notes VALUES (1)")
    bucket = s3.make_bucket(s3.reader_bucket)
    s3.put(bucket, {"planted/a.csv": b"a", "planted/b.csv": b"b"})
    pachyderm_auth.put("planted", {"/png/a.png": b"a"})
    admin = s3.identities["admin"]
    store = {"url": f"s3://{s3.make_bucket()}/work", "endpoint_url": s3.endpoint_url, "anonymous": True}
    with running_site(tmp_path, store=store) as site:
        keys = {
            "endpoint_url": s3.endpoint_url,
            "region": s3.region,
            "access_key_id_file": site.secret_file("s3-id", admin.access_key_id),
            "secret_access_key_file": site.secret_file("s3-key", admin.secret_access_key),
            "urls": [f"s3://{bucket}/planted/"],
        }
        database = {
            "host": mariadb.host,
            "port": mariadb.port,
            "admin_user": "root",
            "admin_password_file": site.secret_file("mysql", mariadb.root_password),
            "grants": {SCHEMA: ["*"]},
        }
        pachd = {
            "address": pachyderm_auth.address,
            "admin_token_file": site.secret_file("pachd", pachyderm_auth.root_token),
            "robot": "course",
            "repos": ["planted"],
        }
        fixed = {"token_file": site.secret_file("static", "planted-static-token"), "urls": ["http://127.0.0.1:9/"]}
        ways = {
            "db": {"mysql": database},
            "sts": {"s3": keys | {"role_arn": s3.role_arn}},
            "signed": {"s3": keys | {"presigned": True}},
            "pach": {"pachyderm": pachd},
            "web": {"secret": fixed, "static": True},
            "wrong": {"s3": keys | {"role_arn": s3.role_arn, "urls": [f"s3://{bucket}/other/"]}},
        }
        allow = [{"images": [COURSE_IMAGE]}]
        site.write_policy({"credentials": {name: way | {"allow": allow} for name, way in ways.items()}})
        for name, value in site.secrets.items():
            if name != "s3-id":  # an access key's id is in each signed URL, and no secret
                planted.add(f"operator's {name}", value)
        yield site
    mariadb.execute(f"DROP DATABASE {SCHEMA}")


def manifest(s3: servers.S3Server, mariadb: servers.MariaDBServer, pachyderm: servers.PachydermServer) -> Any:
    bucket = {"url": f"s3://{s3.reader_bucket}/planted/", "endpoint_url": s3.endpoint_url}
    table = {"host": mariadb.host, "port": mariadb.port, "database": SCHEMA, "credential": "db"}
    radiology = {"repo": "planted", "path": "/png", "address": pachyderm.address, "credential": "pach"}
    return {
        "version": 1,
        "datasets": {
            "notes": {"mysql": table},
            "codes": {"s3": bucket | {"credential": "sts"}},
            "signed": {"s3": bucket | {"credential": "signed"}},
            "images": {"pachyderm": radiology},
            "refused": {"s3": bucket | {"credential": "wrong"}},
            "unknown": {"s3": bucket | {"credential": "none"}},
            "away": {"url": "http://127.0.0.1:9/x.csv", "credential": "web"},
        },
    }


def misuse(url: str, planted: Secrets) -> None:
    """Secrets that are nearly right: somebody's, with a slip of the pen."""
    for path, header in (("/v1/session", "Authorization"), ("/v1/shared", "Datamount-Share")):
        wrong = f"dms_{secrets.token_urlsafe(32)}"
        planted.add("mistyped", wrong)
        given = f"Bearer {wrong}" if header == "Authorization" else wrong
        assert httpx.get(url + path, headers={header: given}, trust_env=False, timeout=60).status_code in (401, 404)
    wrong = f"dms_{secrets.token_urlsafe(32)}"
    planted.add("mistyped", wrong)
    assert httpx.get(f"{url}/s/{wrong}", trust_env=False, timeout=60).status_code == 404


def test_no_secret_of_any_kind_is_anywhere(
    site: Site,
    planted: Secrets,
    log: Callable[[], str],
    pods: Callable[..., Pod],
    s3: servers.S3Server,
    mariadb: servers.MariaDBServer,
    pachyderm_auth: servers.PachydermServer,
    tmp_path: Path,
) -> None:
    """After a session with leases of MySQL, STS, presigned reads, Pachyderm and a static secret, with refusals, saves,
    a resume key and a share link: none of them is in the audit, the metrics, the Events, any log, the pods' objects
    and variables, the status, the bucket of saved work, or (but the database's login) in the session's run folder."""
    made = site.kube.add_pod(session_pod("jupyter-ada-1", user="course-x1", image=f"{COURSE_IMAGE}:1"))
    token = site.kube.token(made)
    planted.add("token", token)
    (tmp_path / "token").write_text(token)
    with serving(site) as url:
        more = {names.ENV_TOKEN_FILE: str(tmp_path / "token")}
        pod = pods(manifest(s3, mariadb, pachyderm_auth), more, controller_url=url)
        fetched = pod.fetch()
        states = {name: dataset["state"] for name, dataset in pod.status()["datasets"].items()}
        ready = {name for name in states if states[name] == "ready"}
        # pachd refuses the robot, which has no role in this repo: the error of a used token must not hold it either.
        assert ready == {"notes", "codes", "signed"}, fetched
        sidecar = pod.sidecar()
        wait_for(lambda: (pod.run / names.SIDECAR_FILE).exists())
        pod.ready()
        (pod.home / "answer.txt").write_text("42\n")
        told = [pod.call("POST", "snapshots", {"message": "saved"})]
        link = pod.call("POST", "shares", {"version": "latest", "days": 1})
        planted.add("share", link["secret"])
        assert httpx.get(f"{url}/s/{link['secret']}", trust_env=False, timeout=60).status_code == 200
        key = SecretStr(pod.call("GET", "resume")["key"])
        assert key.get_secret_value() in planted.known["work key"]
        told += [pod.call("GET", path) for path in ("status", "snapshots", "shares")]
        misuse(url, planted)
        sidecar.terminate()
        sidecar.wait(120)
    kinds = set(planted.known)
    assert kinds >= {"lease password", "lease session_token", "lease token", "signature", "work key", "share", "token"}
    audit = (tmp_path / "audit.jsonl").read_text()
    events = {json.loads(line)["event"] for line in audit.splitlines()}
    assert events >= {"lease", "refused", "work-key", "save", "share", "open-share", "revocation"}
    everywhere = {
        "audit": audit,
        "metrics": site.metrics().decode(),
        "events": json.dumps(site.kube.events()),
        "controller's log": log(),
        "fetch's log": fetched,
        "sidecar's log": pod.log(),
        "status": json.dumps([pod.status(), pod.notes(), told]),
        "pods": json.dumps([*site.kube.objects["pods"].values(), pod.environment]),
        "bucket": _bucket(site, s3),
    }
    for place, text in everywhere.items():
        assert text, place
        assert planted.found_in(text) == [], place
        assert not re.search(r"X-Amz-Signature|eyJ[\w-]{10,}\.eyJ", text), place
    for path in (path for folder in (pod.run, pod.jupyter, pod.data) for path in folder.rglob("*") if path.is_file()):
        text = path.read_bytes().decode("latin-1")
        assert planted.found_in(text, "lease password") == [], path
    for kind in kinds:
        assert planted.found_in(next(iter(planted.known[kind]))), "the look itself works"


def _bucket(site: Site, s3: servers.S3Server) -> str:
    assert site.settings.store is not None
    bucket = urlsplit(site.settings.store.url).netloc
    client = s3.client()
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]]
    bodies = [client.get_object(Bucket=bucket, Key=key)["Body"].read().decode("latin-1") for key in keys]
    return "\n".join([*keys, *bodies])
