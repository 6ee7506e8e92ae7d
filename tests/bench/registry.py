"""Which modules measure which part. A new part is a module with GOALS and measure(), and a line here."""

from __future__ import annotations

from tests.bench import (
    docker_run,
    fleet_runs,
    forwarding,
    front,
    fullness,
    isolation,
    latency,
    many_networks,
    memory,
    mode_run,
    package,
    placement,
    rates,
    throughput,
    volume_calls,
    volume_io,
)
from tests.bench.model import Group

GROUPS: tuple[tuple[str, Group], ...] = (
    ("memory", memory),
    ("ipam", latency),
    ("ipam", rates),
    ("ipam", fullness),
    ("network", docker_run),
    ("network", throughput),
    ("tenants", isolation),
    ("tenants", mode_run),
    ("tenants", forwarding),
    ("tenants", many_networks),
    ("volumes", volume_calls),
    ("volumes", volume_io),
    ("placement", placement),
    ("placement", fleet_runs),
    ("front", front),
    ("package", package),
)
PARTS = tuple(dict.fromkeys(part for part, _ in GROUPS))
