"""From networks and endpoints to links and routes: what must be there, and what is left over. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from types import MappingProxyType

from plugins.network.model import BRIDGED, Ask, Endpoint, Network
from plugins.network.terms import Terms
from qnet.errors import InvalidRequest

ENDPOINT_PREFIX = "qn-"  # an endpoint's link, or the host's end of it
CONTAINER_PREFIX = "qc-"  # the other end of a pair, until the engine moves it
OWN_PREFIX = "qh-"  # the host's own link on a network
PORT_PREFIX = "qp-"  # the other end of that, if it is a pair
LIMIT_PREFIX = "qi-"  # the ifb at which what an endpoint sends waits for its turn
BRIDGE_PREFIX = "qb-"
VXLAN_PREFIX = "qx-"
GATEWAY_PREFIX = "qr-"  # a gateway's port of a bridge
OUTSIDE_PREFIX = "qu-"  # the host's end of a gateway's way out
END = re.compile(r"q[nchpiru]-[0-9a-f]{12}")  # an end of a pair, or an ifb: others make some too, named nearly so
PREFIXES = (ENDPOINT_PREFIX, CONTAINER_PREFIX, OWN_PREFIX, PORT_PREFIX, LIMIT_PREFIX, GATEWAY_PREFIX, OUTSIDE_PREFIX)
OURS = (*PREFIXES, BRIDGE_PREFIX, VXLAN_PREFIX)
PLAIN = re.compile(r"[A-Za-z0-9_.-]+")  # what the packet filter takes as a chain's name: links may have others
UNFINISHED = "qt-unfinished"  # a sub-interface that is not marked as ours yet
NAME_LENGTH = 15
NO_NAMES: Mapping[str, str] = MappingProxyType({})
HEADERS = 1.03  # the kernel counts whole frames: with this, TCP carries what was asked for, within 3 %


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the host as the kernel lists it; `parent` is the name of the link it stands on, `master` of the
    bridge or bond it is part of; both may be empty. `local`: the address that a VXLAN link sends from. `ours`: qnet
    made it and may delete it (told by its alias). `carrier`: there is something at the other end."""

    name: str
    kind: str
    up: bool
    mtu: int
    parent: str = ""
    master: str = ""
    loopback: bool = False
    vlan: int = 0
    local: str = ""
    ours: bool = False
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class Macvlan:
    """A macvlan link to make, or an ipvlan one: `kind`. `mtu` 0: the parent's."""

    name: str
    parent: str
    mode: str
    mtu: int
    mac: str = ""
    kind: str = "macvlan"

    @property
    def moved(self) -> str:
        """What the engine moves into the container."""
        return self.name


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge without spanning tree, with one link of the host as a port."""

    name: str
    port: str


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair of links: `name` becomes a port of a bridge, `peer` has the MAC address, and is in a network namespace if
    one is named. `mtu` 0: the bridge's; without a bridge, the kernel's own. `learning`: whether the bridge learns from
    its frames who else is behind it."""

    name: str
    peer: str
    bridge: str
    mtu: int
    mac: str = ""
    namespace: str = ""
    learning: bool = True

    @property
    def moved(self) -> str:
        """What the engine moves into the container."""
        return self.peer

    @property
    def port_mac(self) -> str:
        """The MAC address of the port: a bridge takes the lowest of its ports', which must not be one that comes and
        goes."""
        return f"fe:{_digest(self.name, 5).hex(':')}"


@dataclass(frozen=True, slots=True)
class Guard:
    """What an endpoint is held to at a device of the host that all its frames pass: who it may claim to be, if that is
    `checked`, and how much it sends and gets."""

    device: str
    mac: str
    addresses: tuple[str, ...]
    checked: bool = True
    terms: Terms = field(default_factory=Terms)

    @property
    def limiter(self) -> str:
        """The ifb of its egress limit."""
        return LIMIT_PREFIX + self.device.removeprefix(ENDPOINT_PREFIX)

    @property
    def speeds(self) -> Mapping[str, int]:
        """What its devices are held to, in bytes of frames per second; none, where there is no limit."""
        found = {self.device: self.terms.ingress, self.limiter: self.terms.egress}
        return {device: round(rate * HEADERS / 8) for device, rate in found.items() if rate}


@dataclass(frozen=True, slots=True)
class Vlan:
    """A sub-interface for the frames of one VLAN (IEEE 802.1Q) on a link."""

    name: str
    trunk: str
    vlan: int


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A link for the frames of one VNI (RFC 7348), which travel from the address `local` over the link `underlay`."""

    name: str
    underlay: str
    vni: int
    local: str


@dataclass(frozen=True, slots=True)
class Shim:
    """The host's own link on a network, its addresses, and those of local containers that it routes to."""

    name: str
    link: Macvlan | Veth
    addresses: tuple[str, ...]
    routes: frozenset[str]


