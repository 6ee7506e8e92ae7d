"""The forwarding entries and neighbours of VXLAN links (bridge-fdb(8), ip-neighbour(8))."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from plugins.network.commands import run
from plugins.network.forwarding import Changes, Entries, Key
from plugins.network.netlink import GONE, operation
from plugins.network.plan import VXLAN_PREFIX
from qnet.errors import Unavailable

EVERYBODY = "00:00:00:00:00:00"  # where frames for all, and for those nobody knows, go as well
PERMANENT = 0x80
NTF_SELF = 2
TIMEOUT = 10.0

RowT = TypeVar("RowT")


class _Forward(msgspec.Struct, frozen=True):
    ifname: str
    mac: str = ""
    dst: str = ""


class _Neighbour(msgspec.Struct, frozen=True):
    dev: str
    dst: str = ""
    lladdr: str = ""


class Tunnels:
    """Operations on the VXLAN links of the network namespace that the process is in."""

    def entries(self) -> Mapping[str, Entries]:
        """What they have, by link. Raises Unavailable.

        Read by iproute2: there may be tens of thousands, and pyroute2 takes a quarter of a millisecond for each.
        """
        found: dict[str, dict[Key, str]] = {}
        for row in _read(["bridge", "-j", "fdb", "show"], _Forward):
            if row.dst and row.ifname.startswith(VXLAN_PREFIX):
                key: Key = ("flood", row.dst) if row.mac == EVERYBODY else ("mac", row.mac)
                found.setdefault(row.ifname, {})[key] = "" if row.mac == EVERYBODY else row.dst
        for entry in _read(["ip", "-j", "neigh", "show", "nud", "permanent"], _Neighbour):
            if entry.lladdr and entry.dev.startswith(VXLAN_PREFIX):
                found.setdefault(entry.dev, {})["address", entry.dst] = entry.lladdr
        return found

    def change(self, changes: Mapping[str, Changes]) -> None:
        """Make and remove entries, by link; what is so already is no error, what fails stops no other.

        Raises:
            Unavailable: something failed, or a link is not there.
        """
        failed: NetlinkError | None = None
        gone = []
        with operation("write forwarding entries") as netlink:
            for link, wanted in changes.items():
                try:
                    index = socket.if_nametoindex(link)
                except OSError:
                    gone.append(link)
                    continue
                for key, value in wanted.items():
                    try:
                        _write(netlink, index, key, value)
                    except NetlinkError as error:
                        if value is not None or error.code not in GONE:
                            failed = error
            if failed is not None:
                raise failed
        if gone:
            raise Unavailable(f"{', '.join(gone)}: no such link to write forwarding entries of")


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


def _read(command: list[str], kind: type[RowT]) -> list[RowT]:
    listed = run(command, "list forwarding entries", timeout=TIMEOUT)
    try:
        return msgspec.json.decode(listed or "[]", type=list[kind])  # type: ignore[valid-type]
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{' '.join(command)}: {error}") from error
