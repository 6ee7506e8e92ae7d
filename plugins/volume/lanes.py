"""Lanes: the client of a limited volume has a network namespace of its own, and a pair of links leads from there to the
host. What it reads passes tc(8) at the host's end, what it writes at its own: block-I/O cgroups know nothing of FUSE.

A class for what is limited, another for small packets, which are never kept waiting. Operations are counted as packets
of `OPERATION` bytes at least (tc-htb(8), mpu): what a server answers to a read comes in one, or few.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Collection
from itertools import count

from plugins.volume.ports import Rates
from qnet import nft
from qnet.commands import run
from qnet.errors import QnetError, Unavailable
from qnet.namespaces import FORWARDING, Namespaces

PREFIX = "qnetv-"
HOST_END, OWN_END = "qv-", "client"
TRANSFER = ipaddress.ip_network("169.254.224.0/20")  # pairs of addresses between lanes and the host (RFC 3927, 3021)
OPERATION = 60_000  # bytes that a read counts for: more than what answers it, up to which reads count once
UNLIMITED = 12_500_000_000  # bytes per second
BURST = 0.01  # seconds of the rate that pass at once
LEAST_BURST = 2 * 65_536  # packets as they are before the network card cuts them
TABLE = "inet qnet_volumes"
REMOVAL = f"add table {TABLE}\ndelete table {TABLE}\n"
RULES = f"""{REMOVAL}
table {TABLE} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname "{HOST_END}*" ct state established,related accept
        oifname "{HOST_END}*" drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {TRANSFER} oifname != "{HOST_END}*" masquerade
    }}
}}
"""
TREE = """
qdisc replace dev {link} root handle 1: htb default 10
{rates}
class replace dev {link} parent 1: classid 1:30 htb rate {unlimited}bps burst {burst} cburst {burst} quantum 60000
filter replace dev {link} parent 1: handle 800::1 protocol ip prio 1 u32 match u16 0x0000 0xfc00 at 2 flowid 1:30
"""


class Lanes:
    """See `plugins.volume.ports.Lanes`."""

    def __init__(self) -> None:
        self._namespaces = Namespaces(PREFIX)
        self._lock = threading.Lock()
        self._shaped: dict[str, Rates] = {}

    def all(self) -> Collection[str]:
        """The volumes that have one, half made ones too."""
        return [name.removeprefix(PREFIX) for name in self._namespaces.all()]

    def open(self, volume: str, rates: Rates) -> str:
        """Make a volume's lane anew; returns the name of its namespace. Raises Unsupported, Unavailable."""
        if not self._namespaces.host_forwards(4):
            raise Unavailable(
                f"limits of volumes need a host that forwards: sysctl -w {FORWARDING[4]}=1, and a line in /etc/sysctl.d"
            )
        with self._lock:
            self._close(volume)
            try:
                self._make(volume, rates)
            except QnetError:
                self._close(volume)
                raise
        return PREFIX + volume

    def shape(self, volume: str, rates: Rates) -> None:
        """Give a lane other rates, if that is what they are and it has one. Raises Unsupported, Unavailable."""
        with self._lock:
            if self._shaped.get(volume) == rates or PREFIX + volume not in self._namespaces.all():
                return
            for link, namespace, lines in _ends(volume, rates):
                _tc("\n".join(_rates(link, *lines)), namespace)
            self._shaped[volume] = rates

    def close(self, volume: str) -> None:
        """Take a volume's lane away; one that is not there is no error. Raises Unsupported, Unavailable."""
        with self._lock:
            self._close(volume)
            if not self._namespaces.all():
                nft.run(REMOVAL, "take the rules of limited volumes away")

    def _make(self, volume: str, rates: Rates) -> None:
        name, link = PREFIX + volume, _link(volume)
        far, near = _pair(_taken())
        self._namespaces.add(name)
        self._namespaces.configure(
            f"link add {link} type veth peer name {OWN_END} netns {name}\naddr add {far} dev {link}\n"
            f"link set {link} up\n"
        )
        way = f"route add default via {far.partition('/')[0]} dev {OWN_END}"
        self._namespaces.configure(
            f"link set lo up\nlink set {OWN_END} up\naddr add {near} dev {OWN_END}\n{way}\n", name
        )
        nft.run(RULES, "let limited volumes reach their servers")
        for end, namespace, lines in _ends(volume, rates):
            tree = TREE.format(
                link=end, rates="\n".join(_rates(end, *lines)), unlimited=UNLIMITED, burst=_burst(UNLIMITED)
            )
            _tc(tree, namespace)
        self._shaped[volume] = rates

    def _close(self, volume: str) -> None:
        self._shaped.pop(volume, None)
        if PREFIX + volume in self._namespaces.all():
            self._namespaces.delete(PREFIX + volume)
        if _link(volume) in _links():
            run(["ip", "link", "delete", _link(volume)], f"delete {_link(volume)}")


def _ends(volume: str, rates: Rates) -> list[tuple[str, str, tuple[int, float]]]:
    """Each end of a pair, with the namespace it is in, operations and bytes per second. Each copy is sent by itself."""
    return [
        (_link(volume), "", (rates.read_iops, rates.bps)),
        (OWN_END, PREFIX + volume, (0, rates.bps * rates.copies)),
    ]


def _rates(link: str, iops: int, bps: float) -> list[str]:
    """tc's commands for two classes: the outer one counts operations, the inner one bytes, which it borrows."""
    outer, inner = iops * OPERATION or UNLIMITED, round(bps) or UNLIMITED
    least = f" mpu {OPERATION}" if iops else ""
    return [
        f"class replace dev {link} parent 1: classid 1:1 htb rate {outer}bps ceil {outer}bps burst {_burst(outer)} "
        f"cburst {_burst(outer)} quantum 60000{least}",
        f"class replace dev {link} parent 1:1 classid 1:10 htb rate 1000bps ceil {inner}bps burst 1600 "
        f"cburst {_burst(inner)} quantum 60000",
    ]


def _burst(rate: float) -> int:
    return max(round(rate * BURST), LEAST_BURST)


def _tc(lines: str, namespace: str) -> None:
    run(["tc", "-batch", "-"], f"limit {namespace or 'a volume'}", lines.strip() + "\n", namespace)


def _link(volume: str) -> str:
    return (HOST_END + volume)[:15]


def _links() -> dict[str, list[str]]:
    """This host's ends of lanes, with their addresses."""
    listed = json.loads(run(["ip", "-json", "addr", "show"], "list links") or "[]")
    return {
        one["ifname"]: [info["local"] for info in one.get("addr_info", ())]
        for one in listed
        if one.get("ifname", "").startswith(HOST_END)
    }


def _taken() -> Collection[str]:
    return {address for addresses in _links().values() for address in addresses}


def _pair(taken: Collection[str]) -> tuple[str, str]:
    """Addresses for the host's end and the other that no other lane of this host has."""
    free = next(number for number in count() if str(TRANSFER[2 * number]) not in taken)
    return f"{TRANSFER[2 * free]}/31", f"{TRANSFER[2 * free + 1]}/31"
