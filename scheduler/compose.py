"""Puts a process that places together, and the placement service."""

from __future__ import annotations

import logging
import random
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY

from qnet import clock, exporter, metrics, systemd
from qnet.connect import open_store
from qnet.errors import InvalidRequest, QnetError
from qnet.metrics import Gauges
from qnet.settings import Scheduler, Settings
from qnet.store.base import Store
from qnet.store.commit import GroupCommit
from qnet.store.recipes import LeaseKeeper
from scheduler import meter
from scheduler.addresses import Addresses
from scheduler.api import KINDS, Api
from scheduler.audit import Audit
from scheduler.commit import Desk
from scheduler.engines import Engines
from scheduler.hosts import Hosts
from scheduler.known import Cluster
from scheduler.model import Policy
from scheduler.networks import Networks
from scheduler.reconcile import Reconciler
from scheduler.runs import Runs
from scheduler.view import REPLICAS, View, key
from scheduler.web import create_app

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)

TTL = 10  # seconds without a word after which others undo what this replica has begun
AGAIN = 1.0


@dataclass(frozen=True)
class Replica:
    """A process that places: what it knows, and what it can do."""

    view: View
    desk: Desk
    engines: Engines
    runs: Runs
    networks: Networks
    known: Cluster
    audit: Audit
    random: random.Random
    store: Store
    start: Callable[[], None]
    stop: Callable[[], None]


def replica(config: Settings) -> Replica:
    """Put one together; it follows the store from when that can be reached on. Raises InvalidRequest: the settings."""
    own, store, name = config.scheduler, open_store(config.etcd), f"{config.host.name}-{secrets.token_hex(4)}"
    view, rng = View(store, policy_of(own)), random.Random()  # noqa: S311 - spreads load, guards nothing
    addresses = Addresses(store, config.ipam.rest, clock.now, rng)
    desk = Desk(store, GroupCommit(store), view, addresses, clock.now, rng, name)
    engines, known = Engines(own), Cluster(store, view)
    runs = Runs(desk, view, engines, known, own.hold, int(own.disk_free * (1 << 30)))
    reconciler = Reconciler(view, desk, runs, engines, name)
    try:
        audit = Audit(own.audit, clock.now)
    except OSError as error:
        raise InvalidRequest(f"scheduler.audit {own.audit}: {error.strerror}") from error
    networks = Networks(store, view, engines, addresses, clock.now)
    stopping = threading.Event()
    for kind in KINDS:  # from nought: a rise from nothing is none to Prometheus
        metrics.REFUSED.labels(kind)

    def alive(lease: int) -> None:
        if lease:
            store.put(key(REPLICAS, name), clock.now().encode(), lease=lease)

    keeper = LeaseKeeper(store, TTL, alive)

    def begin() -> None:
        while not stopping.is_set():
            try:
                view.start()
                known.start()
                keeper.start()
                reconciler.start()
                systemd.report()
                return
            except QnetError as error:
                logger.warning("nothing can be placed yet: %s", error)
                systemd.report(str(error))
                stopping.wait(AGAIN)

    def start() -> None:
        threading.Thread(target=begin, name="begin", daemon=True).start()

    def stop() -> None:
        stopping.set()
        reconciler.stop()
        runs.close()
        keeper.close()
        engines.close()
        addresses.close()
        known.close()
        view.close()
        store.close()

    return Replica(view, desk, engines, runs, networks, known, audit, rng, store, start, stop)


def compose(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """The REST API's application, and what stops it. Raises InvalidRequest: the settings."""
    made = replica(config)
    hosts = Hosts(made.store, made.view, made.desk)
    api = Api(made.view, made.runs, hosts, made.networks, made.audit, made.engines)
    made.start()
    fleet = Gauges(meter.families, partial(meter.look, made.view))
    REGISTRY.register(fleet)
    exporter.start(config, "scheduler")

    def stop() -> None:
        REGISTRY.unregister(fleet)
        made.stop()

    return create_app(api.routes()), stop


def policy_of(own: Scheduler) -> Policy:
    """How hosts are filled."""
    return Policy(
        strategy=own.strategy,
        overcommit_cpus=own.overcommit_cpus,
        overcommit_memory=own.overcommit_memory,
        **own.weights,
    )
