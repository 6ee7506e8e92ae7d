"""`qnet init`, `qnet invite`, `qnet join`: how a host becomes part of a cluster."""

from __future__ import annotations

import shlex
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click
from cryptography.hazmat.primitives.serialization import Encoding

from plugins.cli import etcd_here
from plugins.cli.hostfiles import Place, put
from plugins.cli.machines import machine
from plugins.cli.session import Session, pass_session
from qnet import invitation, schema, settings
from qnet.addresses.model import parse_address
from qnet.authority import DAYS, STORE_CLIENT, Authority, Pair
from qnet.errors import Conflict, InvalidRequest
from qnet.invitation import Invitation
from qnet.listen import location, parse_listen
from qnet.settings import NAME, Etcd
from qnet.store.base import Store

AGENT_PORT = 7443
HERE = "here"
FILE = click.Path(exists=True, dir_okay=False, resolve_path=True)
DAYS_OPTION = click.option(
    "--days", type=click.IntRange(1, 3650), default=DAYS, show_default=True, help="How long its certificates are valid."
)
TLS_NAMES = click.option(
    "--tls-names", default="", metavar="NAME,…", help="More names and addresses that it is reached by."
)
NEXT = "  systemctl enable --now qnet.target"


def place_of(session: Session) -> Place:
    """Where this host's settings and certificates are."""
    return Place(session.file or settings.DEFAULT_FILE)


@click.command()
@click.option("--name", default="", help="This host's name in the cluster (default: the machine's).")
@click.option("--address", default="", help="Where other hosts reach it (default: that of the default route).")
@click.option("--parent", default="", metavar="LINK", help="Parent of networks that name none.")
@click.option("--etcd", default=HERE, show_default=True, metavar="here|HOST:PORT,…", help="The cluster's store.")
@click.option("--etcd-ca", type=FILE, help="With another's etcd: its authority,")
@click.option("--etcd-cert", type=FILE, help="a certificate for qnet,")
@click.option("--etcd-key", type=FILE, help="and that one's key.")
@TLS_NAMES
@DAYS_OPTION
@click.option("--no-start", is_flag=True, help="Write etcd's settings, and leave it alone.")
@click.option("--etcd-defaults", type=click.Path(path_type=Path), default=etcd_here.DEFAULTS, hidden=True)
@pass_session
def init(
    session: Session,
    name: str,
    address: str,
    parent: str,
    etcd: str,
    etcd_ca: str | None,
    etcd_cert: str | None,
    etcd_key: str | None,
    tls_names: str,
    days: int,
    no_start: bool,
    etcd_defaults: Path,
) -> None:
    """Make a cluster, of which this is the first host.

    It gets an authority, certificates, settings and an etcd.
    """
    place = place_of(session)
    if place.initialised or (place.tls / "ca.key").exists():
        raise Conflict(
            f"this host is part of a cluster already ({place.tls}): qnet invite NAME --address ADDRESS adds another; "
            f"to begin anew, move that folder away"
        )
    name, address = _name(name or session.settings.host.name), _address(address or _own_address())
    parent = _parent(parent)
    here, given = etcd == HERE, (etcd_ca or "", etcd_cert or "", etcd_key or "")
    if here and any(given):
        raise InvalidRequest("--etcd-ca, --etcd-cert and --etcd-key go with --etcd HOST:PORT")
    store = Etcd((etcd_here.endpoint(address),), *place.files("host")) if here else etcd_here.other(etcd, *given)
    authority = Authority.create(f"qnet {name}")
    with ExitStack() as undo:
        put(undo, place.tls / "ca.pem", authority.pair.cert_pem)
        put(undo, place.tls / "ca.key", authority.pair.key_pem, 0o600)
        for role, pair in _pairs(authority, name, address, tls_names, days).items():
            place.put_pair(undo, role, pair, shared=True)
        place.put_pair(undo, "client", authority.issue("operator", f"root@{name}", days=days), shared=False)
        _put_settings(undo, place, name, address, parent, store)
        if here:
            pair = etcd_here.issue(authority, name, address, days)
            etcd_here.set_up(undo, place, etcd_defaults, address, authority.pair.cert_pem, pair)
            if not no_start:
                etcd_here.start(undo, store)
        undo.pop_all()
    _tell(name, place, store, here, no_start)


