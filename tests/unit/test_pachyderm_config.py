"""Addresses, contexts and where a token may go."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from datamount.credentials import Credential
from datamount.drivers.pachyderm_config import Address, find_endpoint, parse_address
from datamount.errors import Refused, UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("grpc://pachd.example.edu:30650", Address("pachd.example.edu", 30650, tls=False)),
        ("pachd.example.edu", Address("pachd.example.edu", 30650, tls=False)),
        ("pachd.example.edu:80", Address("pachd.example.edu", 80, tls=False)),
        ("grpcs://pachd.example.edu:443/", Address("pachd.example.edu", 443, tls=True)),
        ("https://PACHD.example.edu", Address("pachd.example.edu", 30650, tls=True)),
        ("http://127.0.0.1:1", Address("127.0.0.1", 1, tls=False)),
        ("grpc://[::1]:30650", Address("::1", 30650, tls=False)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    """The forms that pachctl takes, with its default port."""
    assert address == parse_address(text, dataset="x")


@pytest.mark.parametrize(
    "text",
    ["", "grpc://", "ftp://h", "grpc://h:port", "grpc://h:99999", "grpc://h/path", "grpc://h?q", "grpc://u:secret@h"],
)
def test_bad_addresses(text: str) -> None:
    """Anything else is a UsageError that shows no login data."""
    with pytest.raises(UsageError) as caught:
        parse_address(text, dataset="x")
    assert "secret" not in caught.value.sentence()


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def context(**settings: object) -> dict[str, object]:
    return {"v2": {"active_context": "hub", "contexts": {"hub": settings, "other": {"pachd_address": "grpc://no"}}}}


def test_order_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifest, credential, PACHD_ADDRESS, PACH_CONFIG, ~/.pachyderm/config.json: the first that is there."""

    def host(address: str | None = None, credential: Credential | None = None) -> str:
        return find_endpoint("x", address, credential).address.host

    write(Path.home() / ".pachyderm/config.json", context(pachd_address="grpc://home"))
    assert host() == "home"
    monkeypatch.setenv("PACH_CONFIG", str(write(tmp_path / "c.json", context(pachd_address="grpc://config"))))
    assert host() == "config"
    monkeypatch.setenv("PACHD_ADDRESS", "grpc://environment")
    assert host() == "environment"
    assert host(credential=Credential(address="grpc://credential")) == "credential"
    assert host("grpc://manifest", Credential(token=SecretStr("t"))) == "manifest"
    assert host("grpc://manifest", Credential(address="grpc://other")) == "manifest"  # no token that could be sent


def test_a_context_without_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of `pachctl port-forward` means localhost, at its port."""
    forwarded = write(tmp_path / "c.json", context(port_forwarders={"pachd": 1234}))
    monkeypatch.setenv("PACH_CONFIG", str(forwarded))
    assert find_endpoint("x", None, None).address == Address("localhost", 1234, tls=False)
    monkeypatch.setenv("PACH_CONFIG", str(write(tmp_path / "d.json", context())))
    assert find_endpoint("x", None, None).address == Address("localhost", 30650, tls=False)


@pytest.mark.parametrize(
    "document",
    ["not JSON", "[]", {}, {"v2": None}, {"v2": {"active_context": "gone", "contexts": {}}}, context(server_cas="%%%")],
)
def test_broken_configurations(document: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that cannot be used is a UsageError naming the file, but only where it is needed."""
    path = write(tmp_path / "config.json", document)
    monkeypatch.setenv("PACH_CONFIG", str(path))
    with pytest.raises(UsageError, match=r"config\.json"):
        find_endpoint("x", None, None)
    assert find_endpoint("x", "grpc://manifest", None).address.host == "manifest"


def test_where_tokens_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential's token goes to its own address or, without one, to the manifest's; a machine's to its own only."""

    def token(address: str | None, credential: Credential | None = None) -> str | None:
        found = find_endpoint("x", address, credential).token
        return found.get_secret_value() if found else None

    here = context(pachd_address="grpc://hub:1", session_token="session")
    monkeypatch.setenv("PACH_CONFIG", str(write(tmp_path / "c.json", here)))
    assert token(None) == "session"
    assert token("hub:1") == "session"
    assert token("grpcs://hub:1") is None
    assert token("grpc://elsewhere") is None
    mine = SecretStr("mine")
    assert token("grpc://elsewhere", Credential(token=mine)) == "mine"
    assert token(None, Credential(token=mine, address="grpc://own")) == "mine"
    assert token("grpc://own", Credential(token=mine, address="own:30650")) == "mine"
    with pytest.raises(Refused):
        token("grpc://elsewhere", Credential(token=mine, address="grpc://own"))
    monkeypatch.setenv("PACH_PYTHON_AUTH_TOKEN", "variable")
    assert token(None) == "variable"
    assert token("grpc://elsewhere") is None
    monkeypatch.setenv("PACHD_ADDRESS", "grpc://elsewhere")
    assert token(None) == token("grpc://elsewhere") == "variable"
    assert token("hub:1") is None
    assert "mine" not in repr(find_endpoint("x", None, Credential(token=mine)))


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context's authority counts for its own TLS address; SSL_CERT_FILE for the others; none without TLS."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    authority = base64.b64encode(b"context's PEM").decode()
    here = context(pachd_address="grpcs://hub:1", server_cas=authority)
    monkeypatch.setenv("PACH_CONFIG", str(write(tmp_path / "c.json", here)))
    assert find_endpoint("x", None, None).root_certificates == b"context's PEM"
    assert find_endpoint("x", "grpcs://other", None).root_certificates is None
    monkeypatch.setenv("SSL_CERT_FILE", str(write(tmp_path / "ca.pem", "system's PEM")))
    assert find_endpoint("x", "grpcs://other", None).root_certificates == b"system's PEM"
    assert find_endpoint("x", "grpc://other", None).root_certificates is None
