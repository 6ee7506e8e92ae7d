"""Entry point of `qnet-agent`: what one host tells the placement service, and its way to the host's engine."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY

from qnet import clock, exporter, systemd
from qnet.certificates import peer_of, server_context
from qnet.connect import open_store
from qnet.errors import InvalidRequest, QnetError
from qnet.metrics import Gauges
from qnet.program import begin, refuse
from qnet.settings import Settings
from scheduler.addresses import Addresses
from scheduler.agent import meter
from scheduler.agent.dockerd import Dockerd
from scheduler.agent.networks import ClusterNetworks
from scheduler.agent.publish import Publisher
from scheduler.agent.register import Registration
from scheduler.agent.relay import Relay
from scheduler.agent.service import Agent
from scheduler.agent.usage import Usage
from scheduler.records import Records

GRACE = 10.0  # seconds for which a placed container that nobody knows of is left alone


def main() -> None:
    """Run until SIGTERM."""
    config, reload = begin("qnet-agent", "The agent of qnet's placement on this host")
    try:
        run(config, reload)
    except InvalidRequest as error:
        refuse("qnet-agent", error)
    except QnetError as error:
        sys.exit(f"qnet-agent: {error}")


def run(config: Settings, reload: Callable[[], None]) -> None:
    """Serve until SIGTERM. Raises InvalidRequest: the settings; Unavailable: the port is taken."""
    context = server_context(config.agent.ca, config.agent.cert, config.agent.key)
    relay = Relay(config.agent.listen, context, config.docker.socket, refusal)
    store, host = open_store(config.etcd), config.host.name
    engine = Dockerd(config.docker.socket, config.docker.timeout)
    addresses = Addresses(store, config.ipam.rest, clock.now, random.Random())  # noqa: S311 - no secret
    records = Records(store, store, addresses)
    state = Path(config.host.state_dir) / "containers"

    def links() -> Mapping[str, str]:
        """What networks can stand on here: links, and the names that the settings give them."""
        there = {name: name for _, name in socket.if_nameindex()}
        return there | {name: link for name, link in config.network.parents.items() if link in there}

    publisher = Publisher(store, records, engine, host, state, time.monotonic, GRACE)
    networks = ClusterNetworks(store, engine, links, lambda: agent.poke())  # noqa: PLW0108 - it is made below
    registration = Registration(store, config, engine, networks.told, links, clock.now())
    agent = Agent(engine, registration, publisher, networks, Usage(time.monotonic), config.agent, host)
    ready = Path(config.host.run_dir) / "agent.ready"
    ready.unlink(missing_ok=True)
    ready.parent.mkdir(parents=True, exist_ok=True)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    signal.signal(signal.SIGHUP, lambda *_: reload())
    relay.start()
    REGISTRY.register(Gauges(meter.families, partial(meter.look, engine, meter.certificates(config))))
    exporter.start(config, "agent")
    agent.start(ready)
    systemd.watch(lambda: agent.alive() and relay.alive())
    stopped.wait()
    systemd.stopping()
    ready.unlink(missing_ok=True)
    agent.stop()
    relay.stop()
    os._exit(0)  # threads may sit in reads of the engine


def refusal(connection: ssl.SSLObject) -> str:
    """Why the peer may not speak to the engine: whoever may is root on this host."""
    peer = peer_of(connection)
    if peer is None or peer.role != "scheduler":
        return f"{f'{peer.role} {peer.name}' if peer else 'it'} is no scheduler"
    return ""
