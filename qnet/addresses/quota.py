"""How many addresses a tenant may have. Checked after one was taken, so that no two takers can both be the last."""

from __future__ import annotations

import threading

from qnet import schema
from qnet.errors import Exhausted
from qnet.schema import TenantRecord
from qnet.store.base import Store
from qnet.store.cache import Change, PrefixCache


class Quota:
    """Limits, from a copy of the registry that a watch feeds; counts, from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limits: dict[str, int] = {}
        self._cache = PrefixCache(store, schema.TENANTS, self._changed)
        self._loading = threading.Lock()

    def limit(self, tenant: str) -> int:
        """How many addresses a tenant may have; 0: as many as there are. Raises Unavailable."""
        if self._cache.revision:
            return self._limits.get(tenant, 0)
        if self._loading.acquire(blocking=False):
            try:
                self._cache.start()
            finally:
                self._loading.release()
            return self._limits.get(tenant, 0)
        kv = self._store.get(schema.tenant_key(tenant))  # another thread is loading: do not wait for its deadline
        return schema.decode(kv.value, TenantRecord, kv.key).max_addresses if kv else 0

    def check(self, tenant: str) -> None:
        """Whether a tenant has no more than it may, counting every address that has a record.

        Raises:
            Exhausted: it has; what was taken last must go back.
        """
        limit = self.limit(tenant)
        if not limit:
            return
        pools = self._store.range(schema.pools_prefix(tenant)).kvs
        subnets = (schema.subnet_of_key(kv.key.rpartition("/")[2]) for kv in pools)
        if sum(self._store.count(schema.address_key(tenant, subnet)) for subnet in subnets) > limit:
            raise Exhausted(
                f"tenant {tenant} has all of the {limit} addresses that it may have: remove containers or networks, or "
                f"raise its limit (qnet tenant set {tenant} --max-addresses)"
            )

    def close(self) -> None:
        """Stop following the registry."""
        self._cache.close()

    def _changed(self, changes: list[Change]) -> None:
        for name, value in changes:
            record = schema.decode(value, TenantRecord, name) if value is not None else None
            self._limits[name] = record.max_addresses if record else 0
