"""The Prometheus metrics that daemons expose at `GET /metrics`. `docs/reference/metrics.md` lists them; those that are
looked up for each scrape are beside what they tell of, in modules called `meter`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

BUILD = Gauge("qnet_build_info", "1, with the version of qnet that the daemon runs", ["version"])
STARTED = Gauge("qnet_start_timestamp_seconds", "When the daemon began to tell of itself, in seconds since 1970")
CALLS = Histogram(
    "qnet_plugin_call_seconds",
    "Time to answer a call of the engine; IpamDriver.RequestAddress: an address",
    ["call"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
REFUSALS = Counter("qnet_plugin_refusals_total", "Calls answered with an error", ["call", "error"])
ALLOCATIONS = Counter("qnet_ipam_allocations_total", "Addresses given out", ["tenant"])
COLLISIONS = Counter("qnet_ipam_collisions_total", "Allocations repeated because another host was faster")
REPAIRS = Counter("qnet_repairs_total", "Things that the comparison with the engine put right", ["what"])
QUARANTINED = Counter("qnet_ipam_quarantined_total", "Addresses not given out because some device answered for them")
CONFLICTS = Counter("qnet_ipam_conflicts_total", "Addresses in use here whose record belongs to another")
API = Histogram("qnet_scheduler_request_seconds", "Time to answer a call of the placement service", ["call"])
PLACED = Counter("qnet_scheduler_placements_total", "Containers that were given a host", ["tenant"])
REFUSED = Counter("qnet_scheduler_refusals_total", "Run requests that came to nothing", ["kind"])
CONNECTIONS = Gauge("qnet_gateway_connections", "Connections of clients to the front")
STREAMS = Gauge("qnet_gateway_streams", "Open streams of the front: attach, start (exec), session, grpc", ["kind"])
STREAMED = Counter("qnet_gateway_stream_bytes_total", "Bytes of such streams, as clients see them", ["direction"])
ETCD = Histogram(
    "qnet_etcd_call_seconds",
    "Time of a call to etcd, over all members that were tried",
    ["call"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
ETCD_ERRORS = Counter("qnet_etcd_errors_total", "Calls to etcd that failed", ["call", "error"])
ETCD_UP = Gauge("qnet_etcd_up", "1 while etcd answers this daemon, else 0")
ETCD_BREAKS = Counter("qnet_etcd_watch_breaks_total", "Times that the stream of etcd's changes broke")
BATCH = Histogram(
    "qnet_etcd_batch_transactions",
    "Transactions that travelled in one request to etcd",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
ENGINE = Histogram("qnet_agent_engine_call_seconds", "Time of a call of the agent to its engine", ["call"])
EVENTS = Counter("qnet_agent_events_total", "Events of the engine that the agent has heard", ["type"])
REPORTS = Counter("qnet_agent_reports_total", "What the agent has told the store of this host", ["kind"])

Families: TypeAlias = Mapping[str, GaugeMetricFamily]
Sample: TypeAlias = tuple[str, tuple[str, ...], float]


class Gauges(Collector):
    """Values that are looked up for each scrape."""

    def __init__(self, families: Callable[[], Families], look: Callable[[], Iterable[Sample]]) -> None:
        """`families` makes what is told, by name, still empty. `look` tells the name, the labels and the value of each;
        it waits for nobody."""
        self._families = families
        self._look = look

    def describe(self) -> Iterable[Metric]:
        """What `collect` tells of, without looking."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """Everything for one scrape."""
        told = self._families()
        for name, labels, value in self._look():
            told[name].add_metric(labels, value)
        yield from told.values()


def gauges(table: Mapping[str, tuple[str, tuple[str, ...]]]) -> Families:
    """Empty ones; the table has what each means, and its labels."""
    return {name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in table.items()}
