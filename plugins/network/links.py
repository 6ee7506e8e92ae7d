"""The kernel's links, addresses and routes: the only user of pyroute2. One netlink socket for each operation."""

from __future__ import annotations

import errno
import ipaddress
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network.plan import UNFINISHED, Bridge, Link, Macvlan, Shim, Veth, Vlan, host_prefix
from qnet.errors import Conflict, InvalidRequest, QnetError, Unavailable, Unsupported

logger = logging.getLogger(__name__)

ALIAS = "qnet"
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)


class Links:
    """Operations on the links of the network namespace that the process is in."""

    def __init__(self) -> None:
        self._making = threading.Lock()

    def all(self) -> dict[str, Link]:
        """Every link, by name; none that is being made."""
        with self._making, _netlink("list links") as netlink:
            entries = list(netlink.get_links())
        names = {entry["index"]: entry.get_attr("IFLA_IFNAME") for entry in entries}
        return {names[entry["index"]]: _link(entry, names) for entry in entries}

    def addresses(self, name: str) -> Collection[str]:
        """The addresses that the host has on a link, without those that the link gave itself."""
        with _netlink(f"list the addresses of {name}") as netlink:
            index = _index(netlink, name)
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
        with _netlink(f"make link {link.name} on {link.parent}") as netlink:
            parent = _index(netlink, link.parent)
            if parent is None:
                raise InvalidRequest(f"parent {link.parent!r} does not exist on this host any more")
            wanted: dict[str, Any] = {"macvlan_mode": link.mode}
            wanted |= {"mtu": link.mtu} if link.mtu else {}
            wanted |= {"address": link.mac} if link.mac else {}
            _make(netlink, {link.name}, kind="macvlan", ifname=link.name, link=parent, **wanted)

    def _add_veth(self, link: Veth) -> None:
        with _netlink(f"make links {link.name} and {link.peer}", "veth", "veth") as netlink:
            bridge = _index(netlink, link.bridge)
            if bridge is None:
                raise InvalidRequest(f"bridge {link.bridge!r} does not exist on this host any more")
            mtu = link.mtu or netlink.get_links(bridge)[0].get_attr("IFLA_MTU")
            peer = {"ifname": link.peer, "mtu": mtu} | ({"address": link.mac} if link.mac else {})
            names = {link.name, link.peer}
            _make(netlink, names, kind="veth", ifname=link.name, address=link.port_mac, mtu=mtu, peer=peer)

    def attach(self, link: Veth) -> None:
        """Make the host's end of a pair a port of its bridge: frames flow from now on. Raises InvalidRequest."""
        with _netlink(f"make {link.name} a port of {link.bridge}") as netlink:
            index, bridge = _index(netlink, link.name), _index(netlink, link.bridge)
            if index is None or bridge is None:
                raise InvalidRequest(f"{link.name} or {link.bridge} does not exist on this host any more")
            _no_ipv6(link.name)
            netlink.link("set", index=index, master=bridge, state="up")

    def add_bridge(self, bridge: Bridge) -> bool:
        """Make a bridge, down, if it is not there, and its port a port of it. Returns whether it was made.

        Raises:
            InvalidRequest: the port is gone.
            Conflict: the port is used by another kind of link.
        """
        what = f"make bridge {bridge.name} over {bridge.port}"
        with self._making, _netlink(what, "bridges", "bridge") as netlink:
            port = _index(netlink, bridge.port)
            if port is None:
                raise InvalidRequest(f"parent {bridge.port!r} does not exist on this host any more")
            index = _index(netlink, bridge.name)
            made = index is None
            if index is None:
                mtu = netlink.get_links(port)[0].get_attr("IFLA_MTU")
                netlink.link("add", ifname=bridge.name, kind="bridge", br_stp_state=0, br_forward_delay=0, mtu=mtu)
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
        with _netlink(f"make {name} for the limit of {device}", "ifb", "ifb") as netlink:
            like = _index(netlink, device)
            if like is None:
                raise InvalidRequest(f"link {device} does not exist on this host any more")
            mtu = netlink.get_links(like)[0].get_attr("IFLA_MTU")
            if _index(netlink, name) is None:
                netlink.link("add", ifname=name, kind="ifb", mtu=mtu)
            _no_ipv6(name)
            netlink.link("set", index=netlink.link_lookup(ifname=name)[0], state="up")

    def bring_up(self, name: str) -> None:
        """Let frames flow over a link, if it is there."""
        with _netlink(f"bring up {name}") as netlink:
            for index in netlink.link_lookup(ifname=name):
                netlink.link("set", index=index, state="up")

    def add_vlan(self, link: Vlan) -> None:
        """Make the sub-interface of a VLAN if it is not there, marked as ours, and bring it up.

        Raises:
            InvalidRequest: the trunk is gone.
            Unsupported: the kernel has no 802.1q.
        """
        what = f"make link {link.name} for VLAN {link.vlan} of {link.trunk}"
        with self._making, _netlink(what, "802.1q", "8021q") as netlink:
            trunk = _index(netlink, link.trunk)
            if trunk is None:
                raise InvalidRequest(f"parent {link.trunk!r} does not exist on this host any more")
            index = _index(netlink, link.name)
            if index is None:
                # under its own name only once it is marked: what a crash leaves before, is known by its name
                for old in netlink.link_lookup(ifname=UNFINISHED):
                    netlink.link("del", index=old)
                netlink.link("add", ifname=UNFINISHED, kind="vlan", link=trunk, vlan_id=link.vlan)
                index = netlink.link_lookup(ifname=UNFINISHED)[0]
                netlink.link("set", index=index, ifalias=ALIAS)
                netlink.link("set", index=index, ifname=link.name)
            netlink.link("set", index=index, state="up")

    def delete(self, name: str) -> bool:
        """Delete a link; returns whether it was there."""
        with _netlink(f"delete link {name}") as netlink:
            index = _index(netlink, name)
            if index is None:
                return False
            try:
                netlink.link("del", index=index)
            except NetlinkError as error:
                if error.code not in GONE:
                    raise
                return False
        return True

    def sync(self, shim: Shim) -> None:
        """Make the host's own link on a network as it should be: there, up, with its addresses and routes."""
        if shim.name not in self.all():
            self.add(shim.link)
            if isinstance(shim.link, Veth):
                self.attach(shim.link)
        with _netlink(f"set up {shim.name}") as netlink:
            index = _index(netlink, shim.name)
            if index is None:
                raise Unavailable(f"link {shim.name} vanished while it was set up; try again")
            netlink.link("set", index=index, state="up")
            for address in shim.addresses:
                parsed = ipaddress.ip_address(address)
                netlink.addr("replace", index=index, address=address, prefixlen=parsed.max_prefixlen)
            self._sync_routes(netlink, index, {host_prefix(address) for address in shim.routes})

    def routes(self) -> Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """The networks that this host routes, without the default route."""
        with _netlink("list routes") as netlink:
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


