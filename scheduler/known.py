"""What of the cluster a run request can name: networks and volumes."""

from __future__ import annotations

from qnet import schema
from qnet.schema import VolumeRecord
from qnet.store.base import Store
from scheduler.model import Network
from scheduler.view import View


class Cluster:
    """See `scheduler.ask.Known`."""

    def __init__(self, store: Store, view: View) -> None:
        self._store = store
        self._view = view

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
