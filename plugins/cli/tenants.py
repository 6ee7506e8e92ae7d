"""`qnet tenant`: who owns networks, by which tag, and how much of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from plugins.cli.output import confirm, human, json_option, show_fields, show_json, show_table, yes_option
from plugins.cli.session import Session, pass_session
from plugins.volume.model import parse_size, show_size
from qnet.errors import InvalidRequest
from qnet.rates import parse_rate, show_rate
from qnet.schema import TenantRecord
from qnet.store.base import Store
from qnet.tenants import AUTO, Change, Tenants

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
MOST_CPUS = 10**6


class Rate(click.ParamType[int]):
    """A rate of traffic as tc(8) writes it, or `none`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bits per second; 0 for none."""
        return value if isinstance(value, int) else parse_rate(value, f"--{param.name}" if param else "rate")


class Size(click.ParamType[int]):
    """A size as volumes have it, or 0."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        option = param.opts[0].lstrip("-") if param else "size"
        return 0 if value == "0" else parse_size(value, f"--{option}")


class Cpus(click.ParamType[int]):
    """CPUs, or 0."""

    name = "CPUS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Thousandths."""
        if isinstance(value, int):
            return value
        try:
            found = float(value)
        except ValueError:
            found = -1.0
        if not 0 <= found < MOST_CPUS:
            self.fail(f"{value!r} is no number of CPUs, such as 2.5", param, ctx)
        return int(1000 * found)


class Tag(click.ParamType[int]):
    """A VLAN id or VNI: a number, `auto` or `none`."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; 0 for none."""
        words = {"auto": AUTO, "none": 0}
        if isinstance(value, int):
            return value
        if value not in words and not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is no number, auto or none", param, ctx)
        return words[value] if value in words else int(value)