@click.command()
@click.argument("name")
@click.option("--address", required=True, help="Where other hosts reach it.")
@click.option("--parent", default="", metavar="LINK", help="Parent of its networks that name none.")
@TLS_NAMES
@DAYS_OPTION
@pass_session
def invite(session: Session, name: str, address: str, parent: str, tls_names: str, days: int) -> None:
    """Print a line by which another host joins.

    It is to be pasted there, as root, and is a secret: it has the host's keys.
    """
    authority = Authority.load(place_of(session).tls)
    name = _name(name)
    with session.store() as store:
        if _known(store, name):
            raise Conflict(
                f"host {name} is in the cluster: choose another name; for new certificates of that host type qnet cert "
                f"renew {name} --address ADDRESS, and if it is gone, qnet host forget {name}"
            )
    show_invitation(session, authority, name, _address(address), _parent(parent), tls_names, days)


def show_invitation(
    session: Session, authority: Authority, name: str, address: str, parent: str, tls_names: str, days: int
) -> None:
    """Print the line on standard output, and what it is beside it."""
    etcd = session.settings.etcd
    own = etcd.ca == place_of(session).files("host")[0]
    pairs = _pairs(authority, name, address, tls_names, days)
    made = Invitation(
        name=name,
        address=address,
        parent=parent,
        endpoints=etcd.endpoints,
        issued=int(time.time()),
        ca=authority.pair.cert.public_bytes(Encoding.DER),
        host=pairs["host"].der,
        scheduler=pairs["scheduler"].der,
        etcd_tls=own,
        etcd_files=("", "", "") if own else (etcd.ca, etcd.cert, etcd.key),
    )
    until = pairs["host"].cert.not_valid_after_utc
    click.echo(f"echo {shlex.quote(made.line())} | qnet join")
    click.echo(
        f"qnet: type that line on {name}, as root. It is a secret: it has the keys of {name}, whose certificates are "
        f"valid until {until:%Y-%m-%d}",
        err=True,
    )
    if etcd.ca and not own:
        click.echo(f"qnet: before, put etcd's files there: {', '.join(filter(None, made.etcd_files))}", err=True)


@click.command()
@click.option("--force", is_flag=True, help="Leave the cluster that this host is part of.")
@pass_session
def join(session: Session, force: bool) -> None:
    """Join the cluster whose invitation comes by standard input.

    The line that `qnet invite` printed has it.
    """
    if session.interactive():
        raise InvalidRequest("join reads an invitation: paste the whole line that qnet invite printed")
    made = invitation.read(sys.stdin.read(1 << 16))
    found = invitation.check(made)
    place = place_of(session)
    ca = found.ca.public_bytes(Encoding.PEM)
    if (place.tls / "ca.key").exists():
        raise Conflict(
            f"this host has the authority of a cluster ({place.tls}/ca.key): qnet cert renew makes its certificates "
            f"anew; to leave that cluster, move {place.tls} away"
        )
    if place.initialised and not force:
        _check_same(session, place, ca, made.name)
    for file in filter(None, made.etcd_files):
        if not Path(file).is_file():
            raise InvalidRequest(
                f"{file} is not there: copy etcd's files from the host that invites, then type it again"
            )
    files = place.files("host") if made.etcd_tls else made.etcd_files
    store = Etcd(made.endpoints, *files)
    with ExitStack() as undo:
        trial = store
        if made.etcd_tls:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="qnet-")))
            trial = Etcd(made.endpoints, *_written(folder, ca, found.host))
        etcd_here.check(trial)
    with ExitStack() as undo:
        put(undo, place.tls / "ca.pem", ca)
        place.put_pair(undo, "host", found.host, shared=True)
        place.put_pair(undo, "scheduler", found.scheduler, shared=True)
        _put_settings(undo, place, made.name, made.address, made.parent, store)
        undo.pop_all()
    click.echo(f"{made.name} is part of the cluster; certificates in {place.tls}, settings in {place.settings}")
    click.echo(f"next, here:\n{NEXT}")


