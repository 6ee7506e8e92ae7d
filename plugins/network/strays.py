"""Links of ours in containers that the engine has lost.

An engine that is killed while it starts or stops a container can forget the process (Docker 20.10 does), which goes on
with an address that others can be given then.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Iterator
from ipaddress import ip_address
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network.packets import inside, link_with
from qnet import metrics

logger = logging.getLogger(__name__)

PROCESSES = Path("/proc")
KINDS = ("macvlan", "ipvlan")


def remove(parent: str, addresses: Collection[str]) -> None:
    """Take away the links on a parent of this host that have one of these addresses, whoever uses them. What fails is
    logged: it is no reason to keep what a container had."""
    try:
        index = socket.if_nametoindex(parent)
    except OSError:
        return  # with the parent its links went
    for namespace in _namespaces():
        try:
            with inside(str(namespace)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as has:
                found = {name for address in addresses if (name := _named(has, address))}
            for name in found:
                _delete(namespace, name, index)
        except (OSError, NetlinkError) as error:
            logger.warning("links of %s in %s: %s", parent, namespace, error)


def _named(has: socket.socket, address: str) -> str:
    try:
        return link_with(has, ip_address(address))
    except FileNotFoundError:
        return ""


def _namespaces() -> Iterator[Path]:
    """A file of each network namespace that a process is in, but for this one's."""
    seen = {(PROCESSES / "self/ns/net").stat().st_ino}
    for process in PROCESSES.iterdir():
        namespace = process / "ns/net"
        try:
            inode = namespace.stat().st_ino if process.name.isdigit() else 0
        except OSError:
            continue  # it has ended
        if inode and inode not in seen:
            seen.add(inode)
            yield namespace


def _delete(namespace: Path, name: str, parent: int) -> None:
    with IPRoute(netns=str(namespace), flags=0) as netlink:
        here = netlink.get_netnsid(pid=os.getpid())["nsid"]
        for link in netlink.get_links(ifname=name):
            below = (link.get_attr("IFLA_LINK_NETNSID"), link.get_attr("IFLA_LINK"))
            if link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") in KINDS and below == (here, parent):
                netlink.link("del", index=link["index"])
                metrics.REPAIRS.labels("link of a container that the engine lost").inc()
                logger.warning("link %s of process %s removed: its engine lost the container", name, namespace.parts[2])
