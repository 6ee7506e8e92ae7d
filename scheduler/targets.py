"""Where containers want their own metrics to be fetched, as Prometheus' HTTP service discovery takes it. Pure.

qnet.metrics.port=9100         makes a container a target
qnet.metrics.path=/metrics     where on that port
qnet.metrics.scheme=http       or https
qnet.metrics.network=web       which of its networks, else the first by name
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from qnet.errors import InvalidRequest
from qnet.listen import location
from scheduler.model import Container, Net

PORT, PATH, SCHEME, NETWORK = (f"qnet.metrics.{name}" for name in ("port", "path", "scheme", "network"))
SCHEMES = ("http", "https")
SAFE = re.compile(r"/[A-Za-z0-9._~/-]{0,255}")
RUNNING = "running"


class Scrape(NamedTuple):
    """What a container's labels ask for."""

    port: int
    path: str
    scheme: str
    network: str


class Target(msgspec.Struct, frozen=True):
    """An entry of service discovery: addresses, HOST:PORT, and the labels that they get."""

    targets: tuple[str, ...]
    labels: Mapping[str, str]


def scrape(labels: Mapping[str, str]) -> Scrape | None:
    """None: it is no target. Raises InvalidRequest: its labels make no sense."""
    port = labels.get(PORT)
    if port is None:
        return None
    path, scheme = labels.get(PATH, "/metrics"), labels.get(SCHEME, SCHEMES[0])
    if not (port.isascii() and port.isdigit() and 0 < len(port) < 6 and 0 < int(port) < 65536):
        raise InvalidRequest(f"label {PORT}={port[:64]!r}: a port, 1 to 65535")
    if not SAFE.fullmatch(path):
        raise InvalidRequest(f"label {PATH}={path[:64]!r}: a path such as /metrics, of letters, digits and ._~/-")
    if scheme not in SCHEMES:
        raise InvalidRequest(f"label {SCHEME}={scheme[:64]!r}: {' or '.join(SCHEMES)}")
    return Scrape(int(port), path, scheme, labels.get(NETWORK, ""))


def target(container: Container, networks: Mapping[str, Net]) -> Target | None:
    """The entry of a container; None: it has none. `networks` are those of its host: an address counts only on one
    whose addresses qnet gives out, for others are not unique over hosts."""
    try:
        asked = scrape(container.labels)
    except InvalidRequest:  # of a container that qnet did not make
        return None
    if asked is None or container.state != RUNNING:
        return None
    for network, addresses in sorted(container.reached.items()):
        if network in networks and networks[network].pools and asked.network in ("", network):
            labels = {
                "container": container.name,
                "host": container.host,
                "tenant": container.tenant,
                "network": network,
                "__metrics_path__": asked.path,
                "__scheme__": asked.scheme,
            }
            return Target((location(addresses[0], asked.port),), labels)
    return None
