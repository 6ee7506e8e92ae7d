"""The store in one process, for tests: etcd's semantics without etcd; it passes the same contract suite."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, islice, takewhile

from qnet.errors import InvalidRequest, NotFound, Unavailable
from qnet.store.base import (
    Batch,
    Compare,
    Delete,
    EndpointStatus,
    Event,
    Get,
    KeyValue,
    Lost,
    Op,
    OpResult,
    Put,
    Range,
    RangeResult,
    Txn,
    TxnResult,
    WatchSink,
    put_event,
)
from tests.store._memory_txn import Path, check, decide, holds, stamp

_log = logging.getLogger(__name__)
_EXPIRY_PERIOD = 0.05  # real seconds between looks at the clock while there are leases and watches


@dataclass(slots=True)
class _Lease:
    ttl: int
    expires: float


@dataclass(frozen=True, slots=True)
class _Change:
    event: Event
    before: KeyValue | None


class MemoryStore:
    """All keys in a dict. Thread-safe; watches are fed in order by one thread, like etcd's.

    `clock` drives the leases: they expire when any call, or the feeding thread, finds their time passed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self._data: dict[str, KeyValue] = {}
        self._keys: list[str] = []
        self._revision = 1
        self._compacted = 0
        self._history: deque[_Change] = deque()
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = count(1001)
        self._watches: list[MemoryWatch] = []
        self._feeder: threading.Thread | None = None
        self._held = False
        self._closed = False
        self._faults: deque[Exception] = deque()

    # -- reading ---------------------------------------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        with self._enter():
            _check_key(key)
            return self._data.get(key)

    def range(self, prefix: str, *, limit: int = 0, after: str = "", revision: int = 0) -> RangeResult:
        """Read keys below a prefix in order; NotFound if `revision` was compacted away."""
        with self._enter():
            data, keys = self._data, self._keys
            if revision and revision != self._revision:
                data = self._as_of(revision)
                keys = sorted(data)
            found = self._below(prefix, keys, after)
            kvs = tuple(data[key] for key in (islice(found, limit + 1) if limit else found))
            more = bool(limit) and len(kvs) > limit
            return RangeResult(kvs[:limit] if more else kvs, self._revision, more)

    def count(self, prefix: str) -> int:
        """The number of keys below a prefix."""
        with self._enter():
            return sum(1 for _ in self._below(prefix, self._keys))

    def _as_of(self, revision: int) -> dict[str, KeyValue]:
        if revision > self._revision:
            raise InvalidRequest(f"revision {revision} is in the future")
        if revision < self._compacted:
            raise NotFound(f"revision {revision} has been compacted away")
        data = dict(self._data)
        for change in takewhile(lambda c: c.event.mod_revision > revision, reversed(self._history)):
            if change.before is None:
                data.pop(change.event.key, None)
            else:
                data[change.event.key] = change.before
        return data

    @staticmethod
    def _below(prefix: str, keys: list[str], after: str = "") -> Iterable[str]:
        start = bisect_left(keys, max(prefix, after + "\0") if after else prefix)
        return takewhile(lambda key: key.startswith(prefix), islice(keys, start, None))

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key; returns the revision."""
        return self.txn(Txn(success=(Put(key, value, lease),))).revision

    def delete(self, key: str) -> bool:
        """Delete a key; returns whether it existed."""
        return self.txn(Txn(success=(Delete(key),))).results == (1,)

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        """Run a transaction; refused as a whole if it writes a key twice or names a lease that is gone."""
        with self._enter():
            check(txn, self._leases)
            path = decide(txn, lambda compare: holds(compare, self._named(compare)))
            changes: list[_Change] = []
            result = self._run(txn, path, changes)
            self._commit(changes)
            return stamp(result, self._revision)

    def _named(self, compare: Compare) -> Iterable[KeyValue]:
        names = self._below(compare.key, self._keys) if compare.whole_prefix else (compare.key,)
        return (self._data[name] for name in names if name in self._data)

    def _run(self, txn: Txn, path: Path, changes: list[_Change]) -> TxnResult:
        results: list[OpResult] = []
        nested = iter(path.nested)
        for op in txn.success if path.succeeded else txn.failure:
            if isinstance(op, Txn):
                results.append(self._run(op, next(nested), changes))
            else:
                results.append(self._do(op, changes))
        return TxnResult(path.succeeded, 0, tuple(results))

    def _do(self, op: Op, changes: list[_Change]) -> OpResult:
        match op:
            case Get(key):
                kv = self._data.get(key)
                return (kv,) if kv else ()
            case Range(prefix, limit):
                found = self._below(prefix, self._keys)
                return tuple(self._data[key] for key in (islice(found, limit) if limit else found))
            case Put(key, value, lease):
                self._put(key, value, lease, changes)
                return None
            case Delete(key, whole_prefix):
                gone = list(self._below(key, self._keys)) if whole_prefix else [key]
                return sum(self._remove(name, changes) for name in gone)
        raise InvalidRequest(f"unknown operation {op!r}")

    def _put(self, key: str, value: bytes, lease: int, changes: list[_Change]) -> None:
        before = self._data.get(key)
        revision = self._revision + 1
        kv = KeyValue(key, value, before.create_revision if before else revision, revision, lease)
        if before is None:
            insort(self._keys, key)
        self._data[key] = kv
        changes.append(_Change(put_event(kv), before))

    def _remove(self, key: str, changes: list[_Change]) -> bool:
        before = self._data.pop(key, None)
        if before is None:
            return False
        del self._keys[bisect_left(self._keys, key)]
        changes.append(_Change(Event(key, b"", 0, self._revision + 1, deleted=True), before))
        return True

    def _commit(self, changes: list[_Change]) -> None:
        if changes:
            self._revision += 1
            self._history.extend(changes)
            self._changed.notify_all()

    # -- leases ----------------------------------------------------------------------------------------------

    def grant(self, ttl: int) -> int:
        """Make a lease of `ttl` seconds; returns its id."""
        with self._enter():
            if ttl < 1:
                raise InvalidRequest(f"a lease of {ttl} seconds is too short")
            lease = next(self._lease_ids)
            self._leases[lease] = _Lease(ttl, self._clock() + ttl)
            self._changed.notify_all()
            return lease

    def keepalive(self, lease: int) -> int:
        """Renew a lease once; returns the seconds it now has, 0 if it is gone."""
        with self._enter():
            found = self._leases.get(lease)
            if found is None:
                return 0
            found.expires = self._clock() + found.ttl
            return found.ttl

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        with self._enter():
            self._end(lease)

    def expire(self) -> None:
        """End the leases whose time has passed; every call does this by itself."""
        with self._changed:
            now = self._clock()
            for lease in [name for name, held in self._leases.items() if held.expires <= now]:
                self._end(lease)

    def _end(self, lease: int) -> None:
        if self._leases.pop(lease, None) is None:
            return
        changes: list[_Change] = []
        for key in [kv.key for kv in self._data.values() if kv.lease == lease]:
            self._remove(key, changes)
        self._commit(changes)

    # -- watches ---------------------------------------------------------------------------------------------

    def watch(self, prefix: str, start_revision: int, sink: WatchSink) -> MemoryWatch:
        """Deliver every change below the prefix from `start_revision` on."""
        with self._enter():
            if start_revision < 1:
                raise InvalidRequest(f"a watch cannot start at revision {start_revision}")
            watch = MemoryWatch(self, prefix, start_revision - 1, sink)
            watch.lost = start_revision < self._compacted
            self._watches.append(watch)
            if self._feeder is None:
                self._feeder = threading.Thread(target=self._feed, name="memory-watch", daemon=True)
                self._feeder.start()
            self._changed.notify_all()
            return watch

    def _feed(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                self.expire()
                due = [] if self._held else [(w, b) for w in self._watches for b in self._due(w)]
                if not due:
                    self._changed.wait(_EXPIRY_PERIOD if self._leases else None)
                    continue
            for watch, batch in due:
                watch.deliver(batch)

    def _due(self, watch: MemoryWatch) -> list[Batch | Lost]:
        if watch.lost:
            self._watches = [other for other in self._watches if other is not watch]
            return [Lost(f"revision {watch.position + 1} of {watch.prefix} was compacted")]
        newer = takewhile(lambda c: c.event.mod_revision > watch.position, reversed(self._history))
        events = tuple(c.event for c in newer if c.event.key.startswith(watch.prefix))[::-1]
        due: list[Batch | Lost] = [Batch(events, events[-1].mod_revision)] if events else []
        if watch.asked:
            due.append(Batch((), self._revision))
            watch.asked = False
        watch.position = max(watch.position, self._revision)
        return due

    def forget(self, watch: MemoryWatch) -> None:
        """Drop a watch that was cancelled."""
        with self._changed:
            self._watches = [other for other in self._watches if other is not watch]

    def ask(self, watch: MemoryWatch) -> None:
        """Have the feeding thread tell a watch where it stands."""
        with self._changed:
            watch.asked = True
            self._changed.notify_all()

    # -- the rest of the protocol, and what tests need -------------------------------------------------------

    def status(self) -> tuple[EndpointStatus, ...]:
        """One member, always well."""
        return (EndpointStatus("memory", "3.4.0", leader=True),)

    def close(self) -> None:
        """End watches; idempotent. Not to be called from a sink."""
        with self._changed:
            self._closed = True
            watches, feeder = self._watches, self._feeder
            self._changed.notify_all()
        for watch in watches:
            watch.cancel()
        if feeder is not None:
            feeder.join()

    def compact(self, revision: int) -> None:
        """Forget history before `revision`. Watches that have fallen behind it (see `hold`) are lost."""
        with self._changed:
            self._compacted = revision
            if self._held:
                for watch in self._watches:
                    watch.lost = watch.lost or watch.position + 1 < revision
            delivered = min((w.position for w in self._watches if not w.lost), default=revision)
            while self._history and self._history[0].event.mod_revision <= min(delivered, revision - 1):
                self._history.popleft()

    def hold(self, held: bool) -> None:
        """While held, watches deliver nothing, as if the connection were broken."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def fail_next(self, n: int, error: Exception) -> None:
        """Have the next `n` calls raise `error` without effect."""
        with self._changed:
            self._faults.extend([error] * n)

    def _enter(self) -> threading.Condition:
        """The lock, after everything that happens before a call: closing, injected faults, expiry."""
        with self._changed:
            if self._closed:
                raise Unavailable("the store is closed")
            if self._faults:
                raise self._faults.popleft()
            self.expire()
        return self._changed


class MemoryWatch:
    """A watch of a MemoryStore; `position` is the last revision handed to its sink."""

    def __init__(self, store: MemoryStore, prefix: str, position: int, sink: WatchSink) -> None:
        self.prefix = prefix
        self.position = position
        self.asked = False
        self.lost = False
        self._store = store
        self._sink = sink
        self._cancelled = False
        self._delivery = threading.RLock()

    def cancel(self) -> None:
        """Stop delivering; waits for a running call of the sink."""
        with self._delivery:
            self._cancelled = True
        self._store.forget(self)

    def progress(self) -> None:
        """Have the store tell where the watch stands."""
        self._store.ask(self)

    def deliver(self, batch: Batch | Lost) -> None:
        """Call the sink, unless cancelled; its exceptions are logged."""
        with self._delivery:
            if self._cancelled:
                return
            self._cancelled = isinstance(batch, Lost)
            try:
                self._sink(batch)
            except Exception:
                _log.exception("the sink of the watch on %s failed", self.prefix)


def _check_key(key: str) -> None:
    if not key:
        raise InvalidRequest("the key is empty")
