"""A replica of the placement service in this process: its view of the fleet and its desk, called by many threads."""

from __future__ import annotations

import gc
import itertools
import time
from random import Random
from typing import Any

from qnet import schema
from qnet.store.base import Put, Txn
from qnet.store.commit import GroupCommit
from qnet.store.etcd import EtcdStore
from scheduler.addresses import Addresses
from scheduler.commit import Desk
from scheduler.model import Container, Request
from scheduler.view import ALIVE, CONTAINERS, MACHINES, View, key
from tests.bench import fleets, threads
from tests.bench.memory import resident

MOST = 60_000  # placements of one replica in one run
BATCH = 100  # keys in a transaction


class Placements:
    """Orders: `fill` the store with hosts and containers, `start` a view, `prepare` requests, `run` placements."""

    def __init__(self, number: int, endpoint: str, threads: int, **_: Any) -> None:
        self._number = number
        self._threads = threads
        self._store = EtcdStore((endpoint,))
        self._view = View(self._store)
        addresses = Addresses(self._store, 60, lambda: "", Random(number))
        self._desk = Desk(self._store, GroupCommit(self._store), self._view, addresses, lambda: "", Random(number))
        self._turns = itertools.count()
        self._requests: list[Request] = []

    def order(self, do: str, containers: int = 0, seconds: float = 0.0, **_: Any) -> dict[str, Any]:
        """One of `fill`, `start`, `prepare`, `run`."""
        if do == "fill":
            return self._fill(containers)
        if do == "start":
            return self._start()
        if do == "prepare":
            self._requests = fleets.requests(MOST, fleets.MIX, f"n{self._number}-{next(self._turns)}-")
            return {}
        requests = self._requests
        placed, again = self._desk.placed, self._desk.again
        numbers = itertools.count()

        def place(_thread: int, _turn: int) -> None:
            self._desk.place(requests[next(numbers)])

        work = threads.run(place, self._threads, seconds)
        return {
            "calls": self._desk.placed - placed,
            "again": self._desk.again - again,
            "seconds": work.seconds,
        }

    def _fill(self, containers: int) -> dict[str, Any]:
        hosts = list(fleets.machines())
        puts = [Put(key(MACHINES, host.name), schema.encode(host)) for host in hosts]
        puts += [Put(key(ALIVE, host.name), b"") for host in hosts]
        for number in range(containers):
            made: Container = fleets.request(number, "spread", "old").on(hosts[number % len(hosts)].name)
            puts.append(Put(key(CONTAINERS, made.name), schema.encode(made)))
        for first in range(0, len(puts), BATCH):
            self._store.txn(Txn(success=tuple(puts[first : first + BATCH])))
        return {}

    def _start(self) -> dict[str, Any]:
        began = time.perf_counter()
        self._view.start()
        took = time.perf_counter() - began
        gc.collect()
        return {"seconds": took, "megabytes": resident(), "containers": len(self._view.containers())}
