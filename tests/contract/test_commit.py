"""Group commit on both stores."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from qnet.errors import Ambiguous, InvalidRequest, QnetError, Unavailable
from qnet.store.base import Delete, Get, Put, Range, Store, Txn, TxnResult, absent, at_revision, nothing_below
from qnet.store.commit import GroupCommit


class Spy:
    """A store that counts requests, can hold them back and can fail."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.requests: list[tuple[Txn, bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        self.requests.append((txn, repeatable))
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return self.store.txn(txn, repeatable=repeatable)


def in_threads(*calls: Callable[[], Any], begun: Callable[[int], bool] = lambda _: True) -> list[Any]:
    """Run the calls at the same time, each when the one before has `begun`; results or errors, in order."""
    results: list[Any] = [None] * len(calls)

    def run(i: int) -> None:
        try:
            results[i] = calls[i]()
        except QnetError as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for number, thread in enumerate(threads):
        thread.start()
        deadline = time.monotonic() + 5
        while not begun(number) and time.monotonic() < deadline:
            time.sleep(0.005)
    for thread in threads:
        thread.join(200)
        assert not thread.is_alive(), "a caller hangs"
    return results


def batched(spy: Spy, group: GroupCommit, *txns: Txn, repeatable: tuple[bool, ...] = ()) -> list[Any]:
    """Run transactions that queue behind one that is held back; the results of the queued ones."""
    spy.gate.clear()
    flags = repeatable or (False,) * len(txns)
    blocker = Txn(success=(Get("/blocker"),))

    def begun(number: int) -> bool:
        return spy.gate.is_set() or (group._flights == 1 and len(group._queue) >= number)

    calls = [lambda t=t, r=r: group.txn(t, repeatable=r) for t, r in zip(txns, flags, strict=True)]
    return in_threads(lambda: group.txn(blocker), *calls, spy.gate.set, begun=begun)[1:-1]


def create(key: str, value: bytes = b"") -> Txn:
    return Txn((absent(key),), (Put(key, value),), (Get(key),))


def test_a_lone_txn_is_sent_as_it_is(store: Store, p: str) -> None:
    spy = Spy(store)
    txn = create(p + "a")
    assert GroupCommit(spy).txn(txn, repeatable=True).succeeded
    assert spy.requests == [(txn, True)]


def test_those_who_wait_travel_together(store: Store, p: str) -> None:
    spy = Spy(store)
    results = batched(spy, GroupCommit(spy), *(create(f"{p}{i}", b"%d" % i) for i in range(10)))
    assert [r.results for r in results] == [(None,)] * 10
    assert [kv.value for kv in store.range(p).kvs] == [b"%d" % i for i in range(10)]
    assert len(spy.requests) == 2
    assert {r.revision for r in results} == {results[0].revision}


def test_the_failure_of_one_leaves_the_others_alone(store: Store, p: str) -> None:
    """What travelled as one transaction is sent again nested, and so are the next ones for a while."""
    store.put(p + "3", b"taken")
    spy = Spy(store)
    group = GroupCommit(spy)
    results = batched(spy, group, *(create(f"{p}{i}") for i in range(10)))
    assert [r.succeeded for r in results] == [i != 3 for i in range(10)]
    assert results[3].results[0][0].value == b"taken"
    assert [len(txn.compares) for txn, _ in spy.requests] == [0, 10, 0]
    assert {r.revision for r in results} == {results[0].revision}
    batched(spy, group, *(create(f"{p}more{i}") for i in range(3)))
    assert [len(txn.compares) for txn, _ in spy.requests[3:]] == [0, 0]
    assert store.count(p) == 13


def test_results_of_several_operations_go_to_whom_they_belong(store: Store, p: str) -> None:
    store.put(p + "a", b"1")
    spy = Spy(store)
    mixed = (
        Txn(success=(Get(p + "a"), Put(p + "b", b""))),
        Txn(success=()),
        Txn(success=(Delete(p + "none"), Range(p + "a"), Put(p + "c", b""))),
        Txn(success=(Txn((absent(p + "d"),), (Put(p + "d", b""),)),)),
    )
    first, empty, third, nested = batched(spy, GroupCommit(spy), *mixed)
    value = store.get(p + "a")
    assert first.results == ((value,), None)
    assert (empty.succeeded, empty.results) == (True, ())
    assert third.results == (0, (value,), None)
    assert nested.results[0].succeeded
    assert batched(spy, GroupCommit(spy), *mixed[:3])[2].results == (0, (value,), None)


