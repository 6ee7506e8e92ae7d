"""The kernel's links, addresses and routes: the only user of pyroute2. One netlink socket for each operation."""

from __future__ import annotations

import errno
import ipaddress
import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network.plan import UNFINISHED, Link, Macvlan, Shim, Vlan, host_prefix
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

    def add(self, link: Macvlan) -> None:
        """Make a macvlan link, down, in place of one of that name that was left behind.

        Raises:
            Conflict: its MAC address is another's on this parent, or the parent is taken by a passthru link.
            InvalidRequest: the parent is gone.
            Unsupported: the kernel has no macvlan.
        """
        with _netlink(f"make link {link.name} on {link.parent}") as netlink:
            parent = _index(netlink, link.parent)
            if parent is None:
                raise InvalidRequest(f"parent {link.parent!r} does not exist on this host any more")
            wanted: dict[str, Any] = {"macvlan_mode": link.mode}
            wanted |= {"mtu": link.mtu} if link.mtu else {}
            wanted |= {"address": link.mac} if link.mac else {}
            try:
                netlink.link("add", ifname=link.name, kind="macvlan", link=parent, **wanted)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                self.delete(link.name)
                netlink.link("add", ifname=link.name, kind="macvlan", link=parent, **wanted)

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
        if shim.link.name not in self.all():
            self.add(shim.link)
        with _netlink(f"set up {shim.link.name}") as netlink:
            index = _index(netlink, shim.link.name)
            if index is None:
                raise Unavailable(f"link {shim.link.name} vanished while it was set up; try again")
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
