"""How fast placements are decided and committed, how evenly they fall, and what a replica that knows all needs."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random

from scheduler.fleet import Fleet
from scheduler.model import Request
from scheduler.place import place
from tests.bench import fleets
from tests.bench.crew import Crew
from tests.bench.model import Goal, Measured, Spread, spread
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints

MIXED = Goal("placements per second, 5,000 hosts, one process, a mix of requests", "/s", "≥", 20_000)
WORST = Goal("the same, the worst kind alone", "/s", "≥", 2_000)
BALANCE = Goal("busiest host ÷ mean after 200,000 placements", "times", "≤", 1.1)
COMMITTED = Goal("placements committed per second by 3 replicas on one etcd", "/s", "≥", 3_000)
CONFLICTS = Goal("share of those that conflicted and were decided again", "%", "≤", 5)
MEMORY = Goal("memory of a replica that knows 5,000 hosts and 100,000 containers", "MB", "≤", 400)
READY = Goal("its time to ready", "s", "≤", 5)
GOALS = (MIXED, WORST, BALANCE, COMMITTED, CONFLICTS, MEMORY, READY)
PLACEMENTS, RUN, RUNS = 200_000, 10_000, 5
THREADS, SECONDS, CONTAINERS = 24, 4.0, 100_000


def measure(lab: Lab) -> Iterator[Measured]:
    """In this process for what is decided, by processes of their own for what is committed."""
    yield from _decided()
    endpoint = endpoints(lab.hosts[0].members)[0]
    with Crew(lab.hosts[:1], "placements", endpoint=endpoint, threads=THREADS) as first:
        first.order(do="fill", containers=CONTAINERS)
        (alone,) = first.order(do="start")
    yield Measured(MEMORY, alone["megabytes"], f"PSS; {alone['containers']:,} containers")
    yield Measured(READY, alone["seconds"], "to load the view, the process being there")
    with Crew(lab.hosts, "placements", endpoint=endpoint, threads=THREADS) as replicas:
        replicas.order(do="start")
        replicas.order(do="prepare")
        replicas.order(do="run", seconds=1.0)
        rates, shares = [], []
        for _ in range(RUNS):
            replicas.order(do="prepare")
            found = replicas.order(do="run", seconds=SECONDS)
            rates.append(sum(one["calls"] / one["seconds"] for one in found))
            shares.append(100 * sum(one["again"] for one in found) / sum(one["calls"] for one in found))
    yield Measured(COMMITTED, spread(rates).median, f"per s: {spread(rates)}; {THREADS} threads each")
    yield Measured(CONFLICTS, spread(shares).median, f"%: {spread(shares)}")


def _decided() -> Iterator[Measured]:
    kinds = {kind: _rate(_fleet(), [fleets.requests(RUN, (kind,), f"r{run}-") for run in range(RUNS)])
             for kind in fleets.KINDS}  # fmt: skip
    known, random = _fleet(), Random(1)
    chunks = [fleets.requests(RUN, fleets.MIX, f"m{run}-") for run in range(PLACEMENTS // RUN)]
    mixed = _rate(known, chunks, random)
    yield Measured(MIXED, mixed.median, f"per s: {mixed}, {PLACEMENTS:,} in all")
    worst = min(kinds, key=lambda kind: kinds[kind].median)
    detail = ", ".join(f"{kind} {rates.median:,.0f}" for kind, rates in kinds.items())
    yield Measured(WORST, kinds[worst].median, f"per s: {worst}; of all: {detail}")
    held = Counter(one.host for one in known.containers.values())
    mean = statistics.fmean(held.get(name, 0) for name in known.machines)
    yield Measured(BALANCE, max(held.values()) / mean, f"containers: {max(held.values())}, mean {mean:.1f}")


def _fleet() -> Fleet:
    made = Fleet()
    for machine in fleets.machines():
        made.set_machine(machine)
    return made


def _rate(known: Fleet, chunks: Sequence[Sequence[Request]], random: Random | None = None) -> Spread:
    """Decided and taken in, per second, of each chunk."""
    random = random or Random(1)
    rates = []
    for chunk in chunks:
        began = time.perf_counter()
        for request in chunk:
            known.put(request.on(place(known, request, random)))
        rates.append(len(chunk) / (time.perf_counter() - began))
    return spread(rates)
