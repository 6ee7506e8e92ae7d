"""What every store promises (qnet/store/base.py), asked of both."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from qnet.errors import InvalidRequest, NotFound
from qnet.store.base import (
    Batch,
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Put,
    Range,
    Store,
    Txn,
    TxnResult,
    absent,
    at_revision,
    none_newer,
    nothing_below,
    present,
    unchanged,
)
from tests.lab.commands import wait_for


def holds(store: Store, *compares: Compare) -> bool:
    return store.txn(Txn(compares)).succeeded


def test_put_get_delete(store: Store, p: str) -> None:
    assert store.get(p + "a") is None
    first = store.put(p + "a", b"1")
    second = store.put(p + "a", b"2")
    assert second == first + 1
    assert store.get(p + "a") == KeyValue(p + "a", b"2", first, second)
    assert store.delete(p + "a") is True
    assert store.delete(p + "a") is False
    third = store.put(p + "a", b"")
    assert store.get(p + "a") == KeyValue(p + "a", b"", third, third)


def test_text_keys_and_binary_values(store: Store, p: str) -> None:
    value = bytes(range(256))
    store.put(p + "héß/🐳", value)
    assert [kv.key for kv in store.range(p + "h").kvs] == [p + "héß/🐳"]
    found = store.get(p + "héß/🐳")
    assert found is not None
    assert found.value == value


def test_an_empty_key_is_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        store.put("", b"x")
    with pytest.raises(InvalidRequest):
        store.get("")


def test_range_limit_after_revision(store: Store, p: str) -> None:
    revisions = [store.put(f"{p}{i}", b"v") for i in range(5)]
    store.put(p[:-1] + "0", b"outside")
    everything = store.range(p)
    assert [kv.key for kv in everything.kvs] == [f"{p}{i}" for i in range(5)]
    assert everything.more is False
    assert everything.revision >= revisions[-1]
    page = store.range(p, limit=2)
    assert [kv.key for kv in page.kvs] == [f"{p}0", f"{p}1"]
    assert page.more is True
    rest = store.range(p, after=page.kvs[-1].key, limit=3)
    assert [kv.key for kv in rest.kvs] == [f"{p}{i}" for i in (2, 3, 4)]
    assert rest.more is False
    old = store.range(p, revision=revisions[2])
    assert [kv.key for kv in old.kvs] == [f"{p}{i}" for i in range(3)]
    assert store.count(p) == 5
    assert store.range(p + "x").kvs == ()


def test_range_of_the_past_sees_deleted_and_old_values(store: Store, p: str) -> None:
    store.put(p + "a", b"old")
    then = store.put(p + "b", b"gone")
    store.put(p + "a", b"new")
    store.delete(p + "b")
    assert [kv.value for kv in store.range(p, revision=then).kvs] == [b"old", b"gone"]


def test_range_of_the_future_is_refused(store: Store, p: str) -> None:
    with pytest.raises(InvalidRequest):
        store.range(p, revision=store.put(p + "a", b"") + 1000)


def test_range_of_a_compacted_revision_is_not_found(store: Store, p: str, compact: Callable[[int], None]) -> None:
    old = store.put(p + "a", b"1")
    compact(store.put(p + "a", b"2"))
    with pytest.raises(NotFound):
        store.range(p, revision=old)


def test_many_keys_are_read_whole(store: Store, p: str) -> None:
    for start in range(0, 20_000, 100):
        store.txn(Txn(success=tuple(Put(f"{p}{i:06}", b"x" * 300) for i in range(start, start + 100))))
    found = store.range(p)
    assert len(found.kvs) == store.count(p) == 20_000
    assert [kv.key for kv in found.kvs] == [f"{p}{i:06}" for i in range(20_000)]
    assert found.more is False
    cut = store.range(p, limit=12_345)
    assert len(cut.kvs) == 12_345
    assert cut.more is True


@pytest.mark.slow
def test_values_of_many_megabytes_are_read_whole(store: Store, p: str) -> None:
    for i in range(70):
        store.put(f"{p}{i:03}", bytes(1_000_000))
    assert sum(len(kv.value) for kv in store.range(p).kvs) == 70_000_000


def test_the_txn_branches(store: Store, p: str) -> None:
    create = Txn((absent(p + "a"),), (Put(p + "a", b"1"),), (Get(p + "a"), Range(p)))
    first = store.txn(create)
    assert first == TxnResult(True, first.revision, (None,))
    second = store.txn(create)
    kv = KeyValue(p + "a", b"1", first.revision, first.revision)
    assert second == TxnResult(False, first.revision, ((kv,), (kv,)))
    third = store.txn(Txn((unchanged(kv),), (Delete(p + "a"), Delete(p, whole_prefix=True))))
    assert third == TxnResult(True, first.revision + 1, (1, 0))


def test_a_txn_is_one_revision_and_reads_its_own_writes(store: Store, p: str) -> None:
    result = store.txn(Txn(success=(Put(p + "a", b"1"), Put(p + "b", b"2"), Range(p), Get(p + "c"), Range(p, 1))))
    r = result.revision
    a, b = KeyValue(p + "a", b"1", r, r), KeyValue(p + "b", b"2", r, r)
    assert result.results == (None, None, (a, b), (), (a,))


def test_compares_of_one_key(store: Store, p: str) -> None:
    key = p + "a"
    for target in ("create", "mod"):
        assert holds(store, Compare(key, target, "=", 0))  # type: ignore[arg-type]
        assert holds(store, Compare(key, target, "<", 1))  # type: ignore[arg-type]
        assert not holds(store, Compare(key, target, ">", 0))  # type: ignore[arg-type]
    for op in ("=", "!=", "<", ">"):
        assert not holds(store, Compare(key, "value", op, b""))  # type: ignore[arg-type]
    made = store.put(key, b"m")
    now = store.put(key, b"m")
    assert holds(store, present(key), at_revision(key, now), Compare(key, "create", "=", made))
    assert not holds(store, absent(key))
    assert not holds(store, present(key), at_revision(key, made))
    assert holds(store, Compare(key, "value", "=", b"m"), Compare(key, "value", "<", b"n"))
    assert holds(store, Compare(key, "value", ">", b"ab"), Compare(key, "value", "!=", b""))


def test_compares_of_a_prefix(store: Store, p: str) -> None:
    assert holds(store, nothing_below(p), none_newer(p, 0))
    assert not holds(store, Compare(p, "value", "!=", b"x", whole_prefix=True))
    first = store.put(p + "a", b"x")
    second = store.put(p + "b", b"x")
    assert not holds(store, nothing_below(p))
    assert holds(store, none_newer(p, second), Compare(p, "value", "=", b"x", whole_prefix=True))
    assert not holds(store, none_newer(p, first))
    store.put(p + "b", b"y")
    assert not holds(store, Compare(p, "value", "=", b"x", whole_prefix=True))
    assert holds(store, nothing_below(p + "c"))


def test_nested_txns_decide_for_themselves(store: Store, p: str) -> None:
    store.put(p + "taken", b"1")

    def create(name: str) -> Txn:
        return Txn((absent(p + name),), (Put(p + name, b"2"),), (Get(p + name),))

    result = store.txn(Txn(success=(create("a"), create("taken"), create("b"))))
    taken = store.get(p + "taken")
    r = result.revision
    assert taken is not None
    assert result.results == (
        TxnResult(True, r, (None,)),
        TxnResult(False, r, ((taken,),)),
        TxnResult(True, r, (None,)),
    )
    assert [kv.mod_revision for kv in store.range(p).kvs if kv != taken] == [r, r]


def test_nested_compares_see_the_state_before(store: Store, p: str) -> None:
    inner = Txn((absent(p + "a"),), (Put(p + "b", b"absent"),), (Put(p + "b", b"present"),))
    store.txn(Txn(success=(Txn(success=(Put(p + "a", b""),)), inner)))
    found = store.get(p + "b")
    assert found is not None
    assert found.value == b"absent"


def test_deeply_nested(store: Store, p: str) -> None:
    leaf = Txn((present(p + "x"),), (), (Put(p + "x", b""), Txn(success=(Put(p + "y", b""),))))
    result = store.txn(Txn(success=(Txn(success=(leaf, Txn())),)))
    r = result.revision
    expected = TxnResult(False, r, (None, TxnResult(True, r, (None,))))
    assert result.results == (TxnResult(True, r, (expected, TxnResult(True, r, ()))),)


def refused_txns(p: str) -> dict[str, Txn]:
    put, delete = Put(p + "a", b""), Delete(p + "a")
    return {
        "put twice": Txn(success=(put, put)),
        "put twice in the branch that does not run": Txn(failure=(put, put)),
        "put and delete": Txn(success=(put, delete)),
        "put and delete prefix": Txn(success=(put, Delete(p, whole_prefix=True))),
        "put in two nested": Txn(success=(Txn(success=(put,)), Txn(success=(put,)))),
        "put beside nested": Txn(success=(Txn(failure=(put,)), put)),
        "delete beside nested put": Txn(success=(Txn(success=(put,)), delete)),
        "too many": Txn(success=tuple(Put(f"{p}{i}", b"") for i in range(129))),
        "too many nested": Txn(success=(Txn(success=tuple(Put(f"{p}{i}", b"") for i in range(128))),)),
        "empty key": Txn(success=(Put("", b""),)),
        "empty compare": Txn((absent(""),)),
    }


@pytest.mark.parametrize("case", list(refused_txns("")))
def test_refused_as_a_whole(store: Store, p: str, case: str) -> None:
    with pytest.raises(InvalidRequest):
        store.txn(Txn(success=(refused_txns(p)[case],)) if case == "too many nested" else refused_txns(p)[case])
    assert store.count(p) == 0


def test_allowed_though_it_looks_double(store: Store, p: str) -> None:
    put, delete = Put(p + "a", b""), Delete(p + "a")
    assert store.txn(Txn(success=(Txn((absent(p + "a"),), (put,), (put,)),))).succeeded
    assert store.txn(Txn(success=(delete, delete))).results == (1, 0)
    assert store.txn(Txn(success=tuple(Put(f"{p}{i}", b"") for i in range(128)))).succeeded


def test_a_request_too_large_is_refused(etcd_store: Store, p: str) -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        etcd_store.put(p + "a", bytes(3_000_000))
    with pytest.raises(InvalidRequest, match="too large"):
        etcd_store.put(p + "a", bytes(1_700_000))


def test_leases(store: Store, p: str) -> None:
    lease = store.grant(60)
    store.put(p + "a", b"", lease=lease)
    store.txn(Txn(success=(Put(p + "b", b"", lease),)))
    assert [kv.lease for kv in store.range(p).kvs] == [lease, lease]
    assert store.keepalive(lease) == 60
    store.put(p + "b", b"")  # no longer attached
    store.revoke(lease)
    assert [kv.key for kv in store.range(p).kvs] == [p + "b"]
    store.revoke(lease)
    assert store.keepalive(lease) == 0
    with pytest.raises(NotFound):
        store.put(p + "a", b"", lease=lease)


def test_a_lease_expires_and_the_watch_tells(store: Store, p: str, recorder: Any) -> None:
    lease = store.grant(2)
    revision = store.put(p + "a", b"", lease=lease)
    watch = store.watch(p, revision + 1, recorder)
    recorder.wait(lambda r: r.events)
    assert recorder.events[0].deleted
    assert recorder.events[0].key == p + "a"
    assert store.get(p + "a") is None
    watch.cancel()


def test_a_watch_from_the_past_in_order(store: Store, p: str, recorder: Any) -> None:
    start = store.put(p + "0", b"0")
    for i in range(1, 50):
        store.put(f"{p}{i}", str(i).encode())
    store.put(p[:-1] + "0", b"outside")
    watch = store.watch(p, start, recorder)
    for i in range(50, 100):
        store.put(f"{p}{i}", str(i).encode())
    last = store.txn(Txn(success=(Delete(p + "0"), Put(p + "x", b"")))).revision
    recorder.wait(lambda r: len(r.events) == 102)
    watch.cancel()
    assert [event.value for event in recorder.events[:100]] == [str(i).encode() for i in range(100)]
    gone, made = recorder.events[100:]
    assert gone == Event(p + "0", b"", 0, last, deleted=True)
    assert made == Event(p + "x", b"", last, last)
    for batch in recorder.batches:
        assert batch.revision >= max(event.mod_revision for event in batch.events)
    assert [b.revision for b in recorder.batches] == sorted({b.revision for b in recorder.batches})


def test_a_watch_from_the_future_waits(store: Store, p: str, recorder: Any) -> None:
    now = store.put(p + "a", b"1")
    watch = store.watch(p, now + 2, recorder)
    store.put(p + "a", b"2")
    store.put(p + "a", b"3")
    recorder.wait(lambda r: r.events)
    watch.cancel()
    assert [event.value for event in recorder.events] == [b"3"]


def test_many_watches_and_a_failing_sink(store: Store, p: str, recorder: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a bug in a sink")

    start = store.put(p + "start", b"")
    watches = [store.watch(p, start + 1, fail)]
    watches += [store.watch(f"{p}{i}/", start + 1, recorder) for i in range(500)]
    for i in range(500):
        store.put(f"{p}{i}/key", b"")
    recorder.wait(lambda r: len(r.events) == 500)
    assert {event.key for event in recorder.events} == {f"{p}{i}/key" for i in range(500)}
    for watch in watches:
        watch.cancel()
    assert "a bug in a sink" in caplog.text


def test_nothing_is_delivered_after_cancel(store: Store, p: str) -> None:
    heard: list[Batch] = []
    watch = store.watch(p, store.put(p + "a", b"") + 1, heard.append)  # type: ignore[arg-type]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            store.put(p + "a", b"")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    wait_for("the first batches", lambda: len(heard) > 3, 20)
    watch.cancel()
    count = len(heard)
    time.sleep(0.2)
    stop.set()
    writer.join()
    watch.cancel()
    assert len(heard) == count


def test_a_sink_may_cancel_its_own_watch(store: Store, p: str) -> None:
    done = threading.Event()
    box: list[Any] = []

    def sink(_: object) -> None:
        box[0].cancel()
        done.set()

    now = store.put(p + "a", b"")
    box.append(store.watch(p, now + 1, sink))
    store.put(p + "a", b"")
    assert done.wait(5)


def test_a_watch_of_compacted_revisions_is_lost(
    store: Store, p: str, recorder: Any, compact: Callable[[int], None]
) -> None:
    old = store.put(p + "a", b"1")
    for _ in range(3):
        now = store.put(p + "a", b"2")
    compact(now)
    store.watch(p, old, recorder)
    recorder.wait(lambda r: r.lost)
    store.put(p + "a", b"3")
    time.sleep(0.1)
    assert recorder.batches == []
    assert len(recorder.lost) == 1


def test_a_watch_that_keeps_up_survives_compaction(
    store: Store, p: str, recorder: Any, compact: Callable[[int], None]
) -> None:
    watch = store.watch(p, store.put(p + "a", b"1") + 1, recorder)
    for _ in range(3):
        now = store.put(p + "a", b"2")
    recorder.wait(lambda r: len(r.events) == 3)
    compact(now)
    store.put(p + "a", b"3")
    recorder.wait(lambda r: len(r.events) == 4)
    watch.cancel()
    assert not recorder.lost


def test_a_watch_must_start_somewhere(store: Store, p: str, recorder: Any) -> None:
    with pytest.raises(InvalidRequest):
        store.watch(p, 0, recorder)


def test_progress_never_runs_ahead_of_events(store: Store, p: str, recorder: Any) -> None:
    watch = store.watch(p, store.put(p + "a", b"") + 1, recorder)
    for _ in range(100):
        store.put(p + "a", b"")
        watch.progress()
    recorder.wait(lambda r: len(r.events) == 100)
    watch.cancel()
    told = 0
    for batch in recorder.batches:
        for event in batch.events:
            assert event.mod_revision > told
        told = batch.revision


def test_status(store: Store) -> None:
    (status,) = store.status()
    assert (status.leader, status.error) == (True, "")
    assert status.version


def test_racing_creates_have_one_winner(store: Store, p: str) -> None:
    wins: list[int] = []

    def run(me: int) -> None:
        for i in range(20):
            if store.txn(Txn((absent(f"{p}{i}"),), (Put(f"{p}{i}", b""),))).succeeded:
                wins.append(i)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    with contextlib.ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    assert sorted(wins) == list(range(20))
