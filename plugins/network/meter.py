"""What endpoints, networks and tenants of this host send and get, for Prometheus.

The kernel counts for each endpoint: its device all that moves, the packet filter what is dropped or external; internal
is the rest. Counters that someone flushed begin anew there, not here. The sums of networks and tenants begin with this
process and keep what endpoints had that are gone.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plugins.network import rules
from plugins.network.devices import Count
from plugins.network.model import BRIDGED, Endpoint, Network
from plugins.network.plan import endpoint_link
from plugins.network.ports import Filters
from plugins.network.repository import Registry, Repository
from qnet.errors import QnetError

logger = logging.getLogger(__name__)

HEADER = 14  # bytes of Ethernet that devices count, and the packet filter at their egress, but not at their ingress
INTERNAL = "internal"
TRAFFIC = "qnet_{}_traffic_bytes"
LIMIT = "qnet_endpoint_limit_bits"
ENDPOINTS = "qnet_network_endpoints"
SPLIT = ("direction", "scope")
MEANINGS = {
    "endpoint": "Traffic of an endpoint; direction: sent or received, scope: internal or external",
    "network": "Traffic of all endpoints that a network has had on this host since the plugin's start",
    "tenant": "Traffic of all endpoints that a tenant has had on this host since the plugin's start",
}
LABELS = {"endpoint": ("endpoint", "network", "tenant"), "network": ("network", "tenant"), "tenant": ("tenant",)}

Labels: TypeAlias = tuple[str, ...]


class Meter(Collector):
    """Reads all counters at once; what it tells never goes backwards while the process lives."""

    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        filters: Filters,
        moved: Callable[[], Mapping[str, tuple[Count, Count]]],
    ) -> None:
        """`moved`: see `plugins.network.devices`."""
        self._moved = moved
        self._owed: Counter[str] = Counter()  # by device and direction: counted in parts before in the whole
        self._repository = repository
        self._registry = registry
        self._filters = filters
        self._lock = threading.Lock()
        self._last: dict[str, int] | None = None  # None: nothing was read yet
        self._totals: dict[str, Counter[Labels]] = {level: Counter() for level in LABELS}

    def begin(self) -> None:
        """Take in what was counted before this process, unless that was done. Raises Unavailable."""
        if self._last is None:
            self.read()

    def read(self) -> None:
        """Take in what the kernel has counted since the last time. Raises Unavailable."""
        with self._lock:
            watched = self._watched()
            if not watched and self._last is not None:
                return
            found = self._kernel()
            last, self._last = self._last, {}
            for network, endpoint in watched:
                self._add(network, endpoint, found, last)
            kept = {endpoint.id for _, endpoint in watched}
            endpoints = self._totals["endpoint"]
            for labels in [labels for labels in endpoints if labels[0] not in kept]:
                del endpoints[labels]
            self._owed = Counter({name: owed for name, owed in self._owed.items() if owed and name in self._last})

    def describe(self) -> Iterable[Metric]:
        """What `collect` tells of, without asking the kernel."""
        return families().values()

    def collect(self) -> Iterator[Metric]:
        """Everything for one scrape; what was known last, if the kernel does not answer in time."""
        try:
            self.read()
        except QnetError as error:
            logger.warning("traffic counters: %s", error)
        told = families()
        networks = {network.id: network for network in self._repository.networks.all()}
        with self._lock:
            totals = {level: dict(counter) for level, counter in self._totals.items()}
        for (endpoint, network, *rest), value in totals["endpoint"].items():
            told["endpoint"].add_metric((endpoint[:12], self._name(network), *rest), value)
        shown: Counter[Labels] = Counter()
        for (network, *rest), value in totals["network"].items():
            if network in networks:
                shown[self._name(network), *rest] += value
        for labels, value in shown.items():
            told["network"].add_metric(labels, value)
        for labels, value in totals["tenant"].items():
            told["tenant"].add_metric(labels, value)
        for known, one in self._watched():
            for direction, rate in (("sent", one.terms.egress), ("received", one.terms.ingress)):
                if rate:
                    told["limit"].add_metric((one.id[:12], self._name(known.id), known.tenant, direction), rate)
        for labels, count in self._counted().items():
            told["endpoints"].add_metric(labels, count)
        yield from told.values()

    def _kernel(self) -> dict[str, int]:
        """What the kernel has counted, in bytes without headers. Parts are read before what they are parts of."""
        found = {}
        for name, count in self._filters.counters().items():
            found[name] = _bare(count) if f"-{rules.DIRECTIONS[1]}-" in name else count[1]
        for device, both in self._moved().items():
            for direction, count in zip(rules.DIRECTIONS, both, strict=True):  # what the host's end gets, was sent
                found[f"{device}-{direction}"] = _bare(count)
        return found

    def _add(self, network: Network, endpoint: Endpoint, found: Mapping[str, int], last: dict[str, int] | None) -> None:
        device = endpoint_link(endpoint.id)
        for direction in rules.DIRECTIONS:
            whole = f"{device}-{direction}"
            parts = {
                scope: self._more(rules.counter(device, way, scope), found, last)
                for way, scope in rules.COUNTED
                if way == direction
            }
            left = self._more(whole, found, last) - sum(parts.values()) - self._owed[whole]
            self._owed[whole] = max(0, -left)
            for scope, more in ((INTERNAL, max(0, left)), (rules.EXTERNAL, parts[rules.EXTERNAL])):
                kind = (direction, scope)
                self._totals["endpoint"][endpoint.id, network.id, network.tenant, *kind] += more
                if last is not None:  # what was counted before this process, an earlier one has told
                    self._totals["network"][network.id, network.tenant, *kind] += more
                    self._totals["tenant"][network.tenant, *kind] += more

    def _more(self, name: str, found: Mapping[str, int], last: Mapping[str, int] | None) -> int:
        """By how much a counter has grown; one that is less than it was began anew."""
        assert self._last is not None
        now, before = found.get(name, 0), (last or {}).get(name, 0)
        self._last[name] = now
        return now - before if now >= before else now

    def _watched(self) -> list[tuple[Network, Endpoint]]:
        """The endpoints that are counted, with their networks."""
        networks = {network.id: network for network in self._repository.networks.all()}
        found = ((networks.get(endpoint.network), endpoint) for endpoint in self._repository.endpoints.all())
        return [(network, endpoint) for network, endpoint in found if network and network.mode in BRIDGED]

    def _counted(self) -> Counter[Labels]:
        """How many endpoints each network has."""
        found = Counter(endpoint.network for endpoint in self._repository.endpoints.all())
        shown: Counter[Labels] = Counter()
        for network in self._repository.networks.all():
            shown[self._name(network.id), network.tenant] += found[network.id]
        return shown

    def _name(self, network: str) -> str:
        return self._registry.names.get(network, network[:12])


def families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    """What a meter tells of, empty."""
    traffic = {
        level: CounterMetricFamily(TRAFFIC.format(level), text, labels=(*LABELS[level], *SPLIT))
        for level, text in MEANINGS.items()
    }
    text = "Limits in force, in bits per second; none is left out"
    return {
        **traffic,
        "limit": GaugeMetricFamily(LIMIT, text, labels=(*LABELS["endpoint"], "direction")),
        "endpoints": GaugeMetricFamily(ENDPOINTS, "Endpoints of a network on this host", labels=LABELS["network"]),
    }


def _bare(count: Count) -> int:
    packets, size = count
    return size - HEADER * packets
