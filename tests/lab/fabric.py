"""The network between the hosts: a namespace of its own with two bridges, and a set of ports cut off.

`mgmt` is the underlay (eth0: etcd, VXLAN), `trunk` the shared segment of the tenants (eth1). Every host has eth2 as
well, down and connected to nothing. A cut drops frames between bridge ports without a word, as a broken
switch would: the links stay up and open connections hang. A cut from `etcd` is one of `mgmt` that VXLAN passes.
"""

from __future__ import annotations

import json

from tests.lab.commands import run
from tests.lab.model import LabError, Layout, Node
from tests.lab.namespaces import NETNS, add_netns, delete_netns, set_sysctls

SEGMENTS = {"mgmt": "m", "trunk": "t"}
CUTS = {"etcd": "no_tcp", "mgmt": "cut", "trunk": "cut"}  # by the names of sets of ports

_CUTS = """
table bridge qlab {
    set cut { type ifname; }
    set no_tcp { type ifname; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        iifname @cut drop
        oifname @cut drop
        iifname @no_tcp ip protocol tcp drop
        oifname @no_tcp ip protocol tcp drop
    }
}
"""


def _port(segment: str, node: Node) -> str:
    return f"{SEGMENTS['mgmt' if segment == 'etcd' else segment]}{node.index}"


class Fabric:
    """The bridges of one lab."""

    def __init__(self, layout: Layout) -> None:
        self.netns = layout.fabric

    def create(self) -> None:
        """Makes the namespace, the bridges and the filter."""
        add_netns(self.netns)
        set_sysctls(self.netns, {"ipv6.conf.all.disable_ipv6": "1", "ipv6.conf.default.disable_ipv6": "1"})
        self._ip([
            line
            for bridge in SEGMENTS
            for line in (
                f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {bridge} up",
            )
        ])  # fmt: skip
        self._nft(_CUTS)

    def attach(self, node: Node) -> None:
        """Makes a host's network namespace with eth0, eth1 (no address) and eth2 (down)."""
        add_netns(node.netns)
        forwarding = {"ipv4.ip_forward": "1"}  # as on every Docker host; engines without a bridge leave it out
        forwarding |= {"ipv6.conf.all.forwarding": "1"}
        ipv6 = {"ipv6.conf.all.disable_ipv6": "0", "ipv6.conf.default.disable_ipv6": "0"}
        set_sysctls(node.netns, {**ipv6, **forwarding})
        self._ip([line for number, port in enumerate(self._ports(node)) for line in self._veth(node, number, port)])
        self._ip([f"link set {_port(name, node)} master {name} up" for name in SEGMENTS])
        run(["ip", "-n", node.netns, "-batch", "-"], stdin="\n".join((
            "link set eth1 addrgenmode none",
            "link set eth0 up",
            "link set eth1 up",
            f"addr add {node.address}/24 brd + dev eth0",
            f"addr add {node.address6}/64 dev eth0 nodad",
        )))  # fmt: skip

    @staticmethod
    def _ports(node: Node) -> list[str]:
        return [_port("mgmt", node), _port("trunk", node), f"x{node.index}"]

    @staticmethod
    def _veth(node: Node, number: int, port: str) -> list[str]:
        return [f"link add {port} type veth peer name eth{number} address {node.mac(number)} netns {node.netns}"]

    def detach(self, node: Node) -> None:
        """Deletes a host's network namespace and its ports, as a power cut would."""
        delete_netns(node.netns)
        for port in self._ports(node):
            run(["ip", "-n", self.netns, "link", "delete", port], check=False)

    def cut(self, node: Node, segment: str) -> None:
        """Drops every frame to and from the host on one segment, see `CUTS`."""
        if segment not in CUTS:
            raise LabError(f"no segment {segment!r}: there are {', '.join(CUTS)}")
        self._nft(f"add element bridge qlab {CUTS[segment]} {{ {_port(segment, node)} }}")

    def heal(self, node: Node) -> None:
        """Ends all cuts of a host."""
        for segment in self.cut_segments(node):
            self._nft(f"delete element bridge qlab {CUTS[segment]} {{ {_port(segment, node)} }}")

    def cut_segments(self, node: Node) -> list[str]:
        """The segments that the host is cut off from."""
        listed = run(["nsenter", f"--net={NETNS / self.netns}", "nft", "-j", "list", "sets", "bridge"])
        sets = [entry["set"] for entry in json.loads(listed.stdout)["nftables"] if "set" in entry]
        ports = {entry["name"]: entry.get("elem", []) for entry in sets}
        return [name for name, cut in CUTS.items() if _port(name, node) in ports[cut]]

    def _ip(self, lines: list[str]) -> None:
        run(["ip", "-n", self.netns, "-batch", "-"], stdin="\n".join(lines))

    def _nft(self, text: str) -> None:
        run(["nsenter", f"--net={NETNS / self.netns}", "nft", "-f", "-"], stdin=text)
