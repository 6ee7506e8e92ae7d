"""Addresses taken a moment ahead of a crowd of callers, so that one transaction serves many of them.

A crowd is several callers inside at once; a lone caller never sees any of this. What is taken ahead has a record like
any address that was given out, is a small part of what the pool has free, and goes back after half a second. What a
crash leaves of it, repair finds: records without an endpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from plugins.ipam.repository import TOGETHER, Repository
from qnet.addresses.model import Caller, PoolId
from qnet.addresses.openpool import OpenPool, Stored
from qnet.errors import QnetError, Unavailable
from qnet.schema import AddressRecord

logger = logging.getLogger(__name__)

CROWD = 4
EACH = 3  # addresses for each caller of a crowd
ROOM = 256  # free addresses that a pool must have, so that in a small one "full" is exact at any time
KEEP = 0.5  # seconds; far less than any grace period, so repair never doubts what is still given out


@dataclass(slots=True, eq=False)
class Shelf:
    """What is at hand for one engine's networks of one pool.

    `callers` are inside now, `crowd` were when it was last `filled`; `error` is what happened then.
    """

    pool: PoolId
    caller: Caller
    changed: threading.Condition
    ready: deque[tuple[float, Stored]] = field(default_factory=deque)  # oldest first
    callers: int = 0
    crowd: int = 0
    filled: float = float("-inf")
    filling: bool = False
    error: str = ""


class Ahead:
    """Takes addresses for crowds, and gives back what is left over."""

    def __init__(
        self,
        repository: Repository,
        fresh: Callable[[Caller], AddressRecord],
        collect: Callable[[PoolId], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._fresh = fresh
        self._collect = collect
        self._clock = clock
        self._lock = threading.Lock()
        self._shelves: dict[tuple[PoolId, Caller], Shelf] = {}
        self._sweeper: threading.Thread | None = None
        self._closing = threading.Event()

    def enter(self, caller: Caller, pool: PoolId) -> Shelf:
        """Count one more caller inside. Every one that asks for any address passes here, and leaves."""
        with self._lock:
            shelf = self._shelves.get((pool, caller))
            if shelf is None:
                shelf = self._shelves[pool, caller] = Shelf(pool, caller, threading.Condition(self._lock))
            shelf.callers += 1
        return shelf

    def leave(self, shelf: Shelf) -> None:
        """A caller has been served."""
        with self._lock:
            shelf.callers -= 1

    def take(self, shelf: Shelf, opened: OpenPool, patience: float) -> Stored | None:
        """An address that was taken ahead, or is now. None if there is no crowd or little room: ask for one by itself.

        Raises:
            Unavailable: the store cannot be reached, or did not answer for `patience` seconds.
        """
        while True:
            with self._lock:
                while shelf.filling and not shelf.ready:
                    if not shelf.changed.wait(patience):
                        raise Unavailable(f"pool {opened.subnet}: no answer from etcd within {patience:g} s; try again")
                    if shelf.error and not shelf.filling:
                        raise Unavailable(shelf.error)  # who would try again now would wait twice as long
                if shelf.ready:
                    since, stored = shelf.ready[0]
                    if self._clock() - since >= KEEP:
                        return None  # on its way back
                    shelf.ready.popleft()
                    return stored
                wanted = self._wanted(shelf, opened)
                if wanted < CROWD:
                    return None
                shelf.filling = True
            if not self._fill(shelf, opened, wanted):
                return None

    def close(self) -> None:
        """Give everything back."""
        self._closing.set()
        for shelf in tuple(self._shelves.values()):
            self._give_back(shelf, everything=True)

    def _wanted(self, shelf: Shelf, opened: OpenPool) -> int:
        recent = self._clock() - shelf.filled < KEEP
        crowd = max(shelf.callers, shelf.crowd if recent else 0)
        room = opened.room(shelf.pool)
        if crowd < CROWD or room < ROOM or self._closing.is_set():
            return 0
        # half of what is free, shared among the hosts: together they never make a pool look full
        return min(EACH * crowd, TOGETHER, room // (2 * max(opened.hosts(), 1)))

    def _fill(self, shelf: Shelf, opened: OpenPool, wanted: int) -> bool:
        """Take addresses, on the thread of one of those who wait for them."""
        began, taken, problem = self._clock(), list[Stored](), ""
        try:
            taken = self._repository.create_together(opened, shelf.pool, wanted, lambda: self._fresh(shelf.caller))
        except QnetError as error:
            problem = str(error)
            raise
        finally:
            with self._lock:
                shelf.filling, shelf.error = False, problem
                shelf.ready.extend((began, stored) for stored in taken)
                shelf.crowd, shelf.filled = shelf.callers, began
                shelf.changed.notify_all()
                if taken and self._sweeper is None:
                    self._sweeper = threading.Thread(target=self._sweep, name="ahead", daemon=True)
                    self._sweeper.start()
        return bool(taken)

    def _sweep(self) -> None:
        """Give back what nobody came for, until there is nothing left."""
        while not self._closing.wait(KEEP):
            for shelf in tuple(self._shelves.values()):
                self._give_back(shelf)
            with self._lock:
                self._shelves = {
                    key: shelf for key, shelf in self._shelves.items() if shelf.ready or shelf.filling or shelf.callers
                }
                if not any(shelf.ready or shelf.filling for shelf in self._shelves.values()):
                    self._sweeper = None
                    return

    def _give_back(self, shelf: Shelf, *, everything: bool = False) -> None:
        old: list[Stored] = []
        with self._lock:
            while shelf.ready and (everything or self._clock() - shelf.ready[0][0] >= KEEP):
                old.append(shelf.ready.popleft()[1])
        if not old:
            return
        try:
            self._repository.withdraw(self._repository.open(shelf.pool.tenant, shelf.pool.subnet), old)
            self._collect(shelf.pool)
        except QnetError as error:
            logger.warning("%d addresses taken ahead are left to repair: %s", len(old), error)
