"""`qnet endpoint`: limits of the traffic of running containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from plugins.cli.inventory import Inventory
from plugins.cli.output import json_option, show_json, tenant_option
from plugins.cli.session import Session, pass_session
from plugins.network.model import BRIDGED
from plugins.network.terms import refuse
from qnet import schema
from qnet.addresses.openpool import Stored
from qnet.errors import Conflict, InvalidRequest, NotFound
from qnet.rates import parse_rate, show_rate
from qnet.schema import LimitRecord, PoolRecord
from qnet.store.base import Delete, Op, Put, Store, Txn, at_revision

SHORT = 12
DEFAULT = "default"
FIELDS = ("egress", "ingress")


class Limit(click.ParamType[int]):
    """A rate of traffic as tc(8) writes it, `none`, or `default`."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bits per second; 0 for none, -1 for default."""
        if value == DEFAULT or isinstance(value, int):
            return -1 if value == DEFAULT else value
        return parse_rate(value, f"--{param.name}" if param else "rate")


@click.group()
def endpoint() -> None:
    """The limits of running containers."""


@endpoint.command("limit")
@click.argument("name", metavar="CONTAINER|ADDRESS|ENDPOINT-ID")
@tenant_option
@click.option("--egress", type=Limit(), metavar="RATE|none|default", help="What it may send.")
@click.option("--ingress", type=Limit(), metavar="RATE|none|default", help="What it gets.")
@json_option
@pass_session
def limit(session: Session, name: str, tenant: str, egress: int | None, ingress: int | None, as_json: bool) -> None:
    """Limit the traffic of a running container. From now on, until it stops.

    Rates are tc(8)'s: 100mbit, 1gbit. none: no limit. default: what container, network or tenant were made with.
    """
    wanted = {field: rate for field, rate in zip(FIELDS, (egress, ingress), strict=True) if rate is not None}
    if not wanted:
        raise InvalidRequest("nothing to change: give --egress, --ingress or both")
    with session.store() as store:
        pool, stored = _find(Inventory(store), tenant, name)
        record = _write(session, store, pool, stored, {f: None if rate < 0 else rate for f, rate in wanted.items()})
    said = stored.record
    if as_json:
        limits = {field: getattr(record, field) for field in FIELDS}
        show_json({"endpoint": said.endpoint, "address": str(stored.address), "host": said.host, **limits})
        return
    words = " and ".join(f"{field} {_shown(getattr(record, field))}" for field in wanted)
    click.echo(f"endpoint {said.endpoint[:SHORT]} of {said.container or stored.address} on {said.host}: {words}")


def _write(
    session: Session, store: Store, pool: PoolRecord, stored: Stored, fields: dict[str, int | None]
) -> LimitRecord:
    """Change the record of an endpoint, if that is still there. Raises Conflict."""
    key = schema.limit_key(stored.record.endpoint)
    kv = store.get(key)
    empty = LimitRecord(host=stored.record.host, since="")
    before = schema.decode(kv.value, LimitRecord, key) if kv else empty
    after = msgspec.structs.replace(before, host=stored.record.host, since=session.now(), **fields)
    unsaid = all(getattr(after, field) is None for field in FIELDS)
    op: Op = Delete(key) if unsaid else Put(key, schema.encode(after))
    place = schema.address_key(pool.tenant, pool.subnet, str(stored.address))
    compares = (at_revision(place, stored.revision), at_revision(key, kv.mod_revision if kv else 0))
    if not store.txn(Txn(compares, (op,))).succeeded:
        raise Conflict(f"the record of {stored.address} or its limits changed meanwhile: look (qnet top) and try again")
    return after


def _find(inventory: Inventory, tenant: str, name: str) -> tuple[PoolRecord, Stored]:
    """The one endpoint of that name, by one of its addresses. Raises NotFound, Conflict, InvalidRequest."""
    found = {stored.record.endpoint: (pool, stored) for pool, stored in _named(inventory, tenant, name)}
    if not found:
        raise NotFound(
            f"no running container of tenant {tenant} has the name, address or endpoint id {name[:64]!r}: with "
            f"--tenant it is looked for among another's"
        )
    if len(found) > 1:
        listed = ", ".join(sorted(str(stored.address) for _, stored in found.values()))
        raise Conflict(f"{name} has several endpoints: name one by its address: {listed}")
    ((pool, stored),) = found.values()
    modes = {one.driver_mode for one in inventory.networks(tenant) if one.id == stored.record.network}
    for mode in modes - set(BRIDGED):
        raise refuse(mode, BRIDGED)
    return pool, stored


def _named(inventory: Inventory, tenant: str, name: str) -> Iterator[tuple[PoolRecord, Stored]]:
    for pool in inventory.pools(tenant):
        for stored in inventory.addresses(pool):
            record = stored.record
            ids = (record.endpoint, record.container_id)
            by_id = len(name) >= SHORT and any(one.startswith(name) for one in ids)
            if record.endpoint and (by_id or name in (record.container, str(stored.address))):
                yield pool, stored


def _shown(rate: int | None) -> str:
    return DEFAULT if rate is None else show_rate(rate)
