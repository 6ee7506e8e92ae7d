"""Address records in the store: every write is one transaction that fails if someone else was faster."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from plugins.ipam.model import IPAddress, IPNetwork, PoolId, Span, number_of, parse_exclusion
from plugins.ipam.pools import LANES, Occupancy, capacity
from qnet import schema
from qnet.errors import Conflict, NotFound
from qnet.schema import AddressRecord, MacRecord, PoolRecord, UseRecord
from qnet.store.base import (
    Compare,
    Delete,
    Event,
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
    present,
    put_event,
)
from qnet.store.cache import Change, PrefixCache
from qnet.store.recipes import RollingLease

HELD = b'"kind":"held"'
REST_WINDOW = 15
TOGETHER = 120  # addresses in one transaction: etcd allows 128 operations


@dataclass(frozen=True, slots=True)
class Stored:
    """An address record as it stands in the store; `revision` changes with each write of it."""

    address: IPAddress
    record: AddressRecord
    revision: int


class OpenPool:
    """A pool that this host uses: a copy of its contents, fed by a watch, and what is free by it."""

    def __init__(self, store: Store, tenant: str, subnet: IPNetwork, host: str, rng: random.Random) -> None:
        self.tenant, self.subnet = tenant, subnet
        self.prefix = schema.contents_prefix(tenant, str(subnet))
        self.address_prefix = self.prefix + schema.ADDRESS
        self.exists = present(schema.pool_key(tenant, str(subnet)))
        self._store = store
        self._rng = rng
        self._lock = threading.Lock()
        self._base = int(subnet.network_address)
        self._occupancy = Occupancy(subnet.num_addresses, rng.randrange(LANES))
        self._mark = f'"host":"{host}"'.encode()
        self._own: set[str] = set()
        self._held: set[str] = set()
        self._exclude: tuple[Span, ...] = ()
        self._exclude_of_network: dict[tuple[str, ...], tuple[Span, ...]] = {}
        self.cache = PrefixCache(store, self.prefix, self._changed)

    def load(self) -> None:
        """Read the pool. Raises Unavailable, or NotFound if there is no such pool."""
        kv = self._store.get(schema.pool_key(self.tenant, str(self.subnet)))
        if kv is None:
            raise NotFound(f"pool {self.subnet} of tenant {self.tenant} does not exist")
        record = schema.decode(kv.value, PoolRecord, kv.key)
        self._exclude = tuple(parse_exclusion(text, self.subnet) for text in record.exclude)
        self.cache.start()

    def excluded(self, pool: PoolId) -> tuple[Span, ...]:
        """What is not handed out: the pool's exclusions and the network's."""
        if not pool.exclude:
            return self._exclude
        own = self._exclude_of_network.get(pool.exclude)
        if own is None:
            own = tuple(parse_exclusion(text, self.subnet) for text in pool.exclude)
            self._exclude_of_network[pool.exclude] = own
        return self._exclude + own

    def pick(self, pool: PoolId) -> IPAddress | None:
        """Choose an address to ask for, and keep other threads off it until `answered`."""
        with self._lock:
            offset = self._occupancy.pick(pool.handed_out, self.excluded(pool), self._rng)
            if offset is None:
                return None
            self._occupancy.ask(offset)
        return pool.address(offset)

    def pick_several(self, pool: PoolId, number: int) -> list[IPAddress]:
        """Choose up to so many addresses; see `pick`."""
        found: list[IPAddress] = []
        while len(found) < number and (address := self.pick(pool)) is not None:
            found.append(address)
        return found

    def room(self, pool: PoolId) -> int:
        """How many addresses of a network's part of the pool are free, at least."""
        span = pool.handed_out
        with self._lock:
            return capacity(span, self.excluded(pool)) - self._occupancy.count()

    def answered(self, address: IPAddress) -> None:
        """The request for an address that was picked came back, either way."""
        with self._lock:
            self._occupancy.answered(int(address) - self._base)

    def is_asking(self) -> bool:
        """Whether other threads are asking for addresses of the pool."""
        with self._lock:
            return self._occupancy.is_asking()

    def stored(self, address: IPAddress) -> Stored | None:
        """The copy of an address record; it may be a moment old."""
        kv = self.cache.get(schema.ADDRESS + str(address))
        return None if kv is None else self._stored(kv)

    def all_stored(self, containing: bytes = b"") -> Iterator[Stored]:
        """The copies of all address records whose text contains some bytes."""
        for suffix, kv in self.cache.items():
            if suffix.startswith(schema.ADDRESS) and containing in kv.value:
                yield self._stored(kv)

    def own(self) -> Iterator[Stored]:
        """The copies of this host's address records."""
        with self._lock:
            texts = tuple(self._own)
        found = (self.stored(ipaddress.ip_address(text)) for text in texts)
        return (stored for stored in found if stored is not None)

    def held_for(self, container: str, host: str) -> Stored | None:
        """The address that is held on this host for a container's name."""
        with self._lock:
            candidates = tuple(self._held)
        for text in candidates:
            stored = self.stored(ipaddress.ip_address(text))
            if stored and stored.record.container == container and stored.record.host == host:
                return stored
        return None

    def is_resting(self, address: IPAddress) -> bool:
        """Whether the address was released a short time ago."""
        with self._lock:
            return self._occupancy.is_resting(int(address) - self._base)

    def catch_up(self, timeout: float) -> None:
        """Wait until the copy has all that the store had at the time of the call, for `timeout` seconds at most."""
        self.cache.wait(self._store.range(self.prefix, limit=1).revision, timeout)

    def seen(self, *kvs: KeyValue) -> None:
        """Take in what this process read or wrote, before the watch tells it."""
        self.cache.apply(*map(put_event, kvs))

    def gone(self, key: str, revision: int) -> None:
        """Take in that a key does not exist at a revision."""
        self.cache.apply(Event(key, b"", 0, revision, deleted=True))

    def close(self) -> None:
        """Stop following the pool."""
        self.cache.close()

    def _stored(self, kv: KeyValue) -> Stored:
        record = schema.decode(kv.value, AddressRecord, kv.key)
        return Stored(ipaddress.ip_address(kv.key.rpartition("/")[2]), record, kv.mod_revision)

    def _changed(self, changes: list[Change]) -> None:
        """Called by the cache for changes, in order."""
        occupancy, own, held = self._occupancy, self._own, self._held
        with self._lock:
            for suffix, value in changes:
                kind, _, text = suffix.partition("/")
                if kind == "address":
                    offset = number_of(text) - self._base
                    if value is None:
                        occupancy.unuse(offset)
                    else:
                        occupancy.use(offset)
                    (own.add if value is not None and self._mark in value else own.discard)(text)
                    (held.add if value is not None and HELD in value else held.discard)(text)
                elif kind == "resting":
                    offset = number_of(text) - self._base
                    if value is None:
                        occupancy.unrest(offset)
                    else:
                        occupancy.rest(offset)


