"""Who is at the other end of a TLS connection: certificates of the cluster's own authority, with a role each.

The subject's organizational unit is the role, its common name the name: `OU=tenant, CN=shop`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qnet.errors import InvalidRequest

ROLES = ("host", "scheduler", "operator", "tenant")


@dataclass(frozen=True, slots=True)
class Peer:
    """The owner of a certificate."""

    role: str
    name: str


def server_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or later for a server whose clients must have a certificate of the authority. Raises InvalidRequest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _prepared(context, ca, cert, key)


def client_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """The same for a client, of servers with a certificate of the authority. Raises InvalidRequest."""
    return _prepared(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ca, cert, key)


def _prepared(context: ssl.SSLContext, ca: str, cert: str, key: str) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for what, file in (("ca", ca), ("cert", cert), ("key", key)):
        if not Path(file).is_file():
            raise InvalidRequest(f"{what} {file} is not there: make the cluster's certificates (docs/install.md)")
    try:
        context.load_verify_locations(ca)
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidRequest(f"{cert} with {key}, authority {ca}: {error}") from error
    return context


def peer_of(connection: ssl.SSLSocket | ssl.SSLObject) -> Peer | None:
    """Whose certificate the other end has shown and proved; None: it names no role."""
    certificate: Mapping[str, Any] = connection.getpeercert() or {}
    subject = {name: value for part in certificate.get("subject", ()) for name, value in part}
    role, name = subject.get("organizationalUnitName", ""), subject.get("commonName", "")
    return Peer(role, name) if role in ROLES and name else None
