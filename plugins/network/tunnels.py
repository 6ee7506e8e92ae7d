"""The forwarding entries and neighbours of VXLAN links (bridge-fdb(8), ip-neighbour(8))."""

from __future__ import annotations

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network.forwarding import Changes, Entries, Key
from plugins.network.netlink import GONE, index_of, operation
from qnet.errors import Unavailable

EVERYBODY = "00:00:00:00:00:00"  # where frames for all, and for those nobody knows, go as well
PERMANENT = 0x80
NTF_SELF = 2


class Tunnels:
    """Operations on the VXLAN links of the network namespace that the process is in."""

    def entries(self, link: str) -> Entries:
        """What a link has. Raises Unavailable if it is not there."""
        found: dict[Key, str] = {}
        with operation(f"list the forwarding entries of {link}") as netlink:
            index = _index(netlink, link)
            for entry in netlink.fdb("dump", ifindex=index):
                mac, vtep = entry.get_attr("NDA_LLADDR"), entry.get_attr("NDA_DST")
                if entry["ifindex"] == index and vtep:
                    found[("flood", vtep) if mac == EVERYBODY else ("mac", mac)] = "" if mac == EVERYBODY else vtep
            for family in (2, 10):
                for entry in netlink.get_neighbours(family=family, ifindex=index):
                    if entry["state"] & PERMANENT and entry["ifindex"] == index:
                        found["address", entry.get_attr("NDA_DST")] = entry.get_attr("NDA_LLADDR")
        return found

    def change(self, link: str, changes: Changes) -> None:
        """Make and remove entries; what is so already is no error, what fails stops no other. Raises Unavailable."""
        failed: NetlinkError | None = None
        with operation(f"write the forwarding entries of {link}") as netlink:
            index = _index(netlink, link)
            for key, value in changes.items():
                try:
                    _write(netlink, index, key, value)
                except NetlinkError as error:
                    if value is not None or error.code not in GONE:
                        failed = error
            if failed is not None:
                raise failed


def _write(netlink: IPRoute, index: int, key: Key, value: str | None) -> None:
    kind, name = key
    if kind == "address":
        family = 10 if ":" in name else 2
        there = {"lladdr": value, "state": PERMANENT} if value else {}
        netlink.neigh("replace" if value else "del", ifindex=index, family=family, dst=name, **there)
    elif kind == "mac":
        there = {"dst": value, "state": PERMANENT} if value else {}
        netlink.fdb("replace" if value else "del", ifindex=index, lladdr=name, flags=NTF_SELF, **there)
    else:
        what = "del" if value is None else "append"
        netlink.fdb(what, ifindex=index, lladdr=EVERYBODY, dst=name, flags=NTF_SELF, state=PERMANENT)


def _index(netlink: IPRoute, link: str) -> int:
    index = index_of(netlink, link)
    if index is None:
        raise Unavailable(f"link {link} is not there")
    return index
