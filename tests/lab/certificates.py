"""The lab's own authority, and certificates with the roles that qnet knows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.lab.commands import run
from tests.lab.model import Layout, Node

NEW = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90")


def folder(layout: Layout) -> Path:
    """Where they are, with the authority's `ca.pem` and `ca.key`."""
    return layout.data / "tls"


def make_authority(layout: Layout) -> None:
    """Make the authority."""
    where = folder(layout)
    where.mkdir(parents=True, exist_ok=True)
    run([*NEW, "-subj", "/CN=qnet lab", "-keyout", str(where / "ca.key"), "-out", str(where / "ca.pem")])


def make(layout: Layout, role: str, name: str, addresses: Sequence[str] = ()) -> tuple[Path, Path]:
    """A certificate and its key, for servers at these addresses if any are given."""
    where = folder(layout)
    cert, key = where / f"{role}-{name}.pem", where / f"{role}-{name}.key"
    alternative = ("-addext", f"subjectAltName={','.join(f'IP:{one}' for one in addresses)}") if addresses else ()
    signed = ("-CA", str(where / "ca.pem"), "-CAkey", str(where / "ca.key"))
    plain = ("-addext", "basicConstraints=critical,CA:FALSE")
    run([*NEW, *signed, "-subj", f"/OU={role}/CN={name}", *plain, *alternative, "-keyout", str(key), "-out", str(cert)])
    return cert, key


def give(node: Node) -> None:
    """Put a host's certificates where its settings say."""
    target = node.disk / "private/etc/qnet/tls"
    target.mkdir(parents=True, exist_ok=True)
    (target / "ca.pem").write_bytes((folder(node.layout) / "ca.pem").read_bytes())
    for role, name in (("host", "host"), ("scheduler", "scheduler")):
        cert, key = make(node.layout, role, node.name, [node.address])
        (target / f"{name}.pem").write_bytes(cert.read_bytes())
        (target / f"{name}.key").write_bytes(key.read_bytes())
        (target / f"{name}.key").chmod(0o600)