def endpoint_link(endpoint: str) -> str:
    """The name of an endpoint's link while the host has it."""
    return (ENDPOINT_PREFIX + endpoint)[:NAME_LENGTH]


def container_end(endpoint: str) -> str:
    """The name of the other end of an endpoint's pair while the host has it."""
    return (CONTAINER_PREFIX + endpoint)[:NAME_LENGTH]


def limit_link(endpoint: str) -> str:
    """The name of the ifb of an endpoint's egress limit."""
    return (LIMIT_PREFIX + endpoint)[:NAME_LENGTH]


def own_link(network: str) -> str:
    """The name of the host's own link on a network."""
    return (OWN_PREFIX + network)[:NAME_LENGTH]


def own_port(network: str) -> str:
    """The name of the other end of the host's own pair on a network."""
    return (PORT_PREFIX + network)[:NAME_LENGTH]


def own_mac(network: str) -> str:
    """The MAC address of the host's own pair on a network: each host has an id of its own for a network."""
    return f"fa:{_digest(network, 5).hex(':')}"


def gateway_port(network: str) -> str:
    """The name of the port that a network's gateway has on this host."""
    return (GATEWAY_PREFIX + network)[:NAME_LENGTH]


def outside_link(network: str) -> str:
    """The name of the host's end of the way that a network's gateway has to the outside."""
    return (OUTSIDE_PREFIX + network)[:NAME_LENGTH]


def bridge_over(link: Link) -> str:
    """The name of the bridge that a link is to be a port of: the link itself, if it is a bridge."""
    if link.kind == "bridge":
        return link.name
    name = BRIDGE_PREFIX + link.name
    return name if len(name) <= NAME_LENGTH and PLAIN.fullmatch(name) else BRIDGE_PREFIX + _short(link.name)


def _short(name: str) -> str:
    return _digest(name, 4).hex()


def _digest(name: str, size: int) -> bytes:
    return blake2s(name.encode(), digest_size=size).digest()


def sub_interface(trunk: str, vlan: int, links: Mapping[str, Link]) -> Vlan:
    """The link for a VLAN of a trunk: the one that is there, whatever its name, or one to make."""
    for link in links.values():
        if (link.parent, link.vlan) == (trunk, vlan):
            return Vlan(link.name, trunk, vlan)
    name = f"{trunk}.{vlan}"
    if len(name) > NAME_LENGTH:
        name = f"qv{_short(trunk)}.{vlan}"
    return Vlan(name, trunk, vlan)


def tags(name: str, links: Mapping[str, Link]) -> Mapping[int, Link]:
    """The VLANs whose frames a link carries without their tags, each by the link that takes the tag off: the link
    itself, one that it stands on, or one that is part of it."""
    found: dict[int, Link] = {}
    below, seen = [name], set[str]()
    while below:
        link = links.get(below.pop())
        if link is None or link.name in seen:
            continue
        seen.add(link.name)
        if link.vlan:
            found.setdefault(link.vlan, link)
        if link.kind == "vlan":
            below.append(link.parent)
        elif link.kind in ("bridge", "bond", "team"):
            below += [port.name for port in links.values() if port.master == link.name]
    return found


def vxlan_link(vni: int) -> str:
    """The name of the link for the frames of a VNI."""
    return f"{VXLAN_PREFIX}{vni}"


def underlay_address(link: str, addresses: Iterable[str]) -> str:
    """The address from which VXLAN packets leave a link: the lowest IPv4 one, so that all hosts choose alike.

    Raises:
        InvalidRequest: it has none.
    """
    parsed = sorted(map(ipaddress.ip_address, addresses), key=lambda address: (address.version, int(address)))
    if not parsed:
        raise InvalidRequest(
            f"parent {link} has no address, from which VXLAN packets would leave: name the link between the hosts that "
            f"has one, -o parent=LINK or underlay in [network] of the settings"
        )
    if not PLAIN.fullmatch(link):
        raise InvalidRequest(f"parent {link!r}: the packet filter takes no such name: rename the link")
    return str(parsed[0])


def stands(network: Network, bridge: Bridge | None, local: str, links: Mapping[str, Link]) -> bool:
    """Whether the links that a network stands on are there as they should be."""
    parent = links.get(network.parent)
    if parent is None or not parent.up or parent.vlan != (network.vlan or parent.vlan):
        return False
    if network.vni and parent.local != local:
        return False
    joint = links.get(bridge.name) if bridge else None
    return bridge is None or (joint is not None and joint.up and parent.master == bridge.name)


