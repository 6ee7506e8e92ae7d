"""Not a load: writes pools full of records, from inside a host because etcd is there."""

from __future__ import annotations

from typing import Any

from qnet.store.etcd import EtcdStore
from tests.bench import records


class Fill:
    """Makes pools that hold some addresses of running containers."""

    def __init__(self, endpoint: str, **_: Any) -> None:
        self._store = EtcdStore((endpoint,))

    def order(self, pool: str, count: int, own: str = "", **_: Any) -> dict[str, Any]:
        """Make one; `own` is the host to which a hundredth of the addresses belongs."""
        records.make_pool(self._store, pool)
        records.fill(self._store, pool, count, own=own)
        return {}
