"""`qnet cert`: certificates of users, and those of hosts anew."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import click

from plugins.cli import etcd_here
from plugins.cli.cluster import DAYS_OPTION, TLS_NAMES, known_address, place_of, show_invitation
from plugins.cli.hostfiles import SECRET, put, renewed
from plugins.cli.output import json_option, show_json, show_table
from plugins.cli.session import Session, pass_session
from qnet.authority import Authority, Pair, certificates
from qnet.errors import Conflict, InvalidRequest
from qnet.settings import NAME
from qnet.tenants import Tenants, parse_tenant

DIRECTORY = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="New folder for it (default: qnet-NAME, here)."
)


@click.group()
def cert() -> None:
    """Certificates of operators, tenants and hosts."""


@cert.command("operator")
@click.argument("name")
@DIRECTORY
@DAYS_OPTION
@pass_session
def operator(session: Session, name: str, folder: Path | None, days: int) -> None:
    """Make a certificate for somebody who may do everything."""
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no name: lower-case letters, digits and -, up to 63")
    _give(session, "operator", name, folder, days)


@cert.command("tenant")
@click.argument("name")
@DIRECTORY
@DAYS_OPTION
@pass_session
def tenant(session: Session, name: str, folder: Path | None, days: int) -> None:
    """Make a certificate for somebody of a tenant."""
    with session.store() as store:
        Tenants(store, session.now).get(parse_tenant(name))
    _give(session, "tenant", name, folder, days)


@cert.command("renew")
@click.argument("host", default="")
@click.option("--address", default="", help="With HOST: where it is reached (default: as its agent told last).")
@TLS_NAMES
@DAYS_OPTION
@pass_session
def renew(session: Session, host: str, address: str, tls_names: str, days: int) -> None:
    """Make the certificates of this host, or of HOST, anew.

    With HOST, it prints a line to paste there.

    Its own keep their names; those of HOST have what --tls-names gives.
    """
    place = place_of(session)
    authority = Authority.load(place.tls)
    if host and host != session.settings.host.name:
        with session.store() as store:
            address = address or known_address(store, host)
        if not address:
            raise InvalidRequest(f"no agent of {host} has told where it is reached: give --address")
        show_invitation(session, authority, host, address, "", tls_names, days)
        return
    pairs = renewed(place, authority, days)
    with ExitStack() as undo:
        for name, pair in pairs.items():
            place.put_pair(undo, name, pair, shared=name in ("host", "scheduler"))
        own = etcd_here.folder(place)
        if (own / "cert.pem").exists():
            old = Pair.read(own / "cert.pem", own / "key.pem")
            etcd_here.put_pair(undo, place, authority.pair.cert_pem, authority.renew(old.cert, days))
        undo.pop_all()
    click.echo(f"renewed in {place.tls}: {', '.join(sorted(pairs))}; daemons read them when they start:")
    click.echo("  systemctl restart qnet.target")


@cert.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List this host's certificates and when they end."""
    now = datetime.now(UTC)
    found = [
        {
            "file": str(one.file),
            "role": one.role,
            "name": one.name,
            "until": one.until.isoformat(timespec="seconds"),
            "days": (one.until - now).days,
        }
        for one in certificates(place_of(session).tls)
    ]
    if as_json:
        show_json(found)
        return
    show_table(("FILE", "ROLE", "NAME", "UNTIL", "DAYS"), ([str(value) for value in one.values()] for one in found))


def _give(session: Session, role: str, name: str, folder: Path | None, days: int) -> None:
    authority = Authority.load(place_of(session).tls)
    folder = (folder or Path(f"qnet-{name}")).absolute()
    if folder.exists():
        raise Conflict(f"{folder} is there already: give another --dir, or move it away")
    pair = authority.issue(role, name, days=days)
    with ExitStack() as undo:
        put(undo, folder / "ca.pem", authority.pair.cert_pem)
        put(undo, folder / "cert.pem", pair.cert_pem)
        put(undo, folder / "key.pem", pair.key_pem, SECRET)
        undo.pop_all()
    until = pair.cert.not_valid_after_utc
    click.echo(f"{role} {name}: {folder}, valid until {until:%Y-%m-%d}; give it to nobody else")
    click.echo(f"  export DOCKER_CERT_PATH={folder} DOCKER_TLS_VERIFY=1 DOCKER_HOST=tcp://HOST:PORT")
