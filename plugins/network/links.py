"""The kernel's links, addresses and routes."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network import strays
from plugins.network.netlink import GONE, index_of, operation
from plugins.network.plan import UNFINISHED, Bridge, Link, Macvlan, Shim, Veth, Vlan, Vxlan, host_prefix, vxlan_link
from plugins.network.rules import VXLAN_PORT
from qnet.commands import NAMESPACES
from qnet.errors import InvalidRequest, Unavailable

logger = logging.getLogger(__name__)

ALIAS = "qnet"
ETH_P_8021Q = 0x8100
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
SKIP_STATS = 0x8  # RTEXT_FILTER_SKIP_STATS: they would be most of a list
NTF_MASTER, STATIC = 4, 0x40  # of a bridge's forwarding entry
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253


class Links:
    """Operations on the links of the network namespace that the process is in."""

    def __init__(self) -> None:
        self._making = threading.Lock()

    def all(self) -> dict[str, Link]:
        """Every link, by name; none that is being made."""
        with self._making, operation("list links") as netlink:
            entries = list(netlink.link("dump", ext_mask=SKIP_STATS))
        names = {entry["index"]: entry.get_attr("IFLA_IFNAME") for entry in entries}
        return {names[entry["index"]]: _link(entry, lambda index: names.get(index, "")) for entry in entries}

    def look(self) -> Mapping[str, Link]:
        """The links, each as it is when it is first asked for; only to go through them all takes a list."""
        return _Look(self)

    def one(self, name: str) -> Link | None:
        """A link; None if it is not there, or being made."""
        with self._making, operation(f"look at link {name}") as netlink:
            index = index_of(netlink, name)
            return None if index is None else _link(netlink.get_links(index)[0], _name_of)

    def addresses(self, name: str) -> Collection[str]:
        """The addresses that the host has on a link, without those that the link gave itself."""
        with operation(f"list the addresses of {name}") as netlink:
            index = index_of(netlink, name)
            found = [] if index is None else [entry.get_attr("IFA_ADDRESS") for entry in netlink.get_addr(index=index)]
        return [text for text in found if not ipaddress.ip_address(text).is_link_local]

    def add(self, link: Macvlan | Veth) -> None:
        """Make an endpoint's link, down, in place of one of that name that was left behind.

        Raises:
            Conflict: its MAC address is another's on this parent, or the parent is taken by a passthru link.
            InvalidRequest: the parent is gone.
            Unsupported: the kernel has no such links.
        """
        if isinstance(link, Macvlan):
            self._add_macvlan(link)
        else:
            self._add_veth(link)

    def _add_macvlan(self, link: Macvlan) -> None:
        with operation(f"make link {link.name} on {link.parent}", link.kind, link.kind) as netlink:
            parent = index_of(netlink, link.parent)
            if parent is None:
                raise InvalidRequest(f"parent {link.parent!r} does not exist on this host any more")
            # ipvlan's mode is a number, L2; left out, it would be L3
            wanted: dict[str, Any] = {"macvlan_mode": link.mode} if link.kind == "macvlan" else {"ipvlan_mode": 0}
            wanted |= {"mtu": link.mtu} if link.mtu else {}
            wanted |= {"address": link.mac} if link.mac else {}
            _make(netlink, {link.name}, kind=link.kind, ifname=link.name, link=parent, **wanted)

    def _add_veth(self, link: Veth) -> None:
        with operation(f"make links {link.name} and {link.peer}", "veth", "veth") as netlink, ExitStack() as files:
            bridge = index_of(netlink, link.bridge) if link.bridge else None
            if bridge is None and link.bridge:
                raise InvalidRequest(f"bridge {link.bridge!r} does not exist on this host any more")
            mtu = link.mtu or (netlink.get_links(bridge)[0].get_attr("IFLA_MTU") if bridge else 0)
            sized = {"mtu": mtu} if mtu else {}
            peer: dict[str, Any] = {"ifname": link.peer, **sized} | ({"address": link.mac} if link.mac else {})
            names = {link.name} if link.namespace else {link.name, link.peer}
            if link.namespace:
                peer["net_ns_fd"] = files.enter_context((NAMESPACES / link.namespace).open()).fileno()
            _make(netlink, names, kind="veth", ifname=link.name, address=link.port_mac, peer=peer, **sized)

    def attach(self, link: Veth) -> None:
        """Make the host's end of a pair a port of its bridge: frames flow from now on. Raises InvalidRequest."""
        with operation(f"make {link.name} a port of {link.bridge}") as netlink:
            index, bridge = index_of(netlink, link.name), index_of(netlink, link.bridge)
            if index is None or bridge is None:
                raise InvalidRequest(f"{link.name} or {link.bridge} does not exist on this host any more")
            _no_ipv6(link.name)
            _no_ipv4(link.name)
            netlink.link("set", index=index, master=bridge, state="up")
            if not link.learning:
                netlink.brport("set", index=index, learning=0)
            if link.mac:
                # the bridge may have learned it where the container ran before
                netlink.fdb("replace", ifindex=index, lladdr=link.mac, flags=NTF_MASTER, state=STATIC)

    def add_bridge(self, bridge: Bridge) -> bool:
        """Make a bridge, down, if it is not there, and its port a port of it. Returns whether it was made.

        Raises:
            InvalidRequest: the port is gone.
            Conflict: the port is used by another kind of link.
        """
        what = f"make bridge {bridge.name} over {bridge.port}"
        with self._making, operation(what, "bridges", "bridge") as netlink:
            port = index_of(netlink, bridge.port)
            if port is None:
                raise InvalidRequest(f"parent {bridge.port!r} does not exist on this host any more")
            index = index_of(netlink, bridge.name)
            made = index is None
            if index is None:
                mtu = netlink.get_links(port)[0].get_attr("IFLA_MTU")
                quiet = {
                    "br_stp_state": 0,
                    "br_forward_delay": 0,
                    "br_mcast_snooping": 0,
                }  # a container could be querier
                netlink.link("add", ifname=bridge.name, kind="bridge", mtu=mtu, **quiet)
                index = netlink.link_lookup(ifname=bridge.name)[0]
            _no_ipv6(bridge.name)
            if netlink.get_links(port)[0].get_attr("IFLA_MASTER") != index:
                netlink.link("set", index=port, master=index)
            netlink.link("set", index=port, state="up")
        return made

    def add_ifb(self, name: str, device: str) -> None:
        """Make an ifb for the frames of a device, if it is not there, and bring it up.

        Raises:
            InvalidRequest: the device is gone.
            Unsupported: the kernel has no ifb.
        """
        with operation(f"make {name} for the limit of {device}", "ifb", "ifb") as netlink:
            like = index_of(netlink, device)
            if like is None:
                raise InvalidRequest(f"link {device} does not exist on this host any more")
            mtu = netlink.get_links(like)[0].get_attr("IFLA_MTU")
            if index_of(netlink, name) is None:
                netlink.link("add", ifname=name, kind="ifb", mtu=mtu)
            _no_ipv6(name)
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")

    def bring_up(self, name: str) -> None:
        """Let frames flow over a link, if it is there."""
        with operation(f"bring up {name}") as netlink:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("set", index=index, state="up")

    def add_vlan(self, link: Vlan) -> None:
        """Make the sub-interface of a VLAN if it is not there, marked as ours, and bring it up.

        Raises:
            InvalidRequest: the trunk is gone.
            Unsupported: the kernel has no 802.1q.
        """
        what = f"make link {link.name} for VLAN {link.vlan} of {link.trunk}"
        with self._making, operation(what, "802.1q", "8021q") as netlink:
            trunk = index_of(netlink, link.trunk)
            if trunk is None:
                raise InvalidRequest(f"parent {link.trunk!r} does not exist on this host any more")
            index = index_of(netlink, link.name)
            if index is None:
                # under its own name only once it is marked: what a crash leaves before, is known by its name
                for old in netlink.link_lookup(ifname=UNFINISHED):
                    netlink.link("del", index=old)
                netlink.link("add", ifname=UNFINISHED, kind="vlan", link=trunk, vlan_id=link.vlan)
                index = netlink.link_lookup(ifname=UNFINISHED)[0]
                netlink.link("set", index=index, ifalias=ALIAS)
                _no_ipv6(UNFINISHED)
                _no_ipv4(UNFINISHED)
                netlink.link("set", index=index, ifname=link.name)
            netlink.link("set", index=index, state="up")

    def add_vxlan(self, link: Vxlan) -> None:
        """Make the link of a VNI if it is not there, let it send from the address that it should, and bring it up.

        It learns nothing, and answers questions for addresses itself (`plugins.network.overlay` tells it).

        Raises:
            InvalidRequest: the underlay is gone.
            Conflict: another link has the VNI.
            Unsupported: the kernel has no VXLAN.
        """
        what = f"make link {link.name} for VNI {link.vni} over {link.underlay}"
        with self._making, operation(what, "VXLAN", "vxlan") as netlink:
            underlay = index_of(netlink, link.underlay)
            if underlay is None:
                raise InvalidRequest(f"parent {link.underlay!r} does not exist on this host any more")
            local = {"vxlan_local6" if ":" in link.local else "vxlan_local": link.local}
            index = index_of(netlink, link.name)
            if index is None:
                how = {"vxlan_port": VXLAN_PORT, "vxlan_learning": 0, "vxlan_proxy": 1}
                names = {"kind": "vxlan", "vxlan_id": link.vni, "vxlan_link": underlay}
                netlink.link("add", ifname=link.name, **names, **local, **how)
                index = netlink.link_lookup(ifname=link.name)[0]
            else:
                netlink.link("set", index=index, kind="vxlan", vxlan_id=link.vni, **local)
            _ipv6(link.name, "disable_ipv6", "0")
            _ipv6(link.name, "addr_gen_mode", "1")  # no address of its own, but it must answer for those of others
            netlink.link("set", index=index, state="up")

    def delete(self, name: str) -> bool:
        """Delete a link; returns whether it was there."""
        with operation(f"delete link {name}") as netlink:
            index = index_of(netlink, name)
            if index is None:
                return False
            try:
                netlink.link("del", index=index)
            except NetlinkError as error:
                if error.code not in GONE:
                    raise
                return False
        return True

    @staticmethod
    def delete_strays(parent: str, addresses: Collection[str]) -> None:
        """Delete links of containers that the engine lost, see `strays.remove`."""
        strays.remove(parent, addresses)

    def sync(self, shim: Shim) -> None:
        """Make the host's own link on a network as it should be: there, up, with its addresses and routes."""
        if self.one(shim.name) is None:
            self.add(shim.link)
        if isinstance(shim.link, Veth):
            self.attach(shim.link)
        if any(":" in address for address in shim.addresses):
            for learned in ("accept_ra", "autoconf", "accept_redirects"):  # from containers
                _ipv6(shim.name, learned, "0")
            _ipv6(shim.name, "disable_ipv6", "0")
        else:
            _no_ipv6(shim.name)
        with operation(f"set up {shim.name}") as netlink:
            index = index_of(netlink, shim.name)
            if index is None:
                raise Unavailable(f"link {shim.name} vanished while it was set up; try again")
            netlink.link("set", index=index, state="up")
            for address in shim.addresses:
                parsed = ipaddress.ip_address(address)
                netlink.addr("replace", index=index, address=address, prefixlen=parsed.max_prefixlen)
            self._sync_routes(netlink, index, {host_prefix(address) for address in shim.routes})

    def routes(self) -> Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The networks that this host routes, without the default route."""
        with operation("list routes") as netlink:
            entries = [*netlink.get_routes(family=2), *netlink.get_routes(family=10)]
        found = set()
        for entry in entries:
            destination, length = entry.get_attr("RTA_DST"), entry["dst_len"]
            if destination and length:
                found.add(ipaddress.ip_network(f"{destination}/{length}", strict=False))
        return {net for net in found if not (net.is_link_local or net.is_multicast or net.is_loopback)}

    @staticmethod
    def _sync_routes(netlink: IPRoute, index: int, wanted: set[str]) -> None:
        has = set()
        for family in (2, 10):
            for entry in netlink.get_routes(family=family, oif=index, table=254):
                if entry["dst_len"] == (32 if family == 2 else 128) and entry.get_attr("RTA_DST"):
                    has.add(f"{entry.get_attr('RTA_DST')}/{entry['dst_len']}")
        own = {
            host_prefix(entry.get_attr("IFA_ADDRESS"))
            for entry in netlink.get_addr(index=index)
            if entry.get_attr("IFA_ADDRESS")
        }
        for prefix in wanted - has:
            netlink.route("replace", dst=prefix, oif=index, scope=_scope(prefix))
        for prefix in has - wanted - own:
            try:
                netlink.route("del", dst=prefix, oif=index, scope=_scope(prefix))
            except NetlinkError as error:
                if error.code not in GONE:
                    raise


class _Look(Mapping[str, Link]):
    def __init__(self, links: Links) -> None:
        self._links = links
        self._seen: dict[str, Link | None] = {}

    def __getitem__(self, name: str) -> Link:
        if name not in self._seen:
            self._seen[name] = self._links.one(name)
        link = self._seen[name]
        if link is None:
            raise KeyError(name)
        return link

    def __iter__(self) -> Iterator[str]:
        self._seen = {**self._links.all()}
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._links.all())


def _scope(prefix: str) -> int:
    """A route's scope, link for IPv4: a deletion that names another one finds no route (ip-route(8))."""
    return RT_SCOPE_UNIVERSE if ":" in prefix else RT_SCOPE_LINK


