"""What an operator does to pools and addresses, from any host: the service behind the command `qnet`.

It writes as hosts do, through `Repository` and `Uses`, but under no host's name: no use of a pool is its own.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Sequence

from plugins.ipam.repository import Repository
from plugins.ipam.shared import ATTEMPTS
from plugins.ipam.uses import Carving, Uses, check_allowed
from qnet import schema
from qnet.addresses.model import (
    IPAddress,
    IPNetwork,
    PoolId,
    check_inside,
    parse_address,
    parse_exclusion,
    parse_subnet,
)
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.pools import Occupancy
from qnet.addresses.records import describe
from qnet.errors import Conflict, Exhausted, Unavailable
from qnet.schema import AddressRecord, PoolRecord, UseRecord
from qnet.store.base import Delete, Put, Store, Txn, absent, nothing_below
from qnet.tenants import Tenants

SHOWN = 5
PAGE = 1000
OPERATOR = ""


class Admin:
    """An operator's changes. Every one compares what was read with what is there."""

    def __init__(self, store: Store, rest: int, now: Callable[[], str], rng: random.Random | None = None) -> None:
        self._store = store
        self._rest = rest
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._tenants = Tenants(store, now)
        self._repository, self._uses = self._acting_for(OPERATOR)

    def create_pool(
        self, tenant: str, subnet: IPNetwork, gateway: IPAddress | None, exclude: Sequence[str]
    ) -> PoolRecord:
        """Make a pool that stays when nobody uses it.

        Raises:
            InvalidRequest: the gateway or an exclusion is not in the subnet, or that not in the tenant's supernets.
            NotFound: there is no such tenant.
            Conflict: it exists, or overlaps another pool of the tenant.
        """
        for text in exclude:
            parse_exclusion(text, subnet)
        if gateway is not None:
            check_inside(tenant, subnet, gateway)
        record = PoolRecord(
            tenant=tenant,
            subnet=str(subnet),
            since=self._now(),
            gateway=str(gateway or ""),
            exclude=tuple(exclude),
            kept=True,
        )
        with_gateway = self._gateway_record(tenant, subnet, record.gateway)
        for _ in range(ATTEMPTS):
            pools, revision = self._uses.pools(tenant)
            if subnet in pools:
                raise Conflict(self._exists(pools[subnet]))
            check_allowed(self._tenants.get(tenant), subnet, len(pools))
            if self._uses.make(record, pools, revision, with_gateway):
                return record
        raise Unavailable(f"pools of tenant {tenant}: others kept changing them; try again")

    def check_unused(self, pool: PoolRecord) -> None:
        """Whether a pool could be removed. Raises Conflict, saying who uses it."""
        where = f"pool {pool.subnet} of tenant {pool.tenant}"
        uses = self._store.range(schema.use_key(pool.tenant, pool.subnet)).kvs
        if uses:
            users = describe_uses(schema.decode(kv.value, UseRecord, kv.key) for kv in uses)
            raise Conflict(f"{where} is used by networks of {users}: remove them first (docker network rm)")
        prefix = schema.address_key(pool.tenant, pool.subnet)
        own = prefix + pool.gateway if pool.kept and pool.gateway else ""
        some = self._store.range(prefix, limit=SHOWN)
        shown_kvs = [kv for kv in some.kvs if kv.key != own]
        if shown_kvs:
            number = self._store.count(prefix) - bool(own)
            shown = "; ".join(
                f"{kv.key.removeprefix(prefix)}: {describe(schema.decode(kv.value, AddressRecord, kv.key))}"
                for kv in shown_kvs
            )
            more = f"; and {number - len(shown_kvs)} more" if some.more else ""
            raise Conflict(f"{where} has {number} addresses out: {shown}{more}; release them first")

    def remove_pool(self, pool: PoolRecord) -> None:
        """Delete a pool, kept or not, that nobody uses; one that is gone is no error. Raises Conflict."""
        subnet = parse_subnet(pool.subnet)
        for _ in range(ATTEMPTS):
            self.check_unused(pool)
            if pool.gateway:
                self._forget_gateway(pool)
            if self._uses.collect(pool.tenant, subnet, kept_too=True):
                return
        raise Unavailable(f"pool {pool.subnet} of tenant {pool.tenant}: others kept changing it; try again")

    def reserve(self, pool: PoolRecord, address: IPAddress | None, host: str, note: str) -> IPAddress:
        """Take an address, or any that is free, so that no container gets it.

        Raises:
            Conflict: someone has it.
            Exhausted: the pool is full.
            NotFound: the pool is gone.
        """
        subnet = parse_subnet(pool.subnet)
        record = AddressRecord(kind="reservation", host=host, since=self._now(), claim=secrets.token_hex(8), note=note)
        if address is None:
            return self._reserve_any(pool, record)
        check_inside(pool.tenant, subnet, address)
        holder = self._repository.create(self._unread(pool.tenant, subnet), address, record).record
        if holder.claim != record.claim:
            raise Conflict(f"address {address} of pool {subnet} of tenant {pool.tenant} is taken: {describe(holder)}")
        return address

    def release(self, tenant: str, subnet: IPNetwork, stored: Stored) -> None:
        """Release an address as it was read, whoever has it; a gateway or auxiliary one only if no network names it.

        Raises:
            Conflict: it changed since, or networks name it.
        """
        if stored.record.kind in ("gateway", "auxiliary"):
            self._uses.shared.unshare(PoolId(tenant, subnet), stored.address)
            if self._repository.read(self._unread(tenant, subnet), stored.address) is not None:
                raise Conflict(f"address {stored.address} of pool {subnet} of tenant {tenant} is named by networks")
        else:
            self._repository.release(self._unread(tenant, subnet), stored)
        self._uses.collect(tenant, subnet)

    def drop_use(self, pool: PoolRecord, host: str) -> bool:
        """Forget that a host's networks use a pool; what they shared goes with the last. Returns whether they did.

        Raises:
            Conflict: the host has changed it meanwhile, so it is not gone.
        """
        subnet = parse_subnet(pool.subnet)
        repository, uses = self._acting_for(host)
        use, revision = repository.use(pool.tenant, pool.subnet)
        if use is None:
            uses.collect(pool.tenant, subnet)
            return False
        if not uses.drop_use(pool.tenant, subnet, use, revision):
            raise Conflict(f"{host} is changing its use of pool {pool.subnet} of tenant {pool.tenant}: it is not gone")
        return True

    def _gateway_record(self, tenant: str, subnet: IPNetwork, gateway: str) -> Txn:
        """What keeps a pool's gateway from containers before a network names it."""
        if not gateway:
            return Txn()
        key = schema.address_key(tenant, str(subnet), gateway)
        record = AddressRecord(kind="gateway", host=OPERATOR, since=self._now(), claim=f"gateway-{gateway}")
        return Txn((absent(key),), (Put(key, schema.encode(record)),))

    def _forget_gateway(self, pool: PoolRecord) -> None:
        """A kept pool's own gateway is no reason to keep it."""
        key, uses = schema.address_key(pool.tenant, pool.subnet, pool.gateway), schema.use_key(pool.tenant, pool.subnet)
        self._store.txn(Txn((nothing_below(uses),), (Delete(key),)))

    def _reserve_any(self, pool: PoolRecord, record: AddressRecord) -> IPAddress:
        whole = PoolId(pool.tenant, parse_subnet(pool.subnet))
        excluded = tuple(parse_exclusion(text, whole.subnet) for text in pool.exclude)
        unread, occupancy = self._unread(pool.tenant, whole.subnet), self._occupancy(whole)
        while (offset := occupancy.pick(whole.handed_out, excluded, self._rng)) is not None:
            address = whole.address(offset)
            if self._repository.create(unread, address, record).record.claim == record.claim:
                return address
            occupancy.use(offset)
        raise Exhausted(f"pool {pool.subnet} of tenant {pool.tenant} is full; see qnet pool inspect {pool.subnet}")

    def _occupancy(self, pool: PoolId) -> Occupancy:
        """What is free in a pool, read once: a watch, as hosts have it, is not worth its while for one address."""
        occupancy = Occupancy(pool.subnet.num_addresses)
        tenant, subnet = pool.tenant, str(pool.subnet)
        for prefix, note in (
            (schema.address_key(tenant, subnet), occupancy.use),
            (schema.resting_key(tenant, subnet), occupancy.rest),
        ):
            after, more = "", True
            while more:
                page = self._store.range(prefix, limit=PAGE, after=after)
                for kv in page.kvs:
                    note(pool.offset(parse_address(kv.key.removeprefix(prefix))))
                more, after = page.more, page.kvs[-1].key if page.kvs else ""
        return occupancy

    def _unread(self, tenant: str, subnet: IPNetwork) -> OpenPool:
        """A pool for a single write: its contents are not read, nothing follows it."""
        return OpenPool(self._store, tenant, subnet, OPERATOR, self._rng)

    def _exists(self, pool: PoolRecord) -> str:
        text = f"pool {pool.subnet} of tenant {pool.tenant} exists since {pool.since}"
        if pool.kept:
            return f"{text} and is kept already"
        uses = self._store.range(schema.use_key(pool.tenant, pool.subnet)).kvs
        users = describe_uses(schema.decode(kv.value, UseRecord, kv.key) for kv in uses)
        return (
            f"{text}, made by networks{f' of {users}' if users else ''}, and goes with the last of them: "
            f"remove these networks, create the pool, then create them again"
        )

    def _acting_for(self, host: str) -> tuple[Repository, Uses]:
        repository = Repository(self._store, self._store, host, self._rest, self._rng)
        return repository, Uses(repository, self._tenants, Carving({}, 24, 64), tuple, self._now, self._rng)


def check_release(tenant: str, subnet: IPNetwork, stored: Stored, uses: Iterable[UseRecord], force: bool) -> None:
    """Whether an operator may release an address. Raises Conflict, saying who has it."""
    record, where = stored.record, f"address {stored.address} of pool {subnet} of tenant {tenant}"
    naming = describe_shared(uses, stored.address)
    if record.kind in ("gateway", "auxiliary") and naming:
        raise Conflict(f"{where} is a {record.kind} address of networks of {naming}: it goes with the last of them")
    if record.kind in ("endpoint", "host") and not force:
        raise Conflict(f"{where} is not free to release: {describe(record)}; --force releases it all the same")


def describe_uses(uses: Iterable[UseRecord]) -> str:
    """Which hosts' networks use a pool: `host1 (2), host2 (1)`."""
    return ", ".join(f"{use.host} ({use.networks})" for use in uses)


def describe_shared(uses: Iterable[UseRecord], address: IPAddress) -> str:
    """Which hosts' networks name a gateway or auxiliary address: `host1 (2), host2 (1)`."""
    text = str(address)
    return ", ".join(f"{use.host} ({use.shared[text]})" for use in uses if text in use.shared)
