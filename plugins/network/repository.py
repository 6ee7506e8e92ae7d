"""What the network driver must not forget. Networks outlive a reboot, endpoints do not: the first are on disk, the
second where a reboot empties. What other hosts may see of a network is in the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plugins.network.model import Endpoint, Network
from qnet import schema
from qnet.errors import NotFound
from qnet.folder import Folder
from qnet.schema import NetworkRecord
from qnet.store.base import Store


class Repository:
    """The networks and endpoints of this host."""

    def __init__(self, state_dir: Path, run_dir: Path) -> None:
        self.networks: Folder[Network] = Folder(state_dir / "networks", Network, durable=True)
        self.endpoints: Folder[Endpoint] = Folder(run_dir / "endpoints", Endpoint, durable=False)

    def network(self, network: str) -> Network:
        """A network that must be there. Raises NotFound."""
        found = self.networks.get(network)
        if found is None:
            raise NotFound(f"network {network[:12]} is not known to qnet on this host")
        return found

    def endpoint(self, endpoint: str) -> Endpoint:
        """An endpoint that must be there. Raises NotFound."""
        found = self.endpoints.get(endpoint)
        if found is None:
            raise NotFound(f"endpoint {endpoint[:12]} is not known to qnet on this host")
        return found

    def endpoints_of(self, network: str) -> tuple[Endpoint, ...]:
        """The endpoints on a network."""
        return tuple(endpoint for endpoint in self.endpoints.all() if endpoint.network == network)


class Registry:
    """What the cluster knows of this host's networks; `qnet network ls` reads it."""

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self.names: Mapping[str, str] = {}  # what the engine called networks when it was asked last, by id

    def published(self) -> dict[str, NetworkRecord]:
        """This host's records, by network id. Raises Unavailable."""
        found = self._store.range(schema.network_key(self._host))
        records = (schema.decode(kv.value, NetworkRecord, kv.key) for kv in found.kvs)
        return {record.id: record for record in records}

    def publish(self, network: Network, name: str = "") -> None:
        """Write a network's record. Raises Unavailable."""
        record = self.record(network, name)
        self._store.put(schema.network_key(self._host, network.id), schema.encode(record))

    def withdraw(self, network: str) -> None:
        """Delete a network's record. Raises Unavailable."""
        self._store.delete(schema.network_key(self._host, network))

    def record(self, network: Network, name: str) -> NetworkRecord:
        """A network as the cluster sees it."""
        return NetworkRecord(
            id=network.id,
            host=self._host,
            tenant=network.tenant,
            name=name,
            subnets=tuple(entry.subnet for entry in network.subnets),
            gateways=tuple(entry.gateway for entry in network.subnets if entry.gateway),
            driver_mode=network.mode,
            vlan=network.vlan,
            vni=network.vni,
            untagged=network.untagged,
            parent=network.parent,
            macvlan_mode=network.macvlan_mode,
            mtu=network.mtu,
            internal=network.internal,
            host_access=network.host_access,
            host_addresses=network.host_addresses,
            nat=network.nat,
        )
