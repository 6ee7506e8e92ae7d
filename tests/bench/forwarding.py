"""How soon the other hosts of a VNI can send to a container that joins."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tests.bench import segments
from tests.bench.crew import Crew
from tests.bench.model import Goal, Measured
from tests.lab.cluster import Lab

ENTRY = Goal("forwarding entry on the other hosts after a container joins one of three, p99", "ms", "≤", 50)
GOALS = (ENTRY,)
PATIENCE = 5.0
AT_ONCE = 8
ALONE, CROWD = 40, 64  # joins of each host, one after the other and eight at a time


def measure(lab: Lab) -> Iterator[Measured]:
    """Containers join as the engine joins them, by its calls to the plugin.

    From its answer to `CreateEndpoint`, in which the record of the address got its MAC address, to the kernel's word on
    each other host that both are there: the forwarding entry, and the neighbour by which it answers for the container.
    """
    segments.make_tenant(lab.hosts[0])
    name = segments.make(lab.hosts, "vxlan", "eth0")
    pool = f"{segments.TENANT}/{segments.SUBNETS['vxlan']}"
    with ExitStack() as crews:
        joiners, listeners = [], []
        for host in lab.hosts:
            network = host.docker("network", "inspect", "-f", "{{.Id}}", name).stdout.strip()
            joiners.append(crews.enter_context(Crew([host], "joins", network=network, pool=pool, threads=AT_ONCE)))
            listeners.append(crews.enter_context(Crew([host], "entries")))
        delays: dict[int, list[float]] = {1: [], AT_ONCE: []}
        asked: list[float] = []
        for threads, count in ((1, ALONE), (AT_ONCE, CROWD)):
            for number, joiner in enumerate(joiners):
                joined = joiner.order(do="join", count=count, threads=threads)[0]
                for other in listeners[:number] + listeners[number + 1 :]:
                    heard = _heard(other, joined)
                    delays[threads] += [heard[mac] - answered for mac, (_, answered) in joined.items()]
                    asked += [heard[mac] - began for mac, (began, _) in joined.items()]
    words = {1: "one at a time", AT_ONCE: f"{AT_ONCE} at a time"}
    said = (
        f"{words[threads]} p50 {_percentile(found, 0.5):.1f}, p99 {_percentile(found, 0.99):.1f} (n={len(found)})"
        for threads, found in delays.items()
    )
    detail = f"ms: {', '.join(said)}; from the question on: p99 {_percentile(asked, 0.99):.1f}"
    yield Measured(ENTRY, max(_percentile(found, 0.99) for found in delays.values()), detail)


def _heard(listener: Crew, joined: dict[str, Any]) -> dict[str, float]:
    """When a host had both entries of each. Raises TimeoutError."""
    found: dict[str, dict[str, float]] = {}
    deadline = time.monotonic() + PATIENCE
    while any(len(found.get(mac, ())) < 2 for mac in joined):
        if time.monotonic() > deadline:
            raise TimeoutError(f"a host did not hear of all of {len(joined)} containers within {PATIENCE:g} s")
        for mac, times in listener.order(do="take")[0].items():
            found[mac] = times | found.get(mac, {})
        time.sleep(0.05)
    return {mac: max(found[mac].values()) for mac in joined}


def _percentile(seconds: list[float], part: float) -> float:
    """In ms; of n values one of them."""
    return sorted(seconds)[math.ceil(part * len(seconds)) - 1] * 1000