def _scope(prefix: str) -> int:
    """A route's scope, link for IPv4: a deletion that names another one finds no route (ip-route(8))."""
    return RT_SCOPE_UNIVERSE if ":" in prefix else RT_SCOPE_LINK


@contextmanager
def _netlink(what: str, feature: str = "macvlan", module: str = "macvlan") -> Iterator[IPRoute]:
    """A netlink socket for one operation, with the kernel's refusals as qnet's errors."""
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        raise _translated(what, error, feature, module) from error


def _translated(what: str, error: NetlinkError, feature: str, module: str) -> QnetError:
    reason = f"{what}: {errno.errorcode.get(error.code, error.code)}"
    if error.code == errno.EOPNOTSUPP:
        return Unsupported(f"{reason}: this kernel has no {feature}: load it (modprobe {module})")
    if error.code == errno.EADDRINUSE:
        return Conflict(f"{reason}: the MAC address is in use on this parent")
    if error.code == errno.EBUSY:
        return Conflict(f"{reason}: the parent is used by another kind of link; see ip -d link")
    if error.code == errno.EINVAL:
        return InvalidRequest(f"{reason}: the kernel refuses this combination of parent, mode and mtu")
    return Unavailable(f"{reason}: {error}")


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
    knob = Path("/proc/sys/net/ipv6/conf") / name / "disable_ipv6"
    if knob.exists():
        knob.write_text("1")


def _index(netlink: IPRoute, name: str) -> int | None:
    found: list[int] = netlink.link_lookup(ifname=name)
    return found[0] if found else None


def _link(entry: Any, names: dict[int, str]) -> Link:
    parent = entry.get_attr("IFLA_LINK")
    kind = entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or ""
    return Link(
        name=entry.get_attr("IFLA_IFNAME"),
        kind=kind,
        up=bool(entry["flags"] & IFF_UP),
        mtu=entry.get_attr("IFLA_MTU") or 0,
        parent=names.get(parent, "") if parent and kind != "veth" else "",
        master=names.get(entry.get_attr("IFLA_MASTER") or 0, ""),
        loopback=bool(entry["flags"] & IFF_LOOPBACK),
        vlan=entry.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VLAN_ID") or 0 if kind == "vlan" else 0,
        ours=entry.get_attr("IFLA_IFALIAS") == ALIAS,
    )
