"""`qnet address`: who has which address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import click

from plugins.cli.inventory import Inventory, Located
from plugins.cli.output import confirm, json_option, show_fields, show_json, show_table, tenant_option, yes_option
from plugins.cli.session import Session, pass_session
from plugins.ipam.admin import Admin, check_release, describe_shared
from qnet.addresses.model import parse_subnet
from qnet.addresses.openpool import Stored
from qnet.addresses.records import describe
from qnet.errors import InvalidRequest, NotFound
from qnet.schema import AddressRecord, Kind, NetworkRecord, PoolRecord

SHORT = 12
FIELDS = (
    *("address", "tenant", "subnet", "state", "kind", "host", "container", "container_id", "network", "network_id"),
    *("endpoint", "mac", "mac_claim", "named_by", "note", "since"),
)


@click.group()
def address() -> None:
    """Addresses: who has them, and since when."""


@address.command("ls")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--subnet", default="", help="Only of this pool.")
@click.option("--host", default="", help="Only this host's.")
@click.option("--kind", type=click.Choice(get_args(Kind)), help="Only of this kind.")
@click.option("--container", default="", metavar="NAME", help="Only of this container, by name or id.")
@json_option
@pass_session
def ls(session: Session, tenant: str, subnet: str, host: str, kind: str | None, container: str, as_json: bool) -> None:
    """List addresses that somebody has."""
    with session.store() as store:
        inventory = Inventory(store)
        names = _names(inventory.networks())
        wanted = str(parse_subnet(subnet)) if subnet else ""
        pools = [pool for pool in inventory.pools(tenant) if wanted in ("", pool.subnet)]
        if subnet and not pools:
            raise NotFound(f"pool {wanted} does not exist; see qnet pool ls")
        found = [
            _view(pool, stored, names)
            for pool in pools
            for stored in _sorted(inventory.addresses(pool))
            if _matches(stored.record, host, kind or "", container)
        ]
    if as_json:
        show_json(found)
        return
    columns = ("TENANT", "ADDRESS", "KIND", "HOST", "CONTAINER", "NETWORK", "MAC", "SINCE")
    show_table(columns, (tuple(view[column.lower()] for column in columns) for view in found))


@address.command("inspect")
@click.argument("address")
@tenant_option
@json_option
@pass_session
def inspect(session: Session, address: str, tenant: str, as_json: bool) -> None:
    """Show all of one address, whoever has it or nobody."""
    with session.store() as store:
        inventory = Inventory(store)
        located = inventory.locate(tenant, address)
        view = _whole(inventory, located)
    if as_json:
        show_json(view)
        return
    show_fields((name.replace("_", " ").capitalize(), view[name]) for name in FIELDS)


@address.command("reserve")
@click.argument("address", required=False)
@click.option("--any", "any_", is_flag=True, help="Any free address of --subnet.")
@click.option("--subnet", default="", help="The pool; without it, the one that the address is in.")
@tenant_option
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@json_option
@pass_session
def reserve(
    session: Session, address: str | None, any_: bool, subnet: str, tenant: str, note: str, as_json: bool
) -> None:
    """Keep an address from containers. For a machine that Docker does not know."""
    if any_ == bool(address):
        raise click.UsageError("Give an ADDRESS, or --any with --subnet.")
    if any_ and not subnet:
        raise click.UsageError("--any needs --subnet.")
    with session.store() as store:
        inventory = Inventory(store)
        located = inventory.locate(tenant, address) if address else None
        pool = located.pool if located else inventory.pool(tenant, subnet)
        if subnet and pool.subnet != str(parse_subnet(subnet)):
            raise InvalidRequest(f"address {address} is not in {subnet} but in pool {pool.subnet}")
        admin = Admin(store, session.settings.ipam.rest, session.now)
        wanted, host = located.address if located else None, session.settings.host.name
        given = admin.reserve(pool, wanted, host, note)
    if as_json:
        show_json({"address": str(given), "tenant": tenant, "subnet": pool.subnet, "host": host, "note": note})
    else:
        click.echo(f"{given} reserved")


@address.command("release")
@click.argument("address")
@tenant_option
@yes_option
@click.option("--force", is_flag=True, help="Release it even from an endpoint that has it.")
@json_option
@pass_session
def release(session: Session, address: str, tenant: str, yes: bool, force: bool, as_json: bool) -> None:
    """Take an address from whoever has it."""
    with session.store() as store:
        inventory = Inventory(store)
        located = inventory.locate(tenant, address)
        pool, stored = located.pool, located.stored
        if stored is None:
            raise NotFound(f"address {located.address} of pool {pool.subnet} of tenant {tenant} is nobody's")
        view = _view(pool, stored, _names(inventory.networks()))
        check_release(tenant, located.subnet, stored, inventory.uses(pool), force)
        confirm(session, f"release {located.address} of tenant {tenant}: {describe(stored.record)}?", yes)
        Admin(store, session.settings.ipam.rest, session.now).release(tenant, located.subnet, stored)
    if as_json:
        show_json(view)
    else:
        click.echo(f"{located.address} released{_afterwards(stored.record)}")


def _afterwards(record: AddressRecord) -> str:
    """What the owner's host does about a release, which people may not expect."""
    if record.kind == "endpoint":
        return f"; its container on {record.host} still uses it, and that host claims it again unless another has it"
    if record.kind == "held" and record.asked:
        return f"; {record.host} holds it again, [ipam] grace later, if its container exists and nobody else has it"
    return ""


def _sorted(found: Iterable[Stored]) -> Iterator[Stored]:
    return iter(sorted(found, key=lambda stored: int(stored.address)))


def _matches(record: AddressRecord, host: str, kind: str, container: str) -> bool:
    named = container in ("", record.container) or (
        len(container) >= SHORT and record.container_id.startswith(container)
    )
    return named and host in ("", record.host) and kind in ("", record.kind)


def _names(networks: Iterable[NetworkRecord]) -> dict[str, str]:
    return {network.id: network.name for network in networks}


def _view(pool: PoolRecord, stored: Stored, names: Mapping[str, str]) -> dict[str, Any]:
    record = stored.record
    return {
        "tenant": pool.tenant,
        "subnet": pool.subnet,
        "address": str(stored.address),
        "kind": record.kind,
        "host": record.host,
        "container": record.container,
        "container_id": record.container_id,
        "network": names.get(record.network) or record.network[:SHORT],
        "network_id": record.network,
        "endpoint": record.endpoint,
        "mac": record.mac,
        "since": record.since,
        "note": record.note,
    }


def _whole(inventory: Inventory, located: Located) -> dict[str, Any]:
    """Everything of one address; the fields of a record are empty if it has none."""
    pool, stored = located.pool, located.stored
    record = stored.record if stored else AddressRecord(kind="reservation", host="", since="", claim="")
    view = _view(pool, Stored(located.address, record, 0), _names(inventory.networks()))
    if stored is None:
        state = "free, resting after a release" if inventory.is_resting(located) else "free"
        return {**view, "kind": "", "state": state, "mac_claim": "", "named_by": ""}
    claim = inventory.mac(pool.tenant, record.mac)
    return {
        **view,
        "state": describe(record).removeprefix("it is "),
        "mac_claim": f"{claim.address} on {claim.host}" if claim else "",
        "named_by": describe_shared(inventory.uses(pool), located.address),
    }
