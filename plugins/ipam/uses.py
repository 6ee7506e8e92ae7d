"""Pools and who uses them: made with the first network on any host, deleted with the last."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from plugins.ipam.repository import Repository
from plugins.ipam.shared import ATTEMPTS, Shared
from qnet import schema
from qnet.addresses.model import Caller, IPNetwork, PoolId
from qnet.addresses.pools import carve, overlapping
from qnet.errors import Conflict, Exhausted, InvalidRequest, Unavailable
from qnet.schema import AddressRecord, PoolRecord, TenantRecord, UseRecord
from qnet.store.base import Delete, Put, Txn, absent, at_revision, none_newer, nothing_below, present
from qnet.tenants import Tenants, exists

Routes: TypeAlias = Callable[[], Iterable[IPNetwork]]


@dataclass(frozen=True, slots=True)
class Carving:
    """Where subnets come from when a network names none: supernets of each tenant, and how large a subnet is."""

    supernets: Mapping[str, tuple[IPNetwork, ...]]
    prefix: int
    prefix6: int


class Uses:
    """Requests and releases of pools; `shared` has those of the addresses that their networks share."""

    def __init__(
        self,
        repository: Repository,
        tenants: Tenants,
        carving: Carving,
        routes: Routes,
        now: Callable[[], str],
        rng: random.Random,
    ) -> None:
        self._repository = repository
        self._store = repository.store
        self._host = repository.host
        self.shared = Shared(repository, now)
        self._tenants = tenants
        self._carving = carving
        self._routes = routes
        self._now = now
        self._rng = rng

    def request(self, caller: Caller, tenant: str, subnet: IPNetwork | None, version: int) -> IPNetwork:
        """Use a pool for one more network, and make it if it is not there.

        Raises:
            NotFound: there is no such tenant.
            Conflict: it overlaps another pool of the tenant.
            Exhausted: no subnet was named and the tenant's supernet is used up, or it has all the networks it may have.
            InvalidRequest: no subnet was named and the tenant has no supernet, or it is not inside one.
        """
        for _ in range(ATTEMPTS):
            owner = self._tenants.get(tenant)
            pools, revision = self.pools(tenant)
            chosen = subnet or self._carve(owner, version, pools)
            if chosen not in pools:
                check_allowed(owner, chosen, len(pools))
            use, use_revision = self._repository.use(tenant, str(chosen))
            more = self._one_more(use, caller)
            if chosen in pools:
                done = self._write(tenant, chosen, more, use_revision)
            else:
                done = self._make(tenant, chosen, pools, revision, more, use_revision)
            if done:
                self._repository.note(tenant, chosen)
                return chosen
        raise Unavailable(f"pool {subnet or 'any'} of tenant {tenant}: others kept changing it; try again")

    def release(self, pool: PoolId) -> None:
        """One network less uses the pool; the last one takes shared addresses and an unkept pool with it."""
        for _ in range(ATTEMPTS):
            use, revision = self._repository.use(pool.tenant, str(pool.subnet))
            if use is None:
                self.collect(pool.tenant, pool.subnet)
                return
            left = msgspec.structs.replace(use, networks=max(use.networks - 1, 0))
            if not left.networks:
                if self.drop_use(pool.tenant, pool.subnet, use, revision):
                    return
            elif self.shared.write_use(pool, left, revision, ()):
                return
        raise Unavailable(f"pool {pool.subnet} of tenant {pool.tenant}: its record kept changing; try again")

    def drop_use(self, tenant: str, subnet: IPNetwork, use: UseRecord, revision: int) -> bool:
        """This host uses the pool no more. False: its record, or another host's, changed meanwhile."""
        if not self.shared.write_use(PoolId(tenant, subnet), None, revision, use.shared):
            return False
        self._repository.forget(tenant, subnet)
        self.collect(tenant, subnet)
        return True

    def correct(self, tenant: str, subnet: IPNetwork, use: UseRecord, gateways: Iterable[str]) -> None:
        """Write what the engine really has, with the pool and the shared addresses that this needs.

        Raises:
            Conflict: the pool is gone, and another that overlaps it has taken its place.
        """
        before, use_revision = self._repository.use(tenant, str(subnet))
        pools, revision = self.pools(tenant)
        dropped = [address for address in (before.shared if before else ()) if address not in use.shared]
        if subnet not in pools:
            done = self._make(tenant, subnet, pools, revision, use, use_revision)
        else:
            done = self.shared.write_use(PoolId(tenant, subnet), use, use_revision, dropped)
        if not done:
            return  # it changed meanwhile: the next comparison sees to it
        use_key = schema.use_key(tenant, str(subnet), self._host)
        for address in use.shared:
            key = schema.address_key(tenant, str(subnet), address)
            kind: schema.Kind = "gateway" if address in gateways else "auxiliary"
            fresh = AddressRecord(kind=kind, host=self._host, since=self._now(), claim=f"{kind}-{address}")
            self._store.txn(Txn((absent(key), present(use_key)), (Put(key, schema.encode(fresh)),)))

    def collect(self, tenant: str, subnet: IPNetwork, *, kept_too: bool = False) -> bool:
        """Delete a pool that nobody uses and that holds no address. Returns whether it is gone."""
        key = schema.pool_key(tenant, str(subnet))
        kv = self._store.get(key)
        if kv is None or (schema.decode(kv.value, PoolRecord, key).kept and not kept_too):
            return kv is None
        compares = (
            at_revision(key, kv.mod_revision),
            nothing_below(schema.address_key(tenant, str(subnet))),
            nothing_below(schema.use_key(tenant, str(subnet))),
        )
        resting = Delete(schema.resting_key(tenant, str(subnet)), whole_prefix=True)
        return self._store.txn(Txn(compares, (Delete(key), resting))).succeeded

    def pools(self, tenant: str) -> tuple[dict[IPNetwork, PoolRecord], int]:
        """The tenant's pools, and the revision at which these were all."""
        found = self._store.range(schema.pools_prefix(tenant))
        records = (schema.decode(kv.value, PoolRecord, kv.key) for kv in found.kvs)
        return {ipaddress.ip_network(record.subnet): record for record in records}, found.revision

    def make(self, record: PoolRecord, pools: Iterable[IPNetwork], revision: int, more: Txn) -> bool:
        """Create a pool, in one transaction with `more`. False: the tenant's pools changed since `revision`, or a
        compare of `more` fails.

        Raises:
            Conflict: it overlaps one of `pools`.
            Unavailable: a restore is at work.
        """
        other = overlapping(ipaddress.ip_network(record.subnet), pools)
        if other is not None:
            raise Conflict(
                f"subnet {record.subnet} overlaps pool {other} of tenant {record.tenant}: choose another subnet, or "
                f"that one to share it"
            )
        key = schema.pool_key(record.tenant, record.subnet)
        compares = (none_newer(schema.pools_prefix(record.tenant), revision), absent(key), *more.compares)
        compares += (absent(schema.RESTORE), *exists(record.tenant))
        if self._store.txn(Txn(compares, (Put(key, schema.encode(record)), *more.success))).succeeded:
            return True
        if self._store.get(schema.RESTORE) is not None:
            raise Unavailable(f"pool {record.subnet} of tenant {record.tenant}: a restore is at work (qnet restore)")
        return False

    def _make(
        self,
        tenant: str,
        subnet: IPNetwork,
        pools: Iterable[IPNetwork],
        revision: int,
        use: UseRecord,
        use_revision: int,
    ) -> bool:
        """Create a pool together with this host's use, which is at `use_revision` (0: there is none)."""
        record = PoolRecord(tenant=tenant, subnet=str(subnet), since=self._now())
        use_key = schema.use_key(tenant, str(subnet), self._host)
        write_use = Txn((at_revision(use_key, use_revision),), (Put(use_key, schema.encode(use)),))
        return self.make(record, pools, revision, write_use)

    def _write(self, tenant: str, subnet: IPNetwork, use: UseRecord, use_revision: int) -> bool:
        use_key, key = schema.use_key(tenant, str(subnet), self._host), schema.pool_key(tenant, str(subnet))
        compares = (present(key), at_revision(use_key, use_revision))
        return self._store.txn(Txn(compares, (Put(use_key, schema.encode(use)),))).succeeded

    def _one_more(self, use: UseRecord | None, caller: Caller) -> UseRecord:
        """Count one more network. A new instance of the engine counts from 0: it asks for all again."""
        if use is None:
            return UseRecord(host=self._host, engine=caller.engine, networks=1)
        if use.engine == caller.engine:
            return msgspec.structs.replace(use, networks=use.networks + 1)
        shared = dict.fromkeys(use.shared, 0)
        return UseRecord(host=self._host, engine=caller.engine, networks=1, shared=shared)

    def _carve(self, owner: TenantRecord, version: int, pools: Iterable[IPNetwork]) -> IPNetwork:
        tenant = owner.name
        own = tuple(ipaddress.ip_network(text) for text in owner.supernets)
        supernets = tuple(net for net in own or self._carving.supernets.get(tenant, ()) if net.version == version)
        if not supernets:
            raise InvalidRequest(
                f"no subnet asked for, and tenant {tenant} has no IPv{version} supernet to carve one from: add "
                f"--subnet, or give it one: qnet tenant set {tenant} --supernet NETWORK/PREFIX"
            )
        prefix = self._carving.prefix if version == 4 else self._carving.prefix6
        chosen = carve(supernets, prefix, [*pools, *self._routes()], self._rng)
        if chosen is None:
            names = ", ".join(str(net) for net in supernets)
            raise Exhausted(f"no /{prefix} is left in {names} of tenant {tenant} that this host does not route")
        return chosen


def check_allowed(owner: TenantRecord, subnet: IPNetwork, has: int) -> None:
    """Whether a tenant may have one more pool, this one."""
    supernets = [net for net in map(ipaddress.ip_network, owner.supernets) if net.version == subnet.version]
    if supernets and not any(subnet.subnet_of(net) for net in supernets):  # type: ignore[arg-type]
        names = ", ".join(owner.supernets)
        raise InvalidRequest(f"subnet {subnet} is not inside the supernets of tenant {owner.name}: {names}")
    if owner.max_networks and has >= owner.max_networks:
        raise Exhausted(
            f"tenant {owner.name} has {has} of {owner.max_networks} networks: remove one, or raise its limit: "
            f"qnet tenant set {owner.name} --max-networks {has + 1}"
        )
