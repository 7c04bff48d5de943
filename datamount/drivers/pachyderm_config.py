"""Which pachd to ask, over what, and with which token: the manifest, a credential, the environment, a context.

The address is looked for in this order: the manifest's `address`, the credential's, `$PACHD_ADDRESS`, the active
context of `$PACH_CONFIG`, else of `~/.pachyderm/config.json` (as `pachctl` and python-pachyderm do).

A token goes only where its owner meant it to go, because a manifest is written by whoever wrote the course:

- a credential's token goes to the credential's own address; where the credential names none, the person who stored
  it left the choice to the manifest;
- `$PACH_PYTHON_AUTH_TOKEN` and a context's session token go to the address that the environment or the context
  names, never to another one that a manifest brings along.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from datamount.credentials import Credential
from datamount.errors import Refused, UsageError

DEFAULT_PORT = 30650
"""pachd's own (`DefaultPachdNodePort`), for every scheme."""

_SCHEMES = {"grpc": False, "http": False, "grpcs": True, "https": True}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed pachd address; two that mean the same server compare equal."""

    host: str
    port: int
    tls: bool

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """All that a connection needs. `root_certificates` is PEM; None means the system's."""

    address: Address
    token: SecretStr | None = None
    root_certificates: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Ambient:
    """What this machine's environment or pachctl configuration names."""

    address: Address
    token: SecretStr | None
    root_certificates: bytes | None


def parse_address(text: str, *, dataset: str) -> Address:
    """`host`, `host:port` or a grpc, grpcs, http or https URL of host and port; else UsageError."""
    url = urlsplit(text if "://" in text else f"grpc://{text}")
    try:
        port = url.port or DEFAULT_PORT
    except ValueError:
        port = 0
    plain = not (url.path.strip("/") or url.query or url.fragment or url.username or url.password)
    if url.scheme not in _SCHEMES or not url.hostname or not port or not plain:
        shown = text if "@" not in text else "(not shown: it holds login data)"
        raise UsageError(
            f'dataset "{dataset}": the Pachyderm address {shown} is not grpc://host:port or grpcs://host:port.',
            hint="Write the address of pachd alone; a token belongs into a credential.",
            who="the course's author",
        )
    return Address(url.hostname, port, _SCHEMES[url.scheme])


def find_endpoint(dataset: str, address: str | None, credential: Credential | None) -> Endpoint:
    """The endpoint of a dataset, by the rules above. Reads files, makes no network call.

    Raises UsageError where nothing names an address or a configuration cannot be read, and Refused where the
    manifest would send a credential's token to another server than the credential's.
    """
    wanted = parse_address(address, dataset=dataset) if address else None
    own = parse_address(credential.address, dataset=dataset) if credential and credential.address else None
    if wanted and own and wanted != own and credential and credential.token:
        raise Refused(
            f'dataset "{dataset}": the manifest says {wanted}, but its credential is for {own}; '
            "a token is not sent to another server.",
            hint="Take `address` out of the manifest, or ask for a credential for that server.",
            who="the course's author",
        )
    ambient = _ambient(dataset, needed=not (wanted or own))
    chosen = wanted or own or (ambient.address if ambient else None)
    if chosen is None:
        raise UsageError(
            f'dataset "{dataset}": nothing says where Pachyderm is.',
            hint="Give `address: grpc://host:port` in the manifest or in the credential, or set PACHD_ADDRESS.",
            who="the course's author",
        )
    same = ambient if ambient and ambient.address == chosen else None
    token = credential.token if credential and credential.token else same.token if same else None
    return Endpoint(chosen, token, _roots(same) if chosen.tls else None)


def _roots(ambient: _Ambient | None) -> bytes | None:
    """The context's own authority, else the one of $SSL_CERT_FILE, else None (gRPC's built-in ones)."""
    if ambient and ambient.root_certificates:
        return ambient.root_certificates
    named = os.environ.get("SSL_CERT_FILE")
    try:
        return Path(named).read_bytes() if named else None
    except OSError:
        return None


def _ambient(dataset: str, *, needed: bool) -> _Ambient | None:
    """The environment's address, else the active context's; faults in a file matter only where it is `needed`."""
    variable = os.environ.get("PACH_PYTHON_AUTH_TOKEN")
    token = SecretStr(variable) if variable else None
    try:
        context = _context(dataset)
        if named := os.environ.get("PACHD_ADDRESS"):
            address = parse_address(named, dataset=dataset)
            if context and context.address == address:
                return _Ambient(address, token or context.token, context.root_certificates)
            return _Ambient(address, token, None)
    except UsageError:
        if needed:
            raise
        return None
    return _Ambient(context.address, token or context.token, context.root_certificates) if context else None


def _context(dataset: str) -> _Ambient | None:
    """The active context of the pachctl configuration; None where there is no configuration."""
    named = os.environ.get("PACH_CONFIG")
    path = Path(named) if named else Path.home() / ".pachyderm" / "config.json"
    if not named and not path.is_file():
        return None
    try:
        v2 = json.loads(path.read_text("utf-8"))["v2"]
        context: Mapping[str, Any] = v2["contexts"][v2["active_context"]]
        text = context.get("pachd_address") or f"localhost:{context.get('port_forwarders', {}).get('pachd') or ''}"
        certificates = context.get("server_cas")
        roots = base64.b64decode("".join(certificates.split()), validate=True) if certificates else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise UsageError(
            f'dataset "{dataset}": the Pachyderm configuration {path} has no usable active context '
            f"({type(error).__name__}).",
            hint="Run `pachctl config set active-context NAME`, or set PACHD_ADDRESS.",
            who="you",
        ) from error
    session = context.get("session_token")
    return _Ambient(parse_address(text.rstrip(":"), dataset=dataset), SecretStr(session) if session else None, roots)
