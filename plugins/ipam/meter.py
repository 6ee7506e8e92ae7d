"""How full the pools are that this host follows, and what waits or is wrong here, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from plugins.ipam.compare import Place
from plugins.ipam.journal import Journal
from plugins.ipam.repository import Repository
from qnet.metrics import Families, Sample, gauges

POOL = ("tenant", "subnet")
METRICS = {
    "qnet_pool_used_addresses": ("Addresses of a pool that somebody has, on any host", POOL),
    "qnet_pool_held_addresses": ("Used addresses of a pool that are held, for stopped containers and for names", POOL),
    "qnet_pool_free_addresses": ("Addresses of a pool that can be handed out at once", POOL),
    "qnet_pool_conflicts": ("Addresses that containers of this host have and whose record is another's", POOL),
    "qnet_ipam_journal_entries": ("Releases on this host's disk that the store could not take yet", ()),
}


def families() -> Families:
    """What is told, empty."""
    return gauges(METRICS)


def look(repository: Repository, journal: Journal, conflicts: Collection[Place]) -> Iterator[Sample]:
    """All of it; the store is not asked."""
    wrong = Counter((place.tenant, place.subnet) for place in conflicts)
    for pool in repository.opened():
        labels, figures = (pool.tenant, str(pool.subnet)), pool.figures()
        yield "qnet_pool_used_addresses", labels, figures.used
        yield "qnet_pool_held_addresses", labels, figures.held
        yield "qnet_pool_free_addresses", labels, figures.free
        yield "qnet_pool_conflicts", labels, wrong[pool.tenant, pool.subnet]
    yield "qnet_ipam_journal_entries", (), len(journal)
