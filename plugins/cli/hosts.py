"""`qnet host`: the machines of the cluster, by the names under which they act."""

from __future__ import annotations

from collections import Counter

import click

from plugins.cli.forget import Forget, Forgotten
from plugins.cli.inventory import Inventory
from plugins.cli.output import confirm, human, json_option, show_json, show_table, yes_option
from plugins.cli.session import Session, pass_session
from plugins.ipam.admin import Admin
from qnet.errors import NotFound


@click.group()
def host() -> None:
    """Hosts of the cluster."""


@host.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List the hosts that have claimed their names."""
    with session.store() as store:
        inventory = Inventory(store)
        hosts = inventory.hosts()
        networks = Counter(network.host for network in inventory.networks())
    views = [
        {"name": one.name, "networks": networks[one.name], "identity": one.identity, "since": one.since}
        for one in hosts
    ]
    if as_json:
        show_json(views)
        return
    columns = ("NAME", "NETWORKS", "SINCE")
    show_table(columns, (tuple(str(view[column.lower()]) for column in columns) for view in views))


@host.command("forget")
@click.argument("name")
@yes_option
@click.option("--force", is_flag=True, help="Release all its addresses too.")
@json_option
@pass_session
def forget(session: Session, name: str, yes: bool, force: bool, as_json: bool) -> None:
    """Free the name of a host that is gone, or that has lost its identity.

    Without --force its addresses stay recorded: a machine that takes the name takes them over. With --force they are
    free at once: only if that machine and its containers are gone for good, or two have the same address.
    """
    with session.store() as store:
        inventory = Inventory(store)
        recorded = sum(inventory.recorded(name).values())
        known = any(one.name == name for one in inventory.hosts())
        networks = sum(network.host == name for network in inventory.networks())
        if not (known or recorded or networks or inventory.uses_of(name)):
            raise NotFound(f"host {name} is not known; see qnet host ls")
        confirm(session, _question(name, recorded, force), yes)
        forgetting = Forget(store, inventory, Admin(store, session.settings.ipam.rest, session.now))
        done = forgetting.everything(name) if force else forgetting.claim(name)
    if as_json:
        show_json(done)
    else:
        click.echo(_told(done, 0 if force else recorded))


def _question(name: str, recorded: int, force: bool) -> str:
    if force:
        return f"forget host {name} and release its {_addresses(recorded)}?"
    return f"forget host {name}, so that another machine may take the name?"


def _told(done: Forgotten, left: int) -> str:
    lines = [f"host {done.host} forgotten" if done.claim else f"host {done.host} had no claim of its name"]
    lines += [f"{_addresses(number)} of {pool} released" for pool, number in done.released.items()]
    if done.pools or done.networks:
        lines.append(f"withdrawn: its networks ({done.networks}), its uses of pools ({done.pools})")
    if left:
        lines.append(
            f"still recorded for it: {_addresses(left)} (qnet address ls --host {done.host}); a machine that takes the "
            f"name takes them over, --force releases them"
        )
    return "\n".join(lines)


def _addresses(number: int) -> str:
    return "1 address" if number == 1 else f"{human(number)} addresses"
