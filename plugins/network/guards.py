"""Keeps the rules of endpoints in force: a firewall that flushes everything takes them away, a crash leaves some."""

from __future__ import annotations

import logging

from plugins.network import plan
from plugins.network.modes import MODES
from plugins.network.ports import Filters
from plugins.network.repository import Repository
from qnet import metrics

logger = logging.getLogger(__name__)


class Guards:
    """The rules of this host's endpoints, compared with what is in force."""

    def __init__(self, repository: Repository, filters: Filters) -> None:
        self._repository = repository
        self._filters = filters
        self._busy = True  # until it is known that there is nothing to guard

    def sync(self) -> None:
        """Put back what is missing, forget what nothing needs. Raises Unsupported, Unavailable."""
        networks = {network.id: network for network in self._repository.networks.all()}
        bridged = any(network.bridge for network in networks.values())
        if not (bridged or self._busy):
            return
        self._busy = bridged
        there = self._filters.chains()
        # read after the chains: what is in force belongs to an endpoint that was written down before
        endpoints = self._repository.endpoints.all()
        segments = (MODES[network.mode].segment(network) for network in networks.values())
        bridges = {segment.name for segment in segments if segment is not None}
        for bridge in bridges - there:
            self._missed(bridge)
            self._filters.shield(bridge)
        for endpoint in endpoints:
            network = networks.get(endpoint.network)
            guard = MODES[network.mode].guard(network, endpoint) if network and endpoint.joined else None
            if guard is not None and guard.device not in there:
                self._missed(guard.device)
                self._filters.apply(guard)
        for device in there - bridges - {plan.endpoint_link(endpoint.id) for endpoint in endpoints}:
            self._filters.remove(device)

    @staticmethod
    def _missed(device: str) -> None:
        logger.warning("the rules of %s were gone: in force again", device)
        metrics.REPAIRS.labels("rules that someone took away").inc()
