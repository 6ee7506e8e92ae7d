"""The Prometheus metrics that daemons expose at `GET /metrics`. `docs/reference/metrics.md` lists them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CALLS = Histogram(
    "qnet_plugin_call_seconds",
    "Time to answer a call of the engine",
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
STREAMS = Gauge("qnet_gateway_connections", "Connections of clients to the front")
