"""Netlink, with the kernel's refusals as qnet's errors. One socket for each operation."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from qnet.errors import Conflict, InvalidRequest, QnetError, Unavailable, Unsupported

GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)


@contextmanager
def operation(what: str, feature: str = "macvlan", module: str = "macvlan") -> Iterator[IPRoute]:
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
    if error.code == errno.EEXIST:
        return Conflict(f"{reason}: another link has that name or that tag; see ip -d link")
    if error.code == errno.EADDRINUSE:
        return Conflict(f"{reason}: the MAC address is in use on this parent")
    if error.code == errno.EBUSY:
        return Conflict(f"{reason}: the parent is used by another kind of link; see ip -d link")
    if error.code == errno.EINVAL:
        return InvalidRequest(f"{reason}: the kernel refuses this combination of parent, mode and mtu")
    return Unavailable(f"{reason}: {error}")


def index_of(netlink: IPRoute, name: str) -> int | None:
    """The index of a link; None if it is not there."""
    found: list[int] = netlink.link_lookup(ifname=name)
    return found[0] if found else None
