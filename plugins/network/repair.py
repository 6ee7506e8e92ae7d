"""Puts right what a crash or a reboot left of networks and endpoints, outside driver calls."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from plugins.network import plan
from plugins.network.guards import Guards
from plugins.network.ports import Kernel
from plugins.network.repository import Registry, Repository
from plugins.network.segments import Segments
from plugins.network.service import Service
from qnet import metrics
from qnet.engine import EngineView, InProgress
from qnet.errors import QnetError
from qnet.sightings import Sightings

logger = logging.getLogger(__name__)


class Repair:
    """Compares what qnet keeps with the kernel and the engine."""

    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        service: Service,
        segments: Segments,
        guards: Guards,
        kernel: Kernel,
        in_progress: InProgress,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._service = service
        self._segments = segments
        self._guards = guards
        self._kernel = kernel
        self._in_progress = in_progress
        self._missing = Sightings(grace, clock)
        self._unused = Sightings(grace, clock)

    def local(self) -> None:
        """Links that nothing needs go, and hosts' own links come back after a reboot. Needs neither engine nor store.

        Links are listed first: whatever makes one has written down why before.
        """
        links = self._kernel.all()
        networks, endpoints = self._repository.networks.all(), self._repository.endpoints.all()
        for name in plan.left_over(links.values(), networks, endpoints):
            self._delete(name, "nothing uses it")
        for name in self._unused.overdue(plan.unused_segments(links.values(), networks)):
            if name not in self._segments.being_made():
                self._delete(name, "no network stands on it")
        try:
            self._segments.sync(networks, links)
        except QnetError as error:
            logger.warning("links of networks: %s", error)
        for network in networks:
            try:
                self._service.sync_shim(network.id)
            except QnetError as error:
                logger.warning("links of network %s: %s", network.id[:12], error)
        for what, sync in (("rules of endpoints", self._guards.sync), ("gateways", self._segments.tidy)):
            try:
                sync()
            except QnetError as error:
                logger.warning("%s: %s", what, error)

    def run(self, seen: EngineView, view: Callable[[], EngineView]) -> None:
        """Forget what the engine has not had for `grace` seconds, and publish what it has.

        Args:
            seen: a view of a moment ago; `view` asks for another, where something would go.

        Raises:
            Unavailable: the store cannot be reached.
        """
        endpoints = {endpoint.id for endpoint in self._repository.endpoints.all()}
        known = endpoints | {network.id for network in self._repository.networks.all()}
        gone = self._missing.overdue(known - _has(seen))
        sure = set(gone) - self._in_progress.may_explain(gone)
        for endpoint in sure - _has(view()) if sure else ():
            metrics.REPAIRS.labels("unknown to the engine").inc()
            logger.warning("%s removed: the engine does not have it", endpoint[:12])
            if endpoint in endpoints:
                self._service.delete_endpoint(endpoint)
            else:
                self._service.delete_network(endpoint)
        self._publish({network.id: network.name for network in seen.networks})

    def _delete(self, link: str, why: str) -> None:
        """Delete a link; what cannot be deleted keeps no other from being put right."""
        try:
            if self._kernel.delete(link):
                metrics.REPAIRS.labels("link left over").inc()
                logger.warning("link %s deleted: %s", link, why)
        except QnetError as error:
            logger.warning("link %s stays, though %s: %s", link, why, error)

    def _publish(self, names: dict[str, str]) -> None:
        self._registry.names = names
        published = self._registry.published()
        networks = {network.id: network for network in self._repository.networks.all()}
        for network in networks.values():
            name = names.get(network.id, "")
            if published.get(network.id) != self._registry.record(network, name):
                self._registry.publish(network, name)
        for gone in published.keys() - networks.keys():
            self._registry.withdraw(gone)


def _has(view: EngineView) -> set[str]:
    """The ids of the networks and endpoints that an engine has."""
    running = (container for container in view.containers if container.running)
    return {network.id for network in view.networks} | {end.endpoint for box in running for end in box.endpoints}
