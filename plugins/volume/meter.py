"""What this host's volumes have, and how pools are, for Prometheus. Nothing here runs a command."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugins.volume.repository import Repository
from plugins.volume.service import Service
from qnet import metrics
from qnet.errors import QnetError

logger = logging.getLogger(__name__)

VOLUME, POOL = ("volume", "tenant", "pool"), ("pool",)
METRICS = {
    "qnet_volumes": ("Volumes of a tenant in a pool, on all hosts", ("tenant", "pool")),
    "qnet_volume_used_bytes": ("Bytes that a volume that this host has mounted has", VOLUME),
    "qnet_volume_limit_bytes": ("Bytes that a volume may have", VOLUME),
    "qnet_volume_containers_to_restart": ("Containers of this host whose mount is that of a client that died", VOLUME),
    "qnet_volume_pool_bricks": ("Bricks of a pool", POOL),
    "qnet_volume_pool_bricks_up": ("Bricks of a pool that answer", POOL),
    "qnet_volume_pool_heal_entries": ("Files of a pool that are not the same on all replicas yet", POOL),
    "qnet_volume_pool_free_bytes": ("Bytes that a pool has room for still", POOL),
    "qnet_volume_pool_total_bytes": ("Bytes that a pool has room for altogether", POOL),
    "qnet_volume_pool_looked_timestamp_seconds": ("When a host last saw how a pool is, in seconds since 1970", POOL),
}

TRAFFIC = {  # by the fields of `plugins.volume.ports.Traffic`; all since the volume was mounted
    "qnet_volume_read_bytes": ("read_bytes", "Bytes that this host's client of a volume has read"),
    "qnet_volume_written_bytes": ("written_bytes", "Bytes that this host's client of a volume has written"),
    "qnet_volume_reads": ("reads", "Reads that this host's client of a volume has sent"),
    "qnet_volume_writes": ("writes", "Writes that this host's client of a volume has sent"),
}


class Meter(Collector):
    """What was last known where the store or a pool does not answer in time."""

    def __init__(self, repository: Repository, service: Service, host: str) -> None:
        self._repository = repository
        self._service = service
        self._host = host

    def describe(self) -> Iterable[Metric]:
        """What `collect` tells of, without asking anybody."""
        return families().values()

    def collect(self) -> Iterator[Metric]:
        """Everything for one scrape."""
        told = families()
        try:
            for shown in self._service.mounted():
                labels = (shown.record.name, shown.record.tenant, shown.record.pool)
                if shown.usage:
                    told["qnet_volume_used_bytes"].add_metric(labels, shown.usage.used)
                    told["qnet_volume_limit_bytes"].add_metric(labels, shown.usage.limit)
                if shown.traffic:
                    for name, (field, _) in TRAFFIC.items():
                        told[name].add_metric(labels, getattr(shown.traffic, field))
                old = sum(len(mount.restart) for mount in shown.mounts if mount.host == self._host)
                told["qnet_volume_containers_to_restart"].add_metric(labels, old)
            for pool in self._repository.known_pools():
                if found := self._repository.health(pool.name):
                    looked = datetime.fromisoformat(found.at).timestamp()
                    values = (found.bricks, found.bricks_up, found.heal, found.free, found.total, looked)
                    of_pools = (name for name, (_, labels) in METRICS.items() if labels is POOL)
                    for name, value in zip(of_pools, values, strict=True):
                        told[name].add_metric((pool.name,), value)
            # last: a damaged record of any host's volume must not keep what this host has away
            for where, count in Counter((one.tenant, one.pool) for one in self._repository.known()).items():
                told["qnet_volumes"].add_metric(where, count)
        except QnetError as error:
            logger.warning("metrics of volumes: %s", error)
        yield from told.values()


def families() -> dict[str, GaugeMetricFamily | CounterMetricFamily]:
    """What a meter tells of, empty."""
    counters = {name: CounterMetricFamily(name, text, labels=VOLUME) for name, (_, text) in TRAFFIC.items()}
    return {**metrics.gauges(METRICS), **counters}
