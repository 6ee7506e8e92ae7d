"""`qnet network`: the Docker networks of all hosts, as their hosts publish them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import click

from plugins.cli.inventory import Inventory
from plugins.cli.output import json_option, show_fields, show_json, show_table
from plugins.cli.session import Session, pass_session
from qnet.errors import InvalidRequest, NotFound
from qnet.schema import NetworkRecord

SHORT = 12


@click.group()
def network() -> None:
    """Docker networks over all hosts."""


@network.command("ls")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
@pass_session
def ls(session: Session, tenant: str, as_json: bool) -> None:
    """List networks. Those of one name, tenant and subnets on several hosts are one."""
    with session.store() as store:
        groups = _grouped(Inventory(store).networks(tenant))
    rows = [_summary(group) for group in groups]
    if as_json:
        show_json(rows)
        return
    columns = ("NAME", "TENANT", "SUBNETS", "PARENTS", "MODES", "HOSTS")
    show_table(columns, (tuple(_text(row[column.lower()]) for column in columns) for row in rows))


@network.command("inspect")
@click.argument("name")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
@pass_session
def inspect(session: Session, name: str, tenant: str, as_json: bool) -> None:
    """Show a network, by name or id, on each host that has it."""
    with session.store() as store:
        networks = Inventory(store).networks(tenant)
    found = [one for one in networks if one.name == name] or [one for one in networks if one.id.startswith(name)]
    if not found:
        raise NotFound(f"network {name} is on no host; see qnet network ls")
    if as_json:
        show_json(found)
        return
    for number, one in enumerate(found):
        if number:
            click.echo()
        show_fields(_fields(one))


@network.command("create")
@click.argument("name")
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    metavar="SUBNET",
    help="One of each IP version; without any, carved from the tenant's supernets.",
)
@click.option("--gateway", "gateways", multiple=True, metavar="ADDRESS", help="Of each subnet, in the same order.")
@click.option(
    "--ip-range",
    "ranges",
    multiple=True,
    metavar="SUBNET",
    help="Part of each subnet that is handed out, in the same order.",
)
@click.option("--opt", "-o", "options", multiple=True, metavar="NAME=VALUE", help="As -o of docker network create.")
@click.option("--ipam-opt", "ipam_options", multiple=True, metavar="NAME=VALUE", help="As --ipam-opt of docker.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label.")
@click.option("--internal", is_flag=True, help="No way out of the network.")
@click.option("--tenant", default="", help="Whose it is.")
@json_option
@pass_session
def create(session: Session, /, name: str, tenant: str, internal: bool, as_json: bool, **options: Any) -> None:
    """Make a network on every host, those that join later too."""
    subnets = [
        {key: value for key, value in zip(("Subnet", "Gateway", "IPRange"), parts, strict=True) if value}
        for parts in zip_longest(options["subnets"], options["gateways"], options["ranges"], fillvalue="")
    ]
    asked = {
        "name": name,
        "tenant": tenant,
        "internal": internal,
        "subnets": subnets,
        "ipv6": any(":" in subnet for subnet in options["subnets"]),
        "options": _pairs(options["options"], "--opt"),
        "ipam_options": _pairs(options["ipam_options"], "--ipam-opt"),
        "labels": _pairs(options["labels"], "--label"),
    }
    made = session.api().call("POST", "/v1/networks", asked)
    if as_json:
        show_json(made)
    else:
        subnet = ", ".join(entry.get("Subnet", "") for entry in made["subnets"])
        click.echo(f"network {made['name']} made, {subnet}, on {len(made['hosts'])} hosts")


@network.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@pass_session
def rm(session: Session, names: Sequence[str]) -> None:
    """Remove networks of the cluster from every host."""
    for name in names:
        click.echo(session.api().call("DELETE", f"/v1/networks/{name}")["name"])


def _pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if "" in pairs:
        raise InvalidRequest(f"{option}: NAME=VALUE")
    return pairs


def _grouped(networks: Iterable[NetworkRecord]) -> list[list[NetworkRecord]]:
    """Networks that are one to their users. A name that its host has not published yet is like no other."""
    groups: defaultdict[tuple[str, str, tuple[str, ...]], list[NetworkRecord]] = defaultdict(list)
    for one in networks:
        groups[one.name or one.id, one.tenant, one.subnets].append(one)
    return [groups[key] for key in sorted(groups)]


def _summary(group: Sequence[NetworkRecord]) -> dict[str, str | list[str]]:
    first = group[0]
    return {
        "name": first.name or first.id[:SHORT],
        "tenant": first.tenant,
        "subnets": list(first.subnets),
        "parents": sorted({one.parent for one in group}),
        "modes": sorted({_mode(one) for one in group}),
        "hosts": sorted(one.host for one in group),
    }


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def _fields(one: NetworkRecord) -> Iterable[tuple[str, str]]:
    given = (("internal", one.internal), ("host access", one.host_access), ("nat", one.nat))
    flags = [text for text, on in given if on]
    return (
        ("Host", one.host),
        ("Name", one.name),
        ("Id", one.id),
        ("Tenant", one.tenant),
        ("Subnets", ", ".join(one.subnets)),
        ("Gateways", ", ".join(one.gateways)),
        ("Driver", _mode(one)),
        ("Parent", f"{one.parent} (VLAN {one.vlan})" if one.vlan else one.parent),
        ("Mtu", str(one.mtu or "the parent's")),
        ("Options", ", ".join(flags)),
        ("Host's own", ", ".join(one.host_addresses)),
    )


def _mode(network: NetworkRecord) -> str:
    macvlan = network.driver_mode == "macvlan"
    return f"{network.driver_mode}, {network.macvlan_mode}" if macvlan else network.driver_mode
