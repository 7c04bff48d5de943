"""The controller's certificate: made, shared, renewed and served without a restart."""

from __future__ import annotations

import base64
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from datamount.controller.certificates import (
    Mounted,
    Pair,
    SelfSigned,
    Served,
    from_files,
    make_authority,
    make_certificate,
)
from datamount.controller.kube import Kube
from datamount.controller.settings import Settings
from tests.kube.server import KubeServer

NOW = datetime.now(UTC)
HOST = "datamount-controller.datamount.svc"


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    with KubeServer() as kube:
        config = {"service": {"name": "datamount-controller", "namespace": "datamount"}}
        hooks = [
            {"name": name, "clientConfig": config, "admissionReviewVersions": ["v1"], "sideEffects": "None"}
            for name in ("a.datamount.dev", "b.datamount.dev")
        ]
        kube.add("mutatingwebhookconfigurations", {"metadata": {"name": "datamount"}, "webhooks": hooks})
        yield kube


def keeper(kube: KubeServer, now: datetime = NOW) -> SelfSigned:
    return SelfSigned(Kube(kube.client()), Settings(namespaces=["hub", "class"]), clock=lambda: now)


def handshake(served: ssl.SSLContext, bundle: bytes, host: str | None = HOST) -> x509.Certificate:
    """The certificate that a client which trusts only `bundle` gets; ssl.SSLError where it does not trust it."""
    trusting = ssl.create_default_context(cadata=bundle.decode())
    trusting.check_hostname = host is not None
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            served.wrap_socket(theirs, server_side=True).recv(1)
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with trusting.wrap_socket(ours, server_hostname=host) as client:
            found = client.getpeercert(binary_form=True)
    finally:
        ours.close()
        thread.join(5)
        theirs.close()
    assert found
    return x509.load_der_x509_certificate(found)


def bundles(kube: KubeServer) -> list[bytes]:
    """What the API server and the sidecars of both namespaces trust."""
    hooks = kube.read("mutatingwebhookconfigurations", "", "datamount")["webhooks"]
    maps = [kube.read("configmaps", namespace, "datamount-ca") for namespace in ("hub", "class")]
    found = [base64.b64decode(hook["clientConfig"]["caBundle"]) for hook in hooks]
    return found + [one["data"]["ca.crt"].encode() for one in maps]


def test_the_certificate_is_trusted_where_it_is_checked(kube: KubeServer) -> None:
    """Webhook configuration and ConfigMaps hold what checks the served certificate, for the Service's name only."""
    pair, bundle = keeper(kube).keep()
    assert bundles(kube) == [bundle] * 4
    served = Served(lambda: pair, seconds=60)
    handshake(served.context, bundle)
    with pytest.raises(ssl.SSLError):
        handshake(served.context, bundle, "elsewhere.example.edu")
    with pytest.raises(ssl.SSLError):
        handshake(served.context, make_authority(NOW).certificate)


def test_a_second_pass_changes_nothing(kube: KubeServer) -> None:
    """What is in order is read, not written."""
    first = keeper(kube).keep()
    kube.asked.clear()
    assert keeper(kube).keep() == first
    assert {verb for verb, _, _ in kube.asked} == {"get"}


def test_replicas_that_start_together_share_one_certificate(kube: KubeServer) -> None:
    """Of several that find no Secret one wins, and all serve its certificate."""
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: keeper(kube).keep(), range(6)))
    assert len(set(found)) == 1
    assert bundles(kube) == [found[0][1]] * 4


def test_it_is_renewed_in_time_by_the_same_authority(kube: KubeServer) -> None:
    """After two thirds of its time a certificate is made anew; who trusted the old one trusts the new one."""
    pair, bundle = keeper(kube, NOW - timedelta(days=61)).keep()
    assert keeper(kube, NOW - timedelta(days=2)).keep()[0] == pair
    renewed, same = keeper(kube).keep()
    assert renewed != pair
    assert same == bundle
    handshake(Served(lambda: renewed, seconds=60).context, bundle)


def test_a_new_authority_keeps_the_old_ones_trust(kube: KubeServer) -> None:
    """When the authority is renewed, certificates of both are trusted until everyone has the new one."""
    keeper(kube, NOW - timedelta(days=2440)).keep()
    old, _ = keeper(kube, NOW - timedelta(days=10)).keep()
    new, bundle = keeper(kube).keep()
    assert bundles(kube) == [bundle] * 4
    assert bundle.count(b"BEGIN CERTIFICATE") == 2
    handshake(Served(lambda: old, seconds=60).context, bundle)
    found = x509.load_pem_x509_certificate(new.certificate)
    assert found.issuer == x509.load_pem_x509_certificates(bundle)[0].subject


