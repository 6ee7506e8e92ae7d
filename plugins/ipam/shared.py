"""Gateway and auxiliary addresses: they belong to every network that names them, on any host.

Each host counts its own networks in one record that only it writes (`UseRecord`). An address's record is made with the
first network that names it, and deleted in the very transaction in which the last one stops to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

import msgspec

from plugins.ipam.repository import Repository
from qnet import schema
from qnet.addresses.model import Caller, IPAddress, PoolId
from qnet.addresses.records import describe
from qnet.errors import Conflict, Exhausted, NotFound, Unavailable
from qnet.schema import AddressRecord, PoolRecord, UseRecord
from qnet.store.base import Compare, Delete, KeyValue, Op, Put, Txn, absent, at_revision, none_newer

ATTEMPTS = 20
GATEWAY_SEARCH = 4096


class Shared:
    """Requests and releases of the addresses that networks share."""

    def __init__(self, repository: Repository, now: Callable[[], str]) -> None:
        self._repository = repository
        self._store = repository.store
        self._host = repository.host
        self._now = now

    def gateway(self, caller: Caller, pool: PoolId, wanted: IPAddress | None) -> IPAddress:
        """The gateway for one more network: the one wanted, else the pool's, else the first address that is free."""
        for _ in range(ATTEMPTS):
            kv = self._store.get(schema.pool_key(pool.tenant, str(pool.subnet)))
            if kv is None:
                raise NotFound(f"pool {pool.subnet} of tenant {pool.tenant} does not exist")
            record = schema.decode(kv.value, PoolRecord, kv.key)
            address = wanted or (ipaddress.ip_address(record.gateway) if record.gateway else None)
            address = address or self._first_free(pool)
            if self._share(caller, pool, address, kv, "gateway"):
                return address
        raise Unavailable(f"gateway of pool {pool.subnet}: others kept changing it; try again")

    def share(self, caller: Caller, pool: PoolId, address: IPAddress) -> None:
        """An auxiliary address that has a record already is named by one more network of this host."""
        for _ in range(ATTEMPTS):
            if self._share(caller, pool, address, None, "auxiliary"):
                return
        raise Unavailable(f"auxiliary address {address}: others kept changing it; try again")

    def make_auxiliary(self, pool: PoolId, address: IPAddress) -> None:
        """An address that was given to this host, and that no endpoint has, is an auxiliary one of its new network."""
        tenant, subnet = pool.tenant, str(pool.subnet)
        key, use_key = schema.address_key(tenant, subnet, str(address)), schema.use_key(tenant, subnet, self._host)
        for _ in range(ATTEMPTS):
            kv = self._store.get(key)
            record = schema.decode(kv.value, AddressRecord, key) if kv else None
            if record is not None and record.kind == "auxiliary":
                return
            use, revision = self._repository.use(tenant, subnet)
            if kv is None or record is None or use is None or record.host != self._host or record.endpoint:
                raise Conflict(f"auxiliary address {address} of pool {subnet} was not given to {self._host}")
            fresh = AddressRecord(kind="auxiliary", host=self._host, since=self._now(), claim=record.claim)
            counted = {**use.shared, str(address): use.shared.get(str(address), 0) + 1}
            after = msgspec.structs.replace(use, shared=counted)
            compares = (at_revision(key, kv.mod_revision), at_revision(use_key, revision))
            puts = (Put(key, schema.encode(fresh)), Put(use_key, schema.encode(after)))
            if self._store.txn(Txn(compares, puts)).succeeded:
                return
        raise Unavailable(f"auxiliary address {address}: its record kept changing; try again")

    def unshare(self, pool: PoolId, address: IPAddress) -> None:
        """One network of this host less names a gateway or auxiliary address."""
        text = str(address)
        for _ in range(ATTEMPTS):
            use, revision = self._repository.use(pool.tenant, str(pool.subnet))
            if use is None or text not in use.shared:
                return self.drop_unnamed(pool, [text])
            left = {**use.shared, text: use.shared[text] - 1}
            if left[text] <= 0:
                del left[text]
            if self.write_use(pool, msgspec.structs.replace(use, shared=left), revision, {text} - left.keys()):
                return None
        raise Unavailable(f"shared address {address}: its record kept changing; try again")

    def drop_unnamed(self, pool: PoolId, addresses: Iterable[str]) -> None:
        """Delete those of the addresses that no network of any host names."""
        candidates = tuple(addresses)
        for _ in range(ATTEMPTS if candidates else 0):
            compares, ops = self._without(pool, candidates, "")
            if not ops or self._store.txn(Txn(compares, ops)).succeeded:
                return

    def write_use(self, pool: PoolId, use: UseRecord | None, revision: int, dropped: Iterable[str]) -> bool:
        """Write this host's use, or delete it, and with it the addresses that it was the last to name.

        Returns whether it was still at `revision`, and no other host's changed meanwhile.
        """
        key = schema.use_key(pool.tenant, str(pool.subnet), self._host)
        compares, ops = self._without(pool, tuple(dropped), self._host)
        own: Op = Delete(key) if use is None else Put(key, schema.encode(use))
        return self._store.txn(Txn((at_revision(key, revision), *compares), (own, *ops))).succeeded

    def _without(
        self, pool: PoolId, candidates: tuple[str, ...], except_host: str
    ) -> tuple[tuple[Compare, ...], tuple[Op, ...]]:
        """What deletes those addresses that no use names, `except_host`'s own aside.

        One that stays has a witness: a use that names it, and is to be there still. That none is newer does not tell
        that one is gone; of two hosts that leave at once, neither would take the address away.
        """
        if not candidates:
            return (), ()
        prefix = schema.use_key(pool.tenant, str(pool.subnet))
        uses = self._store.range(prefix)
        named: dict[str, KeyValue] = {}
        for witness in uses.kvs:
            use = schema.decode(witness.value, UseRecord, witness.key)
            named |= dict.fromkeys(use.shared if use.host != except_host else (), witness)
        pool_kv = self._store.get(schema.pool_key(pool.tenant, str(pool.subnet)))
        compares: tuple[Compare, ...] = (none_newer(prefix, uses.revision),)
        ops: tuple[Op, ...] = ()
        for address in candidates:
            key = schema.address_key(pool.tenant, str(pool.subnet), address)
            kv = self._store.get(key)
            if address in named:
                compares += (at_revision(named[address].key, named[address].mod_revision),)
                continue
            if kv is None or self._is_kept(pool_kv, address):
                continue
            if schema.decode(kv.value, AddressRecord, key).kind in ("gateway", "auxiliary"):
                compares += (at_revision(key, kv.mod_revision),)
                ops += (Delete(key),)
                if pool_kv is not None and schema.decode(pool_kv.value, PoolRecord).gateway == address:
                    record = msgspec.structs.replace(schema.decode(pool_kv.value, PoolRecord), gateway="")
                    compares += (at_revision(pool_kv.key, pool_kv.mod_revision),)
                    ops += (Put(pool_kv.key, schema.encode(record)),)
        return compares, ops

    @staticmethod
    def _is_kept(pool_kv: KeyValue | None, address: str) -> bool:
        """Whether it is the gateway that an operator gave to a pool that stays."""
        record = schema.decode(pool_kv.value, PoolRecord, pool_kv.key) if pool_kv else None
        return record is not None and record.kept and record.gateway == address

    def _share(
        self, caller: Caller, pool: PoolId, address: IPAddress, pool_kv: KeyValue | None, kind: schema.Kind
    ) -> bool:
        """Count one more network on a shared address, and make its record if it has none. False: try again."""
        tenant, subnet, text = pool.tenant, str(pool.subnet), str(address)
        use, use_revision = self._repository.use(tenant, subnet)
        if use is None:
            raise NotFound(f"pool {subnet} of tenant {tenant} is not used by a network of {self._host}")
        key, use_key = schema.address_key(tenant, subnet, text), schema.use_key(tenant, subnet, self._host)
        kv = self._store.get(key)
        if kv is not None:
            record = schema.decode(kv.value, AddressRecord, key)
            if record.kind not in ("gateway", "auxiliary"):
                raise Conflict(f"address {text} of pool {subnet} is taken: {describe(record)}")
        counted = {**use.shared, text: use.shared.get(text, 0) + 1}
        after = msgspec.structs.replace(use, shared=counted, engine=caller.engine)
        compares: tuple[Compare, ...] = (at_revision(use_key, use_revision),)
        puts: tuple[Op, ...] = (Put(use_key, schema.encode(after)),)
        if kv is None:
            fresh = AddressRecord(kind=kind, host=self._host, since=self._now(), claim=f"{kind}-{text}")
            compares += (absent(key),)
            puts += (Put(key, schema.encode(fresh)),)
        else:
            compares += (Compare(key, "create", "=", kv.create_revision),)
        if pool_kv is not None:
            compares += (at_revision(pool_kv.key, pool_kv.mod_revision),)
            record_of_pool = schema.decode(pool_kv.value, PoolRecord, pool_kv.key)
            if not record_of_pool.gateway:
                puts += (Put(pool_kv.key, schema.encode(msgspec.structs.replace(record_of_pool, gateway=text))),)
        return self._store.txn(Txn(compares, puts)).succeeded

    def _first_free(self, pool: PoolId) -> IPAddress:
        """The lowest address of the subnet without a record; gateways live where people look for them."""
        opened = self._repository.open(pool.tenant, pool.subnet)
        whole = PoolId(pool.tenant, pool.subnet).handed_out
        for offset in range(whole.first, min(whole.last, whole.first + GATEWAY_SEARCH) + 1):
            address = pool.address(offset)
            if opened.stored(address) is None:
                return address
        raise Exhausted(f"pool {pool.subnet} of tenant {pool.tenant} has no address left for a gateway")
