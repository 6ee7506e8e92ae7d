"""A host's copy of a pool: what is in it, and what is free by it."""

from __future__ import annotations

import ipaddress
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from qnet import schema
from qnet.addresses.model import IPAddress, IPNetwork, PoolId, Span, number_of, parse_exclusion
from qnet.addresses.pools import LANES, Occupancy, capacity
from qnet.errors import NotFound
from qnet.schema import AddressRecord, PoolRecord
from qnet.store.base import Event, KeyValue, Store, present, put_event
from qnet.store.cache import Change, PrefixCache

HELD = b'"kind":"held"'


@dataclass(frozen=True, slots=True)
class Stored:
    """An address record as it stands in the store; `revision` changes with each write of it."""

    address: IPAddress
    record: AddressRecord
    revision: int


class Figures(NamedTuple):
    """Addresses of a pool: with a record, those of them that are held, and those that can be handed out at once."""

    used: int
    held: int
    free: int


class Pools:
    """The pools that a process follows, each read on first use. Safe for many threads."""

    def __init__(self, store: Store, host: str, rng: random.Random) -> None:
        self._store = store
        self._host = host
        self._rng = rng
        self._lock = threading.Lock()
        self._open: dict[tuple[str, IPNetwork], OpenPool] = {}

    def open(self, tenant: str, subnet: IPNetwork) -> OpenPool:
        """The pool, read on first use.

        Raises:
            NotFound: there is no such pool.
            Unavailable: the store cannot be reached.
        """
        pool = self._open.get((tenant, subnet))
        if pool is not None:
            return pool
        fresh = OpenPool(self._store, tenant, subnet, self._host, self._rng)
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

    def all(self) -> tuple[OpenPool, ...]:
        """Those that are followed."""
        with self._lock:
            return tuple(self._open.values())

    def forget(self, tenant: str, subnet: IPNetwork) -> None:
        """Stop following a pool."""
        with self._lock:
            pool = self._open.pop((tenant, subnet), None)
        if pool is not None:
            pool.close()


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
        self._hosts: set[str] = set()
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

    def figures(self) -> Figures:
        """How full the pool is."""
        free = max(0, self.room(PoolId(self.tenant, self.subnet)))
        with self._lock:
            return Figures(self._occupancy.used(), len(self._held), free)

    def hosts(self) -> int:
        """How many hosts use the pool."""
        return len(self._hosts)

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
                elif kind == "use":
                    (self._hosts.discard if value is None else self._hosts.add)(text)