def _make(netlink: IPRoute, names: Collection[str], **wanted: Any) -> None:
    """Make links, in place of any of their names that were left behind."""
    try:
        netlink.link("add", **wanted)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        for name in names:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("del", index=index)
        netlink.link("add", **wanted)


def _no_ipv6(name: str) -> None:
    """The host has nothing to say on a link that only carries the frames of others, not even its own address."""
    _ipv6(name, "disable_ipv6", "1")


def _ipv6(name: str, knob: str, value: str) -> None:
    """Set a link's `net.ipv6.conf`, if the kernel has IPv6."""
    file = Path("/proc/sys/net/ipv6/conf") / name / knob
    if file.exists():
        file.write_text(value)


def _no_ipv4(name: str) -> None:
    """The same of IPv4: a link without addresses answers for those that the host has on others, and routes."""
    folder = Path("/proc/sys/net/ipv4/conf") / name
    for knob, value in (("arp_ignore", "8"), ("forwarding", "0")):
        (folder / knob).write_text(value)


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def _link(entry: Any, name_of: Callable[[int], str]) -> Link:
    kind = entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    data = entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA") if kind in ("vlan", "vxlan") else None
    parent = data.get_attr("IFLA_VXLAN_LINK") if data and kind == "vxlan" else entry.get_attr("IFLA_LINK")
    name = entry.get_attr("IFLA_IFNAME")
    vni = data.get_attr("IFLA_VXLAN_ID") if data and kind == "vxlan" else 0
    return Link(
        name=name,
        kind=kind,
        up=bool(entry["flags"] & IFF_UP),
        mtu=entry.get_attr("IFLA_MTU") or 0,
        parent=name_of(parent) if parent and kind != "veth" else "",
        master=name_of(entry.get_attr("IFLA_MASTER") or 0),
        loopback=bool(entry["flags"] & IFF_LOOPBACK),
        vlan=_vlan(data) if data and kind == "vlan" else 0,
        local=_local(data) if data and kind == "vxlan" else "",
        ours=entry.get_attr("IFLA_IFALIAS") == ALIAS or bool(vni and name == vxlan_link(vni)),
        carrier=entry.get_attr("IFLA_CARRIER") != 0,
    )


def _vlan(data: Any) -> int:
    """The VLAN of a sub-interface of 802.1q; a provider's tag (802.1ad) is none of ours."""
    return (data.get_attr("IFLA_VLAN_ID") or 0) if data.get_attr("IFLA_VLAN_PROTOCOL") == ETH_P_8021Q else 0


def _local(data: Any) -> str:
    """The address that a VXLAN link sends from."""
    return str(data.get_attr("IFLA_VXLAN_LOCAL") or data.get_attr("IFLA_VXLAN_LOCAL6") or "")
