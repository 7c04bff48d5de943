"""Fixtures that every test may ask for: real servers, one of each a test process, started when first wanted.

With pytest-xdist each worker has its own. A test that takes a server away starts one for itself
(`with servers.S3Server() as s3`).
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import servers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is required (CI), a skip is a failure: what is never run must not look like what passes."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("DATAMOUNT_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def s3() -> Iterator[servers.S3Server]:
    """A running S3 server (SeaweedFS)."""
    yield from servers.running(servers.S3Server())


@pytest.fixture(scope="session")
def mariadb() -> Iterator[servers.MariaDBServer]:
    """A running, private MariaDB; or (TEST_MYSQL: its folder) a MySQL."""
    yield from servers.running(servers.mariadb_or_mysql())


@pytest.fixture(scope="session")
def http() -> Iterator[servers.HTTPServer]:
    """A running HTTP server of an empty folder (`http.root`), with range support."""
    yield from servers.running(servers.HTTPServer())


def _pachd(address: str, root_token: str) -> servers.PachydermServer:
    """The stand-in, or (TEST_PACHD, TEST_PACHD_AUTH: host:port) a real pachd that runs already."""
    if running := os.environ.get(address):
        return servers.RunningPachd(running, root_token=root_token)
    return servers.PachydermServer(root_token=root_token)


@pytest.fixture(scope="session")
def pachyderm() -> Iterator[servers.PachydermServer]:
    """A running stand-in for pachd, auth off."""
    yield from servers.running(_pachd("TEST_PACHD", ""))


@pytest.fixture(scope="session")
def pachyderm_auth() -> Iterator[servers.PachydermServer]:
    """A running stand-in for pachd, auth on."""
    yield from servers.running(_pachd("TEST_PACHD_AUTH", "iamroot"))


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the configuration of the person who runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("AWS_", "PACH", "DATAMOUNT_", "QUILT_")) and name != "DATAMOUNT_REQUIRE_ALL":
            monkeypatch.delenv(name)
    for name, folder in (
        ("HOME", home),
        ("XDG_CONFIG_HOME", home / ".config"),
        ("XDG_DATA_HOME", home / ".local/share"),
        ("XDG_CACHE_HOME", home / ".cache"),
    ):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("QUILT_DISABLE_USAGE_METRICS", "true")
    return home
