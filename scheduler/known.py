"""What of the cluster a run request can name: networks and volumes."""

from __future__ import annotations

import logging
from functools import partial

from qnet import schema
from qnet.errors import QnetError
from qnet.schema import VolumeRecord
from qnet.store.base import Store
from qnet.store.cache import Change, PrefixCache
from scheduler.model import Network
from scheduler.view import NETWORKS, View, key

OWNED = (("network", key(NETWORKS, ""), Network), ("volume", schema.VOLUMES, VolumeRecord))
GONE = 4096  # networks and volumes that are gone, and whose owners are remembered

logger = logging.getLogger(__name__)


class Cluster:
    """See `scheduler.ask.Known`."""

    def __init__(self, store: Store, view: View) -> None:
        self._store = store
        self._view = view
        self._owners: dict[tuple[str, str], frozenset[str]] = {}
        self._gone: dict[tuple[str, str], None] = {}  # the latest last
        self._caches = [PrefixCache(store, prefix, partial(self._hear, kind, record)) for kind, prefix, record in OWNED]

    def start(self) -> None:
        """Begin to remember whose what is, unless that has been done. Raises Unavailable."""
        for cache in self._caches:
            cache.start()

    def close(self) -> None:
        """Stop following the store."""
        for cache in self._caches:
            cache.close()

    def owners(self, kind: str, name: str) -> frozenset[str]:
        """All those whose a network, or shared volume, of that name is and was, as far as this process has seen."""
        return self._owners.get((kind, name), frozenset())

    def _hear(self, kind: str, record: type[Network | VolumeRecord], changes: list[Change]) -> None:
        for name, value in changes:
            self._gone.pop((kind, name), None)
            if value is None:
                self._gone[kind, name] = None
                continue
            try:
                tenant = schema.decode(value, record, name).tenant
            except QnetError as error:
                logger.error("%s %s: %s", kind, name, error)
            else:
                self._owners[kind, name] = self.owners(kind, name) | {tenant}
        while len(self._gone) > GONE:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._owners.pop(oldest, None)

    def network(self, name: str) -> Network | None:
        """The network of the cluster."""
        return self._view.network(name)

    def network_tenant(self, name: str) -> str | None:
        """Whose a network is that some host has; None: no host has it."""
        for machine in self._view.machines():
            found = machine.networks.get(name)
            if found is not None:
                return found.tenant
        return None

    def volume_tenant(self, name: str) -> str | None:
        """Whose a shared volume is; None: there is none. Raises Unavailable."""
        kv = self._store.get(schema.volume_key(name))
        return schema.decode(kv.value, VolumeRecord, kv.key).tenant if kv else None

    def volumes_of(self, tenant: str) -> frozenset[str]:
        """The names of a tenant's shared volumes. Raises Unavailable."""
        records = (schema.decode(kv.value, VolumeRecord, kv.key) for kv in self._store.range(schema.VOLUMES).kvs)
        return frozenset(record.name for record in records if record.tenant == tenant)

    def pinned(self, name: str) -> bool:
        """Whether a volume is on some hosts only."""
        return any(name in machine.volumes for machine in self._view.machines())
