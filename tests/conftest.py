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

# What the servers and every program that a test starts inherit. A hook of git's sets GIT_DIR, for one, and whoever
# is behind a proxy reaches the servers of the tests all the same.
os.umask(0o022)
for _name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_EXEC_PATH"]:
    del os.environ[_name]
os.environ["GIT_CONFIG_NOSYSTEM"] = "1"
# What text is laid out by.
for _name in ("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(_name, None)
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, (os.environ.get(_name), "127.0.0.1", "::1", "localhost")))


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


FOREIGN = ("AWS_", "BINDER_", "DATAMOUNT_", "JUPYTER", "KUBE", "PACH", "QUILT_")
"""What the variables begin with by which a hub, a pod or a person's configuration would take part in a test."""


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the configuration of the person who runs it, also after its `monkeypatch.undo()`."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN) and name != "DATAMOUNT_REQUIRE_ALL":
                patch.delenv(name)
        for name, folder in (
            ("HOME", home),
            ("XDG_CONFIG_HOME", home / ".config"),
            ("XDG_DATA_HOME", home / ".local/share"),
            ("XDG_CACHE_HOME", home / ".cache"),
        ):
            patch.setenv(name, str(folder))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("QUILT_DISABLE_USAGE_METRICS", "true")
        yield home
