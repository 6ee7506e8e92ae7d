"""The gateway that a host is for its own containers of a network with `-o nat=true`: what it is made of. Pure.

A network namespace for each network, so that two with the same subnet do not meet: one pair of links leads to the
network's bridge, another, with addresses of `TRANSFER`, to the host.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2s
from itertools import count

from plugins.network.model import Network
from plugins.network.modes import MODES
from plugins.network.plan import Veth, gateway_port, outside_link
from qnet.errors import Conflict, Exhausted, InvalidRequest

NAMESPACE_PREFIX = "qnet-"
INSIDE, OUTSIDE = "lan", "wan"  # a gateway's links in its namespace
# from where gateways and the host have the addresses of the links between them (IPv4 link-local, RFC 3927; IPv6 ULA)
TRANSFER = {4: ipaddress.ip_network("169.254.240.0/20"), 6: ipaddress.ip_network("fd71:6e65:7400::/116")}


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway; `own`, `near` (its end of the way to the host) and `far` (the host's) with prefix lengths."""

    namespace: str
    port: Veth
    out: Veth
    uplink: str
    subnets: tuple[str, ...]
    addresses: tuple[str, ...]
    own: tuple[str, ...]
    near: tuple[str, ...]
    far: tuple[str, ...]

    @property
    def versions(self) -> Collection[int]:
        """The versions of IP that it forwards."""
        return sorted({ipaddress.ip_address(address).version for address in self.addresses})


def namespace(network: str) -> str:
    """The name of the namespace of a network's gateway."""
    return NAMESPACE_PREFIX + network[:12]


def of(network: Network) -> Gateway:
    """The gateway of a network that `check` let pass."""
    segment = MODES[network.mode].segment(network)
    name, id_ = namespace(network.id), network.id
    # an engine's network has an id of its own on each host, and so has its gateway's MAC address
    mac = f"02:{blake2s(id_.encode(), digest_size=5, person=b'gateway').digest().hex(':')}"
    lengths = [ipaddress.ip_network(entry.subnet) for entry in network.subnets]
    addresses = tuple(entry.gateway for entry in network.subnets)
    versions = sorted({net.version for net in lengths})
    return Gateway(
        namespace=name,
        port=Veth(gateway_port(id_), INSIDE, network.bridge, network.mtu, mac, name),
        out=Veth(outside_link(id_), OUTSIDE, "", network.mtu, namespace=name),
        uplink=segment.port if segment else "",
        subnets=tuple(str(net) for net in lengths),
        addresses=addresses,
        own=tuple(f"{text}/{net.prefixlen}" for text, net in zip(addresses, lengths, strict=True)),
        near=tuple(_transfer(version, network.pair, 1) for version in versions),
        far=tuple(_transfer(version, network.pair, 0) for version in versions),
    )


def _transfer(version: int, pair: int, end: int) -> str:
    """An end of a pair, which has two addresses and no other (RFC 3021, 6164)."""
    net = TRANSFER[version]
    return f"{net[2 * pair + end]}/{net.max_prefixlen - 1}"


def check(network: Network, others: Iterable[Network]) -> None:
    """Whether this host can be the gateway of a network.

    Raises:
        InvalidRequest: it is internal, has no gateway address, or no bridge of qnet's.
        Conflict: another network of the segment has this gateway already.
    """
    if network.internal:
        raise InvalidRequest("-o nat=true is the way out, and --internal is none: leave one of them out")
    if MODES[network.mode].segment(network) is None:
        reason = f"networks of mode {network.mode} have none: add -o mode=bridge"
        if network.bridge:
            reason = f"{network.bridge} is a bridge of yours: name a link that is none as parent"
        raise InvalidRequest(f"-o nat=true needs a bridge that qnet makes, and {reason}")
    for entry in network.subnets:
        if not entry.gateway:
            raise InvalidRequest(f"-o nat=true needs a gateway address in {entry.subnet}: add --gateway")
    own = {entry.gateway for entry in network.subnets}
    for other in others:
        shared = own & {entry.gateway for entry in other.subnets}
        if other.nat and other.bridge == network.bridge and other.id != network.id and shared:
            raise Conflict(
                f"gateway {min(shared)} of this segment is that of network {other.id[:12]}, which serves the "
                f"containers of both: leave -o nat=true out"
            )


def free_pair(taken: Collection[int]) -> int:
    """The lowest pair of transfer addresses that no other network of this host has. Raises Exhausted."""
    free = next(number for number in count() if number not in taken)
    if 2 * free >= TRANSFER[4].num_addresses:
        raise Exhausted(f"this host has {free} networks with nat=true, and can have no more: remove some")
    return free
