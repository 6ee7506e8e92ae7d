"""Address records as the service writes them, and bulk writes of them for pools that are to be full."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from qnet import schema
from qnet.addresses.model import mac_of
from qnet.schema import AddressRecord, PoolRecord
from qnet.store.base import Delete, Op, Put, Store, Txn

TENANT = "default"
SINCE = "2026-01-01T00:00:00+00:00"
GATEWAYS = 16  # the lowest addresses of a pool stay free for networks to be made
CHUNK = 120  # below etcd's limit of 128 operations in a transaction


def record(host: str, number: int) -> bytes:
    """What a request for an address writes."""
    claim = secrets.token_hex(8)
    return schema.encode(
        AddressRecord(kind="endpoint", host=host, since=SINCE, claim=claim, engine=f"0123abcd-{number}-1234567")
    )


def bound(host: str, address: IPv4Address) -> bytes:
    """The record of a container that runs: what it looks like for nearly all of its life."""
    return schema.encode(
        AddressRecord(
            kind="endpoint",
            host=host,
            since=SINCE,
            claim=secrets.token_hex(8),
            engine="0123abcd-4711-1234567",
            network=secrets.token_hex(32),
            endpoint=secrets.token_hex(32),
            mac=mac_of(TENANT, address),
            container=f"service-{int(address)}",
            container_id=secrets.token_hex(32),
        )
    )


def make_pool(store: Store, subnet: str) -> None:
    """A pool that stays, with nothing in it."""
    pool = PoolRecord(tenant=TENANT, subnet=subnet, since=SINCE, kept=True)
    store.put(schema.pool_key(TENANT, subnet), schema.encode(pool))


def fill(store: Store, subnet: str, count: int, hosts: int = 100, own: str = "") -> None:
    """Give `count` random addresses of a pool to running containers of that many hosts; `own` is one of them."""
    network = IPv4Network(subnet)
    chosen = random.Random(1).sample(range(GATEWAYS, network.num_addresses - 1), count)
    names = [own or "away0", *(f"away{number}" for number in range(1, hosts))]
    puts = (
        Put(schema.address_key(TENANT, subnet, str(address)), bound(names[index % hosts], address))
        for index, address in enumerate(network.network_address + offset for offset in sorted(chosen))
    )
    write(store, puts)


def clear(store: Store, keys: Iterable[str]) -> None:
    """Delete keys, as if they had never been written: nothing rests."""
    write(store, (Delete(key) for key in keys))


def write(store: Store, ops: Iterable[Op]) -> None:
    """Do many operations in few transactions."""
    for chunk in _chunks(iter(ops)):
        store.txn(Txn(success=chunk))


def _chunks(ops: Iterator[Op]) -> Iterator[tuple[Op, ...]]:
    while chunk := tuple(islice(ops, CHUNK)):
        yield chunk