@pytest.mark.parametrize("damage", [{"tls.crt": b"rubbish"}, {"tls.key": b""}, {"ca.key": b""}, {"ca.crt": b"rubbish"}])
def test_a_damaged_secret_is_mended(kube: KubeServer, damage: dict[str, bytes]) -> None:
    """A Secret that somebody broke is made whole again."""
    keeper(kube).keep()
    stored = kube.read("secrets", "datamount", "datamount-controller-tls")
    stored["data"] |= {name: base64.b64encode(value).decode() for name, value in damage.items()}
    pair, bundle = keeper(kube).keep()
    handshake(Served(lambda: pair, seconds=60).context, bundle)


def test_what_a_chart_puts_back_is_set_right(kube: KubeServer) -> None:
    """An upgrade that empties the caBundle is mended at the next pass."""
    _, bundle = keeper(kube).keep()
    hooks = kube.read("mutatingwebhookconfigurations", "", "datamount")["webhooks"]
    hooks[0]["clientConfig"]["caBundle"] = ""
    keeper(kube).keep()
    assert bundles(kube) == [bundle] * 4


def test_mounted_files_are_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New files are served to new connections; files that do not fit together leave the old certificate."""
    authority = make_authority(NOW)

    def write(pair: Pair) -> None:
        (tmp_path / "tls.crt").write_bytes(pair.certificate)
        (tmp_path / "tls.key").write_bytes(pair.key)

    first, second = (make_certificate(authority, [HOST], NOW, 2) for _ in range(2))
    write(first)
    served = Served(from_files(tmp_path), seconds=0.05)
    before = handshake(served.context, authority.certificate).serial_number
    assert not served.refresh()
    write(Pair(second.certificate, first.key))
    with pytest.raises(ssl.SSLError):
        served.refresh()
    assert handshake(served.context, authority.certificate).serial_number == before
    served.start()
    write(second)
    for _ in range(2400):
        if handshake(served.context, authority.certificate).serial_number != before:
            break
        threading.Event().wait(0.05)
    served.stop()
    assert handshake(served.context, authority.certificate).serial_number != before
    assert "PRIVATE KEY" not in caplog.text


def test_no_connection_is_lost_while_the_certificate_changes() -> None:
    """Whoever connects at the moment of a change gets the old certificate or the new one, with its own key."""
    authority = make_authority(NOW)
    pairs = itertools.cycle([make_certificate(authority, [HOST], NOW, 2) for _ in range(2)])
    served = Served(lambda: next(pairs), seconds=60)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            served.refresh()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            found = {
                certificate.serial_number
                for certificate in pool.map(
                    lambda host: handshake(served.context, authority.certificate, host), [HOST, None] * 75
                )
            }
        while len(found) < 2:  # a busy machine may not have let the other thread change it yet
            found.add(handshake(served.context, authority.certificate).serial_number)
    finally:
        over.set()
        thread.join()
    assert len(found) == 2


def test_a_mounted_authority_reaches_the_sidecars(kube: KubeServer, tmp_path: Path) -> None:
    """With cert-manager the sidecars get the authority, also where the API server was down at first, and a new one."""
    settings = Settings(namespaces=["hub", "class"], tls={"mode": "files", "folder": tmp_path})
    mounted = Mounted(Kube(kube.client()), settings)

    def mount() -> bytes:
        authority = make_authority(NOW)
        pair = make_certificate(authority, [HOST], NOW, 2)
        for name, content in (("tls.crt", pair.certificate), ("tls.key", pair.key), ("ca.crt", authority.certificate)):
            (tmp_path / name).write_bytes(content)
        return authority.certificate

    mount()
    kube.down = True
    served = Served(mounted.keep, seconds=60)
    kube.down = False
    for _ in range(2):
        bundle = mount()
        served.refresh()
        for namespace in ("hub", "class"):
            assert kube.read("configmaps", namespace, "datamount-ca")["data"]["ca.crt"].encode() == bundle
        handshake(served.context, bundle)
    kube.asked.clear()
    served.refresh()
    assert kube.asked == []
