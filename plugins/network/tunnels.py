"""The forwarding entries and neighbours of VXLAN links (bridge-fdb(8), ip-neighbour(8))."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
from pyroute2.netlink import NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import NTF_SELF, ndmsg

from plugins.network.forwarding import Changes, Entries, Key
from plugins.network.netlink import GONE
from plugins.network.plan import VXLAN_PREFIX
from qnet.commands import run
from qnet.errors import Unavailable

EVERYBODY = "00:00:00:00:00:00"  # where frames for all, and for those nobody knows, go as well
AF_BRIDGE, PERMANENT = 7, 0x80
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
ACK = struct.Struct("=IHHIIi")  # of a nlmsgerr: its header (length, type, flags, sequence number, port), the error
AT_ONCE = 64  # messages whose answers fit into a socket's buffer
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
        gone: list[str] = []
        messages: list[bytes] = []
        removals = set()
        for link, wanted in changes.items():
            try:
                index = socket.if_nametoindex(link)
            except OSError:
                gone.append(link)
                continue
            for key, value in wanted.items():
                if value is None:
                    removals.add(len(messages))
                messages.append(_message(len(messages), index, key, value))
        codes = _send(messages)
        wrong = {code for number, code in codes.items() if not (number in removals and code in GONE)}
        if wrong:
            raise Unavailable(f"write forwarding entries: {', '.join(errno.errorcode.get(c, str(c)) for c in wrong)}")
        if gone:
            raise Unavailable(f"{', '.join(gone)}: no such link to write forwarding entries of")


def _message(number: int, index: int, key: Key, value: str | None) -> bytes:
    kind, name = key
    found = ndmsg()
    found["header"]["type"] = RTM_NEWNEIGH if value is not None else RTM_DELNEIGH
    how = NLM_F_APPEND if kind == "flood" else NLM_F_REPLACE
    found["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE | how if value is not None else 0)
    found["header"]["sequence_number"] = number
    found["ifindex"] = index
    if kind == "address":
        found["family"] = socket.AF_INET6 if ":" in name else socket.AF_INET
        found["attrs"] = [("NDA_DST", name), *([("NDA_LLADDR", value)] if value else [])]
    else:
        mac, there = (name, value) if kind == "mac" else (EVERYBODY, name)
        found["family"], found["flags"] = AF_BRIDGE, NTF_SELF
        found["attrs"] = [("NDA_LLADDR", mac), *([("NDA_DST", there)] if there else [])]
    if value is not None:
        found["state"] = PERMANENT
    found.encode()
    return bytes(found.data)


def _send(messages: Sequence[bytes]) -> dict[int, int]:
    """What the kernel refused, by number, with the error.

    Many messages go at once: to wait for each answer, as pyroute2 does, takes ten times as long, and of a crowd of
    containers that start the other hosts would know too late.

    Raises:
        Unavailable
    """
    refused = {}
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(TIMEOUT)
            kernel.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            for first in range(0, len(messages), AT_ONCE):
                batch = messages[first : first + AT_ONCE]
                kernel.send(b"".join(batch))
                for _ in batch:
                    _, _, _, number, _, code = ACK.unpack_from(kernel.recv(4096))
                    if code:
                        refused[number] = -code
    except OSError as error:
        raise Unavailable(f"write forwarding entries: {error}") from error
    return refused


def _read(command: list[str], kind: type[RowT]) -> list[RowT]:
    listed = run(command, "list forwarding entries", timeout=TIMEOUT)
    try:
        return msgspec.json.decode(listed or "[]", type=list[kind])  # type: ignore[valid-type]
    except msgspec.MsgspecError as error:
        raise Unavailable(f"{' '.join(command)}: {error}") from error
