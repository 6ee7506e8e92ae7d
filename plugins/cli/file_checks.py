"""Checks of the files that the settings name: whether they are there, who can read keys, what certificates say."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from plugins.cli.health import Finding
from qnet.authority import names_of, owner_of, signed_by
from qnet.settings import Settings

SOON = timedelta(days=30)
MADE_BY = "make the cluster's certificates (docs/install.md)"
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - it is compared, not listened at


@dataclass(frozen=True, slots=True)
class Use:
    """What a section of the settings says of files. `roles`: those that its certificate may have, none: any. `address`:
    at which it is reached, empty: not known, or no server. `needed`: the settings want the files for sure."""

    section: str
    ca: str
    cert: str
    key: str
    roles: Sequence[str] = ()
    address: str = ""
    needed: bool = False
    secret: str = ""

    @property
    def named(self) -> tuple[tuple[str, Path], ...]:
        """The files, by the names of their options."""
        known = {"ca": self.ca, "cert": self.cert, "key": self.key, "password_file": self.secret}
        return tuple((option, Path(file)) for option, file in known.items() if file)


def uses(settings: Settings) -> list[Use]:
    """Every section that names files."""
    etcd, agent, scheduler, gateway = settings.etcd, settings.agent, settings.scheduler, settings.gateway
    host = agent.listen.rpartition(":")[0].strip("[]")
    address = agent.address.rpartition(":")[0].strip("[]") or (socket.getfqdn() if host in ANYWHERE else host)
    placing = ("scheduler",)
    found = [
        Use("etcd", etcd.ca, etcd.cert, etcd.key, needed=True, secret=etcd.password_file),
        Use("agent", agent.ca, agent.cert, agent.key, ("host",), address),
        Use("scheduler", scheduler.ca, scheduler.cert, scheduler.key, placing, needed=bool(scheduler.listen)),
        Use("client", *_files(settings), ("operator", "tenant"), needed=bool(settings.client.url)),
    ]
    if gateway.listen:
        found.append(Use("gateway", gateway.ca, gateway.cert, gateway.key, placing, needed=True))
    return [one for one in found if one.named]


def files(use: Use, today: datetime) -> Iterator[Finding]:
    """What is wrong with the files of a section. Raises OSError: one cannot be read."""
    where = f"[{use.section}]"
    there = {option for option, file in use.named if file.exists()}
    if not use.needed and not there & {"cert", "key"}:
        yield Finding("ok", f"{where}: no certificate, so it is not used on this host")
        return
    for option, file in use.named:
        if option not in there:
            yield Finding("fail", f"{where} {option} {file} is not there", f"correct the settings, or {MADE_BY}")
        elif option in ("key", "password_file") and file.stat().st_mode & stat.S_IRWXO:
            yield Finding("fail", f"{where} {option} {file}: everybody on this host may read it", f"chmod o= {file}")
    if {"ca", "cert", "key"} <= there:
        try:
            wrong = list(_wrong(use, today))
        except ValueError as error:  # what cryptography says of files that are none
            wrong = [Finding("fail", f"{where} ca, cert or key is damaged: {error}", MADE_BY)]
        yield from wrong or [Finding("ok", f"{where} {use.cert}: {_described(_loaded(use.cert)[0])}")]


def _wrong(use: Use, today: datetime) -> Iterator[Finding]:
    authorities, (cert, *chain) = _loaded(use.ca), _loaded(use.cert)
    where = f"[{use.section}] cert {use.cert}"
    if not any(signed_by(cert, by) for by in (*authorities, *chain)):
        yield Finding("fail", f"{where} is not signed by {use.ca}", "use one authority on all hosts")
    key = load_pem_private_key(Path(use.key).read_bytes(), None)
    if key.public_key() != cert.public_key():
        yield Finding("fail", f"{where} and key {use.key} do not belong together", MADE_BY)
    for file, one in ((use.cert, cert), *((use.ca, by) for by in authorities if signed_by(cert, by))):
        yield from _times(f"[{use.section}] {file}", one, today)
    (role, _), names = owner_of(cert), [str(one.value) for one in names_of(cert)]
    if use.roles and role not in use.roles:
        yield Finding("fail", f"{where} has role {role or '-'}", f"make one with OU={' or OU='.join(use.roles)}")
    if use.address and use.address not in names:
        known = ", ".join(names) or "no address"
        todo = f"make one with subjectAltName {use.address}, or correct [agent] address"
        yield Finding("fail", f"{where} is for {known}, and others reach this host at {use.address}", todo)


def _times(what: str, cert: x509.Certificate, today: datetime) -> Iterator[Finding]:
    first, last = cert.not_valid_before_utc, cert.not_valid_after_utc
    if today > last:
        yield Finding("fail", f"{what} was valid until {last:%Y-%m-%d}", f"{MADE_BY} anew")
    elif today < first:
        yield Finding("fail", f"{what} is valid from {first:%Y-%m-%d %H:%M} on", "set this host's clock")
    elif today > last - SOON:
        yield Finding("warn", f"{what} is valid until {last:%Y-%m-%d}", f"{MADE_BY} anew before that")


def _loaded(file: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(Path(file).read_bytes())


def _described(cert: x509.Certificate) -> str:
    role, name = owner_of(cert)
    return f"{role} {name}, valid until {cert.not_valid_after_utc:%Y-%m-%d}".strip()


def _files(settings: Settings) -> tuple[str, str, str]:
    return settings.client.ca, settings.client.cert, settings.client.key