def test_max_txns_and_max_bytes_cut_the_batch(store: Store, p: str) -> None:
    spy = Spy(store)
    results = batched(spy, GroupCommit(spy, max_txns=4), *(create(f"{p}{i}") for i in range(10)))
    assert all(r.succeeded for r in results)
    assert [len(txn.success) for txn, _ in spy.requests[1:]] == [4, 4, 2]
    spy = Spy(store)
    group = GroupCommit(spy, max_bytes=3000)
    results = batched(spy, group, *(create(f"{p}b{i}", bytes(1000)) for i in range(4)))
    assert all(r.succeeded for r in results)
    assert [len(txn.success) for txn, _ in spy.requests[1:]] == [2, 2]


def test_repeatable_ones_and_others_stay_apart(store: Store, p: str) -> None:
    spy = Spy(store)
    flags = (True, False, True, False)
    results = batched(spy, GroupCommit(spy), *(create(f"{p}{i}") for i in range(4)), repeatable=flags)
    assert all(r.succeeded for r in results)
    assert [(len(txn.success), again) for txn, again in spy.requests[1:]] == [(2, True), (2, False)]


CONFLICTS = {
    "write write": (lambda p: create(p + "a"), lambda p: create(p + "a")),
    "compare write": (lambda p: Txn((absent(p + "b"),), (Put(p + "a", b""),)), lambda p: create(p + "b")),
    "write compare": (lambda p: create(p + "b"), lambda p: Txn((absent(p + "b"),), (Put(p + "a", b""),))),
    "read write": (lambda p: Txn(success=(Get(p + "a"),)), lambda p: create(p + "a")),
    "branch that may not run": (lambda p: Txn((absent(p + "x"),), (), (Put(p + "a", b""),)), lambda p: create(p + "a")),
    "prefix compare": (lambda p: Txn((nothing_below(p),), (Put("/x" + p, b""),)), lambda p: create(p + "a")),
    "key then prefix read": (lambda p: create(p + "a"), lambda p: Txn(success=(Range(p),))),
    "prefix delete": (lambda p: create(p + "a"), lambda p: Txn(success=(Delete(p, whole_prefix=True),))),
    "two prefixes": (
        lambda p: Txn(success=(Range(p + "a"),)),
        lambda p: Txn(success=(Delete(p, whole_prefix=True),)),
    ),
    "nested": (lambda p: Txn(success=(Txn(success=(create(p + "a"),)),)), lambda p: create(p + "a")),
}


@pytest.mark.parametrize("case", list(CONFLICTS))
def test_conflicting_ones_go_one_after_the_other(store: Store, p: str, case: str) -> None:
    spy = Spy(store)
    batched(spy, GroupCommit(spy), *(make(p) for make in CONFLICTS[case]))
    assert len(spy.requests) == 3


def test_readers_of_one_key_travel_together(store: Store, p: str) -> None:
    spy = Spy(store)
    guarded = [Txn((absent(p + "gate"),), (Put(f"{p}{i}", b""), Range(p + "none/"))) for i in range(5)]
    assert all(r.succeeded for r in batched(spy, GroupCommit(spy), *guarded))
    assert len(spy.requests) == 2


@pytest.mark.slow
def test_the_counts_of_few_keys_agree(store: Store, p: str) -> None:
    """64 threads count up 5 keys by compare and swap: no update is lost, none is done twice."""
    group = GroupCommit(store)

    def add(key: str) -> int:
        for _ in range(3000):
            kv = store.get(key)
            value, revision = (int(kv.value), kv.mod_revision) if kv else (0, 0)
            new = Put(key, b"%d" % (value + 1))
            if group.txn(Txn((at_revision(key, revision),), (new,))).succeeded:
                return 1
        return 0

    done = in_threads(*(lambda i=i: sum(add(f"{p}{(i + j) % 5}") for j in range(5)) for i in range(64)))
    assert done == [5] * 64
    assert [int(kv.value) for kv in store.range(p).kvs] == [64] * 5


