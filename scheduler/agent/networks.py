"""Makes this host's engine have the networks that the cluster has, and only those of its own that it still has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from qnet import metrics, schema
from qnet.errors import Conflict
from qnet.sightings import Sightings
from qnet.store.base import Store
from qnet.store.cache import Change, PrefixCache
from scheduler.agent.dockerd import Dockerd
from scheduler.model import Network
from scheduler.translate import ID
from scheduler.view import NETWORKS, key

GRACE = 10.0  # seconds that a network may be here which the cluster has never had

logger = logging.getLogger(__name__)


class ClusterNetworks:
    """See the module."""

    def __init__(
        self,
        store: Store,
        engine: Dockerd,
        parents: Callable[[], Mapping[str, str]],
        heard: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parents`: what networks of this host can stand on; one whose parent is missing is not for this host."""
        self._engine = engine
        self._parents = parents
        self._heard = heard
        self._cache = PrefixCache(store, key(NETWORKS, ""), self._changed)
        self._refused: dict[str, str] = {}
        self._had: set[str] = set()
        self._strays = Sightings(GRACE, clock)

    def start(self) -> None:
        """Follow what the cluster has. Raises Unavailable."""
        self._cache.start()

    def close(self) -> None:
        """Stop following."""
        self._cache.close()

    def compare(self) -> None:
        """Make what is missing and remove what is too much. Raises Unavailable."""
        if not self._cache.synced:
            return
        wanted, listed = self._wanted(), self._engine.networks()
        ids = {network.id for network in wanted}
        unknown = {known: entry for entry in listed if (known := _id(entry)) and known not in ids}
        # the first host has a network a moment before the cluster has it
        for known in {*self._strays.overdue(unknown), *(unknown.keys() & self._had)}:
            self._remove(unknown[known])
            listed = [entry for entry in listed if _id(entry) != known]
        self._had |= ids
        self._complete(wanted, listed)

    def told(self) -> list[dict[str, Any]]:
        """What the engine has, without what has no more than the name of one of the cluster's: nothing may be placed on
        that in its stead. Raises Unavailable."""
        ids = {network.name: network.id for network in self._wanted()}
        return [entry for entry in self._engine.networks() if _id(entry) == ids.get(entry["Name"], _id(entry))]

    def _wanted(self) -> list[Network]:
        return [schema.decode(kv.value, Network, name) for name, kv in self._cache.items()]

    def _complete(self, wanted: Collection[Network], listed: Collection[Mapping[str, Any]]) -> None:
        names, there = {entry["Name"] for entry in listed}, {_id(entry) for entry in listed}
        parents = self._parents()
        for network in wanted:
            if network.id in there:
                self._refused.pop(network.id, None)
            elif network.name in names:
                self._say(network, f"network {network.name} is not here: this host has one of its own of that name")
            elif network.parents <= parents.keys():
                self._make(network)

    def _make(self, network: Network) -> None:
        try:
            self._engine.create_network(network)
        except Conflict as error:
            self._say(network, str(error))
            return
        self._refused.pop(network.id, None)
        logger.info("network %s made, as the cluster has it", network.name)

    def _say(self, network: Network, why: str) -> None:
        """Say once why one is not here; `qnet doctor` tells it of all hosts."""
        if self._refused.get(network.id) != why:
            logger.error("the cluster's %s", why)
        self._refused[network.id] = why

    def _remove(self, entry: Mapping[str, Any]) -> None:
        try:
            self._engine.remove_network(entry["Id"])
        except Conflict as error:
            logger.warning("network %s of the cluster is gone, but stays here: %s", entry["Name"], error)
            return
        metrics.REPAIRS.labels("network of the cluster").inc()
        logger.info("network %s removed: the cluster does not have it any more", entry["Name"])

    def _changed(self, _: list[Change]) -> None:
        self._heard()


def _id(entry: Mapping[str, Any]) -> str:
    """Which of the cluster's networks it is; empty: it is none."""
    return str((entry.get("Labels") or {}).get(ID, ""))
