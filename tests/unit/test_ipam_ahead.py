"""Crowds of callers: what is taken ahead of them is unique, bounded, and goes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.ipam import ahead
from plugins.ipam.ahead import Ahead
from qnet import schema
from qnet.addresses.model import Caller, parse_pool_id, parse_subnet
from qnet.addresses.openpool import OpenPool
from qnet.errors import Exhausted, QnetError, Unavailable
from qnet.schema import AddressRecord, UseRecord
from qnet.store.base import Txn, TxnResult
from tests.store.memory import MemoryStore
from tests.unit.world import Clock, Host, records

SUBNET = "10.77.0.0/20"
CALLER = Caller("host1", "engine")


class Slow(MemoryStore):
    """A store whose transactions take a moment, so that callers meet; it may answer too late."""

    def __init__(self) -> None:
        super().__init__()
        self.pause = 0.002
        self.creates: list[int] = []

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        time.sleep(self.pause)
        self.creates.append(len(txn.compares) - 1)
        return super().txn(txn, repeatable=repeatable)


@pytest.fixture
def store() -> Slow:
    return Slow()


@pytest.fixture
def host(store: Slow, tmp_path: Path) -> Iterator[Host]:
    one = Host("host1", store, Clock(), tmp_path)
    yield one
    one.close()


def at_once(callers: int, call: Callable[[], Any]) -> list[Any]:
    """What each of so many callers gets: results, or the error that ended it."""
    results: list[Any] = []
    start = threading.Barrier(callers)

    def run() -> None:
        start.wait()
        try:
            results.append(call())
        except QnetError as error:
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a caller hangs"
    return results


def until(condition: Callable[[], object], timeout: float = 5) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def opened(host: Host, subnet: str = SUBNET) -> OpenPool:
    return host.repository.open("default", parse_subnet(subnet))


def test_a_crowd_gets_addresses_of_its_own_and_the_rest_goes_back(host: Host, store: Slow) -> None:
    pool = host.network("web", SUBNET)
    store.creates.clear()

    def many() -> list[str]:
        return [host.service.request_address("engine", pool, "").partition("/")[0] for _ in range(20)]

    given = [address for one in at_once(16, many) for address in one]
    assert len(given) == len(set(given)) == 320
    assert max(store.creates) > 16  # one transaction served more than once each
    gateway = host.engine.gateways["web"]
    until(lambda: records(store, "default", SUBNET).keys() == {gateway, *given})
    host.sync()
    assert opened(host).room(parse_pool_id(pool)) == 4094 - 321


def test_two_hosts_and_a_crowd_on_each_never_give_out_the_same(host: Host, store: Slow, tmp_path: Path) -> None:
    other = Host("host2", store, Clock(), tmp_path, seed=0)  # the same seed: both pick the same
    pools = {one: one.network("web", SUBNET) for one in (host, other)}
    turn = iter(range(1000))

    def many() -> list[str]:
        one = (host, other)[next(turn) % 2]
        return [one.service.request_address("engine", pools[one], "") for _ in range(20)]

    given = [address for one in at_once(24, many) for address in one]
    assert len(given) == len(set(given)) == 480
    for one in (host, other):
        one.service.close()
        one.close()
    assert len(records(store, "default", SUBNET)) == 481


def test_a_lone_caller_takes_what_it_asks_for_only(host: Host, store: Slow) -> None:
    pool = host.network("web", SUBNET)
    for number in range(2, 12):
        host.service.request_address("engine", pool, "")
        assert len(records(store, "default", SUBNET)) == number


@pytest.mark.parametrize(
    ("subnet", "callers", "taken"),
    [(SUBNET, 3, 0), (SUBNET, 4, 12), (SUBNET, 100, 120), ("10.77.0.0/23", 100, 84), ("10.77.0.0/24", 100, 0)],
)
def test_how_much_is_taken(host: Host, store: Slow, subnet: str, callers: int, taken: int) -> None:
    """Three for each caller of a crowd, never more than this host's part of half of what is free (three hosts, 509)
    nor than a transaction can have."""
    pool = parse_pool_id(host.network("web", subnet))
    for name in ("host2", "host3"):
        use = UseRecord(host=name, engine="", networks=1)
        store.put(schema.use_key("default", subnet, name), schema.encode(use))
    opened(host, subnet)
    host.sync()
    taker = Ahead(host.repository, lambda _caller: fresh(), lambda _pool: None)
    shelf = [taker.enter(CALLER, pool) for _ in range(callers)][-1]
    assert (taker.take(shelf, opened(host, subnet), 1) is not None) == (taken > 0)
    assert len(records(store, "default", subnet)) == 1 + taken
    taker.close()


def test_a_crowd_fills_a_small_pool_to_the_last_address(host: Host, store: Slow) -> None:
    pool = host.network("web", "10.78.0.0/24")

    given: list[str] = []

    def fill() -> None:
        while True:
            given.append(host.service.request_address("engine", pool, ""))

    results = at_once(24, fill)
    assert {type(result) for result in results} == {Exhausted}
    assert all("is full: 253 of 253 addresses in use (host1 253)" in str(result) for result in results)
    assert len(given) == len(set(given)) == 253


def test_an_outage_reaches_everyone_who_waits_at_once(host: Host, store: Slow) -> None:
    pool = host.network("web", SUBNET)
    host.service.request_address("engine", pool, "")
    store.pause = 0.3
    store.fail_next(1000, Unavailable("etcd is unreachable: 10.0.0.1:2379"))
    before = len(store.creates)
    results = at_once(16, lambda: host.service.request_address("engine", pool, ""))
    assert {str(result) for result in results} == {"etcd is unreachable: 10.0.0.1:2379"}
    assert len(store.creates) - before <= 4


class Twice:
    """Sends every transaction twice, as after an answer that was lost."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        assert repeatable
        self._store.txn(txn)
        return self._store.txn(txn)


