"""What the network driver needs of the world outside: the kernel, the packet filter, addresses, tenants."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from plugins.network.forwarding import Changes, Entries
from plugins.network.plan import Bridge, Guard, Link, Macvlan, Shim, Veth, Vlan, Vxlan
from plugins.network.rules import Senders
from qnet.schema import SegmentKind, TenantRecord


class Addresses(Protocol):
    """What the driver needs of address management (`plugins.ipam.endpoints.Endpoints`)."""

    def check_pool(self, tenant: str, subnet: str) -> None:
        """The pool must have been requested by this host."""

    def bind(self, tenant: str, places: Iterable[tuple[str, str]], network: str, endpoint: str, mac: str) -> str:
        """Write down which endpoint has the addresses; returns its MAC address."""

    def auxiliary(self, tenant: str, subnet: str, addresses: Iterable[str]) -> None:
        """Addresses just given out are auxiliary ones."""

    def take_host_address(self, tenant: str, subnet: str, network: str, mac: str) -> str:
        """The host's own address on a network, at a MAC address if that is known."""

    def drop_host_address(self, tenant: str, subnet: str, network: str) -> None:
        """Give it back."""


class Owners(Protocol):
    """What the driver needs of the registry (`qnet.tenants.Tenants`)."""

    def get(self, name: str) -> TenantRecord:
        """A tenant, with its tag."""

    def owner(self, kind: SegmentKind, number: int) -> str:
        """The tenant that has a VLAN id; empty if none has."""


class Kernel(Protocol):
    """What the driver needs of the kernel (`plugins.network.links.Links`)."""

    def all(self) -> dict[str, Link]:
        """Every link, by name."""

    def look(self) -> Mapping[str, Link]:
        """The same for who needs few of them: each is asked for when it is needed."""

    def addresses(self, name: str) -> Collection[str]:
        """The addresses that the host has on a link."""

    def add(self, link: Macvlan | Veth) -> None:
        """Make an endpoint's link, in place of one left behind."""

    def attach(self, link: Veth) -> None:
        """Make the host's end of a pair a port of its bridge."""

    def add_bridge(self, bridge: Bridge) -> bool:
        """Make a bridge over a link, down, if it is not there; returns whether it was made."""

    def bring_up(self, name: str) -> None:
        """Let frames flow over a link."""

    def add_vxlan(self, link: Vxlan) -> None:
        """Make the link of a VNI if it is not there, and let it send from its address."""

    def add_vlan(self, link: Vlan) -> None:
        """Make a VLAN's sub-interface, marked as ours, if it is not there."""

    def delete(self, name: str) -> bool:
        """Delete a link if it is there."""

    def sync(self, shim: Shim) -> None:
        """Make the host's own link as it should be."""


class Tunnels(Protocol):
    """What the driver needs of VXLAN links (`plugins.network.tunnels.Tunnels`)."""

    def entries(self) -> Mapping[str, Entries]:
        """What they know, by link."""

    def change(self, changes: Mapping[str, Changes]) -> None:
        """Tell them what changed."""


class Filters(Protocol):
    """What the driver needs of the packet filter (`plugins.network.filters.Filters`)."""

    def apply(self, wanted: Guard) -> None:
        """Keep an endpoint to its own addresses."""

    def remove(self, device: str) -> None:
        """Forget the rules of a device."""

    def shield(self, bridge: str) -> None:
        """Keep the host itself off a bridge."""

    def underlay(self, senders: Senders, before: Senders | None = None) -> None:
        """Take the packets of VNIs from their hosts only."""

    def chains(self) -> frozenset[str]:
        """The devices that there are rules for."""
