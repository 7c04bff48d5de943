"""What the course of a stranger may reach from the machine that fetches its data.

On a laptop: everything, as its owner runs the course's code anyway. In a pod our containers can do more than the
notebook that is shown the data: they hold a token, and may stand nearer to the cloud's metadata service. So there, by
default, no source is a file of ours, and none is on a link-local network, where clouds hand out a node's credentials,
nor is the controller or the cluster's API server. The operator's settings `allow_local_files` and `allow_addresses`
lift it.

Three looks, because a name may mean another address a moment later and a web server may answer with a redirect: at
the declaration, at the addresses when the dataset is resolved, and (`guard_connections`) at each connection that
Python makes. obstore makes connections of its own and follows redirects, so an S3 server that a course names is read
without it (`trusts_endpoint`). gRPC knows only the first two looks; it follows no redirects.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from datamount import names
from datamount.drivers.base import Driver, Pin
from datamount.errors import Refused
from datamount.manifest import Dataset, links

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DENIED: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: the metadata service of AWS, Azure, Google, OpenStack, DigitalOcean
        "fe80::/10",
        "fd00:ec2::/32",  # AWS over IPv6
        "fd20:ce::/32",  # Google over IPv6
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # Oracle
    )
)
_PORTS = {"http": 80, "https": 443, "ftp": 21, "ftps": 990, "sftp": 22, "ssh": 22, "grpc": 80, "grpcs": 443}


@dataclass(frozen=True)
class Reach:
    """One machine's rules. `services` are hosts and ports that no dataset may be: the controller, the API server."""

    local_files: bool = False
    allowed: tuple[Network, ...] = ()
    services: tuple[tuple[str, int], ...] = ()

    def check_declaration(self, name: str, dataset: Dataset) -> None:
        """Refused for a source that is a file of this machine, or whose address is written out and denied."""
        if dataset.reads_local_files and not self.local_files:
            raise Refused(
                f'dataset "{name}": a course on this hub may not read files of the machine that fetches its data.',
                hint="Put the data where everyone can reach it, such as a bucket or a web server.",
                who="the course's author",
            )
        for host, _ in hosts(dataset):
            for address in _literal(host):
                self._check(name, host, address)

    def check_addresses(self, name: str, dataset: Dataset) -> None:
        """Refused where a host of the source has a denied address now. A host without one is the driver's to report."""
        services = {(address, port) for host, port in self.services for address in resolve(host)}
        for host, port in hosts(dataset):
            for address in resolve(host):
                self._check(name, host, address)
                if (address, port) in services:
                    raise Refused(
                        f'dataset "{name}": {host}:{port} is a service of the hub itself, not a source of data.',
                        hint="Name the server that has the data.",
                        who="the course's author",
                    )

    def denies(self, address: Address) -> bool:
        """Whether no dataset may be at this address."""
        if any(address in network for network in self.allowed if network.version == address.version):
            return False
        return any(address in network for network in DENIED if network.version == address.version)

    def _check(self, name: str, host: str, address: Address) -> None:
        if self.denies(address):
            raise Refused(
                f'dataset "{name}": {host}{"" if host == str(address) else f" ({address})"} is an address of the '
                "machine's own network, which datasets may not read.",
                hint="Name a server that others can reach; or ask the operator to list the network in allow_addresses.",
                who="the course's author",
            )


def current() -> Reach | None:
    """The rules here: those of a pod, with what the operator's settings lift; None on any other machine."""
    environment = os.environ
    if names.ENV_FOLDER not in environment and "KUBERNETES_SERVICE_HOST" not in environment:
        return None
    allowed = (part.strip() for part in environment.get(names.ENV_ALLOW_ADDRESSES, "").split(","))
    return Reach(
        local_files=environment.get(names.ENV_ALLOW_LOCAL_FILES) == "1",
        allowed=tuple(ipaddress.ip_network(part, strict=False) for part in allowed if part),
        services=tuple(_services(environment)),
    )


def _services(environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    for url in (environment.get(names.ENV_CONTROLLER, ""),):
        if host := urlsplit(url).hostname:
            yield host, urlsplit(url).port or _PORTS.get(urlsplit(url).scheme, 0)
    if host := environment.get("KUBERNETES_SERVICE_HOST"):
        yield host, int(environment.get("KUBERNETES_SERVICE_PORT") or 443)


def trusts_endpoint(url: str) -> bool:
    """Whether objects at an S3 endpoint that a course names may be read by a client which follows redirects."""
    if current() is None:
        return True
    trusted = os.environ.get(names.ENV_TRUSTED_ENDPOINTS, "").split(",")
    return url.rstrip("/") in {entry.strip().rstrip("/") for entry in trusted if entry.strip()}


def guard(driver: Driver[Any], dataset: Dataset, rules: Reach) -> None:
    """Look at the addresses whenever the driver is asked for a version: before anything else it does on the network.

    Not when the driver is made, because then a name server that does not answer would hold up all datasets.
    """
    resolve_version = driver.resolve

    def checked(pin: Pin | None = None) -> Pin:
        rules.check_addresses(driver.name, dataset)
        return resolve_version(pin)

    driver.resolve = checked  # type: ignore[method-assign]


def guard_connections(rules: Reach) -> None:
    """From now on, no connection of this process to a denied address: what redirects and changing names lead to.

    Cannot be taken back (it is an audit hook), so it is for a program that fetches and does nothing else.
    """

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.connect" or not isinstance(arguments[1], tuple) or not arguments[1]:
            return
        host = str(arguments[1][0])
        for address in _literal(host) or resolve(host):
            if rules.denies(address):
                raise Refused(
                    f"a source led to {address}, an address of the machine's own network, which datasets may not read.",
                    hint="Name a server that others can reach.",
                    who="the course's author",
                )

    sys.addaudithook(look)


def hosts(dataset: Dataset) -> Iterator[tuple[str, int]]:
    """Hosts and ports that the manifest itself names. What a credential redirects to is the operator's."""
    if dataset.mysql:
        yield dataset.mysql.host, dataset.mysql.port
    addresses = [dataset.pachyderm.address] if dataset.pachyderm else []
    addresses += [source.endpoint_url for source in (dataset.s3, dataset.quilt) if source]
    addresses += links(dataset.url) if dataset.url else []
    for link in filter(None, addresses):
        scheme = link.partition("://")[0]
        if scheme not in _PORTS:
            continue
        try:
            parts = urlsplit(link)
            host, port = parts.hostname, parts.port or _PORTS[scheme]
        except ValueError:
            continue
        if host:
            yield host, port


def resolve(host: str) -> list[Address]:
    """All addresses of a host; none where it has none or nobody knows."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [address for entry in found for address in _literal(str(entry[4][0]))]


def _literal(host: str) -> list[Address]:
    """The address that a host is written as; an IPv4 address in an IPv6 one counts as itself."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return []
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.IPv6Network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return [inner or address]
    return [address]
