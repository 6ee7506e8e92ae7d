"""How long `docker run` takes on networks of the modes bridge and vxlan, beside mode macvlan."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from tests.bench import segments
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab

BRIDGE = Goal("docker run --rm in mode bridge ÷ in mode macvlan, medians", RATIO, "≤", 1.1)
VXLAN = Goal(
    "docker run --rm in mode vxlan, with two other hosts in the VNI ÷ in mode macvlan, medians", RATIO, "≤", 1.1
)
GOALS = (BRIDGE, VXLAN)
ROUNDS = 25


def measure(lab: Lab) -> Iterator[Measured]:
    """All networks are on one host, which does nothing else; etcd is on another. A link serves one mode only."""
    host = lab.hosts[1]
    segments.wire(lab)
    segments.make_tenant(host)
    segments.make([host], "macvlan", "eth1")
    segments.make([host], "bridge", "eth2")
    segments.make(lab.hosts, "vxlan", "eth0")

    def seconds(mode: str) -> float:
        began = time.perf_counter()
        host.docker("run", "--rm", "--network", f"bench-{mode}", "busybox", "true")
        return time.perf_counter() - began

    measures = {mode: partial(seconds, mode) for mode in segments.SUBNETS}
    for one in measures.values():
        one()
    found = interleaved(ROUNDS, **measures)
    macvlan = spread(found["macvlan"])
    for goal, mode in ((BRIDGE, "bridge"), (VXLAN, "vxlan")):
        took = spread(found[mode])
        detail = f"s: {mode} {took}, macvlan {macvlan}; pair by pair {paired(found, mode, 'macvlan')}"
        yield Measured(goal, took.median / macvlan.median, detail)
