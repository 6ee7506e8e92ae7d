"""The watch-fed copy of a prefix, on both stores."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qnet.errors import InvalidRequest, Unavailable
from qnet.store.base import Batch, Delete, Event, KeyValue, Put, Store, Txn, put_event
from qnet.store.cache import Change, PrefixCache
from tests.store.memory import MemoryStore


class Listener:
    """Rebuilds the prefix from what `on_change` says, and checks that it is never called twice at a time."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls: list[tuple[str, bytes | None]] = []
        self._busy = threading.Lock()

    def __call__(self, changes: list[Change]) -> None:
        assert self._busy.acquire(blocking=False), "called twice at a time"
        for suffix, value in changes:
            self.calls.append((suffix, value))
            if value is None:
                del self.values[suffix]
            else:
                self.values[suffix] = value
        self._busy.release()


def until(condition: Callable[[], object], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def truth(store: Store, p: str) -> dict[str, KeyValue]:
    return {kv.key.removeprefix(p): kv for kv in store.range(p).kvs}


def test_load_follow_wait(store: Store, p: str) -> None:
    store.put(p + "a", b"1")
    store.put(p[:-1] + "0", b"outside")
    listener = Listener()
    cache = PrefixCache(store, p, listener)
    assert not cache.synced
    cache.start()
    assert cache.synced
    assert (len(cache), "a" in cache, cache.get("a")) == (1, True, store.get(p + "a"))
    store.put(p + "b", b"2")
    last = store.put(p + "a", b"3")
    assert cache.wait(last, 5)
    store.delete(p + "b")
    outside = store.put(p[:-1] + "0", b"later")
    assert cache.wait(outside, 5)
    assert cache.revision >= outside
    assert (
        dict(cache.items()) == truth(store, p) == {"a": KeyValue(p + "a", b"3", cache.get("a").create_revision, last)}
    )  # type: ignore[union-attr]
    assert cache.get("b") is None
    assert not cache.wait(outside + 1_000_000, 0.1)
    assert listener.values == {"a": b"3"}
    assert listener.calls == [("a", b"1"), ("b", b"2"), ("a", b"3"), ("b", None)]
    cache.close()
    cache.close()


def test_wait_right_after_start_sees_the_last_delete(store: Store, p: str) -> None:
    """etcd before 3.4.25 answers progress requests before it has sent older events: never trust it."""
    for i in range(30):
        store.put(f"{p}{i}", b"")
        cache = PrefixCache(store, p)
        cache.start()
        store.delete(f"{p}{i}")
        now = store.put(p[:-1] + "0", b"outside")
        assert cache.wait(now, 5)
        assert cache.get(str(i)) is None
        cache.close()


def test_many_keys(store: Store, p: str) -> None:
    for start in range(0, 10_000, 100):
        store.txn(Txn(success=tuple(Put(f"{p}{i}", b"x") for i in range(start, start + 100))))
    cache = PrefixCache(store, p)
    cache.start()
    assert len(cache) == 10_000
    assert dict(cache.items()) == truth(store, p)
    cache.close()


def test_apply_is_seen_at_once_and_told_once(store: Store, p: str) -> None:
    listener = Listener()
    cache = PrefixCache(store, p, listener)
    cache.start()
    for i in range(50):
        revision = store.put(p + "a", b"%d" % i)
        cache.apply(Event(p + "a", b"%d" % i, 0, revision))
        found = cache.get("a")
        assert found is not None
        assert found.value == b"%d" % i
        store.delete(p + "a")
        cache.apply(Event(p + "a", b"", 0, revision + 1, deleted=True))
        assert cache.get("a") is None
    assert cache.wait(revision + 1, 5)
    expected = [call for i in range(50) for call in (("a", b"%d" % i), ("a", None))]
    assert listener.calls == expected
    with pytest.raises(InvalidRequest):
        cache.apply(Event("/elsewhere", b"", 1, 1))
    cache.close()


class Hand:
    """A store whose watch is fed by hand."""

    def __init__(self, kvs: tuple[KeyValue, ...], revision: int) -> None:
        self.kvs, self.revision = kvs, revision

    def range(self, prefix: str, **_: object) -> object:
        from qnet.store.base import RangeResult

        return RangeResult(self.kvs, self.revision)

    def watch(self, prefix: str, start_revision: int, sink: Callable[[Batch], None]) -> object:
        self.sink = sink

        class Quiet:
            cancel = progress = lambda self: None

        return Quiet()


steps = st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=30)


