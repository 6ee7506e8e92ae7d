"""From networks and endpoints to links and routes: what must be there, and what is left over. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2s

from plugins.network.model import Ask, Endpoint, Network
from qnet.errors import InvalidRequest

ENDPOINT_PREFIX = "qn-"
SHIM_PREFIX = "qh-"
UNFINISHED = "qt-unfinished"  # a sub-interface that is not marked as ours yet
NAME_LENGTH = 15


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the host as the kernel lists it; `parent` is the name of the link it stands on, `master` of the
    bridge or bond it is part of; both may be empty. `ours`: qnet made it and may delete it (told by its alias)."""

    name: str
    kind: str
    up: bool
    mtu: int
    parent: str = ""
    master: str = ""
    loopback: bool = False
    vlan: int = 0
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Macvlan:
    """A macvlan link to make; `mtu` 0: the parent's."""

    name: str
    parent: str
    mode: str
    mtu: int
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Vlan:
    """A sub-interface for the frames of one VLAN (IEEE 802.1Q) on a link."""

    name: str
    trunk: str
    vlan: int


@dataclass(frozen=True, slots=True)
class Shim:
    """The host's own link on a network: its addresses, and the local containers' addresses that it routes to."""

    link: Macvlan
    addresses: tuple[str, ...]
    routes: frozenset[str]


def endpoint_link(endpoint: str) -> str:
    """The name of an endpoint's link while the host has it."""
    return (ENDPOINT_PREFIX + endpoint)[:NAME_LENGTH]


def shim_link(network: str) -> str:
    """The name of the host's own link on a network."""
    return (SHIM_PREFIX + network)[:NAME_LENGTH]


def sub_interface(trunk: str, vlan: int, links: Mapping[str, Link]) -> Vlan:
    """The link for a VLAN of a trunk: the one that is there, whatever its name, or one to make."""
    for link in links.values():
        if (link.parent, link.vlan) == (trunk, vlan):
            return Vlan(link.name, trunk, vlan)
    name = f"{trunk}.{vlan}"
    if len(name) > NAME_LENGTH:
        name = f"qv{blake2s(trunk.encode(), digest_size=4).hexdigest()}.{vlan}"
    return Vlan(name, trunk, vlan)


def check_parent(ask: Ask, links: Mapping[str, Link], others: Iterable[Network]) -> None:
    """Whether a network can stand on its parent.

    Raises:
        InvalidRequest: saying what is wrong with it and which links could be one.
    """
    could = ", ".join(sorted(name for name, link in links.items() if _fit(link))) or "none that is up"
    if not ask.parent:
        raise InvalidRequest(f"no parent: add -o parent=LINK, or parent to [network] in the settings; links: {could}")
    link = links.get(ask.parent)
    if link is None:
        raise InvalidRequest(f"parent {ask.parent[:64]!r} does not exist on this host; links: {could}")
    reason = _unfit(link)
    if reason:
        raise InvalidRequest(f"parent {ask.parent} {reason}; links: {could}")
    if ask.mtu > link.mtu:
        raise InvalidRequest(f"-o mtu={ask.mtu} is more than the {link.mtu} of parent {ask.parent}")
    for other in others:
        if other.parent == ask.parent and other.id != ask.id and "passthru" in (other.macvlan_mode, ask.macvlan_mode):
            raise InvalidRequest(
                f"parent {ask.parent} is used by network {other.id[:12]} in mode {other.macvlan_mode}: a passthru "
                f"network has its parent for itself"
            )


def _fit(link: Link) -> bool:
    ours = link.name.startswith((ENDPOINT_PREFIX, SHIM_PREFIX))
    return not _unfit(link) and not ours


def _unfit(link: Link) -> str:
    if link.loopback:
        return "is the loopback"
    if link.kind in ("macvlan", "macvtap", "ipvlan"):
        return f"is itself a {link.kind} link{f': use its parent {link.parent}' if link.parent else ''}"
    if link.master:
        return f"is part of {link.master}: use {link.master}"
    if not link.up:
        return f"is down: ip link set {link.name} up"
    return ""


def endpoint_macvlan(network: Network, endpoint: Endpoint) -> Macvlan:
    """The link of an endpoint."""
    return Macvlan(endpoint_link(endpoint.id), network.parent, network.macvlan_mode, network.mtu, endpoint.mac)


def shim(network: Network, endpoints: Iterable[Endpoint]) -> Shim:
    """The host's own link on a network with host_access."""
    routes = frozenset(
        address
        for endpoint in endpoints
        if endpoint.network == network.id and endpoint.joined
        for address in endpoint.addresses
    )
    link = Macvlan(shim_link(network.id), network.parent, "bridge", network.mtu)
    return Shim(link, network.host_addresses, routes)


def host_prefix(address: str) -> str:
    """The address as a route to it alone."""
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def left_over(links: Collection[Link], networks: Iterable[Network], endpoints: Iterable[Endpoint]) -> Collection[str]:
    """Links of ours that nothing needs: an endpoint's that is gone, a shim of a network without host_access, a
    sub-interface that no network stands on. Those that stand on others come first."""
    networks = tuple(networks)
    wanted = {endpoint_link(endpoint.id) for endpoint in endpoints}
    wanted |= {shim_link(network.id) for network in networks if network.host_access}
    needed = {network.parent for network in networks}
    unused = sorted(
        link.name
        for link in links
        if link.kind == "vlan" and (link.name == UNFINISHED or (link.ours and link.name not in needed))
    )
    return (
        sorted(
            link.name
            for link in links
            if link.kind == "macvlan"
            and link.name.startswith((ENDPOINT_PREFIX, SHIM_PREFIX))
            and link.name not in wanted
        )
        + unused
    )
