"""What the agent sees of its host, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from qnet.authority import until
from qnet.metrics import Families, Sample, gauges
from qnet.settings import Settings
from scheduler.agent.dockerd import Dockerd

METRICS = {
    "qnet_agent_engine_up": ("1 while the engine answers the agent, else 0", ()),
    "qnet_certificate_end_timestamp_seconds": ("When a certificate that this host's settings name ends", ("file",)),
}


def families() -> Families:
    """What is told, empty."""
    return gauges(METRICS)


def certificates(config: Settings) -> tuple[str, ...]:
    """The files that the settings name, for all daemons of the host; one that has none of them need not be there."""
    parts = (config.etcd, config.agent, config.scheduler, config.gateway)
    return tuple(sorted({file for part in parts for file in (part.ca, part.cert) if file}))


def look(engine: Dockerd, files: Iterable[str]) -> Iterator[Sample]:
    """How the engine was when it was asked last, which is every few seconds; until when certificates are valid."""
    yield "qnet_agent_engine_up", (), engine.up
    for file in files:
        with suppress(OSError, ValueError):
            yield "qnet_certificate_end_timestamp_seconds", (file,), until(Path(file)).timestamp()
