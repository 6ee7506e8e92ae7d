"""Addresses of placed containers: taken in the transaction that places them, and given back by whoever removes them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from qnet import schema
from qnet.addresses.model import IPAddress, PoolId, check_inside, parse_address, parse_pool_id
from qnet.addresses.openpool import OpenPool, Pools, Stored
from qnet.addresses.quota import Quota
from qnet.addresses.records import changed, describe, without_mac
from qnet.errors import Conflict, Exhausted, InvalidRequest
from qnet.schema import AddressRecord
from qnet.store.base import Compare, Delete, KeyValue, Op, Put, Store, Txn, absent, at_revision, unchanged
from qnet.store.recipes import RollingLease
from scheduler.model import AUTO, Container, Kept

AGAIN = "held before"  # the note of an address that was held for the name already
REST_WINDOW = 15
CURRENT = 1.0  # seconds to catch up with the store before a refusal
PATIENCE = 3.0  # seconds for others of this process to have what they ask for


class Offer(msgspec.Struct, frozen=True):
    """An address that a transaction may take: what it has to compare, what to write."""

    kept: Kept
    pool: OpenPool
    key: str
    compares: tuple[Compare, ...]
    ops: tuple[Op, ...]
    picked: bool


class Addresses:
    """See the module. Safe for many threads."""

    def __init__(self, store: Store, rest: int, now: Callable[[], str], rng: random.Random) -> None:
        self._store = store
        self._now = now
        self._rng = rng
        self._resting = RollingLease(store, ttl=rest, window=REST_WINDOW)
        self._holds: dict[int, RollingLease] = {}
        self._pools = Pools(store, "", rng)
        self._lock = threading.Lock()
        self._quota = Quota(store)

    def close(self) -> None:
        """Stop following pools."""
        self._quota.close()
        for pool in self._pools.all():
            pool.close()

    def offers(self, made: Container, network: str, pools: Iterable[str], wanted: str) -> list[Offer]:
        """An address of each IP version of a network.

        Args:
            pools: the ids of the network's pools.
            wanted: `auto`, or an address: then only that one.

        Raises:
            Conflict: the address wanted is another's.
            Exhausted: a pool is full.
            InvalidRequest: the address wanted is in none of the pools.
        """
        ids = [parse_pool_id(text) for text in pools]
        if wanted == AUTO:
            firsts = {pool.subnet.version: pool for pool in reversed(ids)}
            return [self._any(made, pool) for _, pool in sorted(firsts.items())]
        address = parse_address(wanted)
        for pool in ids:
            if address in pool.subnet:
                check_inside(pool.tenant, pool.subnet, address)
                return [self._asked(made, pool, address)]
        subnets = ", ".join(str(pool.subnet) for pool in ids)
        raise InvalidRequest(f"address {address} is not in network {network}: {subnets}")

    def done(self, offers: Iterable[Offer]) -> None:
        """The transaction that the offers were made for came back, either way."""
        for offer in offers:
            if offer.picked:
                offer.pool.answered(parse_address(offer.kept.address))

    def seen(self, offer: Offer, found: KeyValue | None, revision: int) -> None:
        """What stands at an offer's key."""
        if found is None:
            offer.pool.gone(offer.key, revision)
        else:
            offer.pool.seen(found)

    def check(self, tenant: str) -> None:
        """Whether a tenant has no more addresses than it may. Raises Exhausted: what was taken last must go back."""
        self._quota.check(tenant)

    def give_back(self, container: Container, hold: bool) -> tuple[list[Compare], list[Op]]:
        """What a transaction compares and writes that removes a container: its addresses are free, or held for the next
        one of its name. Raises Unavailable."""
        compares: list[Compare] = []
        ops: list[Op] = []
        for kept in (one for found in container.addresses.values() for one in found):
            key = schema.address_key(kept.tenant, kept.subnet, kept.address)
            kv = self._store.get(key)
            record = schema.decode(kv.value, AddressRecord, key) if kv else None
            if kv is None or record is None or record.placement != container.claim:
                continue
            compares.append(at_revision(key, kv.mod_revision))
            ops += without_mac(kept.tenant, Stored(parse_address(kept.address), record, kv.mod_revision))
            if container.hold and (hold or record.note == AGAIN):
                ops.append(Put(key, schema.encode(_held(record)), self._hold(container.hold)))
            else:
                rests = schema.resting_key(kept.tenant, kept.subnet, kept.address)
                ops += [Delete(key), Put(rests, b"", self._resting.id())]
        return compares, ops

    def drop_holds(self, pool: str) -> None:
        """Free what is held in a pool for names that no container has: its last network goes. Raises Unavailable."""
        id_ = parse_pool_id(pool)
        for kv in self._store.range(schema.address_key(id_.tenant, str(id_.subnet))).kvs:
            record = schema.decode(kv.value, AddressRecord, kv.key)
            if record.kind == "held" and not record.host:
                self._store.txn(Txn((unchanged(kv),), (Delete(kv.key),)))

    def renew(self) -> None:
        """A lease that a transaction named was gone."""
        self._resting.renew()
        for lease in self._holds.values():
            lease.renew()

    # -- one address -----------------------------------------------------------------------------------------

    def _any(self, made: Container, pool: PoolId) -> Offer:
        opened = self._pools.open(pool.tenant, pool.subnet)
        held = opened.held_for(made.called, "")
        if held is not None:
            return self._offer(made, pool, opened, held.address, held)
        sure, deadline = False, time.monotonic() + PATIENCE
        while (address := opened.pick(pool)) is None:
            # what others of this process ask for is in use only when they have it
            if (sure and not opened.is_asking()) or time.monotonic() > deadline:
                raise Exhausted(f"no address: pool {pool.range or pool.subnet} of tenant {pool.tenant} is full")
            opened.catch_up(CURRENT)
            sure = True
        return self._offer(made, pool, opened, address, None, picked=True)

    def _asked(self, made: Container, pool: PoolId, address: IPAddress) -> Offer:
        opened = self._pools.open(pool.tenant, pool.subnet)
        stored = opened.stored(address)
        if stored is not None and not _is_for(stored.record, made.called):
            opened.catch_up(CURRENT)  # it may have been freed just now
            stored = opened.stored(address)
        if stored is None or _is_for(stored.record, made.called):
            return self._offer(made, pool, opened, address, stored)
        whose = describe(stored.record)
        raise Conflict(f"address {address} of pool {pool.subnet} of tenant {pool.tenant} is taken: {whose}")

    def _offer(
        self,
        made: Container,
        pool: PoolId,
        opened: OpenPool,
        address: IPAddress,
        stored: Stored | None,
        picked: bool = False,
    ) -> Offer:
        key = opened.address_prefix + str(address)
        record = AddressRecord(
            kind="held",
            host=made.host,
            since=self._now(),
            claim=f"{self._rng.getrandbits(64):016x}",
            asked=True,
            container=made.called,
            placement=made.claim,
            request=made.request,
            note=AGAIN if stored else "",
        )
        ops: tuple[Op, ...] = (Put(key, schema.encode(record)),)
        if stored is None and opened.is_resting(address):
            ops += (Delete(opened.prefix + schema.RESTING + str(address)),)
        guard = absent(key) if stored is None else at_revision(key, stored.revision)
        kept = Kept(pool.tenant, str(pool.subnet), str(address))
        return Offer(kept, opened, key, (guard, opened.exists), ops, picked)

    def _hold(self, seconds: int) -> int:
        with self._lock:
            lease = self._holds.get(seconds)
            if lease is None:
                lease = self._holds[seconds] = RollingLease(self._store, ttl=seconds, window=max(1, seconds // 20))
        return lease.id()


def _held(record: AddressRecord) -> AddressRecord:
    """For the next container of the name."""
    return changed(
        record,
        kind="held",
        host="",
        engine="",
        network="",
        endpoint="",
        mac="",
        container_id="",
        placement="",
        request="",
    )


def _is_for(record: AddressRecord, name: str) -> bool:
    return record.kind == "held" and not record.host and record.container == name
