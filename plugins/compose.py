"""Composes the network and IPAM drivers into one application on one socket.

They share a socket because an engine that restarts activates both over the IPAM look-up: with two, it skips the
clean-up of stale endpoints while the network driver is not loaded yet.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from flask import Flask
from prometheus_client import REGISTRY

import plugins.ipam.api
import plugins.network.api
from plugins.hostname import HostName
from plugins.ipam import meter as pools
from plugins.ipam.endpoints import Endpoints
from plugins.ipam.holds import Holds
from plugins.ipam.journal import Journal
from plugins.ipam.repair import Repair as AddressRepair
from plugins.ipam.repository import Repository as Addresses
from plugins.ipam.service import Service as Ipam
from plugins.ipam.uses import Carving, Uses
from plugins.network import devices
from plugins.network.admission import Admission
from plugins.network.announce import Announcer
from plugins.network.filters import Filters
from plugins.network.gateway import Gateways
from plugins.network.guards import Guards
from plugins.network.limits import Limits
from plugins.network.links import Links
from plugins.network.meter import Meter
from plugins.network.nat import NAMESPACE_PREFIX
from plugins.network.overlay import Overlay
from plugins.network.packets import Packets
from plugins.network.probe import Prober
from plugins.network.qdiscs import Qdiscs
from plugins.network.repair import Repair as NetworkRepair
from plugins.network.repository import Registry
from plugins.network.repository import Repository as Networks
from plugins.network.segments import Segments
from plugins.network.service import Service as Network
from plugins.network.tunnels import Tunnels
from plugins.repair import RepairLoop
from qnet import exporter
from qnet.clock import now
from qnet.connect import open_store
from qnet.engine import Engine, InProgress
from qnet.metrics import Gauges
from qnet.namespaces import Namespaces
from qnet.settings import Settings
from qnet.store.commit import GroupCommit
from qnet.tenants import Tenants
from qnet.wire import Plugin


def compose(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """Everything that the process is made of; returns the application and what stops it."""
    host, state_dir, run_dir = config.host.name, Path(config.host.state_dir), Path(config.host.run_dir)
    store, links = open_store(config.etcd), Links()
    rng = random.Random()  # noqa: S311 - spreads hosts over a pool; a system call for each number costs more
    engine = Engine(config.docker.socket, config.docker.timeout)
    poke = threading.Event()

    addresses = Addresses(store, GroupCommit(store), host, config.ipam.rest, rng)
    supernets = {tenant: tuple(ip_network(text) for text in texts) for tenant, texts in config.ipam.supernets.items()}
    carving = Carving(supernets, config.ipam.subnet_prefix, config.ipam.subnet_prefix6)
    tenants = Tenants(store, now)
    uses = Uses(addresses, tenants, carving, links.routes, now, rng)
    holds = Holds(addresses, engine, now, poke.set)
    host_name = HostName(store, host, state_dir, now)
    journal = Journal(state_dir / "releases.journal")
    networks, registry = Networks(state_dir, run_dir), Registry(store, host)
    filters, packets = Filters(), Packets()
    prober = Prober(networks, links, packets, config.ipam.probe_wait)
    ipam = Ipam(addresses, uses, holds, journal, host_name.check, now, prober)
    endpoints = Endpoints(addresses, uses, now)

    announcer = Announcer(packets)
    overlay = Overlay(store, Tunnels(), filters, host)
    gateways = Gateways(networks, links, Namespaces(NAMESPACE_PREFIX), filters)
    wires = config.network
    admission = Admission(tenants, wires)
    segments = Segments(networks, links, filters, tenants, admission, overlay, gateways, wires.parents)
    limits, meter = Limits(store, host, networks, tenants, poke.set), Meter(networks, registry, filters, devices.moved)
    guards = Guards(networks, filters, links, Qdiscs(), limits, meter)
    network = Network(networks, registry, links, guards, endpoints, segments, announcer, wires.parent, wires.underlay)

    def online() -> None:
        host_name.claim()
        limits.follow()

    grace = config.ipam.grace
    repair = AddressRepair(addresses, uses, ipam, journal, InProgress(engine), now, grace)
    loop = RepairLoop(
        engine,
        repair,
        NetworkRepair(networks, registry, network, segments, guards, links, InProgress(engine), grace),
        online,
        poke,
        config.ipam.repair_interval,
    )
    plugin = Plugin(("NetworkDriver", "IpamDriver"))
    plugins.network.api.register(plugin, network)
    plugins.ipam.api.register(plugin, ipam)
    announcer.start()
    loop.start()
    meters = (meter, Gauges(pools.families, lambda: pools.look(addresses, journal, repair.conflicts)))
    for one in meters:
        REGISTRY.register(one)
    exporter.start(config, "network")

    def stop() -> None:
        for one in meters:
            REGISTRY.unregister(one)
        loop.stop()
        overlay.close()
        limits.close()
        ipam.close()
        store.close()

    return plugin.app, stop
