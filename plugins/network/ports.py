"""What the network driver needs of the world outside: the kernel, the packet filter, addresses, tenants."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from plugins.network.forwarding import Changes, Entries
from plugins.network.frames import IPAddress
from plugins.network.plan import Bridge, Guard, Link, Macvlan, Shim, Veth, Vlan, Vxlan
from plugins.network.rules import Senders
from qnet.schema import SegmentKind, TenantRecord


class Addresses(Protocol):
    """What the driver needs of address management (`plugins.ipam.endpoints.Endpoints`)."""

    def check_pool(self, tenant: str, subnet: str) -> None:
        """The pool must have been requested by this host."""

    def bind(self, tenant: str, places: Iterable[tuple[str, str]], network: str, endpoint: str, mac: str | None) -> str:
        """Write down which endpoint has the addresses; returns its MAC address. `mac` None: it has none."""

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

    def all(self) -> tuple[TenantRecord, ...]:
        """All of them."""


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

    def add_ifb(self, name: str, device: str) -> None:
        """Make an ifb for the frames of a device, if it is not there."""

    def bring_up(self, name: str) -> None:
        """Let frames flow over a link."""

    def add_vxlan(self, link: Vxlan) -> None:
        """Make the link of a VNI if it is not there, and let it send from its address."""

    def add_vlan(self, link: Vlan) -> None:
        """Make a VLAN's sub-interface, marked as ours, if it is not there."""

    def delete(self, name: str) -> bool:
        """Delete a link if it is there."""

    def delete_strays(self, parent: str, addresses: Collection[str]) -> None:
        """Delete links with these addresses in containers that the engine lost."""

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
        """The chains that there are."""

    def counters(self) -> Mapping[str, tuple[int, int]]:
        """What every counter has, in packets and bytes."""

    def load(self, script: str, what: str, namespace: str = "") -> None:
        """Do what a script says, all of it or nothing; in a network namespace if one is named."""

    def fences(self) -> frozenset[str]:
        """The names of the chains that belong to all gateways, see `plugins.network.nat_rules.fences`."""


class Namespaces(Protocol):
    """What gateways need of network namespaces (`qnet.namespaces.Namespaces`)."""

    def all(self) -> frozenset[str]:
        """The names of those that are ours."""

    def add(self, name: str) -> None:
        """Make one, in place of one left half made."""

    def delete(self, name: str) -> None:
        """Delete one with its links if it is there."""

    def route(self, name: str, versions: Collection[int]) -> None:
        """Let one forward packets of these versions of IP."""

    def configure(self, commands: str, name: str = "") -> None:
        """Do what lines of ip-batch(8) say in one, or on the host itself."""

    def host_forwards(self, version: int) -> bool:
        """Whether the host itself forwards packets of a version of IP."""


class Segment(Protocol):
    """What the driver says and asks on segments (`plugins.network.packets.Packets`)."""

    def announce(self, sandbox: str, address: str) -> None:
        """Tell a container's neighbours who has an address; OSError: not yet."""

    def who_has(self, link: str, address: IPAddress, wait: float, besides: str) -> str:
        """The MAC address of who has an address; empty: nobody answers in time."""


class Announcements(Protocol):
    """What is said of a new endpoint, later (`plugins.network.announce.Announcer`)."""

    def announce(self, sandbox: str, addresses: Iterable[str]) -> None:
        """Announce a container's addresses soon; does not wait."""


class Qdiscs(Protocol):
    """What the driver needs of the kernel's traffic control (`plugins.network.qdiscs.Qdiscs`)."""

    def speeds(self) -> Mapping[str, int]:
        """What devices are held to, in bytes of frames per second; 0 for an ifb that is held to none."""

    def limit(self, device: str, speed: int) -> None:
        """Hold what a device is given to so many bytes of frames per second; 0: to none."""