def change_options(command: CommandT) -> CommandT:
    """Give a command what can be said of a tenant."""
    options = (
        click.option("--vlan", type=Tag(), metavar="ID|auto|none", help="Its VLAN id; auto: any that is free."),
        click.option(
            "--vni", type=Tag(), metavar="ID|auto|none", help="Its VXLAN network identifier; auto: any that is free."
        ),
        click.option(
            "--supernet",
            "supernets",
            multiple=True,
            metavar="NETWORK/PREFIX|none",
            help="Its subnets lie in it (several times: in one of them); none: anywhere.",
        ),
        click.option(
            "--max-addresses", type=click.IntRange(0), metavar="N", help="Most addresses that it may have; 0: no limit."
        ),
        click.option(
            "--max-networks", type=click.IntRange(0), metavar="N", help="Most networks, counted by subnet; 0: no limit."
        ),
        click.option(
            "--volumes", "max_volumes", type=Size(), help="What the sizes of its volumes may come to; 0: no limit."
        ),
        click.option(
            "--cpus", "max_cpus", type=Cpus(), help="CPUs that its containers may have together; 0: no limit."
        ),
        click.option("--memory", "max_memory", type=Size(), help="Memory that they may have together; 0: no limit."),
        click.option(
            "--containers", "max_containers", type=click.IntRange(0), metavar="N", help="Most containers; 0: no limit."
        ),
        click.option(
            "--egress",
            type=Rate(),
            metavar="RATE|none",
            help="What each of its endpoints may send, such as 100mbit, if nothing else is said.",
        ),
        click.option(
            "--ingress",
            type=Rate(),
            metavar="RATE|none",
            help="What each of its endpoints gets, if nothing else is said.",
        ),
        click.option("--trusted/--untrusted", default=None, help="Whether it may have a parent for itself (passthru)."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def tenant() -> None:
    """Owners of networks, told apart by VLAN or VNI."""


@tenant.command("create")
@click.argument("name")
@change_options
@click.option("--untagged", is_flag=True, help="No tag: its networks stand on their parents as they are.")
@json_option
@pass_session
def create(session: Session, /, name: str, untagged: bool, as_json: bool, **options: Any) -> None:
    """Make a tenant."""
    change = _change(options)
    if not (change.vlan or change.vni or untagged):
        raise InvalidRequest(
            f"tenant {name} without a tag would share its parents' frames with others: add --vlan auto, --vni auto, or "
            f"--untagged if you keep its parents apart"
        )
    if untagged and (change.vlan or change.vni):
        raise InvalidRequest("--untagged together with --vlan or --vni: leave out one of them")
    with session.store() as store:
        made = _tenants(session, store).create(name, change)
    _say(made, f"tenant {made.name} created{_tag_words(made)}", as_json)


@tenant.command("set")
@click.argument("name")
@change_options
@json_option
@pass_session
def change(session: Session, /, name: str, as_json: bool, **options: Any) -> None:
    """Change a tenant. Its tag can be changed only while it has nothing."""
    wanted = _change(options)
    if wanted == Change():
        raise InvalidRequest("nothing to change: give at least one option (qnet tenant set --help)")
    with session.store() as store:
        made = _tenants(session, store).change(name, wanted)
    _say(made, f"tenant {made.name} changed{_tag_words(made)}", as_json)


@tenant.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List tenants."""
    with session.store() as store:
        found = _tenants(session, store).all()
    if as_json:
        show_json(list(found))
        return
    columns = ("NAME", "VLAN", "VNI", "SUPERNETS", "MAX ADDRESSES", "MAX NETWORKS")
    show_table(columns, (_row(one) for one in found))


@tenant.command("inspect")
@click.argument("name")
@json_option
@pass_session
def inspect(session: Session, name: str, as_json: bool) -> None:
    """Show all of one tenant."""
    with session.store() as store:
        tenants = _tenants(session, store)
        record, has = tenants.get(name), tenants.belongings(name)
    if as_json:
        show_json({"tenant": record, "has": list(has)})
        return
    _, *cells = _row(record)
    titles = ("VLAN", "VNI", "Supernets", "Addresses", "Networks")
    show_fields([("Tenant", record.name), ("Since", record.since), *zip(titles, cells, strict=True)])
    most = {"CPUs": f"{record.max_cpus / 1000:g}" if record.max_cpus else ""}
    most["Memory"] = show_size(record.max_memory) if record.max_memory else ""
    most["Containers"] = str(record.max_containers or "")
    show_fields([(what, f"at most {text}" if text else "") for what, text in most.items()])
    show_fields([("Trusted", "yes: it may have a parent for itself" if record.trusted else "")])
    show_fields([(name.title(), show_rate(getattr(record, name))) for name in ("egress", "ingress")])
    show_fields([("Volumes", show_size(record.max_volumes) if record.max_volumes else "no limit")])
    for thing in has or ("nothing",):
        show_fields([("Has", thing)])


@tenant.command("rename")
@click.argument("name")
@click.argument("new_name")
@json_option
@pass_session
def rename(session: Session, name: str, new_name: str, as_json: bool) -> None:
    """Give a tenant that has nothing another name."""
    with session.store() as store:
        made = _tenants(session, store).rename(name, new_name)
    _say(made, f"tenant {name} renamed to {made.name}", as_json)


@tenant.command("rm")
@click.argument("name")
@yes_option
@json_option
@pass_session
def rm(session: Session, name: str, yes: bool, as_json: bool) -> None:
    """Remove a tenant that has nothing."""
    with session.store() as store:
        tenants = _tenants(session, store)
        record = tenants.get(name)
        confirm(session, f"remove tenant {name}{_tag_words(record)}?", yes)
        tenants.remove(name)
    _say(record, f"tenant {name} removed", as_json)


def _tenants(session: Session, store: Store) -> Tenants:
    ranges = session.settings.tenants
    return Tenants(store, session.now, ranges.vlans, ranges.vnis)


def _change(options: dict[str, Any]) -> Change:
    supernets = options["supernets"]
    return Change(**{**options, "supernets": () if supernets == ("none",) else supernets or None})


def _say(record: TenantRecord, words: str, as_json: bool) -> None:
    if as_json:
        show_json(record)
    else:
        click.echo(words)


def _tag_words(record: TenantRecord) -> str:
    tags = [f"VLAN {record.vlan}"] * bool(record.vlan) + [f"VNI {record.vni}"] * bool(record.vni)
    return f" with {' and '.join(tags)}" if tags else ""


def _row(record: TenantRecord) -> tuple[str, ...]:
    numbers = (record.vlan, record.vni)
    limits = (human(limit) if limit else "no limit" for limit in (record.max_addresses, record.max_networks))
    return (record.name, *(str(number or "") for number in numbers), ", ".join(record.supernets), *limits)
