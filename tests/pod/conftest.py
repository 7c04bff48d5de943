"""One container engine, its images and one hub for all pod tests: each takes longer to make than to use."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from datamount.controller import mysql_leases, s3_leases
from datamount.credentials import Credential
from tests import servers
from tests.gateway import COURSE_IMAGE, serving
from tests.kube.site import Site, running_site
from tests.pod import courses, images
from tests.pod import engine as engines
from tests.pod.hub import COMMIT, Hub
from tests.pod.runner import Object

ADMIN_PASSWORD = "planted-admin"


@pytest.fixture(scope="session")
def engine() -> Iterator[engines.Engine]:
    """A container engine apart from the machine's own."""
    try:
        with engines.Engine() as made:
            yield made
    except servers.Missing as missing:
        servers.require(str(missing))


@pytest.fixture(scope="session")
def debian(engine: engines.Engine) -> str:
    """The image of a small Debian with Python."""
    return engine.import_rootfs(engines.debian_rootfs(), "debian")


@pytest.fixture(scope="session")
def running_hub(
    engine: engines.Engine,
    s3: servers.S3Server,
    mariadb: servers.MariaDBServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hub]:
    files = {
        COMMIT: courses.course(s3),
        "public": courses.public_course(s3),
        "broken": courses.broken_course(),
        "clinic": courses.clinic_course(mariadb),
    }
    made = {f"{COURSE_IMAGE}:{tag}": images.course_image(engine, f"course-{tag}", of) for tag, of in files.items()}
    store = {"url": f"s3://{s3.make_bucket()}/work", "endpoint_url": s3.endpoint_url}
    with pytest.MonkeyPatch.context() as patch:
        give_keys(s3, patch)
        with running_site(tmp_path_factory.mktemp("hub"), store=store) as site:
            site.write_policy(
                {"credentials": {"icd": s3_credential(site, s3), "clinic": mysql_credential(site, mariadb)}}
            )
            with serving(site) as url:
                yield Hub(engine, site, url, made)


@pytest.fixture
def hub(running_hub: Hub, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub; while a test has it, every secret that its controller leases and every line that it logs is kept."""
    # The controller runs in this process, and each test begins without such variables.
    give_keys(s3, monkeypatch)
    for module in (s3_leases, mysql_leases):
        monkeypatch.setattr(module, "Credential", recording(running_hub.leased))
    with logged(running_hub.log):
        yield running_hub


def give_keys(s3: servers.S3Server, patch: pytest.MonkeyPatch) -> None:
    for name, value in s3.env("admin").items():
        if not name.startswith("AWS_ENDPOINT"):
            patch.setenv(name, value)


def recording(leased: list[str]) -> Callable[..., Credential]:
    """The controller's own Credential, whose secrets are noted."""

    def make(**fields: Any) -> Credential:
        leased.extend(value.get_secret_value() for value in fields.values() if isinstance(value, SecretStr))
        leased.extend(fields[name] for name in ("access_key_id",) if name in fields)
        return Credential(**fields)

    return make


@contextmanager
def logged(to: io.StringIO) -> Iterator[None]:
    """What this process logs, from everyone."""
    handler, root = logging.StreamHandler(to), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    # At this level the AWS client writes the requests that it signs: not the controller's words, nor its level. The
    # others are the test's own.
    for name in ("botocore", "boto3", "urllib3", "httpcore", "httpx"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def s3_credential(site: Site, s3: servers.S3Server) -> Object:
    return {"s3": site.s3_grant(s3, f"s3://{s3.reader_bucket}/hub/"), "allow": [{"images": [COURSE_IMAGE]}]}


def mysql_credential(site: Site, mariadb: servers.MariaDBServer) -> Object:
    mariadb.execute(
        f"CREATE OR REPLACE USER hubadmin@'%' IDENTIFIED BY '{ADMIN_PASSWORD}'",
        f"GRANT SELECT ON `{courses.SCHEMA}`.* TO hubadmin@'%' WITH GRANT OPTION",
        "GRANT SELECT (User, Host, max_updates) ON mysql.user TO hubadmin@'%'",
        "GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO hubadmin@'%'",
    )
    grant = {
        "host": mariadb.host,
        "port": mariadb.port,
        "admin_user": "hubadmin",
        "admin_password_file": site.secret_file("mysql-admin", ADMIN_PASSWORD),
        "grants": {courses.SCHEMA: ["*"]},
        "max_connections": 3,
    }
    return {"mysql": grant, "allow": [{"images": [COURSE_IMAGE]}], "ttl": 900, "max_ttl": 7200}
