"""The controller's certificate: mounted, or made here, and in both cases renewed without a restart.

Self-signed means a certificate authority of our own, in one Secret that all replicas share. Whoever finds the Secret
missing or old writes it; of two, the API server lets one win and the other reads it. The authority's certificate goes
where it is checked: into the webhook configuration's caBundle and into a ConfigMap for the sidecars. When a new
authority is made, the old one stays in the bundle beside it, so that neither replicas nor sidecars lose trust at once.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from datamount.controller.kube import Kube
from datamount.controller.settings import Settings
from datamount.errors import Conflict, DatamountError, Unavailable

log = logging.getLogger(__name__)

AUTHORITY_DAYS = 3650
TRIES = 5
CHECK_SECONDS = 60.0
FILE_SECONDS = 10.0
CERTIFICATE, KEY, AUTHORITY, AUTHORITY_KEY = "tls.crt", "tls.key", "ca.crt", "ca.key"


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its private key, PEM."""

    certificate: bytes
    key: bytes


def make_authority(now: datetime) -> Pair:
    """A new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"datamount {now:%Y-%m-%d}")])
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def make_certificate(authority: Pair, hosts: list[str], now: datetime, days: int) -> Pair:
    """A server's certificate for these DNS names, signed by the first certificate of `authority`."""
    issuer = x509.load_pem_x509_certificates(authority.certificate)[0]
    issuer_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    certificate = (
        _builder(issuer.subject, name, key.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # nodes' clocks differ
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def worn(certificate: bytes, now: datetime) -> bool:
    """Whether two thirds of a certificate's time are over, or it cannot be read."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return True
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    return now > begin + (end - begin) * 2 / 3


class SelfSigned:
    """Keeps the Secret, the caBundle and the ConfigMaps right. Safe with several replicas."""

    def __init__(
        self, kube: Kube, settings: Settings, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        service = f"{settings.service}.{settings.namespace}"
        self._hosts = [f"{service}.svc", service, settings.service, f"{service}.svc.cluster.local"]

    def keep(self) -> tuple[Pair, bytes]:
        """The pair to serve and the bundle that checks it, both stored. Raises Unavailable or Refused."""
        for _ in range(TRIES):
            with contextlib.suppress(Conflict):  # another replica wrote it: read what it wrote
                pair, bundle = self._secret()
                self._kube.keep_ca_bundle(self._settings.tls.webhook, bundle)
                tell_sidecars(self._kube, self._settings, bundle)
                return pair, bundle
        raise Unavailable("the certificate's Secret is always changed by someone else.", who="the hub's operator")

    def _secret(self) -> tuple[Pair, bytes]:
        settings, now = self._settings, self._clock()
        found = self._kube.secret(settings.namespace, settings.tls.secret)
        data, version = found if found is not None else ({}, None)
        wanted = self._renewed(data, now)
        if wanted != data:
            self._kube.put_secret(settings.namespace, settings.tls.secret, wanted, version)
            log.info("certificate: a new one is in the Secret %s", settings.tls.secret)
        return Pair(wanted[CERTIFICATE], wanted[KEY]), wanted[AUTHORITY]

    def _renewed(self, data: Mapping[str, bytes], now: datetime) -> dict[str, bytes]:
        wanted = dict(data)
        if not all(data.get(name) for name in (AUTHORITY, AUTHORITY_KEY)) or worn(_first(data[AUTHORITY]), now):
            authority = make_authority(now)
            wanted[AUTHORITY] = authority.certificate + _first(data.get(AUTHORITY, b""))
            wanted[AUTHORITY_KEY] = authority.key
            wanted.pop(CERTIFICATE, None)
        if not wanted.get(CERTIFICATE) or not wanted.get(KEY) or worn(wanted[CERTIFICATE], now):
            authority = Pair(wanted[AUTHORITY], wanted[AUTHORITY_KEY])
            pair = make_certificate(authority, self._hosts, now, self._settings.tls.days)
            wanted |= {CERTIFICATE: pair.certificate, KEY: pair.key}
        return wanted


def _first(bundle: bytes) -> bytes:
    """The newest authority of a bundle; empty where there is none."""
    end = b"-----END CERTIFICATE-----\n"
    return bundle.partition(end)[0] + end if end in bundle else b""


class Served:
    """A TLS context whose certificate follows its source: new connections get the new one, open ones go on.

    Each certificate has a context of its own, which a handshake is led to as a whole: one that is loaded into a context
    in use has, for a moment, no key, and whoever connects then is turned away.
    """

    def __init__(self, read: Callable[[], Pair], *, seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._pair: Pair | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._current = self.context = _server_context()
        self.context.sni_callback = self._lead  # called for clients that name no server, too
        self.refresh()

    def refresh(self) -> bool:
        """Whether another certificate is served now. Raises what the source raises; the old one stays then."""
        pair = self._read()
        if pair == self._pair:
            return False
        context = _server_context()
        # OpenSSL reads chains from files only; tmpfs or not, they are gone at once.
        with tempfile.TemporaryDirectory() as folder:
            certificate, key = Path(folder, CERTIFICATE), Path(folder, KEY)
            certificate.write_bytes(pair.certificate)
            key.touch(mode=0o600)
            key.write_bytes(pair.key)
            context.load_cert_chain(certificate, key)
        self._current = context
        self._pair = pair
        return True

    def _lead(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def start(self) -> None:
        self._thread = threading.Thread(target=self._watch, name="certificate", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                if self.refresh():
                    log.info("certificate: a new one is served")
            except DatamountError as error:
                log.warning("certificate: the old one stays: %s", error.sentence())
            except Exception:
                log.exception("certificate: the old one stays")

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(5)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def from_files(folder: Path) -> Callable[[], Pair]:
    """Reads tls.crt and tls.key, as cert-manager's Secret is mounted."""
    return lambda: Pair((folder / CERTIFICATE).read_bytes(), (folder / KEY).read_bytes())


class Mounted:
    """A mounted certificate (tls.crt, tls.key), whose authority (ca.crt, where there is one) goes to the sidecars.

    The webhook's caBundle is the mounter's: cert-manager injects it.
    """

    def __init__(self, kube: Kube, settings: Settings) -> None:
        self._kube = kube
        self._settings = settings
        self._read = from_files(settings.tls.folder)
        self._told = b""

    def keep(self) -> Pair:
        """The pair to serve. A ConfigMap that cannot be written is tried again and does not keep us from serving."""
        pair = self._read()
        authority = self._settings.tls.folder / AUTHORITY
        bundle = authority.read_bytes() if authority.exists() else b""
        if bundle and bundle != self._told:
            try:
                tell_sidecars(self._kube, self._settings, bundle)
                self._told = bundle
            except DatamountError as error:
                log.warning("certificate: sidecars cannot check it: %s", error.sentence())
        return pair


def tell_sidecars(kube: Kube, settings: Settings, bundle: bytes) -> None:
    """Keep the ConfigMap with the authority in every session namespace."""
    for namespace in settings.namespaces:
        kube.keep_config_map(namespace, settings.tls.ca_config_map, {AUTHORITY: bundle.decode()})
