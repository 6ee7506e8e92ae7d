"""The cluster's own authority, and the certificates that it signs (`qnet.certificates` has what their roles mean)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qnet.errors import InvalidRequest

DAYS, CA_DAYS = 730, 3650
SKEW = timedelta(minutes=5)  # by which another host's clock may be behind
STORE_CLIENT = "etcd-client.qnet.internal"  # etcd lets in only certificates with this name: no tenant has it


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> bytes:
        """The certificate, as files have it."""
        return self.cert.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, as files have it: PKCS 8, without a password."""
        return self._key(serialization.Encoding.PEM)

    @property
    def der(self) -> tuple[bytes, bytes]:
        """Both as invitations have them."""
        return self.cert.public_bytes(serialization.Encoding.DER), self._key(serialization.Encoding.DER)

    @classmethod
    def of_der(cls, cert: bytes, key: bytes) -> Self:
        """The pair of what `der` gave. Raises ValueError: it is none, or the key is another certificate's."""
        return cls._checked(x509.load_der_x509_certificate(cert), serialization.load_der_private_key(key, None))

    @classmethod
    def read(cls, cert: Path, key: Path) -> Self:
        """The pair of two files. Raises InvalidRequest."""
        try:
            private = serialization.load_pem_private_key(key.read_bytes(), None)
            return cls._checked(x509.load_pem_x509_certificate(cert.read_bytes()), private)
        except OSError as error:
            raise InvalidRequest(f"{error.filename} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise InvalidRequest(f"{cert} with {key}: {error}") from error

    @classmethod
    def _checked(cls, cert: x509.Certificate, key: object) -> Self:
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
            raise ValueError("this key is not that certificate's")
        return cls(cert, key)

    def _key(self, encoding: serialization.Encoding) -> bytes:
        return self.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs the certificates of one cluster."""

    pair: Pair

    @classmethod
    def create(cls, name: str, days: int = CA_DAYS) -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        draft = _draft(subject, subject, key, key, days).add_extension(constraints, critical=True)
        return cls(Pair(draft.add_extension(usage, critical=True).sign(key, hashes.SHA256()), key))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The one whose `ca.pem` and `ca.key` lie there.

        Raises:
            InvalidRequest: they do not; only the host of `qnet init` has them.
        """
        if not (folder / "ca.key").exists():
            raise InvalidRequest(f"{folder}/ca.key is not here: type this on the host on which qnet init was typed")
        return cls(Pair.read(folder / "ca.pem", folder / "ca.key"))

    def issue(self, role: str, name: str, names: Iterable[str] = (), days: int = DAYS) -> Pair:
        """A certificate `OU=role, CN=name` for a server at these names and addresses (none: a client only), which
        does not outlive the authority."""
        parts = [(NameOID.ORGANIZATIONAL_UNIT_NAME, role), (NameOID.COMMON_NAME, name)]
        return self._sign(x509.Name([x509.NameAttribute(*part) for part in parts]), alternatives(names), days)

    def renew(self, cert: x509.Certificate, days: int) -> Pair:
        """A certificate with a key of its own for the same owner and names."""
        return self._sign(cert.subject, names_of(cert), days)

    def _sign(self, subject: x509.Name, names: list[x509.GeneralName], days: int) -> Pair:
        own, key = self.pair, ec.generate_private_key(ec.SECP256R1())
        left = (own.cert.not_valid_after_utc - datetime.now(UTC)).days
        if left < 1:
            raise InvalidRequest(f"the authority's certificate ended on {_day(own.cert)}: make the cluster's anew")
        draft = _draft(subject, own.cert.subject, key, own.key, min(days, left))
        draft = draft.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if names else [])]
        draft = draft.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        draft = draft.add_extension(
            x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True
        )
        if names:
            draft = draft.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Pair(draft.sign(own.key, hashes.SHA256()), key)


@dataclass(frozen=True, slots=True)
class Validity:
    """A certificate of a folder: whose it is, and until when (UTC) it is valid."""

    file: Path
    role: str
    name: str
    until: datetime


def certificates(folder: Path) -> tuple[Validity, ...]:
    """The certificates (`*.pem`) of a folder, the first to end first. Raises InvalidRequest: one is damaged."""
    found = []
    for file in folder.glob("*.pem"):
        try:
            cert = x509.load_pem_x509_certificate(file.read_bytes())
        except ValueError as error:
            raise InvalidRequest(f"{file} is no certificate: {error}") from error
        found.append(Validity(file, *owner_of(cert), cert.not_valid_after_utc))
    return tuple(sorted(found, key=lambda one: (one.until, one.file)))


def until(file: Path) -> datetime:
    """When (UTC) the first of a file's certificates ends. Raises OSError; ValueError: it holds none."""
    return min(cert.not_valid_after_utc for cert in x509.load_pem_x509_certificates(file.read_bytes()))


def owner_of(cert: x509.Certificate) -> tuple[str, str]:
    """Role and name; the authority has the role `authority`."""
    found = {part.oid: str(part.value) for part in cert.subject}
    return found.get(NameOID.ORGANIZATIONAL_UNIT_NAME, "authority"), found.get(NameOID.COMMON_NAME, "")


def signed_by(cert: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority has signed the certificate."""
    try:
        cert.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def names_of(cert: x509.Certificate) -> list[x509.GeneralName]:
    """The names and addresses of a certificate."""
    try:
        return list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    """Names and addresses as certificates have them. Raises InvalidRequest: one is neither."""
    found: dict[x509.GeneralName, None] = {}
    for name in names:
        try:
            found[x509.IPAddress(ipaddress.ip_address(name))] = None
        except ValueError:
            try:
                found[x509.DNSName(name)] = None
            except ValueError as error:
                raise InvalidRequest(f"{name!r} is neither an address nor a name: {error}") from error
    return list(found)


def _draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    signed = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(signed, critical=False)
    )


def _day(cert: x509.Certificate) -> str:
    return cert.not_valid_after_utc.date().isoformat()
