"""Makes this host's uses of pools agree with the networks that its engine has."""

from __future__ import annotations

import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from plugins.ipam.repository import Repository
from plugins.ipam.uses import Uses
from qnet import metrics
from qnet.addresses.model import IPNetwork, PoolId
from qnet.engine import EngineNetwork
from qnet.errors import Conflict, NotFound
from qnet.schema import UseRecord

logger = logging.getLogger(__name__)

SHARED = (b'"kind":"gateway"', b'"kind":"auxiliary"')


class Settle:
    """Corrects what was wrong twice, `grace` seconds apart, with the record unchanged between."""

    def __init__(self, repository: Repository, uses: Uses, grace: float, clock: Callable[[], float]) -> None:
        self._repository = repository
        self._uses = uses
        self._grace = grace
        self._clock = clock
        self._host = repository.host
        self._sightings: dict[tuple[str, IPNetwork], tuple[int, float]] = {}

    def run(
        self,
        pools: Iterable[tuple[str, IPNetwork]],
        networks: Mapping[tuple[str, IPNetwork], list[EngineNetwork]],
    ) -> set[tuple[str, IPNetwork]]:
        """Settle each pool; returns those in which this host has nothing left. Raises Unavailable."""
        pools = set(pools)
        # what was seen of a pool that is gone does not count for one that is made again: both begin at revision 0
        self._sightings = {pool: seen for pool, seen in self._sightings.items() if pool in pools}
        return {pool for pool in pools if self._pool(*pool, networks.get(pool, []))}

    def _pool(self, tenant: str, subnet: IPNetwork, networks: list[EngineNetwork]) -> bool:
        use, revision = self._repository.use(tenant, str(subnet))
        wanted = _wanted(subnet, networks, use.shared if use else {})
        if (use.networks, dict(use.shared)) == wanted if use else not networks:
            self._sightings.pop((tenant, subnet), None)
            return use is None and self._let_go(tenant, subnet)
        before = self._sightings.get((tenant, subnet))
        if before is None or before[0] != revision:
            self._sightings[tenant, subnet] = (revision, self._clock())
        elif self._clock() - before[1] >= self._grace:
            self._correct(tenant, subnet, networks, use, wanted)
        return False

    def _correct(
        self,
        tenant: str,
        subnet: IPNetwork,
        networks: list[EngineNetwork],
        use: UseRecord | None,
        wanted: tuple[int, dict[str, int]],
    ) -> None:
        metrics.REPAIRS.labels("use of a pool").inc()
        logger.warning("use of pool %s by this host corrected to %d networks", subnet, wanted[0])
        if use is not None and not networks:
            self._uses.drop_use(tenant, subnet, use, self._sightings[tenant, subnet][0])
            return
        base = use or UseRecord(host=self._host, engine="", networks=0)
        fixed = msgspec.structs.replace(base, networks=wanted[0], shared=wanted[1])
        gateways = {entry.gateway for network in networks for entry in network.subnets}
        try:
            self._uses.correct(tenant, subnet, fixed, gateways)
        except Conflict as error:
            logger.error("pool %s of tenant %s cannot be made again: %s", subnet, tenant, error)

    def _let_go(self, tenant: str, subnet: IPNetwork) -> bool:
        """Stop following a pool in which this host has nothing left; what a crash left of shared addresses goes."""
        try:
            pool = self._repository.open(tenant, subnet)
        except NotFound:
            return True
        shared = [str(stored.address) for mark in SHARED for stored in pool.all_stored(mark)]
        self._uses.shared.drop_unnamed(PoolId(tenant, subnet), shared)
        if any(stored.record.kind not in ("gateway", "auxiliary") for stored in pool.own()):
            return False
        self._repository.forget(tenant, subnet)
        self._uses.collect(tenant, subnet)
        return True


def _wanted(subnet: IPNetwork, networks: list[EngineNetwork], counted: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """What the engine's networks name. Engines do not list a gateway that they left to qnet (20.10): an address that is
    counted and not listed can be that of each such network."""
    shared: Counter[str] = Counter()
    unlisted = 0
    for network in networks:
        for entry in network.subnets:
            if entry.subnet == str(subnet):
                unlisted += not entry.gateway
                named = [text for text in (entry.gateway, *entry.auxiliary) if text]
                shared.update(str(ipaddress.ip_address(text)) for text in named)
    for text, number in counted.items() if unlisted else ():
        shared[text] = min(max(number, shared[text], 1), shared[text] + unlisted)
    return len(networks), dict(shared)
