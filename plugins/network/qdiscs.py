"""Limits in the kernel: a token bucket (tc-tbf(8)) as a device's root queue. Uses pyroute2, as `links` does."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import TC_H_ROOT

from plugins.network.netlink import index_of
from plugins.network.plan import END
from qnet.errors import NotFound, Unavailable, Unsupported

KIND = "tbf"
BURST = 0.005  # seconds of the speed that pass at once: longer than the kernel's timers are late
LATENCY = 0.05  # seconds that a frame may wait before it is dropped
LEAST_BURST, LEAST_QUEUE = 4, 20  # full frames: at low rates TCP needs a few to go on
ETHERNET = 18  # header and tag, beside the MTU
IFF_UP = 0x1
NOTHING = (errno.ENOENT, errno.EINVAL)  # a device without a root queue of its own


class Qdiscs:
    """Operations on the queues of the network namespace that the process is in."""

    def speeds(self) -> Mapping[str, int]:
        """What our devices are held to, in bytes of frames per second; 0 for an ifb that is down or has no limit.

        Raises:
            Unavailable
        """
        with _netlink("list limits") as netlink:
            links = {link["index"]: link for link in netlink.get_links()}
            queues = list(netlink.get_qdiscs())
        found = {}
        for link in links.values():
            name, kind = link.get_attr("IFLA_IFNAME"), link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND")
            if kind == "ifb" and END.fullmatch(name):
                found[name] = 0
        for queue in queues:
            link = links.get(queue["index"])
            if link is None or queue.get_attr("TCA_KIND") != KIND or queue["parent"] != TC_H_ROOT:
                continue
            name = link.get_attr("IFLA_IFNAME")
            if END.fullmatch(name) and (link["flags"] & IFF_UP or name not in found):
                found[name] = queue.get_nested("TCA_OPTIONS", "TCA_TBF_PARMS")["rate"]
        return found

    def limit(self, device: str, speed: int) -> None:
        """Hold what a device is given to send to so many bytes of frames per second, in place; 0: to none.

        Raises:
            NotFound: the device is gone.
            Unsupported: the kernel has no tbf.
        """
        with _netlink(f"limit {device} to {speed} bytes/s") as netlink:
            index = index_of(netlink, device)
            if index is None:
                raise NotFound(f"link {device} does not exist on this host any more")
            if not speed:
                _unlimited(netlink, index)
                return
            frame = netlink.get_links(index)[0].get_attr("IFLA_MTU") + ETHERNET
            burst = max(round(speed * BURST), LEAST_BURST * frame)
            queue = max(round(speed * LATENCY), LEAST_QUEUE * frame)
            netlink.tc("replace", KIND, index, rate=speed, burst=burst, limit=burst + queue)


def _unlimited(netlink: IPRoute, index: int) -> None:
    try:
        netlink.tc("del", index=index, parent=TC_H_ROOT)
    except NetlinkError as error:
        if error.code not in NOTHING:
            raise


@contextmanager
def _netlink(what: str) -> Iterator[IPRoute]:
    try:
        with IPRoute() as netlink:
            yield netlink
    except NetlinkError as error:
        reason = f"{what}: {errno.errorcode.get(error.code, error.code)}"
        if error.code in (errno.ENOENT, errno.EOPNOTSUPP):
            raise Unsupported(f"{reason}: this kernel has no tbf: load it (modprobe sch_tbf)") from error
        raise Unavailable(f"{reason}: {error}") from error
