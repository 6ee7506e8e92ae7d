"""Forgetting a host: its claim of its name, and by force all that is recorded for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from plugins.cli.inventory import OWN_KINDS, Inventory
from plugins.ipam.admin import Admin
from qnet import schema
from qnet.addresses.model import parse_subnet
from qnet.errors import Conflict
from qnet.schema import LimitRecord, PoolRecord
from qnet.store.base import Delete, KeyValue, Store, Txn, unchanged


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What went: addresses by pool (`TENANT/SUBNET`), pools that its networks used, published networks."""

    host: str
    claim: bool
    released: dict[str, int]
    pools: int
    networks: int


class Forget:
    """Deletes what a host that is gone has left in the store. What changes meanwhile is not gone: Conflict."""

    def __init__(self, store: Store, inventory: Inventory, admin: Admin) -> None:
        self._store = store
        self._inventory = inventory
        self._admin = admin

    def claim(self, host: str) -> Forgotten:
        """Free a host's name and nothing else."""
        return Forgotten(host, self._delete_claim(host), {}, 0, 0)

    def everything(self, host: str) -> Forgotten:
        """Release all of a host's addresses, uses of pools and volumes; its name goes last, so that this can be
        repeated."""
        released: Counter[str] = Counter()
        used = 0
        for pool in self._inventory.pools():
            released[f"{pool.tenant}/{pool.subnet}"] = self._release_all(pool, host)
            used += self._admin.drop_use(pool, host)
        networks = self._withdraw(host)
        for kv in self._store.range(schema.LIMITS).kvs:
            if schema.decode(kv.value, LimitRecord, kv.key).host == host:
                self._delete(kv, host)
        return Forgotten(host, self._delete_claim(host), dict(+released), used, networks)

    def _release_all(self, pool: PoolRecord, host: str) -> int:
        number = 0
        for stored in self._inventory.addresses(pool):
            if stored.record.host == host and stored.record.kind in OWN_KINDS:
                self._admin.release(pool.tenant, parse_subnet(pool.subnet), stored)
                number += 1
        return number

    def _withdraw(self, host: str) -> int:
        networks = self._store.range(schema.network_key(host)).kvs
        below = (schema.VTEPS, schema.VOLUME_MOUNTS)
        others = [kv for prefix in below for kv in self._store.range(prefix).kvs if kv.key.endswith(f"/{host}")]
        for kv in (*networks, *others):
            self._delete(kv, host)
        return len(networks)

    def _delete_claim(self, host: str) -> bool:
        kv = self._store.get(schema.host_key(host))
        if kv is not None:
            self._delete(kv, host)
        return kv is not None

    def _delete(self, kv: KeyValue, host: str) -> None:
        if not self._store.txn(Txn((unchanged(kv),), (Delete(kv.key),))).succeeded:
            raise Conflict(f"{kv.key} was changed meanwhile: host {host} is not gone")
