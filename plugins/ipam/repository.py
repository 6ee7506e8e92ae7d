"""Address records in the store: every write is one transaction that fails if someone else was faster."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence

from qnet import schema
from qnet.addresses.model import IPAddress, IPNetwork, PoolId
from qnet.addresses.openpool import OpenPool, Pools, Stored
from qnet.addresses.records import mac_record, without_mac
from qnet.errors import Conflict, NotFound
from qnet.schema import AddressRecord, MacRecord, UseRecord
from qnet.store.base import (
    Compare,
    Delete,
    Get,
    KeyValue,
    Op,
    Put,
    Store,
    Transactor,
    Txn,
    TxnResult,
    absent,
    at_revision,
)
from qnet.store.recipes import RollingLease

REST_WINDOW = 15
TRIES = 4
TOGETHER = 120  # addresses in one transaction: etcd allows 128 operations


class Repository:
    """Writes of this host. Transactions of the hot path go through `commit`, which groups them.

    All may be sent twice: one that took effect the first time fails its compares the second time, and who reads the
    record again finds what it wrote.
    """

    def __init__(self, store: Store, commit: Transactor, host: str, rest: int, rng: random.Random) -> None:
        self.store = store
        self.host = host
        self._commit = commit
        self._pools = Pools(store, host, rng)
        self._resting = RollingLease(store, ttl=rest, window=REST_WINDOW)
        self._noted: set[tuple[str, IPNetwork]] = set()
        self._lock = threading.Lock()

    def open(self, tenant: str, subnet: IPNetwork) -> OpenPool:
        """The pool, read on first use.

        Raises:
            NotFound: there is no such pool.
            Unavailable: the store cannot be reached.
        """
        return self._pools.open(tenant, subnet)

    def opened(self) -> tuple[OpenPool, ...]:
        """The pools that this host follows."""
        return self._pools.all()

    def note(self, tenant: str, subnet: IPNetwork) -> None:
        """This host may have something in a pool that it does not follow, or soon not any more."""
        with self._lock:
            self._noted.add((tenant, subnet))

    def followed(self) -> set[tuple[str, IPNetwork]]:
        """The pools that this host follows, and those noted since the last call."""
        with self._lock:
            noted, self._noted = self._noted, set()
        return noted | {(pool.tenant, pool.subnet) for pool in self._pools.all()}

    def forget(self, tenant: str, subnet: IPNetwork) -> None:
        """Stop following a pool."""
        self._pools.forget(tenant, subnet)

    def read(self, pool: OpenPool, address: IPAddress) -> Stored | None:
        """The record as the store has it now."""
        kv = self.store.get(pool.address_prefix + str(address))
        if kv is None:
            return None
        pool.seen(kv)
        return Stored(address, schema.decode(kv.value, AddressRecord, kv.key), kv.mod_revision)

    def create(self, pool: OpenPool, address: IPAddress, record: AddressRecord) -> Stored:
        """Take an address that nobody has. Returns our record, or that of whoever has it: compare the claims.

        Raises:
            NotFound: the pool was deleted meanwhile.
        """
        key, value = pool.address_prefix + str(address), schema.encode(record)
        puts: tuple[Op, ...] = (Put(key, value),)
        if pool.is_resting(address):
            puts += (Delete(pool.prefix + schema.RESTING + str(address)),)
        compares = (absent(key), pool.exists)
        result = self._commit.txn(Txn(compares, puts, (Get(key),)), repeatable=True)
        if result.succeeded:
            pool.seen(KeyValue(key, value, result.revision, result.revision))
            return Stored(address, record, result.revision)
        holder = _first(result)
        if holder is None:
            self.forget(pool.tenant, pool.subnet)
            raise NotFound(f"pool {pool.subnet} of tenant {pool.tenant} does not exist")
        pool.seen(holder)
        return Stored(address, schema.decode(holder.value, AddressRecord, key), holder.mod_revision)

    def create_together(
        self, pool: OpenPool, part: PoolId, number: int, fresh: Callable[[], AddressRecord]
    ) -> list[Stored]:
        """Take several free addresses in one transaction: all that were picked, or none. Each gets a fresh record.

        None: other hosts were faster time and again, or there is no such pool any more.
        """
        for _ in range(TRIES):
            picked = pool.pick_several(part, number)
            if not picked:
                break
            try:
                taken = self._create_together(pool, {one: fresh() for one in picked if not pool.is_resting(one)})
            finally:
                for address in picked:
                    pool.answered(address)
            if taken:
                return taken
        return []

    def _create_together(self, pool: OpenPool, records: dict[IPAddress, AddressRecord]) -> list[Stored]:
        keys = [pool.address_prefix + str(address) for address in records]
        values = [schema.encode(record) for record in records.values()]
        compares = (pool.exists, *map(absent, keys))
        result = self.store.txn(Txn(compares, tuple(map(Put, keys, values)), tuple(map(Get, keys))), repeatable=True)
        revision = result.revision
        if result.succeeded:
            pool.seen(*(KeyValue(key, value, revision, revision) for key, value in zip(keys, values, strict=True)))
            return [Stored(address, record, revision) for address, record in records.items()]
        found = [kv for index in range(len(keys)) if (kv := _first(result, index)) is not None]
        pool.seen(*found)
        ours = {kv.key: kv.mod_revision for kv in found if kv.value in values}  # sent twice, and the first took effect
        return [
            Stored(address, record, ours[key])
            for key, (address, record) in zip(keys, records.items(), strict=True)
            if key in ours
        ]

    def withdraw(self, pool: OpenPool, several: Sequence[Stored]) -> None:
        """Delete records of addresses that nobody was told. One that has changed stays."""
        for start in range(0, len(several), TOGETHER):
            part = several[start : start + TOGETHER]
            keys = [pool.address_prefix + str(stored.address) for stored in part]
            compares = tuple(at_revision(key, stored.revision) for key, stored in zip(keys, part, strict=True))
            result = self.store.txn(Txn(compares, tuple(map(Delete, keys))), repeatable=True)
            if result.succeeded:
                for key in keys:
                    pool.gone(key, result.revision)

    def replace(self, pool: OpenPool, stored: Stored, record: AddressRecord) -> Stored:
        """Write a record anew.

        Raises:
            Conflict: it is not as it was read.
        """
        key, value = pool.address_prefix + str(stored.address), schema.encode(record)
        revision = self._write(pool, key, stored, (Put(key, value),))
        pool.seen(KeyValue(key, value, revision, revision))
        return Stored(stored.address, record, revision)

    def release(self, pool: OpenPool, stored: Stored) -> None:
        """Give an address back; it rests a while.

        Raises:
            Conflict: the record is not as it was read.
        """
        key = pool.address_prefix + str(stored.address)
        ops: tuple[Op, ...] = (Delete(key), *without_mac(pool.tenant, stored))
        rests = pool.prefix + schema.RESTING + str(stored.address)
        try:
            revision = self._write(pool, key, stored, (*ops, Put(rests, b"", self._resting.id())))
        except NotFound:
            # the lease ended early: this machine slept, or someone revoked it
            self._resting.renew()
            revision = self._write(pool, key, stored, (*ops, Put(rests, b"", self._resting.id())))
        pool.seen(KeyValue(rests, b"", revision, revision))
        pool.gone(key, revision)

    def hold(self, pool: OpenPool, stored: Stored, record: AddressRecord) -> Stored:
        """Write a record that has no MAC address any more, and give that back.

        Raises:
            Conflict: the record is not as it was read.
        """
        key, value = pool.address_prefix + str(stored.address), schema.encode(record)
        revision = self._write(pool, key, stored, (Put(key, value), *without_mac(pool.tenant, stored)))
        pool.seen(KeyValue(key, value, revision, revision))
        return Stored(stored.address, record, revision)

    def bind(self, pool: OpenPool, stored: Stored, record: AddressRecord) -> Stored:
        """Write a record with its MAC address, claimed for the whole tenant.

        Raises:
            Conflict: the record is not as it was read, or the MAC address is another's.
        """
        if stored.record.mac == record.mac:
            return self.replace(pool, stored, record)
        key, mac = pool.address_prefix + str(stored.address), schema.mac_key(pool.tenant, record.mac)
        value = schema.encode(record)
        own = schema.encode(mac_record(stored.address, record))
        puts: tuple[Op, ...] = (Put(key, value), Put(mac, own), *without_mac(pool.tenant, stored))
        failure = (Get(key), Get(mac))
        result = self._commit.txn(Txn((at_revision(key, stored.revision), absent(mac)), puts, failure), repeatable=True)
        if not result.succeeded:
            taken = _first(result, 1)
            if taken is not None and taken.value != own:
                other = schema.decode(taken.value, MacRecord, mac)
                raise MacTaken(f"MAC address {record.mac} belongs to {other.address} on {other.host}")
            raise Changed(f"address {stored.address} of tenant {pool.tenant} changed hands meanwhile")
        pool.seen(KeyValue(key, value, result.revision, result.revision))
        return Stored(stored.address, record, result.revision)

    def use(self, tenant: str, subnet: str) -> tuple[UseRecord | None, int]:
        """This host's use of a pool, and its revision."""
        kv = self.store.get(schema.use_key(tenant, subnet, self.host))
        return (None, 0) if kv is None else (schema.decode(kv.value, UseRecord, kv.key), kv.mod_revision)

    def _write(self, pool: OpenPool, key: str, stored: Stored, ops: tuple[Op, ...]) -> int:
        compares: tuple[Compare, ...] = (at_revision(key, stored.revision),)
        result = self._commit.txn(Txn(compares, ops, (Get(key),)), repeatable=True)
        if result.succeeded:
            return result.revision
        now = _first(result)
        if now is None:
            pool.gone(key, result.revision)
        else:
            pool.seen(now)
        raise Changed(f"address {stored.address} of tenant {pool.tenant} changed hands meanwhile")


class Changed(Conflict):
    """The record is not as it was read: read it again and decide anew."""


class MacTaken(Conflict):
    """Another address of the tenant has the MAC address."""


def _first(result: TxnResult, index: int = 0) -> KeyValue | None:
    found = result.results[index]
    return found[0] if isinstance(found, tuple) and found else None
