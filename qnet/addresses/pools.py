"""What is free in a pool, and which subnets a tenant can have. Pure: fed with what the store says."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Collection, Iterable, Iterator

from qnet.addresses.addrset import AddressSet
from qnet.addresses.model import IPNetwork, Span

MAX_TRIES = 64
LANES, LANE_BLOCK, LANE_TRIES = 8, 32, 16


class Occupancy:
    """Which offsets of one pool are in use, resting, or being asked for by this process right now.

    Not thread-safe: its owner holds a lock. `lane` is where this process looks first (`range(LANES)`).
    """

    def __init__(self, size: int, lane: int = 0) -> None:
        self._lane = lane
        self._busy = AddressSet(size)
        self._used: set[int] = set()
        self._resting: dict[int, None] = {}
        self._asking: set[int] = set()

    def use(self, offset: int) -> None:
        """The store has a record of it."""
        self._used.add(offset)
        self._busy.add(offset)

    def rest(self, offset: int) -> None:
        """It was released a short time ago."""
        self._resting[offset] = None
        self._busy.add(offset)

    def ask(self, offset: int) -> None:
        """A request for it is on its way."""
        self._asking.add(offset)
        self._busy.add(offset)

    def unuse(self, offset: int) -> None:
        """The store's record is gone."""
        self._used.discard(offset)
        self._settle(offset)

    def unrest(self, offset: int) -> None:
        """It has rested enough, or was taken."""
        self._resting.pop(offset, None)
        self._settle(offset)

    def answered(self, offset: int) -> None:
        """The request for it came back."""
        self._asking.discard(offset)
        self._settle(offset)

    def count(self) -> int:
        """How many are not free."""
        return len(self._busy)

    def used(self) -> int:
        """How many have a record."""
        return len(self._used)

    def is_asking(self) -> bool:
        """Whether a request for any is on its way."""
        return bool(self._asking)

    def is_resting(self, offset: int) -> bool:
        """Whether it was released a short time ago."""
        return offset in self._resting

    def pick(self, span: Span, excluded: Collection[Span], rng: random.Random) -> int | None:
        """An offset to hand out: the next free one behind a random place, a resting one if there is no other."""
        found = self._pick_in_lane(span, excluded, rng)
        if found is not None:
            return found
        start = rng.randint(span.first, span.last) if span.first <= span.last else span.first
        found = self._search(start, span.last + 1, excluded)
        if found is None:
            found = self._search(span.first, start, excluded)
        return self._pick_resting(span, excluded) if found is None else found

    def _pick_in_lane(self, span: Span, excluded: Collection[Span], rng: random.Random) -> int | None:
        """Of a large span each process first tries blocks of its own: when few addresses are left, two hosts would
        often ask for the same one."""
        blocks = (span.last - span.first + 1) // (LANES * LANE_BLOCK)
        for _ in range(LANE_TRIES if blocks > 3 else 0):
            start = span.first + (rng.randrange(blocks) * LANES + self._lane) * LANE_BLOCK
            found = self._search(start, start + LANE_BLOCK, excluded)
            if found is not None:
                return found
        return None

    def _search(self, start: int, end: int, excluded: Collection[Span]) -> int | None:
        found = self._busy.next_free(start, end)
        while found is not None:
            blocking = [part.last for part in excluded if found in part]
            if not blocking:
                return found
            found = self._busy.next_free(max(blocking) + 1, end)
        return None

    def _pick_resting(self, span: Span, excluded: Collection[Span]) -> int | None:
        """The one that has rested longest."""
        for offset in self._resting:
            if offset in span and offset not in self._used and offset not in self._asking:
                if not any(offset in part for part in excluded):
                    return offset
        return None

    def _settle(self, offset: int) -> None:
        if offset not in self._used and offset not in self._resting and offset not in self._asking:
            self._busy.discard(offset)


def capacity(span: Span, excluded: Iterable[Span]) -> int:
    """How many offsets of a span are not excluded; exclusions may overlap."""
    total, reached = span.last - span.first + 1, span.first
    for part in sorted(excluded, key=lambda part: part.first):
        first, last = max(part.first, reached), min(part.last, span.last)
        if first <= last:
            total -= last - first + 1
            reached = last + 1
    return max(total, 0)


def overlapping(subnet: IPNetwork, others: Iterable[IPNetwork]) -> IPNetwork | None:
    """The first of the others that shares an address with the subnet."""
    for other in others:
        if other.version == subnet.version and other.overlaps(subnet):
            return other
    return None


def carve(
    supernets: Iterable[IPNetwork], prefix: int, taken: Collection[IPNetwork], rng: random.Random
) -> IPNetwork | None:
    """A random subnet of that prefix length inside the supernets that overlaps none of those taken."""
    for supernet in supernets:
        if supernet.prefixlen > prefix:
            continue
        for candidate in _candidates(supernet, prefix, rng):
            if overlapping(candidate, taken) is None:
                return candidate
    return None


def _candidates(supernet: IPNetwork, prefix: int, rng: random.Random) -> Iterator[IPNetwork]:
    """Random subnets first; then all, if there are not too many, so that the last free one is found."""
    bits = supernet.max_prefixlen - prefix
    total = 1 << (prefix - supernet.prefixlen)
    base = int(supernet.network_address)
    indices = (rng.randrange(total) for _ in range(MAX_TRIES))
    for index in indices:
        yield ipaddress.ip_network((base + (index << bits), prefix))
    for index in range(min(total, 1 << 16)):
        yield ipaddress.ip_network((base + (index << bits), prefix))
