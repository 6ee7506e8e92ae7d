"""The values of address management: pools, what of a pool a network may use, who asks."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import TypeAlias
from urllib.parse import parse_qs, quote

from qnet.errors import InvalidRequest
from qnet.tenants import parse_tenant

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of a pool, both ends included."""

    first: int
    last: int

    def __contains__(self, offset: int) -> bool:
        return self.first <= offset <= self.last


@dataclass(frozen=True, slots=True)
class PoolId:
    """A pool and what of it a network may be given: the id that the engine keeps. Made of text only, so that any
    qnet of any release finds the pool again: `TENANT/SUBNET[?range=SUBNET&exclude=FIRST-LAST,…]`.
    """

    tenant: str
    subnet: IPNetwork
    range: IPNetwork | None = None
    exclude: tuple[str, ...] = ()
    handed_out: Span = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "handed_out", self._handed_out())

    def __str__(self) -> str:
        query = [f"range={self.range}"] if self.range else []
        query += [f"exclude={quote(','.join(self.exclude), safe=',:-')}"] if self.exclude else []
        return f"{self.tenant}/{self.subnet}{'?' + '&'.join(query) if query else ''}"

    def _handed_out(self) -> Span:
        """The offsets that may be handed out: the range, without what no host may have.

        Those are the network and broadcast address (RFC 1122, but not in a /31 or /32: RFC 3021) and the
        subnet-router anycast address (RFC 4291, 2.6.1; not in a /127 or /128: RFC 6164).
        """
        part = self.range or self.subnet
        base = int(self.subnet.network_address)
        first, last = int(part.network_address) - base, int(part.broadcast_address) - base
        size = self.subnet.num_addresses
        if size > 2:
            first = max(first, 1)
            last = min(last, size - 2) if self.subnet.version == 4 else last
        return Span(first, last)

    def offset(self, address: IPAddress) -> int:
        """Where an address stands in the subnet."""
        return int(address) - int(self.subnet.network_address)

    def address(self, offset: int) -> IPAddress:
        """The address that stands there."""
        return self.subnet.network_address + offset

    def cidr(self, address: IPAddress) -> str:
        """The address with the subnet's prefix length, as the engine wants it."""
        return f"{address}/{self.subnet.prefixlen}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: this host, and the instance of its engine (`qnet.wire.caller_instance`)."""

    host: str
    engine: str


@lru_cache(maxsize=4096)
def parse_pool_id(text: str) -> PoolId:
    """The pool that an engine's id names.

    Raises:
        InvalidRequest: qnet never gave out such an id.
    """
    path, _, query = text.partition("?")
    tenant, _, subnet = path.partition("/")
    try:
        options = parse_qs(query, strict_parsing=bool(query), max_num_fields=2)
        part = options.get("range", [""])[0]
        exclude = options.get("exclude", [""])[0]
        pool = PoolId(
            tenant=parse_tenant(tenant),
            subnet=ipaddress.ip_network(subnet),
            range=ipaddress.ip_network(part) if part else None,
            exclude=tuple(exclude.split(",")) if exclude else (),
        )
        for item in pool.exclude:
            parse_exclusion(item, pool.subnet)
    except ValueError as error:
        raise InvalidRequest(f"{text[:200]!r} is not the id of a pool of qnet: {error}") from error
    if str(pool) != text:
        raise InvalidRequest(f"{text[:200]!r} is not the id of a pool of qnet: it would be {str(pool)[:200]!r}")
    if pool.range and (pool.range.version != pool.subnet.version or not pool.range.subnet_of(pool.subnet)):  # type: ignore[arg-type]
        raise InvalidRequest(f"{text[:200]!r} is not the id of a pool of qnet: its range is not inside its subnet")
    return pool


def parse_subnet(text: str) -> IPNetwork:
    """A subnet in canonical form.

    Raises:
        InvalidRequest: it is none, or its host bits are set.
    """
    if "/" not in text:
        raise InvalidRequest(f"{text[:64]!r} is no subnet: it has no prefix length, as in 10.77.0.0/24")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidRequest(f"{text[:64]!r} is no subnet: {error}") from error


def parse_address(text: str) -> IPAddress:
    """One address, without a prefix length.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"{text[:64]!r} is no address: {error}") from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise InvalidRequest(f"{text[:64]!r} has a scope: leave out what follows the %")
    return address


def check_inside(tenant: str, subnet: IPNetwork, address: IPAddress) -> None:
    """Whether an address of a pool is one that somebody can have. Raises InvalidRequest."""
    pool = PoolId(tenant, subnet)
    if address not in subnet:
        raise InvalidRequest(f"address {address} is not in pool {subnet} of tenant {tenant}")
    if pool.offset(address) not in pool.handed_out:
        raise InvalidRequest(f"address {address} is the network or broadcast address of {subnet}")


def number_of(text: str) -> int:
    """The number of an address that is known to be one; for IPv4 several times faster than `ipaddress`."""
    if ":" in text:
        return int(ipaddress.IPv6Address(text))
    return int.from_bytes(socket.inet_aton(text), "big")


def parse_exclusion(text: str, subnet: IPNetwork) -> Span:
    """`FIRST-LAST`, one address or a subnet, as offsets of the pool.

    Raises:
        InvalidRequest: it is none of these or lies outside the pool.
    """
    first, _, last = text.partition("-")
    try:
        if "/" in text:
            part = ipaddress.ip_network(text)
            low, high = int(part.network_address), int(part.broadcast_address)
        else:
            low, high = int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last or first))
    except ValueError as error:
        raise InvalidRequest(f"exclude: {text[:100]!r} is no ADDRESS, FIRST-LAST or SUBNET: {error}") from error
    base, top = int(subnet.network_address), int(subnet.broadcast_address)
    if not base <= low <= high <= top:
        raise InvalidRequest(f"exclude: {text[:100]!r} is not inside {subnet}, lowest address first")
    return Span(low - base, high - base)


def mac_of(tenant: str, address: IPAddress, salt: int = 0) -> str:
    """The MAC address that goes with an address: locally administered, the same wherever the address moves.

    An IPv4 address stands in the last four bytes, so two of a tenant never clash; of an IPv6 address it is a hash.
    `salt` gives the next choice when another container was given this MAC address by hand.
    """
    seed = f"{tenant}/{salt}" if address.version == 4 else f"{tenant}/{salt}/{address}"
    digest = blake2b(seed.encode(), digest_size=6).digest()
    tail = address.packed if address.version == 4 else digest[2:]
    octets = bytes([digest[0] & 0xFC | 0x02, digest[1]]) + tail
    return ":".join(f"{octet:02x}" for octet in octets)
