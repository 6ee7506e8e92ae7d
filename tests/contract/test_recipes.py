"""Leases kept alive, leases shared, bounded compare and swap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from qnet.errors import Conflict, Unavailable
from qnet.store.base import KeyValue, Store
from qnet.store.recipes import LeaseKeeper, RollingLease, cas_update
from tests.store.memory import MemoryStore


def until(condition: Callable[[], object], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def increment(kv: KeyValue | None) -> bytes:
    return b"%d" % (int(kv.value if kv else 0) + 1)


def test_cas_update_loses_nothing(store: Store, p: str) -> None:
    def run() -> None:
        for _ in range(10):
            cas_update(store, p + "n", increment, attempts=1000)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = store.get(p + "n")
    assert found is not None
    assert found.value == b"80"


def test_cas_update_deletes_and_keeps_the_lease(store: Store, p: str) -> None:
    assert cas_update(store, p + "a", lambda kv: None) == 0
    lease = store.grant(60)
    store.put(p + "a", b"1", lease=lease)
    cas_update(store, p + "a", increment)
    found = store.get(p + "a")
    assert found is not None
    assert (found.value, found.lease) == (b"2", lease)
    assert cas_update(store, p + "a", lambda kv: None) > 0
    assert store.get(p + "a") is None
    store.revoke(lease)


def test_cas_update_gives_up(store: Store, p: str) -> None:
    def disturbed(kv: KeyValue | None) -> bytes:
        store.put(p + "a", b"other")
        return b"mine"

    with pytest.raises(Conflict, match="3 times"):
        cas_update(store, p + "a", disturbed, attempts=3)


def test_a_rolling_lease_is_made_once_for_each_window() -> None:
    now = [100.0]
    store = MemoryStore(clock=lambda: now[0])
    rolling = RollingLease(store, ttl=60, window=10, clock=lambda: now[0])
    first = rolling.id()
    store.put("/early", b"", lease=first)
    now[0] += 9.9
    assert rolling.id() == first
    store.put("/late", b"", lease=first)
    now[0] += 0.1
    assert rolling.id() != first
    now[0] += 59.9  # 69.9 s after the first
    assert store.count("/") == 2
    now[0] += 0.2
    assert store.count("/") == 0
    rolling.renew()
    assert rolling.id() == rolling.id()
    store.close()


@pytest.mark.slow
def test_a_lease_is_kept_alive_longer_than_its_ttl(store: Store, p: str) -> None:
    keeper = LeaseKeeper(store, 2)
    lease = keeper.start()
    store.put(p + "a", b"", lease=lease)
    time.sleep(3.5)
    assert store.get(p + "a") is not None
    assert keeper.lease == lease
    keeper.close()
    assert store.get(p + "a") is None


def test_a_lost_lease_is_told_and_made_anew(store: Store, p: str) -> None:
    heard: list[int] = []
    keeper = LeaseKeeper(store, 2, heard.append)
    first = keeper.start()
    store.revoke(first)
    until(lambda: len(heard) == 3)
    assert heard[:2] == [first, 0]
    assert keeper.lease == heard[2] != first
    keeper.close()


def test_an_unreachable_store_loses_the_lease_when_its_time_is_over() -> None:
    store = MemoryStore()
    heard: list[int] = []
    keeper = LeaseKeeper(store, 1, heard.append)
    first = keeper.start()
    store.fail_next(1000, Unavailable("away"))
    until(lambda: len(heard) == 2)
    assert heard == [first, 0]
    assert keeper.lease == 0
    keeper.close(revoke=False)
    with pytest.raises(Unavailable):
        store.count("/")
    store.close()