def check_parent(
    ask: Ask,
    links: Mapping[str, Link],
    others: Iterable[Network],
    *,
    trunk: bool = False,
    names: Mapping[str, str] = NO_NAMES,
    asked: bool = False,
) -> None:
    """Whether a network can stand on its parent; as a trunk: on a sub-interface of it, which minds nobody beside it.

    Args:
        asked: whether the parent is the one that was asked for, not one that was made for the network.
        names: what stands for a link in the settings.

    Raises:
        InvalidRequest: saying what is wrong with it and which links could be one.
    """

    def could() -> str:
        found = ", ".join(sorted(name for name, link in links.items() if _fit(link))) or "none that is up"
        named = ", ".join(f"{name} ({link})" for name, link in sorted(names.items()))
        return found + (f"; names of the settings: {named}" if named else "")

    if not ask.parent:
        raise InvalidRequest(f"no parent: add -o parent=LINK, or parent to [network] in the settings; links: {could()}")
    link = links.get(ask.parent)
    if link is None:
        raise InvalidRequest(f"parent {ask.parent[:64]!r} does not exist on this host; links: {could()}")
    if not trunk:
        _check_beside(ask, [other for other in others if other.parent == ask.parent and other.id != ask.id])
    shared = link.master == bridge_over(link) and (trunk or ask.mode in BRIDGED)
    shared = shared and not (asked and link.name.startswith(OURS))
    reason = "" if shared else _unfit(link)
    if reason:
        raise InvalidRequest(f"parent {ask.parent} {reason}; links: {could()}")
    if ask.mtu > link.mtu:
        raise InvalidRequest(f"-o mtu={ask.mtu} is more than the {link.mtu} of parent {ask.parent}")


def _check_beside(ask: Ask, others: Iterable[Network]) -> None:
    """Whether a network can share its parent with those that stand on it. Raises InvalidRequest."""
    for other in others:
        if other.mode != ask.mode:
            raise InvalidRequest(
                f"parent {ask.parent} is used by network {other.id[:12]} in mode {other.mode}: a link serves one "
                f"mode; give the tenant a VLAN, or add -o mode={other.mode}"
            )
        if "passthru" in (other.macvlan_mode, ask.macvlan_mode):
            raise InvalidRequest(
                f"parent {ask.parent} is used by network {other.id[:12]} in mode {other.macvlan_mode}: a passthru "
                f"network has its parent for itself"
            )


def _fit(link: Link) -> bool:
    return not _unfit(link)


def _unfit(link: Link) -> str:
    if link.loopback:
        return "is the loopback"
    if link.kind in ("macvlan", "macvtap", "ipvlan"):
        return f"is itself a {link.kind} link{f': use its parent {link.parent}' if link.parent else ''}"
    if link.name.startswith(OURS):
        return f"is qnet's own: use {link.parent or link.name.removeprefix(BRIDGE_PREFIX)}"
    if link.master:
        ours = link.master.startswith(BRIDGE_PREFIX)
        return f"is part of {link.master}: {'networks in mode bridge have it' if ours else f'use {link.master}'}"
    if not link.up:
        return f"is down: ip link set {link.name} up"
    return ""


def shim(network: Network, link: Macvlan | Veth, endpoints: Iterable[Endpoint]) -> Shim:
    """The host's own link on a network with host_access, made of `link`."""
    routes = frozenset(
        address
        for endpoint in endpoints
        if endpoint.network == network.id and endpoint.joined
        for address in endpoint.addresses
    )
    return Shim(link.moved, link, network.host_addresses, routes)


def host_prefix(address: str) -> str:
    """The address as a route to it alone."""
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def left_over(links: Iterable[Link], networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> Collection[str]:
    """Links of ours that nothing needs: an endpoint's that is gone, the host's own on a network without host_access, a
    gateway's of one without nat."""
    named = (endpoint_link, container_end, limit_link)
    wanted = {name(endpoint.id) for endpoint in endpoints for name in named}
    wanted |= {
        name for network in networks if network.host_access for name in (own_link(network.id), own_port(network.id))
    }
    wanted |= {
        name for network in networks if network.nat for name in (gateway_port(network.id), outside_link(network.id))
    }
    return sorted(
        link.name
        for link in links
        if link.name not in wanted
        if (link.kind in ("macvlan", "ipvlan") and link.name.startswith(PREFIXES))
        or (link.kind in ("veth", "ifb") and END.fullmatch(link.name))
    )


def unused_segments(links: Collection[Link], networks: Collection[Network]) -> Collection[str]:
    """Bridges and links for tags of ours that no network stands on, what stands on others first.

    One may be of a network that is being made: only time tells.
    """
    bridges, needed = {network.bridge for network in networks}, {network.parent for network in networks}
    unused = (
        link.name
        for link in links
        if link.kind == "bridge" and link.name.startswith(BRIDGE_PREFIX) and link.name not in bridges
    )
    tags = (
        link.name
        for link in links
        if link.kind in ("vlan", "vxlan") and (link.name == UNFINISHED or (link.ours and link.name not in needed))
    )
    return [*sorted(unused), *sorted(tags)]
