"""Whether a pool that is full, or large, is slower than an empty one."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.crew import Crew
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints

FULL = Goal("allocations per second in a /16 at 99 % full ÷ in an empty pool", RATIO, "≥", 0.7)
LARGE = Goal("allocations per second in a /16 holding 60,000 addresses ÷ in an empty pool", RATIO, "≥", 0.7)
GOALS = (FULL, LARGE)
THREADS = 32
ADDRESSES = 65_534
POOLS = {"empty": ("10.32.0.0/16", 0), "large": ("10.33.0.0/16", 60_000), "full": ("10.34.0.0/16", 64_750)}
CALLS = 270  # in all: they take the full pool from 98.8 to 99.2 %
ROUNDS = 25


def measure(lab: Lab) -> Iterator[Measured]:
    """Three processes, one on each host, take some addresses; their records are deleted before the next run."""
    endpoint = endpoints(lab.hosts[0].members)[0]
    with Crew(lab.hosts, "service", endpoint=endpoint, threads=THREADS) as crew:
        filled = Crew([lab.hosts[0]], "fill", endpoint=endpoint)
        with filled:
            for pool, count in POOLS.values():
                filled.order(pool=pool, count=count)
        for pool, _ in POOLS.values():
            crew.order(do="open", pool=pool)

        def rate(name: str) -> float:
            pool = POOLS[name][0]
            found = crew.rate(pool=pool, calls=CALLS // len(lab.hosts))
            crew.order(do="clear", pool=pool)
            crew.order(do="settle", pool=pool)
            return found

        for name in POOLS:
            rate(name)
        found = interleaved(ROUNDS, empty=lambda: rate("empty"), large=lambda: rate("large"), full=lambda: rate("full"))
    for goal, name in ((FULL, "full"), (LARGE, "large")):
        ratio = paired(found, name, "empty")
        detail = f"{ratio}; per s: {name} {spread(found[name])}, empty {spread(found['empty'])}"
        yield Measured(goal, ratio.median, detail)
