"""What a host's kernel has of qnet's networks: links, rules, queues, and what its VXLAN links know of other hosts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.lab.host import Host

LINKS = frozenset({"lo", "eth0", "eth1", "eth2"})
RULES = {("inet", "qnet_underlay"): "rules of the underlay"}
RULES |= {("inet", "qnet"): "rules of gateways", ("netdev", "qnet_gateways"): "rules of gateways' uplinks"}
EVERYBODY = "00:00:00:00:00:00"


def links(host: Host) -> dict[str, dict[str, Any]]:
    """The links in a host's own namespace, by name."""
    return {link["ifname"]: link for link in _json(host, "ip", "-j", "-d", "link")}


def namespaces(host: Host) -> set[str]:
    """The network namespaces that a host has by name."""
    return {line.split()[0] for line in host.exec("ip", "netns", "list").stdout.splitlines()}


def kernel(host: Host) -> set[str]:
    """What the kernel has that is not there without networks, in words."""
    found = {f"link {name}" for name in links(host).keys() - LINKS}
    listed = _json(host, "nft", "-j", "list", "chains")["nftables"]
    chains = [entry["chain"] for entry in listed if "chain" in entry]
    tables = [(one["family"], one["table"]) for one in chains]
    found |= {f"rules of {one['name']}" for one in chains if (one["family"], one["table"]) == ("netdev", "qnet")}
    found |= {RULES[table] for table in tables if table in RULES}
    found |= {f"namespace {name}" for name in namespaces(host)}
    queues = [one for one in _json(host, "tc", "-j", "qdisc", "show") if one["dev"] in LINKS or one["kind"] == "tbf"]
    return found | {f"queue {one['kind']} of {one['dev']}" for one in queues if one["kind"] != "noqueue"}


@dataclass(frozen=True, slots=True)
class Wired:
    """A network as it is wired on a host: its options, its VNI, the ids of the endpoints on it that run."""

    id: str
    options: Mapping[str, str]
    vni: int
    endpoints: tuple[str, ...]

    @property
    def mode(self) -> str:
        """Its mode."""
        return self.options.get("mode", "macvlan")

    def kernel(self) -> set[str]:
        """What the kernel must have for it, in the words of `kernel`."""
        own = {"qh"} if self.options.get("host_access") == "true" else set()
        fence = {"rules of gateways"} if own else set()
        if self.mode == "macvlan":
            return {f"link {prefix}-{self.id}"[:20] for prefix in own} | fence
        port = f"qx-{self.vni}" if self.mode == "vxlan" else self.options.get("parent", "eth1")
        pairs = [f"qn-{one}"[:15] for one in self.endpoints]
        names = {f"qb-{port}", *pairs, *(f"{prefix}-{self.id}"[:15] for one in own for prefix in (one, "qp"))}
        counters = [f"{name}-{way}" for name in pairs for way in ("sent", "received")]
        rules = {f"rules of {name}" for name in (f"qb-{port}", *pairs, *counters)} | fence
        if self.options.get("nat") == "true":
            names |= {f"{prefix}-{self.id}"[:15] for prefix in ("qr", "qu")}
            rules |= {f"namespace qnet-{self.id[:12]}", "rules of gateways", "rules of gateways' uplinks"}
        limiters = [f"qi-{one}"[:15] for one in self.endpoints if "egress" in self.options]
        names |= set(limiters)
        rules |= {f"queue tbf of {name}" for name in limiters + (pairs if "ingress" in self.options else [])}
        if self.mode == "vxlan":
            return {f"link {name}" for name in {*names, port}} | rules | {"rules of the underlay"}
        return {f"link {name}" for name in names} | rules


def heard(host: Host, vni: int) -> set[str]:
    """What a host's VXLAN link knows, and whom the host takes its packets from."""
    link = f"qx-{vni}"
    entries = [one for one in _json(host, "bridge", "-j", "fdb", "show", "dev", link) if "dst" in one]
    found = {f"frames for {'all' if one['mac'] == EVERYBODY else one['mac']} to {one['dst']}" for one in entries}
    neighbours = _json(host, "ip", "-j", "neigh", "show", "dev", link, "nud", "permanent")
    found |= {f"{one['dst']} is {one['lladdr']}" for one in neighbours if not one["dst"].startswith("fe80:")}
    rules = host.exec("nft", "list", "set", "inet", "qnet_underlay", "senders", check=False).stdout
    return found | {f"packets from {sender}" for sender in re.findall(rf" {vni:#x} \. ([0-9.]+)", rules)}


def told(vteps: Mapping[str, str], boxes: Iterable[tuple[str, str, str]]) -> set[str]:
    """What a host's VXLAN link must know, in the words of `heard`.

    Args:
        vteps: the underlay addresses of the other hosts of its VNI.
        boxes: address, MAC address and host of all that have an address of the VNI's tenant.
    """
    found = {f"{word} {vtep}" for vtep in vteps.values() for word in ("frames for all to", "packets from")}
    for address, mac, host in boxes:
        if host in vteps:
            found |= {f"frames for {mac} to {vteps[host]}", f"{address} is {mac}"}
    return found


def _json(host: Host, *argv: str) -> Any:
    return json.loads(host.exec(*argv, check=False).stdout or "[]")
