"""How long `docker run` takes on a qnet network, beside the built-in macvlan network."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.bench.networks import MACVLAN, QNET, make_networks
from tests.lab.cluster import Lab

RUN = Goal("docker run --rm on a qnet network ÷ on the built-in macvlan network, medians", RATIO, "≤", 1.05)
GOALS = (RUN,)
ROUNDS = 31


def measure(lab: Lab) -> Iterator[Measured]:
    """Both networks are on one host, which does nothing else; etcd is on another."""
    host = lab.hosts[1]
    make_networks([host])

    def seconds(network: str) -> float:
        began = time.perf_counter()
        host.docker("run", "--rm", "--network", network, "busybox", "true")
        return time.perf_counter() - began

    for network in (QNET, MACVLAN):
        seconds(network)
    found = interleaved(ROUNDS, qnet=lambda: seconds(QNET), macvlan=lambda: seconds(MACVLAN))
    qnet, macvlan = spread(found["qnet"]), spread(found["macvlan"])
    detail = f"s: qnet {qnet}, macvlan {macvlan}; pair by pair {paired(found, 'qnet', 'macvlan')}"
    yield Measured(RUN, qnet.median / macvlan.median, detail)
