"""How many addresses a second three hosts give out together, beside bare transactions by as many callers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.bench.crew import Crew
from tests.bench.model import RATIO, Goal, Measured, Spread, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints

IN_PROCESS = Goal(
    "addresses per second, 3 processes of 32 threads calling the IPAM service in process on one pool ÷ bare one-key "
    "create transactions from as many",
    RATIO, "≥", 3,
)  # fmt: skip
SOCKETS = Goal("the same over the three hosts' plugin sockets", RATIO, "≥", 0.5)
GOALS = (IN_PROCESS, SOCKETS)
THREADS = 32
ROUNDS, SECONDS = 7, 2.5


def measure(lab: Lab) -> Iterator[Measured]:
    """One load generator on each host; every run has a pool of its own."""
    endpoint = endpoints(lab.hosts[0].members)[0]
    numbers = itertools.count(16)
    with (
        Crew(lab.hosts, "bare", endpoint=endpoint, threads=THREADS) as bare,
        Crew(lab.hosts, "service", endpoint=endpoint, threads=THREADS) as service,
        Crew(lab.hosts, "sockets", connections=THREADS) as sockets,
    ):

        def rate(crew: Crew, seconds: float = SECONDS) -> float:
            pool = f"10.{next(numbers) * 4}.0.0/14"
            if crew is not bare:
                crew.order(do="open", pool=pool)
            return crew.rate(pool=pool, seconds=seconds)

        for crew in (bare, service, sockets):
            rate(crew, 0.5)
        found = interleaved(
            ROUNDS, service=lambda: rate(service), bare=lambda: rate(bare), sockets=lambda: rate(sockets)
        )
    base = f"bare {spread(found['bare'])}"
    for goal, name in ((IN_PROCESS, "service"), (SOCKETS, "sockets")):
        ratio: Spread = paired(found, name, "bare")
        yield Measured(goal, ratio.median, f"{ratio}; per s: {name} {spread(found[name])}, {base}")
