"""Keeps the rules and limits of endpoints in force: a firewall that flushes everything takes rules away, a crash leaves
some, and limits are changed while endpoints run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import msgspec

from plugins.network import plan, rules
from plugins.network.limits import Limits
from plugins.network.meter import Meter
from plugins.network.model import BRIDGED, Endpoint, Network
from plugins.network.modes import MODES
from plugins.network.plan import Guard
from plugins.network.ports import Filters, Kernel, Qdiscs
from plugins.network.repository import Repository
from qnet import metrics
from qnet.errors import QnetError

logger = logging.getLogger(__name__)


class Guards:
    """What this host's endpoints are held to, compared with what is in force."""

    def __init__(
        self, repository: Repository, filters: Filters, kernel: Kernel, qdiscs: Qdiscs, limits: Limits, meter: Meter
    ) -> None:
        self._repository = repository
        self._filters = filters
        self._kernel = kernel
        self._qdiscs = qdiscs
        self._limits = limits
        self._meter = meter
        self._applied: dict[str, Guard] = {}  # by this process: an earlier one may have ended half-way, or been older
        self._busy = True  # until it is known that there is nothing to guard

    def start(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """A new endpoint with its terms. Raises NotFound, Unavailable."""
        if network.mode not in BRIDGED:
            return endpoint
        return msgspec.structs.replace(endpoint, terms=self._limits.at_start(network, endpoint))

    def put(self, guard: Guard, has: Mapping[str, int]) -> None:
        """Put an endpoint's limits and rules into force, or others in their place while its traffic goes on.

        Args:
            has: the speeds that are in force, see `Qdiscs.speeds`; none on a link just made.

        Raises:
            InvalidRequest, NotFound, Unsupported, Unavailable
        """
        self._applied.pop(guard.device, None)
        if guard.terms.egress:
            self._kernel.add_ifb(guard.limiter, guard.device)
            self._qdiscs.limit(guard.limiter, guard.speeds[guard.limiter])
        if guard.device in has or guard.device in guard.speeds:
            self._qdiscs.limit(guard.device, guard.speeds.get(guard.device, 0))
        self._filters.apply(guard)
        if guard.limiter in has and not guard.terms.egress:
            self._kernel.delete(guard.limiter)  # only now: the rules led there
        self._applied[guard.device] = guard

    def count(self, endpoint: str) -> None:
        """Take in what an endpoint did, before its link goes."""
        try:
            self._meter.read()
        except QnetError as error:
            logger.warning("traffic of %s is not counted to its end: %s", plan.endpoint_link(endpoint), error)

    def drop(self, endpoint: str) -> None:
        """Take away all that an endpoint was held to, when its link is gone. Raises Unsupported, Unavailable."""
        device = plan.endpoint_link(endpoint)
        self._filters.remove(device)
        self._kernel.delete(plan.limit_link(endpoint))
        self._applied.pop(device, None)
        self._limits.forget(endpoint)

    def sync(self) -> None:
        """Put back what is missing, change what is to be otherwise, forget what nothing needs. Raises Unsupported,
        Unavailable."""
        networks = {network.id: network for network in self._repository.networks.all()}
        watched = any(network.mode in BRIDGED for network in networks.values())
        if not (watched or self._busy):
            return
        self._meter.begin()
        there, speeds = self._filters.chains(), self._qdiscs.speeds()
        # read after the chains: what is in force belongs to an endpoint that was written down before
        endpoints = self._repository.endpoints.all()
        segments = (MODES[network.mode].segment(network) for network in networks.values())
        bridges = {segment.name for segment in segments if segment is not None}
        for bridge in bridges - there:
            self._missed(bridge)
            self._filters.shield(bridge)
        for endpoint in endpoints:
            network = networks.get(endpoint.network)
            if network is not None and endpoint.joined:
                try:
                    self._sync_one(network, endpoint, there, speeds)
                except QnetError as error:
                    logger.warning("rules and limits of endpoint %s: %s", endpoint.id[:12], error)
        devices = {chain[: plan.NAME_LENGTH] for chain in there} - bridges
        unneeded = devices - {plan.endpoint_link(endpoint.id) for endpoint in endpoints}
        links = self._kernel.look()
        # those of a bridge that is there: its network is being made, or it will be deleted first
        kept = {device for device in unneeded if device.startswith(plan.BRIDGE_PREFIX) and device in links}
        for device in unneeded - kept:
            self._filters.remove(device)
        self._busy = watched or bool(kept)

    def _sync_one(
        self, network: Network, endpoint: Endpoint, there: Collection[str], speeds: Mapping[str, int]
    ) -> None:
        terms = self._limits.now(network, endpoint)
        guard = MODES[network.mode].guard(network, msgspec.structs.replace(endpoint, terms=terms))
        if guard is None:
            return
        if terms != endpoint.terms:
            self._repository.endpoints.amend(endpoint.id, terms=terms)
        has = {device: speeds[device] for device in (guard.device, guard.limiter) if device in speeds}
        complete = has == guard.speeds and set(rules.chains(guard.device)).issubset(there)
        if self._applied.get(guard.device) == guard and complete:
            return
        if self._applied.get(guard.device) == guard:
            self._missed(guard.device)
        self.put(guard, has)

    @staticmethod
    def _missed(device: str) -> None:
        logger.warning("the rules or limits of %s were gone: in force again", device)
        metrics.REPAIRS.labels("rules that someone took away").inc()
