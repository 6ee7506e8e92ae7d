"""How the fleet is, as this replica knows it, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from qnet.metrics import Families, Sample, gauges
from scheduler.model import PLACED, State
from scheduler.view import View

METRICS = {
    "qnet_scheduler_ready": ("1 while this replica follows the store, else 0", ()),
    "qnet_hosts": ("Hosts of the fleet, by state: ready, drain or down", ("state",)),
    "qnet_host_up": ("1 while the host's agent is heard of, else 0", ("host",)),
    "qnet_host_trouble": ("1 for each part of a host that does not work", ("host", "part")),
    "qnet_containers": ("Containers of a host by Docker's state, or placed: being made", ("host", "state")),
}


def families() -> Families:
    """What is told, empty."""
    return gauges(METRICS)


def look(view: View) -> Iterator[Sample]:
    """All of it, from memory."""
    yield "qnet_scheduler_ready", (), view.ready
    machines = view.machines()
    states = Counter(machine.state for machine in machines)
    for state in get_args(State):
        yield "qnet_hosts", (state,), states[state]
    for machine in machines:
        yield "qnet_host_up", (machine.name,), machine.state != "down"
        for part in machine.trouble:
            yield "qnet_host_trouble", (machine.name, part), 1
    for labels, count in Counter((one.host, one.state or PLACED) for one in view.containers()).items():
        yield "qnet_containers", labels, count
