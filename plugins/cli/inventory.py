"""Reads what the cluster has, a page at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from qnet import schema
from qnet.addresses.model import IPAddress, IPNetwork, PoolId, parse_address, parse_exclusion, parse_subnet
from qnet.addresses.openpool import Stored
from qnet.addresses.pools import capacity
from qnet.errors import NotFound
from qnet.schema import AddressRecord, HostRecord, MacRecord, NetworkRecord, PoolRecord, UseRecord
from qnet.store.base import KeyValue, Store
from qnet.tenants import parse_tenant

PAGE = 1000
OWN_KINDS = ("endpoint", "held", "host")
RecordT = TypeVar("RecordT", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool with who uses it and how many addresses each host has of each kind; `free` may be handed out."""

    record: PoolRecord
    uses: tuple[UseRecord, ...]
    by_host: dict[str, dict[str, int]]
    free: int

    @property
    def by_kind(self) -> Counter[str]:
        """How many addresses there are of each kind."""
        total: Counter[str] = Counter()
        for kinds in self.by_host.values():
            total.update(kinds)
        return total


@dataclass(frozen=True, slots=True)
class Located:
    """An address, its pool, and its record if it has one."""

    pool: PoolRecord
    address: IPAddress
    stored: Stored | None

    @property
    def subnet(self) -> IPNetwork:
        """The pool's subnet."""
        return parse_subnet(self.pool.subnet)


class Inventory:
    """The cluster's records. Every method raises Unavailable if the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pools(self, tenant: str = "") -> list[PoolRecord]:
        """All pools, or those of a tenant, by tenant and subnet."""
        prefix = schema.pools_prefix(parse_tenant(tenant) if tenant else "")
        return sorted(self._records(prefix, PoolRecord), key=lambda pool: (pool.tenant, _order(pool.subnet)))

    def pool(self, tenant: str, subnet: str) -> PoolRecord:
        """One pool. Raises NotFound, InvalidRequest."""
        text = str(parse_subnet(subnet))
        key = schema.pool_key(parse_tenant(tenant), text)
        kv = self._store.get(key)
        if kv is None:
            raise NotFound(f"pool {text} of tenant {tenant} does not exist; see qnet pool ls")
        return schema.decode(kv.value, PoolRecord, key)

    def locate(self, tenant: str, text: str) -> Located:
        """An address and the pool that it is in. Raises NotFound, InvalidRequest."""
        address = parse_address(text)
        for pool in self.pools(parse_tenant(tenant)):
            if address in parse_subnet(pool.subnet):
                return Located(pool, address, self._stored(pool, address))
        raise NotFound(f"address {address} is in no pool of tenant {tenant}; see qnet pool ls")

    def filled(self, pool: PoolRecord) -> Pool:
        """A pool with its numbers: reads all that it contains."""
        whole = PoolId(pool.tenant, parse_subnet(pool.subnet))
        span = whole.handed_out
        excluded = tuple(parse_exclusion(text, whole.subnet) for text in pool.exclude)
        by_host: dict[str, Counter[str]] = {}
        taken = 0
        for stored in self.addresses(pool):
            by_host.setdefault(stored.record.host, Counter())[stored.record.kind] += 1
            offset = whole.offset(stored.address)
            taken += offset in span and not any(offset in part for part in excluded)
        counts = {host: dict(kinds) for host, kinds in sorted(by_host.items())}
        return Pool(pool, self.uses(pool), counts, max(capacity(span, excluded) - taken, 0))

    def addresses(self, pool: PoolRecord) -> Iterator[Stored]:
        """The addresses of a pool that have records, in the order of their keys."""
        for kv in self._below(schema.address_key(pool.tenant, pool.subnet)):
            record = schema.decode(kv.value, AddressRecord, kv.key)
            yield Stored(parse_address(kv.key.rpartition("/")[2]), record, kv.mod_revision)

    def uses(self, pool: PoolRecord) -> tuple[UseRecord, ...]:
        """What each host uses of a pool."""
        return tuple(self._records(schema.use_key(pool.tenant, pool.subnet), UseRecord))

    def is_resting(self, located: Located) -> bool:
        """Whether an address was released a short time ago."""
        key = schema.resting_key(located.pool.tenant, located.pool.subnet, str(located.address))
        return self._store.get(key) is not None

    def mac(self, tenant: str, mac: str) -> MacRecord | None:
        """Who has a MAC address."""
        kv = self._store.get(schema.mac_key(tenant, mac)) if mac else None
        return schema.decode(kv.value, MacRecord, kv.key) if kv else None

    def networks(self, tenant: str = "") -> list[NetworkRecord]:
        """The networks of all hosts, or those of a tenant."""
        wanted = parse_tenant(tenant) if tenant else ""
        return [one for one in self._records(schema.NETWORKS, NetworkRecord) if wanted in ("", one.tenant)]

    def hosts(self) -> list[HostRecord]:
        """The hosts that have claimed their names."""
        return list(self._records(schema.HOSTS, HostRecord))

    def recorded(self, host: str) -> dict[str, int]:
        """How many addresses a host has for its containers and itself, by pool (`TENANT/SUBNET`)."""
        found: Counter[str] = Counter()
        for pool in self.pools():
            for stored in self.addresses(pool):
                if stored.record.host == host and stored.record.kind in OWN_KINDS:
                    found[f"{pool.tenant}/{pool.subnet}"] += 1
        return dict(found)

    def uses_of(self, host: str) -> int:
        """How many pools a host's networks use."""
        return sum(any(use.host == host for use in self.uses(pool)) for pool in self.pools())

    def _stored(self, pool: PoolRecord, address: IPAddress) -> Stored | None:
        kv = self._store.get(schema.address_key(pool.tenant, pool.subnet, str(address)))
        return Stored(address, schema.decode(kv.value, AddressRecord, kv.key), kv.mod_revision) if kv else None

    def _records(self, prefix: str, kind: type[RecordT]) -> Iterator[RecordT]:
        for kv in self._below(prefix):
            yield schema.decode(kv.value, kind, kv.key)

    def _below(self, prefix: str) -> Iterator[KeyValue]:
        page = self._store.range(prefix, limit=PAGE)
        yield from page.kvs
        while page.more:
            page = self._store.range(prefix, limit=PAGE, after=page.kvs[-1].key)
            yield from page.kvs


def _order(subnet: str) -> tuple[int, int, int]:
    parsed = parse_subnet(subnet)
    return parsed.version, int(parsed.network_address), parsed.prefixlen
