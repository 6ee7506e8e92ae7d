"""The terms of endpoints as the store has them: a copy of what was said of endpoints and tenants, fed by watches."""

from __future__ import annotations

import logging
from collections.abc import Callable

from plugins.network.model import Endpoint, Network
from plugins.network.ports import Owners
from plugins.network.repository import Repository
from plugins.network.terms import Terms, settle
from qnet import schema
from qnet.errors import Internal, Unavailable
from qnet.schema import LimitRecord, TenantRecord
from qnet.store.base import Store
from qnet.store.cache import PrefixCache

logger = logging.getLogger(__name__)


class Limits:
    """What is said of this host's endpoints; `changed` is called when that may be something else than before."""

    def __init__(
        self, store: Store, host: str, repository: Repository, tenants: Owners, changed: Callable[[], None]
    ) -> None:
        self._store = store
        self._host = host
        self._repository = repository
        self._tenants = tenants
        self._records = PrefixCache(store, schema.LIMITS, lambda _: changed())
        self._owners = PrefixCache(store, schema.TENANTS, lambda _: changed())
        self._following = False

    def follow(self) -> None:
        """Begin to follow the store, if that has not succeeded yet; delete what was said of endpoints that are gone.

        Raises:
            Unavailable: the store cannot be reached.
        """
        self._owners.start()
        self._records.start()
        self._following = True
        for endpoint, kv in self._records.items():
            try:
                record = schema.decode(kv.value, LimitRecord, kv.key)
            except Internal as error:
                logger.error("%s", error)
                continue
            if record.host == self._host and self._repository.endpoints.get(endpoint) is None:
                self._store.delete(kv.key)

    def close(self) -> None:
        """Stop following."""
        self._records.close()
        self._owners.close()

    def at_start(self, network: Network, endpoint: Endpoint) -> Terms:
        """The terms of a new endpoint, with its tenant read now. Raises NotFound, Unavailable."""
        return _settled(None, network, endpoint, self._tenants.get(network.tenant))

    def now(self, network: Network, endpoint: Endpoint) -> Terms:
        """The terms of an endpoint as the copy has them; while there is no copy, those that it has."""
        if not self._following:
            return endpoint.terms
        said, owner = self._records.get(endpoint.id), self._owners.get(network.tenant)
        record = schema.decode(said.value, LimitRecord, said.key) if said else None
        tenant = TenantRecord(name=network.tenant, since="")
        return _settled(record, network, endpoint, schema.decode(owner.value, TenantRecord) if owner else tenant)

    def forget(self, endpoint: str) -> None:
        """Delete what was said of an endpoint that is gone; if the store is away, `follow` does it later."""
        if endpoint not in self._records:
            return
        try:
            self._store.delete(schema.limit_key(endpoint))
        except Unavailable as error:
            logger.warning("limits of endpoint %s are deleted later: %s", endpoint[:12], error)


def _settled(record: LimitRecord | None, network: Network, endpoint: Endpoint, tenant: TenantRecord) -> Terms:
    return settle(record, endpoint.limits, network.limits, tenant, (entry.subnet for entry in network.subnets))
