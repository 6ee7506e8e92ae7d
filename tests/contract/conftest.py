"""Both stores, for the contract suite. A machine without etcd fails it: skipping would prove nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from qnet.store.base import Batch, Event, Lost, Store
from qnet.store.etcd import EtcdStore
from tests.contract.etcd_process import Cluster, etcdctl
from tests.store.memory import MemoryStore

_names = count()


class Recorder:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.lost: list[Lost] = []
        self._heard = threading.Condition()

    def __call__(self, news: Batch | Lost) -> None:
        with self._heard:
            if isinstance(news, Lost):
                self.lost.append(news)
            else:
                self.batches.append(news)
            self._heard.notify_all()

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch.events]

    def wait(self, condition: Callable[[Recorder], object], timeout: float = 10) -> None:
        with self._heard:
            assert self._heard.wait_for(lambda: condition(self), timeout), (self.batches, self.lost)


@pytest.fixture(scope="session")
def etcd() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster.start().ready()
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def etcd_store(etcd: Cluster) -> Iterator[EtcdStore]:
    store = EtcdStore(etcd.endpoints)
    yield store
    store.close()


@pytest.fixture(params=["memory", "etcd"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "etcd":
        yield request.getfixturevalue("etcd_store")
    else:
        memory = MemoryStore()
        yield memory
        memory.close()


@pytest.fixture
def compact(store: Store, request: pytest.FixtureRequest) -> Callable[[int], None]:
    """Forgets history before a revision."""
    if isinstance(store, MemoryStore):
        return store.compact
    cluster: Cluster = request.getfixturevalue("etcd")
    return lambda revision: void(etcdctl(cluster, "compact", str(revision)))


def void(_: object) -> None:
    """Drop a value."""


@pytest.fixture
def p() -> str:
    """A prefix that no other test uses."""
    return f"/t{next(_names)}-{time.monotonic_ns()}/"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