def test_the_refusal_of_one_does_not_touch_the_others(store: Store, p: str) -> None:
    spy = Spy(store)
    bad = Txn(success=(Put(p + "bad", b""), Put(p + "bad", b"")))
    results = batched(spy, GroupCommit(spy), create(p + "a"), bad, create(p + "b"))
    assert isinstance(results[1], InvalidRequest)
    assert results[0].succeeded
    assert results[2].succeeded


def test_a_lease_that_is_gone_fails_its_own_txn_only(store: Store, p: str) -> None:
    spy = Spy(store)
    gone = store.grant(60)
    store.revoke(gone)
    results = batched(spy, GroupCommit(spy), create(p + "a"), Txn(success=(Put(p + "b", b"", gone),)))
    assert results[0].succeeded
    assert isinstance(results[1], QnetError)
    assert store.count(p) == 1


def test_large_members_are_not_pushed_over_the_limit(store: Store, p: str) -> None:
    spy = Spy(store)
    wide = [Txn(success=tuple(Put(f"{p}{n}/{i}", b"") for i in range(124))) for n in range(8)]
    assert all(r.succeeded for r in batched(spy, GroupCommit(spy), *wide))
    assert [len(txn.success) for txn, _ in spy.requests[1:]] == [4, 4]


@pytest.mark.parametrize("error", [Unavailable("away"), Ambiguous("perhaps")])
def test_failure_reaches_every_member(store: Store, p: str, error: Exception) -> None:
    spy = Spy(store)
    spy.error = error
    results = batched(spy, GroupCommit(spy), *(create(f"{p}{i}") for i in range(5)))
    assert {type(r) for r in results} == {type(error)}


def test_nobody_waits_longer_than_the_deadline(store: Store, p: str) -> None:
    spy = Spy(store)
    spy.gate.clear()
    group = GroupCommit(spy, timeout=0.5)
    began = time.monotonic()

    def late() -> float:
        with pytest.raises(Unavailable):
            group.txn(create(p + "late"))
        waited = time.monotonic() - began
        spy.gate.set()
        return waited

    first, waited = in_threads(lambda: group.txn(create(p + "a")), late, begun=lambda _: group._flights == 1)
    assert first.succeeded
    assert 0.4 < waited < 10
    assert store.get(p + "late") is None
    assert group.txn(create(p + "b")).succeeded


def test_an_outage_fails_those_who_would_wait_too_long(store: Store, p: str) -> None:
    """A request that failed after 0.4 s of 0.5 s takes those along who queued since its start."""
    spy = Spy(store)
    spy.error = Unavailable("away")
    spy.gate.clear()
    group = GroupCommit(spy, timeout=0.5)
    threading.Timer(0.4, spy.gate.set).start()
    results = in_threads(*(lambda i=i: group.txn(create(f"{p}{i}")) for i in range(5)))
    assert all(type(r) is Unavailable for r in results)
    assert len(spy.requests) == 1


def test_random_load_is_linear(store: Store, p: str) -> None:
    """Every transaction increments two of a few counters if it has read them right; sums must match."""
    group = GroupCommit(store, max_flights=2)

    def move(source: str, target: str) -> None:
        while True:
            a, b = store.get(source), store.get(target)
            ra, rb = (a.mod_revision if a else 0), (b.mod_revision if b else 0)
            va, vb = (int(a.value) if a else 0), (int(b.value) if b else 0)
            guard = (at_revision(source, ra), at_revision(target, rb))
            if group.txn(Txn(guard, (Put(source, b"%d" % (va - 1)), Put(target, b"%d" % (vb + 1))))).succeeded:
                return

    in_threads(*(lambda i=i: [move(f"{p}{i % 3}", f"{p}{3 + j}") for j in range(6)] for i in range(16)))
    values = [int(kv.value) for kv in store.range(p).kvs]
    assert sum(values) == 0
    assert values[3:] == [16] * 6
