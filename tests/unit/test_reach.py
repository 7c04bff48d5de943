"""What a course may reach from a pod."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datamount import names
from datamount.cli import app
from datamount.drivers import Item, open_driver, reach
from datamount.errors import Refused, UsageError
from datamount.manifest import Dataset

STRICT = reach.Reach(services=(("127.0.0.1", 8443),))


def dataset(**source: Any) -> Dataset:
    return Dataset.model_validate(source)


LOCAL = [
    {"url": "file:///etc/passwd"},
    {"url": "file://localhost/etc/passwd"},
    {"url": "local:///etc/passwd"},
    {"url": "simplecache::file:///etc/passwd"},
    {"url": "zip://x::file:///etc/passwd"},
    {"url": "reference::https://example.edu/x"},
    {"url": "simplecache::http://[::1]/x"},  # fsspec reads the file "1]/x"
    {"url": "http://[::1]/x::file:///etc/passwd"},
    {"url": "memory://x"},
    {"quilt": {"package": "a/b", "registry": "file:///srv"}},
]


@pytest.mark.parametrize("source", LOCAL, ids=str)
def test_files_of_the_fetching_machine_are_refused(source: Any) -> None:
    """A source that is, or might be, a file of the machine that fetches is refused before a driver is made."""
    with pytest.raises(Refused, match="may not read files"):
        STRICT.check_declaration("x", dataset(**source))
    reach.Reach(local_files=True).check_declaration("x", dataset(**source))


DENIED = [
    {"url": "http://169.254.169.254/latest"},
    {"url": "https://169.254.170.2/creds"},
    {"url": "http://[fe80::1]/x"},
    {"url": "http://[fd00:ec2::254]/x"},
    {"url": "http://[::ffff:a9fe:a9fe]/x"},
    {"url": "http://[64:ff9b::a9fe:a9fe]/x"},
    {"url": "http://100.100.100.200/x"},
    {"url": "simplecache::http://169.254.169.254/x"},
    {"url": "sftp://169.254.1.1/x"},
    {"s3": {"url": "s3://bucket/", "endpoint_url": "http://169.254.169.254:80"}},
    {"quilt": {"package": "a/b", "registry": "s3://bucket", "endpoint_url": "http://169.254.169.254"}},
    {"mysql": {"host": "169.254.169.254", "database": "d"}},
    {"pachyderm": {"repo": "r", "address": "grpc://169.254.169.254:80"}},
]


@pytest.mark.parametrize("source", DENIED, ids=str)
def test_link_local_addresses_are_refused(source: Any) -> None:
    """An address where clouds hand out credentials is refused in every kind of source, however it is written."""
    with pytest.raises(Refused):
        STRICT.check_declaration("x", dataset(**source))


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"])
def test_other_spellings_are_seen_when_they_are_resolved(host: str) -> None:
    """A number that the resolver takes for the metadata address is refused when the dataset is resolved."""
    if not reach.resolve(host):
        pytest.skip("this machine's resolver does not know the form")
    with pytest.raises(Refused, match=r"169\.254\.169\.254"):
        STRICT.check_addresses("x", dataset(url=f"http://{host}/x"))


def test_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host is refused when any of its addresses is denied, and not when none is; one without an address is left to
    the driver to report."""
    known = {"evil.example": ["192.0.2.1", "169.254.169.254"], "good.example": ["192.0.2.1"]}

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        if host not in known:
            raise socket.gaierror
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(Refused):
        STRICT.check_addresses("x", dataset(url="https://evil.example/x"))
    STRICT.check_addresses("x", dataset(url="https://good.example/x"))
    STRICT.check_addresses("x", dataset(url="https://unknown.example/x"))


def test_the_hubs_own_services_are_refused() -> None:
    """The controller's and the API server's address and port are no source; other ports of their host may be."""
    with pytest.raises(Refused, match="service of the hub"):
        STRICT.check_addresses("x", dataset(url="https://127.0.0.1:8443/v1/session"))
    STRICT.check_addresses("x", dataset(url="https://127.0.0.1:8444/x"))


def test_the_operator_may_allow_networks() -> None:
    """`allowed` lifts the denial for its networks only."""
    rules = reach.Reach(allowed=(ipaddress.ip_network("169.254.20.0/24"),))
    rules.check_declaration("x", dataset(url="http://169.254.20.10/x"))
    with pytest.raises(Refused):
        rules.check_declaration("x", dataset(url="http://169.254.169.254/x"))


def test_the_rules_come_from_the_pods_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a pod there are no rules; in one the variables say what is lifted and which services there are."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert reach.current() is None
    monkeypatch.setenv(names.ENV_FOLDER, "/home/jovyan")
    assert reach.current() == reach.Reach()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv(names.ENV_CONTROLLER, "https://datamount-controller.datamount.svc")
    monkeypatch.setenv(names.ENV_ALLOW_LOCAL_FILES, "1")
    monkeypatch.setenv(names.ENV_ALLOW_ADDRESSES, "169.254.0.0/16, fe80::/10")
    found = reach.current()
    assert found is not None
    assert found.local_files
    assert found.services == (("datamount-controller.datamount.svc", 443), ("10.0.0.1", 443))
    assert not found.denies(ipaddress.ip_address("169.254.169.254"))


def test_every_driver_is_made_under_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pod `open_driver` refuses what is written out, and a driver refuses at its first step what is found out."""
    source = dataset(url="file:///etc/hostname")
    open_driver("x", source).close()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    with pytest.raises(Refused):
        open_driver("x", source)
    driver = open_driver("x", dataset(url="http://127.0.0.1:6443/x"))
    with pytest.raises(Refused, match="service of the hub"):
        driver.resolve()


def test_the_command_refuses_local_files_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datamount fetch` in a pod refuses a course's file:// dataset with the exit code of a refusal, and delivers it
    on a laptop."""
    course = tmp_path / "course"
    course.mkdir()
    (tmp_path / "x.csv").write_text("a\n")
    (course / "datamount.yaml").write_text(f"version: 1\ndatasets:\n  x: {{url: '{(tmp_path / 'x.csv').as_uri()}'}}\n")
    arguments = ["fetch", str(course), "--data", str(tmp_path / "data"), "--run", str(tmp_path / "run")]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert CliRunner().invoke(app, arguments).exit_code == Refused.exit_code
    assert not list((tmp_path / "data").rglob("x.csv"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "data/x/x.csv").read_text() == "a\n"


def test_a_lock_cannot_name_a_local_file() -> None:
    """A lock, which is the course's too, cannot make a package in a bucket read a file of the fetching machine."""
    driver = open_driver("x", dataset(quilt={"package": "a/b", "registry": "s3://bucket"}))
    item = Item("token", 5, "id", None, {"physical_key": "file:///etc/hostname"})
    with pytest.raises(UsageError, match="may not use"):
        list(driver.open(item))
