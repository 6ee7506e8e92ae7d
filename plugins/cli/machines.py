"""What commands read of the placement service's records (docs/schema.md), each of which says more than that."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qnet import schema
from qnet.store.base import Store

MACHINES, CONTAINERS, ALIVE, ORDERS, REPLICAS, NETWORKS = (
    f"{schema.PLACEMENT}{kind}/" for kind in ("machines", "containers", "alive", "orders", "replicas", "networks")
)


class Machine(msgspec.Struct, frozen=True):
    """What an agent tells of its host."""

    name: str
    url: str = ""
    engine: str = ""
    qnet: str = ""
    trouble: tuple[str, ...] = ()
    parents: frozenset[str] = frozenset()
    networks: Mapping[str, object] = {}


class Network(msgspec.Struct, frozen=True):
    """A network of the cluster."""

    name: str
    options: Mapping[str, str] = {}


def machine(store: Store, name: str) -> Machine | None:
    """A host that containers are placed on; None: no agent has told of it. Raises Unavailable, CorruptRecord."""
    kv = store.get(MACHINES + name)
    return schema.decode(kv.value, Machine, kv.key) if kv else None
