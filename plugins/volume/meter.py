"""What this host's volumes have, and how pools are, for Prometheus. Nothing here runs a command."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugins.volume.repository import Repository
from plugins.volume.service import Service
from qnet.errors import QnetError

logger = logging.getLogger(__name__)

VOLUME, POOL = ("volume", "tenant", "pool"), ("pool",)
METRICS = {
    "qnet_volume_used_bytes": ("What a volume that this host has mounted has", VOLUME),
    "qnet_volume_limit_bytes": ("What it may have", VOLUME),
    "qnet_volume_pool_bricks": ("Bricks of a pool", POOL),
    "qnet_volume_pool_bricks_up": ("Bricks that answer", POOL),
    "qnet_volume_pool_heal_entries": ("Files that are not the same on all replicas yet", POOL),
    "qnet_volume_pool_free_bytes": ("Room for data", POOL),
    "qnet_volume_pool_total_bytes": ("Room for data altogether", POOL),
}


class Meter(Collector):
    """What was last known where the store or a pool does not answer in time."""

    def __init__(self, repository: Repository, service: Service) -> None:
        self._repository = repository
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """What `collect` tells of, without asking anybody."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Everything for one scrape."""
        families = self._families()
        try:
            for shown in self._service.mounted():
                labels = (shown.record.name, shown.record.tenant, shown.record.pool)
                if shown.usage:
                    families["qnet_volume_used_bytes"].add_metric(labels, shown.usage.used)
                    families["qnet_volume_limit_bytes"].add_metric(labels, shown.usage.limit)
            for pool in self._repository.pools():
                if found := self._repository.health(pool.name):
                    values = (found.bricks, found.bricks_up, found.heal, found.free, found.total)
                    for name, value in zip(list(METRICS)[2:], values, strict=True):
                        families[name].add_metric((pool.name,), value)
        except QnetError as error:
            logger.warning("metrics of volumes: %s", error)
        yield from families.values()

    @staticmethod
    def _families() -> dict[str, GaugeMetricFamily]:
        return {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in METRICS.items()}
