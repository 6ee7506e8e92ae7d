"""`qnet pool`: the subnets that belong to tenants."""

from __future__ import annotations

from typing import Any

import click

from plugins.cli.inventory import Inventory, Pool
from plugins.cli.output import (
    confirm,
    human,
    json_option,
    show_fields,
    show_json,
    show_table,
    tenant_option,
    yes_option,
)
from plugins.cli.session import Session, pass_session
from plugins.ipam.admin import Admin, describe_uses
from qnet.addresses.model import parse_address, parse_subnet
from qnet.tenants import parse_tenant


@click.group()
def pool() -> None:
    """Subnets, who uses them and how full they are."""


@pool.command("ls")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
@pass_session
def ls(session: Session, tenant: str, as_json: bool) -> None:
    """List pools."""
    with session.store() as store:
        inventory = Inventory(store)
        found = [inventory.filled(record) for record in inventory.pools(tenant)]
    if as_json:
        show_json([_summary(one) for one in found])
        return
    columns = ("TENANT", "SUBNET", "GATEWAY", "IN USE", "HELD", "RESERVED", "FREE", "HOSTS")
    show_table(columns, (_row(one) for one in found))


@pool.command("inspect")
@click.argument("subnet")
@tenant_option
@json_option
@pass_session
def inspect(session: Session, subnet: str, tenant: str, as_json: bool) -> None:
    """Show all of one pool."""
    with session.store() as store:
        inventory = Inventory(store)
        found = inventory.filled(inventory.pool(tenant, subnet))
    if as_json:
        uses = [{"host": use.host, "networks": use.networks, "shared": use.shared} for use in found.uses]
        show_json({**_summary(found), "uses": uses, "addresses": {"kinds": found.by_kind, "hosts": found.by_host}})
        return
    record = found.record
    show_fields(
        (
            ("Pool", record.subnet),
            ("Tenant", record.tenant),
            ("Since", record.since),
            ("Kept", "yes: it stays when nobody uses it" if record.kept else "no: it goes with its last network"),
            ("Gateway", record.gateway),
            ("Excluded", ", ".join(record.exclude)),
            ("Free", human(found.free)),
            ("Networks", describe_uses(found.uses) or "none"),
        )
    )
    if found.by_host:
        click.echo()
        kinds = sorted(found.by_kind)
        rows = [(host, *(human(counts.get(kind, 0)) for kind in kinds)) for host, counts in found.by_host.items()]
        show_table(("ADDRESSES", *kinds), [*rows, ("all", *(human(found.by_kind[kind]) for kind in kinds))])


@pool.command("create")
@click.argument("subnet")
@tenant_option
@click.option("--gateway", default="", metavar="ADDRESS", help="For networks that name none.")
@click.option("--exclude", multiple=True, metavar="FIRST-LAST", help="Never handed out; also ADDRESS or SUBNET.")
@json_option
@pass_session
def create(session: Session, subnet: str, tenant: str, gateway: str, exclude: tuple[str, ...], as_json: bool) -> None:
    """Make a pool that stays when no network uses it."""
    wanted, address = parse_subnet(subnet), parse_address(gateway) if gateway else None
    with session.store() as store:
        admin = Admin(store, session.settings.ipam.rest, session.now)
        made = admin.create_pool(parse_tenant(tenant), wanted, address, exclude)
    if as_json:
        show_json(made)
    else:
        click.echo(f"pool {made.subnet} of tenant {made.tenant} created")


@pool.command("rm")
@click.argument("subnet")
@tenant_option
@yes_option
@json_option
@pass_session
def rm(session: Session, subnet: str, tenant: str, yes: bool, as_json: bool) -> None:
    """Remove a pool that nobody uses."""
    with session.store() as store:
        record = Inventory(store).pool(tenant, subnet)
        admin = Admin(store, session.settings.ipam.rest, session.now)
        admin.check_unused(record)
        confirm(session, f"remove pool {record.subnet} of tenant {record.tenant}?", yes)
        admin.remove_pool(record)
    if as_json:
        show_json(record)
    else:
        click.echo(f"pool {record.subnet} of tenant {record.tenant} removed")


def _numbers(found: Pool) -> dict[str, int]:
    kinds = found.by_kind
    held, reserved = kinds["held"], kinds["reservation"] + kinds["quarantine"]
    return {"in_use": kinds.total() - held - reserved, "held": held, "reserved": reserved, "free": found.free}


def _summary(found: Pool) -> dict[str, Any]:
    record = found.record
    return {
        "tenant": record.tenant,
        "subnet": record.subnet,
        "gateway": record.gateway,
        "exclude": record.exclude,
        "kept": record.kept,
        "since": record.since,
        **_numbers(found),
        "hosts": [use.host for use in found.uses],
    }


def _row(found: Pool) -> tuple[str, ...]:
    numbers = (human(number) for number in _numbers(found).values())
    record = found.record
    return (record.tenant, record.subnet, record.gateway, *numbers, ", ".join(use.host for use in found.uses))