def known_address(store: Store, name: str) -> str:
    """Where the agent of a host was last reached; nothing if that is not known."""
    known = machine(store, name)
    return parse_listen(known.url)[0] if known and known.url else ""


def _written(folder: Path, ca: bytes, pair: Pair) -> tuple[str, str, str]:
    found = []
    for name, data in (("ca", ca), ("cert", pair.cert_pem), ("key", pair.key_pem)):
        with ExitStack() as undo:
            put(undo, folder / name, data, 0o600)
            undo.pop_all()
        found.append(str(folder / name))
    return found[0], found[1], found[2]


def _check_same(session: Session, place: Place, ca: bytes, name: str) -> None:
    """The same host of the same cluster may join again, with newer certificates. Raises Conflict."""
    same = (place.tls / "ca.pem").exists() and (place.tls / "ca.pem").read_bytes() == ca
    here = session.settings.host.name
    if not same or here != name:
        raise Conflict(
            f"this host is {here} of {'this' if same else 'another'} cluster already ({place.tls}): stop qnet "
            f"(systemctl stop qnet.target), remove its containers, and add --force to make it {name}"
        )


def _pairs(authority: Authority, name: str, address: str, more: str, days: int) -> dict[str, Pair]:
    """What every host has. The name by which etcd knows its clients is the host's only."""
    names = (name, address, *filter(None, map(str.strip, more.split(","))))
    return {
        "host": authority.issue("host", name, (*names, STORE_CLIENT), days),
        "scheduler": authority.issue("scheduler", name, names, days),
    }


def _put_settings(undo: ExitStack, place: Place, name: str, address: str, parent: str, etcd: Etcd) -> None:
    wanted: dict[str, dict[str, object]] = {
        "host": {"name": name},
        "etcd": {"endpoints": etcd.endpoints, "ca": etcd.ca, "cert": etcd.cert, "key": etcd.key},
        "agent": {"address": location(address, AGENT_PORT)},
        **({"network": {"parent": parent}} if parent else {}),
    }
    place.put_settings(undo, wanted)


def _tell(name: str, place: Place, etcd: Etcd, here: bool, no_start: bool) -> None:
    click.echo(f"cluster made; this host is {name}")
    click.echo(f"  authority     {place.tls}/ca.key: keep a copy where nobody else reads it")
    click.echo(f"  certificates  {place.tls}")
    click.echo(f"  settings      {place.settings}")
    plain = "" if etcd.ca else ", without TLS: whoever reaches it can change everything"
    click.echo(f"  etcd          {', '.join(etcd.endpoints)}{plain}")
    click.echo("next:")
    if here and no_start:
        click.echo("  systemctl enable etcd && systemctl restart etcd")
    click.echo(f"{NEXT}\n  qnet invite host2 --address ADDRESS")


def _known(store: Store, name: str) -> bool:
    return bool(store.get(schema.host_key(name)) or machine(store, name))


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name!r} is no host name: lower-case letters, digits and -, up to 63")
    return name


def _parent(link: str) -> str:
    if link and not (settings.LINK.fullmatch(link) or NAME.fullmatch(link)):
        raise InvalidRequest(f"--parent {link!r} is no name of a link: up to 15 characters")
    return link


def _address(text: str) -> str:
    address = parse_address(text)
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise InvalidRequest(f"--address {text}: the address at which other hosts reach this one")
    return str(address)


def _own_address() -> str:
    """That of the link which the default route leaves by; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # RFC 5737: nobody's
        except OSError as error:
            raise InvalidRequest("there is no default route to tell this host's address: give --address") from error
        return str(probe.getsockname()[0])
