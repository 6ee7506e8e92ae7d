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

    From the moment at which the engine asks for the endpoint, in whose call the record of its address gets its MAC
    address, to the kernel's own word on each other host that both are there: the forwarding entry, and the neighbour by
    which it answers for the container.
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
        returned = []
        for threads, count in ((1, ALONE), (AT_ONCE, CROWD)):
            for number, joiner in enumerate(joiners):
                others = [listener for index, listener in enumerate(listeners) if index != number]
                joined = joiner.order(do="join", count=count, threads=threads)[0]
                for other in others:
                    heard = _heard(other, joined)
                    delays[threads] += [heard[mac] - asked for mac, (asked, _) in joined.items()]
                    returned += [heard[mac] - answered for mac, (_, answered) in joined.items()]
                joiner.order(do="leave")
    alone, crowd = _p99(delays[1]), _p99(delays[AT_ONCE])
    detail = (
        f"ms: one at a time p50 {_p(delays[1], 0.5):.1f}, p99 {alone:.1f}, n={len(delays[1])}; {AT_ONCE} at a time "
        f"p50 {_p(delays[AT_ONCE], 0.5):.1f}, p99 {crowd:.1f}, n={len(delays[AT_ONCE])}; after the engine had its "
        f"answer: p99 {_p99(returned):.1f}"
    )
    yield Measured(ENTRY, max(alone, crowd), detail)


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


def _p(seconds: list[float], part: float) -> float:
    """A percentile, in ms: of n values the one of which no more than the part are less."""
    return sorted(seconds)[math.ceil(part * len(seconds)) - 1] * 1000


def _p99(seconds: list[float]) -> float:
    return _p(seconds, 0.99)
