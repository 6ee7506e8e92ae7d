"""TCP throughput in the modes bridge and vxlan: beside the same made by hand, and without qnet's packet filter."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial

from tests.bench import handmade, segments
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.bench.throughput import PORT, client_command, gigabits, serve
from tests.lab.cluster import Lab
from tests.lab.host import Host

BRIDGE = Goal("TCP throughput in mode bridge ÷ over a hand-made bridge of the same shape", RATIO, "≥", 0.97)
VXLAN = Goal("TCP throughput in mode vxlan ÷ over a hand-made VXLAN between the same hosts", RATIO, "≥", 0.97)
BRIDGE_RULES = Goal("TCP throughput in mode bridge, all isolation rules on ÷ off", RATIO, "≥", 0.95)
VXLAN_RULES = Goal("TCP throughput in mode vxlan, all isolation rules on ÷ off", RATIO, "≥", 0.95)
GOALS = (BRIDGE, VXLAN, BRIDGE_RULES, VXLAN_RULES)
FIGURES = {"hand": {"bridge": BRIDGE, "vxlan": VXLAN}, "off": {"bridge": BRIDGE_RULES, "vxlan": VXLAN_RULES}}
# One pair of streams differs by 10 % either way: the median of 51 is known to 2 %, that of 201 to 1 %. The same
# containers keep what their pair has by chance, up to 2 %: there are new ones for each set of rounds.
SETS = {"hand": 9, "off": 3}
ROUNDS = 23
AMOUNT = ("-n", "512M")  # half a second
PARENTS = {"bridge": "eth1", "vxlan": "eth0"}
HAND = {"bridge": "eth2", "vxlan": handmade.TUNNEL}


class Rules:
    """The packet filter of a host as qnet made it, and none at all."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._made = self._listed()
        self.set(on=False)
        self.set(on=True)
        if self._listed() != self._made or "drop" not in self._made:
            raise RuntimeError(f"{host.name}: nft does not make the rules again that it lists:\n{self._made}")

    def set(self, on: bool) -> None:
        """Put the rules into force, or remove them."""
        self._host.exec("nft", "-f", "-", stdin=f"flush ruleset\n{self._made if on else ''}")

    def _listed(self) -> str:
        return self._host.exec("nft", "list", "ruleset").stdout


def measure(lab: Lab) -> Iterator[Measured]:
    """One stream from the first host to the second."""
    _networks(lab)
    for other, goals in FIGURES.items():
        found: dict[str, list[float]] = {}
        for _ in range(SETS[other]):
            for name, values in _set(lab, other, list(goals)).items():
                found.setdefault(name, []).extend(values)
        for mode, goal in goals.items():
            ratio = paired(found, f"{mode} on", f"{mode} {other}")
            detail = f"{ratio}; Gbit/s: qnet {spread(found[f'{mode} on'])}, {other} {spread(found[f'{mode} {other}'])}"
            yield Measured(goal, ratio.median, detail)


def _set(lab: Lab, other: str, modes: Iterable[str]) -> dict[str, list[float]]:
    """Some rounds of each mode as qnet has it and otherwise, with containers of their own. The plugins are stopped
    meanwhile: they would put back the rules, and take no part in what containers send."""
    client, pair = lab.hosts[0], lab.hosts[:2]
    targets = _containers(lab)
    for host in lab.hosts:
        host.stop_plugin()
    rules = [Rules(host) for host in pair]

    def stream(container: str, on: bool) -> float:
        for each in rules:
            each.set(on)
        return gigabits(client.docker("exec", f"from-{container}", *client_command(targets[container], *AMOUNT)))

    measures = {}
    for mode in modes:
        measures[f"{mode} on"] = partial(stream, f"bench-{mode}", True)
        measures[f"{mode} {other}"] = partial(stream, f"{'hand' if other == 'hand' else 'bench'}-{mode}", False)
    for one in measures.values():
        one()
    found = interleaved(ROUNDS, **measures)
    for each in rules:
        each.set(on=True)
    for host in lab.hosts:
        host.start_plugin()
    for host in pair:
        host.docker("rm", "-f", *(f"{end}-{container}" for end in ("from", "to") for container in targets), check=False)
    return found


def _networks(lab: Lab) -> None:
    """Those of qnet on the first two hosts, and the same made by hand."""
    pair = lab.hosts[:2]
    segments.wire(lab)
    segments.make_tenant(pair[0])
    for host, other in (pair, pair[::-1]):
        host.load("bench")
        handmade.bridge(host, "eth2")
        handmade.tunnel(host, other)
        handmade.nowhere(host)
    for mode, parent in PARENTS.items():
        segments.make(pair, mode, parent)


def _containers(lab: Lab) -> dict[str, str]:
    """A server on the second host and a client on the first for each network, made by qnet or by hand; returns the
    servers' addresses."""
    client, server = lab.hosts[:2]
    found = {}
    for mode in PARENTS:
        network = f"bench-{mode}"
        found[network] = serve(server, network, *handmade.FORGETFUL)
        words = ["run", "-d", "--name", f"from-{network}", "--network", network, *handmade.FORGETFUL, "bench"]
        client.docker(*words, "sleep", "3600")
        by_hand = f"hand-{mode}"
        found[by_hand] = handmade.container(server, f"to-{by_hand}", HAND[mode], "iperf3", "-s", "-p", PORT)
        handmade.container(client, f"from-{by_hand}", HAND[mode], "sleep", "3600")
    time.sleep(2)  # until the servers listen
    return found
