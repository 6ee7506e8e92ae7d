"""What the agent sees of its host, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from qnet.metrics import Families, Sample, gauges
from scheduler.agent.dockerd import Dockerd

METRICS = {"qnet_agent_engine_up": ("1 while the engine answers the agent, else 0", ())}


def families() -> Families:
    """What is told, empty."""
    return gauges(METRICS)


def look(engine: Dockerd) -> Iterator[Sample]:
    """How it was when it was asked last, which is every few seconds."""
    yield "qnet_agent_engine_up", (), engine.up
