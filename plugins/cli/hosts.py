"""`qnet host`: the machines of the cluster, by the names under which they act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import click

from plugins.cli.forget import Forget, Forgotten
from plugins.cli.inventory import Inventory
from plugins.cli.output import (
    binary,
    confirm,
    human,
    json_option,
    show_fields,
    show_json,
    show_table,
    yes_option,
)
from plugins.cli.session import Session, pass_session
from plugins.ipam.admin import Admin
from qnet.errors import NotFound, Unavailable


@click.group()
def host() -> None:
    """Hosts of the cluster."""


@host.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List the hosts. How they are, what of them is promised, how busy they are."""
    with session.store() as store:
        inventory = Inventory(store)
        claimed = {one.name: one for one in inventory.hosts()}
        networks = Counter(network.host for network in inventory.networks())
    placed, away = _placed(session)
    views = [
        {
            **placed.get(name, {}),
            "name": name,
            "networks": networks[name],
            "identity": claimed[name].identity if name in claimed else "",
            "since": claimed[name].since if name in claimed else placed[name]["since"],
        }
        for name in sorted({*claimed, *placed})
    ]
    if as_json:
        show_json(views)
        return
    columns = ("NAME", "STATE", "CPUS", "MEMORY", "RUNNING", "USAGE", "NETWORKS", "LABELS", "ENGINE", "SINCE")
    show_table(columns, map(_row, views))
    if away:
        click.echo(f"qnet: states are not known: {away}", err=True)


@host.command("inspect")
@click.argument("name")
@json_option
@pass_session
def inspect(session: Session, name: str, as_json: bool) -> None:
    """Show all of one host, as placement sees it."""
    found = session.api().call("GET", f"/v1/hosts/{name}")
    if as_json:
        show_json(found)
        return
    show_fields((key.replace("_", " ").capitalize(), _said(key, value)) for key, value in found.items())


@host.command("drain")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@pass_session
def drain(session: Session, names: Sequence[str]) -> None:
    """Place nothing more on hosts; what runs there goes on."""
    for name in names:
        left = session.api().call("PATCH", f"/v1/hosts/{name}", {"state": "drain"})["running"]
        click.echo(f"{name} drained; {left} containers run on")


@host.command("ready")
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@pass_session
def ready(session: Session, names: Sequence[str]) -> None:
    """Place containers on hosts again."""
    for name in names:
        found = session.api().call("PATCH", f"/v1/hosts/{name}", {"state": "ready"})
        click.echo(f"{name} {found['state']}")


@host.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="LABEL=VALUE… LABEL-…")
@pass_session
def label(session: Session, name: str, labels: Sequence[str]) -> None:
    """Set labels of a host over those of its settings. LABEL- gives back what these say, LABEL= takes it away."""
    wanted: dict[str, str | None] = {}
    for text in labels:
        key, equals, value = text.partition("=")
        if not equals and not text.endswith("-"):
            raise click.UsageError(f"{text!r}: LABEL=VALUE, or LABEL- to take it back.")
        wanted[key if equals else text[:-1]] = value if equals else None
    found = session.api().call("PATCH", f"/v1/hosts/{name}", {"labels": wanted})
    click.echo(f"{name} {_pairs(found['labels'])}")


@host.command("forget")
@click.argument("name")
@yes_option
@click.option("--force", is_flag=True, help="Release all its addresses too.")
@json_option
@pass_session
def forget(session: Session, name: str, yes: bool, force: bool, as_json: bool) -> None:
    """Free the name of a host that is gone. Or that has lost its identity (`state_dir`).

    Without --force its addresses stay recorded: a machine that takes the name takes them over. With --force they are
    free at once: only if that machine and its containers are gone for good, or two have the same address.
    """
    with session.store() as store:
        inventory = Inventory(store)
        recorded = sum(inventory.recorded(name).values())
        placed, _ = _placed(session)
        known = name in placed or any(one.name == name for one in inventory.hosts())
        networks = sum(network.host == name for network in inventory.networks())
        if not (known or recorded or networks or inventory.uses_of(name)):
            raise NotFound(f"host {name} is not known; see qnet host ls")
        confirm(session, _question(name, recorded, force), yes)
        forgetting = Forget(store, inventory, Admin(store, session.settings.ipam.rest, session.now))
        if force and name in placed:
            session.api().call("DELETE", f"/v1/hosts/{name}")
        done = forgetting.everything(name) if force else forgetting.claim(name)
    if as_json:
        show_json(done)
    else:
        click.echo(_told(done, 0 if force else recorded))


def _placed(session: Session) -> tuple[dict[str, Any], str]:
    """What placement knows of each host, and why it does not answer: not every cluster has it."""
    try:
        return {one["name"]: one for one in session.api().call("GET", "/v1/hosts")}, ""
    except Unavailable as error:
        return {}, str(error)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    if "state" not in one:
        return (one["name"], "", "", "", "", "", str(one["networks"]), "", "", one["since"])
    state = one["state"] if not one["trouble"] else f"{one['state']}, trouble with {', '.join(one['trouble'])}"
    cpus = f"{one['taken_cpus'] / 1000:g}/{one['cpus'] / 1000:g}"
    memory = f"{binary(one['taken_memory'])}/{binary(one['memory'])}"
    usage, labels = f"{100 * one['usage']:.0f}%", _pairs(one["labels"])
    return (
        *(one["name"], state, cpus, memory, str(one["running"]), usage, str(one["networks"]), labels),
        *(one["engine"], one["since"]),
    )


def _said(key: str, value: Any) -> str:
    if key in ("cpus", "taken_cpus"):
        return f"{value / 1000:g}"
    if key in ("memory", "taken_memory", "disk_free"):
        return binary(value)
    if key.startswith("usage"):
        return f"{100 * value:.0f}%"
    if isinstance(value, dict):
        return _pairs(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pairs(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


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
