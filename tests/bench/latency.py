"""How long one RequestAddress takes, beside one bare transaction."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from tests.bench.crew import Crew
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints

LATENCY = Goal(
    "RequestAddress over the plugin's socket, p50 ÷ p50 of one bare etcd create transaction with the same client",
    RATIO, "≤", 2.5,
)  # fmt: skip
GOALS = (LATENCY,)
POOL = "10.64.0.0/12"
ROUNDS, SECONDS = 15, 0.5


def measure(lab: Lab) -> Iterator[Measured]:
    """Both clients are alone on the first host, one call after the other."""
    host = lab.hosts[0]
    with (
        Crew([host], "bare", endpoint=endpoints(host.members)[0], threads=1) as bare,
        Crew([host], "sockets", connections=1) as plugin,
    ):
        plugin.order(do="open", pool=POOL)

        def p50(crew: Crew) -> float:
            return float(statistics.median(crew.order(do="run", pool=POOL, seconds=SECONDS)[0]["latencies"])) * 1000

        for crew in (bare, plugin):
            p50(crew)
        found = interleaved(ROUNDS, plugin=lambda: p50(plugin), bare=lambda: p50(bare))
    ratio = paired(found, "plugin", "bare")
    yield Measured(
        LATENCY, ratio.median, f"{ratio}; ms: plugin {spread(found['plugin'])}, bare {spread(found['bare'])}"
    )