@settings(deadline=None, max_examples=300)
@given(steps=steps, order=st.randoms(use_true_random=False))
def test_older_news_never_undo_newer(steps: list[tuple[str, bool, bool]], order: random.Random) -> None:
    """Each step is (key, deleted, made here). What was made here is applied at any time after it happened."""
    store, listener = Hand((KeyValue("/p/a", b"0", 1, 1),), 1), Listener()
    cache = PrefixCache(store, "/p/", listener)  # type: ignore[arg-type]
    cache.start()
    history: list[Event] = []
    live = {"a": 1}
    for revision, (key, deleted, _) in enumerate(steps, 2):
        created = live.get(key, revision)
        history.append(
            Event("/p/" + key, b"", 0, revision, deleted=True)
            if deleted
            else Event("/p/" + key, b"%d" % revision, created, revision)
        )
        if deleted:
            live.pop(key, None)
        else:
            live[key] = created
    told, late = 0, [e for e, (_, _, here) in zip(history, steps, strict=True) if here]
    while told < len(history) or late:
        if late and (told == len(history) or order.random() < 0.5):
            cache.apply(late.pop(order.randrange(len(late))))
        else:
            upto = order.randint(told, len(history))
            batch = tuple(history[told:upto])
            store.sink(Batch(batch, batch[-1].mod_revision if batch else cache.revision))
            told = upto
        known = {e.key: e for e in history[:told]}
        for key in "abc":  # at least as new as what the watch has told
            seen, newest = cache.get(key), known.get("/p/" + key)
            if newest is not None and seen is not None:
                assert seen.mod_revision >= newest.mod_revision
    final = {e.key[3:]: e for e in history}
    expected = {"a": b"0"} | {k: e.value for k, e in final.items()}
    expected = {k: v for k, v in expected.items() if k not in final or not final[k].deleted}
    assert {k: kv.value for k, kv in cache.items()} == expected == listener.values
    assert not cache._tombstones
    cache.close()


def test_converges_under_writers_and_apply(store: Store, p: str) -> None:
    listener = Listener()
    cache = PrefixCache(store, p, listener)
    cache.start()
    marks = count()

    def write(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            key = f"{p}{chance.randrange(12)}"
            if chance.random() < 0.35:
                result = store.txn(Txn(success=(Delete(key),)))
                if result.results == (1,):
                    cache.apply(Event(key, b"", 0, result.revision, deleted=True))
            else:
                value = b"%d" % next(marks)
                revision = store.put(key, value)
                if chance.random() < 0.5:
                    cache.apply(Event(key, value, 0, revision))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.wait(store.put(p + "end", b""), 5)
    expected = {suffix: kv.value for suffix, kv in truth(store, p).items()}
    assert {suffix: kv.value for suffix, kv in cache.items()} == expected == listener.values
    cache.close()


def test_lost_place_is_read_anew_and_told_as_differences() -> None:
    store, listener = MemoryStore(), Listener()
    for name in ("keep", "change", "drop"):
        store.put("/p/" + name, b"1")
    cache = PrefixCache(store, "/p/", listener)
    cache.start()
    store.hold(True)
    store.put("/p/change", b"2")
    store.delete("/p/drop")
    store.put("/p/new", b"1")
    store.compact(store.put("/q", b""))
    store.fail_next(2, Unavailable("away"))
    store.hold(False)
    now = store_revision(store)
    assert cache.wait(now, 10)
    until(lambda: cache.synced)
    assert listener.values == {"keep": b"1", "change": b"2", "new": b"1"}
    assert listener.calls[3:] == [("change", b"2"), ("new", b"1"), ("drop", None)]
    assert cache.wait(store.put("/p/after", b""), 5)
    assert "after" in cache
    cache.close()
    store.close()


@pytest.mark.parametrize("change", [Put("/p/a", b"2"), Put("/p/b", b""), Delete("/p/a")])
def test_wait_does_not_claim_what_the_watch_has_not_told(change: Put | Delete) -> None:
    store = MemoryStore()
    store.put("/p/a", b"1")
    cache = PrefixCache(store, "/p/")
    cache.start()
    store.hold(True)
    outside = store.put("/q", b"")
    assert cache.wait(outside, 2)  # nothing changed below the prefix: reads can tell
    now = store.txn(Txn(success=(change,))).revision
    assert not cache.wait(now, 0.2)
    assert cache.revision == outside
    store.hold(False)
    assert cache.wait(now, 2)
    cache.close()
    store.close()


def store_revision(store: MemoryStore) -> int:
    return store._revision


def test_start_may_be_repeated_after_a_failure() -> None:
    store = MemoryStore()
    store.fail_next(1, Unavailable("away"))
    cache = PrefixCache(store, "/p/")
    with pytest.raises(Unavailable):
        cache.start()
    cache.start()
    assert cache.synced
    cache.close()
    store.close()


@pytest.mark.slow
def test_memory_of_60000_keys() -> None:
    """Less than 45 MB for values of 300 bytes, as the interpreter counts it."""
    import tracemalloc

    store = MemoryStore()
    for i in range(60_000):
        store.put(f"/p/10.{i >> 16}.{i >> 8 & 255}.{i & 255}", b"")
    kvs = store.range("/p/").kvs
    hand = Hand((), 1)
    cache = PrefixCache(hand, "/p/")  # type: ignore[arg-type]
    cache.start()
    tracemalloc.start()
    for kv in kvs:
        fresh = KeyValue(kv.key, bytes(300), int(str(kv.mod_revision)), int(str(kv.mod_revision)))
        hand.sink(Batch((put_event(fresh),), fresh.mod_revision))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(cache) == 60_000
    assert used < 45_000_000, used
    cache.close()
    store.close()