def fresh() -> AddressRecord:
    return AddressRecord(kind="endpoint", host="host1", since="", claim=str(time.monotonic_ns()))


def test_what_was_sent_twice_is_ours_once(host: Host, store: Slow) -> None:
    pool = parse_pool_id(host.network("web", SUBNET))
    host.repository.store = Twice(store)  # type: ignore[assignment]
    taken = host.repository.create_together(opened(host), pool, 5, fresh)
    found = records(store, "default", SUBNET)
    assert {str(one.address): one.record for one in taken}.items() <= found.items()
    assert len(taken) == 5
    host.repository.withdraw(opened(host), taken)
    assert len(records(store, "default", SUBNET)) == 1


def test_all_or_nothing_where_another_host_was_faster(host: Host, store: Slow) -> None:
    """What the copy has not heard of is learned from the refusal, and others are picked instead."""
    pool = parse_pool_id(host.network("web", SUBNET))
    copy = opened(host)
    store.hold(True)  # the copy hears of nothing
    picks = copy.pick_several(pool, 3)
    for address in picks:
        copy.answered(address)
    theirs = AddressRecord(kind="endpoint", host="host2", since="", claim="theirs")
    store.put(schema.address_key("default", SUBNET, str(picks[1])), schema.encode(theirs))
    choices = [picks, copy.pick_several(pool, 3)]
    copy.pick_several = lambda _pool, _number: choices.pop(0)  # type: ignore[method-assign]
    taken = host.repository.create_together(copy, pool, 3, fresh)
    assert choices == []
    assert len(taken) == 3
    assert not {stored.address for stored in taken} & set(picks)
    assert len(records(store, "default", SUBNET)) == 1 + 1 + 3
    stored = copy.stored(picks[1])
    assert stored is not None
    assert stored.record == theirs
    store.hold(False)


def test_a_record_that_changed_is_not_withdrawn(host: Host, store: Slow) -> None:
    pool = parse_pool_id(host.network("web", SUBNET))
    taken = host.repository.create_together(opened(host), pool, 2, fresh)
    host.repository.replace(opened(host), taken[0], fresh())
    host.repository.withdraw(opened(host), taken)
    assert len(records(store, "default", SUBNET)) == 3


def test_what_is_old_is_not_given_out(host: Host, store: Slow) -> None:
    pool = parse_pool_id(host.network("web", SUBNET))
    clock = Clock()
    taker = Ahead(host.repository, lambda _caller: fresh(), lambda _pool: None, clock)
    shelf = taker.enter(CALLER, pool)
    for _ in range(ahead.CROWD - 1):
        taker.enter(CALLER, pool)
    first = taker.take(shelf, opened(host), 1)
    clock.time += ahead.KEEP
    assert first is not None
    assert taker.take(shelf, opened(host), 1) is None
    left = records(store, "default", SUBNET).keys() - {str(first)}
    taker.close()
    assert records(store, "default", SUBNET).keys() == {str(first.address), host.engine.gateways["web"]}
    assert len(left) > 1


def test_a_network_that_is_removed_right_after_a_crowd_leaves_nothing(host: Host, store: Slow) -> None:
    pool = host.network("web", SUBNET)

    def start_and_stop() -> None:
        address = host.service.request_address("engine", pool, "").partition("/")[0]
        host.service.release_address(pool, address)

    at_once(16, start_and_stop)
    host.remove_network("web")
    until(lambda: not store.range(schema.POOLS).kvs)
    assert records(store, "default", SUBNET) == {}