class Repository:
    """Writes of this host. Transactions of the hot path go through `commit`, which groups them.

    All may be sent twice: one that took effect the first time fails its compares the second time, and who reads the
    record again finds what it wrote.
    """

    def __init__(self, store: Store, commit: Transactor, host: str, rest: int, rng: random.Random) -> None:
        self.store = store
        self.host = host
        self._commit = commit
        self._rng = rng
        self._resting = RollingLease(store, ttl=rest, window=REST_WINDOW)
        self._open: dict[tuple[str, IPNetwork], OpenPool] = {}
        self._noted: set[tuple[str, IPNetwork]] = set()
        self._lock = threading.Lock()

    def open(self, tenant: str, subnet: IPNetwork) -> OpenPool:
        """The pool, read on first use.

        Raises:
            NotFound: there is no such pool.
            Unavailable: the store cannot be reached.
        """
        pool = self._open.get((tenant, subnet))
        if pool is not None:
            return pool
        fresh = OpenPool(self.store, tenant, subnet, self.host, self._rng)
        try:
            fresh.load()
        except BaseException:
            fresh.close()
            raise
        with self._lock:
            pool = self._open.setdefault((tenant, subnet), fresh)
        if pool is not fresh:
            fresh.close()
        return pool

    def opened(self) -> tuple[OpenPool, ...]:
        """The pools that this host follows."""
        with self._lock:
            return tuple(self._open.values())

    def note(self, tenant: str, subnet: IPNetwork) -> None:
        """This host may have something in a pool that it does not follow, or soon not any more."""
        with self._lock:
            self._noted.add((tenant, subnet))

    def followed(self) -> set[tuple[str, IPNetwork]]:
        """The pools that this host follows, and those noted since the last call."""
        with self._lock:
            found, self._noted = self._noted | self._open.keys(), set()
        return found

    def forget(self, tenant: str, subnet: IPNetwork) -> None:
        """Stop following a pool."""
        with self._lock:
            pool = self._open.pop((tenant, subnet), None)
        if pool is not None:
            pool.close()

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

        None: another host was faster with one of them, or there is no such pool any more.
        """
        picked = pool.pick_several(part, number)
        try:
            return self._create_together(pool, {one: fresh() for one in picked if not pool.is_resting(one)})
        finally:
            for address in picked:
                pool.answered(address)

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
        ops: tuple[Op, ...] = (Delete(key), *self._without_mac(pool, stored))
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
        revision = self._write(pool, key, stored, (Put(key, value), *self._without_mac(pool, stored)))
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
        own = schema.encode(self._mac_record(stored.address, record))
        puts: tuple[Op, ...] = (Put(key, value), Put(mac, own), *self._without_mac(pool, stored))
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

    def _without_mac(self, pool: OpenPool, stored: Stored) -> tuple[Op, ...]:
        """Delete the claim of the MAC address if it is this record's."""
        if not stored.record.mac:
            return ()
        key = schema.mac_key(pool.tenant, stored.record.mac)
        own = schema.encode(self._mac_record(stored.address, stored.record))
        return (Txn((Compare(key, "value", "=", own),), (Delete(key),)),)

    @staticmethod
    def _mac_record(address: IPAddress, record: AddressRecord) -> MacRecord:
        return MacRecord(address=str(address), host=record.host, claim=record.claim)


class Changed(Conflict):
    """The record is not as it was read: read it again and decide anew."""


class MacTaken(Conflict):
    """Another address of the tenant has the MAC address."""


def _first(result: TxnResult, index: int = 0) -> KeyValue | None:
    found = result.results[index]
    return found[0] if isinstance(found, tuple) and found else None


def changed(record: AddressRecord, **fields: object) -> AddressRecord:
    """The record with other fields."""
    return msgspec.structs.replace(record, **fields)
