"""One host at a time changes a pool: the gluster command fails at once where two meet, and what is moved must not be
moved back meanwhile."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from qnet import schema
from qnet.errors import QnetError, Unavailable
from qnet.store.base import Delete, Put, Store, Txn, absent, at_revision
from qnet.store.recipes import LeaseKeeper

logger = logging.getLogger(__name__)

LEASE = 10  # seconds that the locks of a host outlive its plugin
PATIENCE = 100.0  # seconds: an engine waits two minutes for a create
PAUSE = (0.01, 0.05)  # seconds between two tries


class PoolLocks:
    """Locks of this host in the store, and among its threads."""

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self._starting = threading.Lock()
        self._keeper: LeaseKeeper | None = None

    @contextmanager
    def hold(self, pool: str) -> Iterator[None]:
        """Hold a pool's lock. Raises Unavailable: the store is away, or somebody else has it for too long."""
        key, deadline = schema.volume_lock_key(pool), time.monotonic() + PATIENCE
        while True:
            taken = self._store.txn(Txn((absent(key),), (Put(key, self._host.encode(), self._lease()),)))
            if taken.succeeded:
                break
            if time.monotonic() > deadline:
                holder = self._store.get(key)
                who = holder.value.decode() if holder else "another host"
                raise Unavailable(f"pool {pool}: {who} has been at work on it for {PATIENCE:g} s; try again")
            time.sleep(random.uniform(*PAUSE))  # noqa: S311 - only spreads the tries
        try:
            yield
        finally:
            try:
                self._store.txn(Txn((at_revision(key, taken.revision),), (Delete(key),)))
            except QnetError as error:
                logger.warning("pool %s stays locked until the store is back: %s", pool, error)

    def close(self) -> None:
        """Give up all locks."""
        if self._keeper is not None:
            self._keeper.close()

    def _lease(self) -> int:
        with self._starting:
            if self._keeper is None:
                keeper = LeaseKeeper(self._store, LEASE)
                keeper.start()
                self._keeper = keeper
        lease = self._keeper.lease
        if not lease:
            raise Unavailable("the store has been away for too long: try again")
        return lease
