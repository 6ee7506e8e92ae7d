"""Group commit: concurrent small transactions of one process travel in one request, each with its own result.

A caller that finds no request in flight sends its own at once, on its own thread and un-nested. Callers that
come meanwhile queue up; when the request returns, the first of them becomes leader and sends for all who fit.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum
from itertools import islice

from qnet import metrics
from qnet.errors import Ambiguous, Internal, QnetError, Unavailable
from qnet.store._footprint import MAX_OPS, Batch, Footprint
from qnet.store.base import OpResult, Transactor, Txn, TxnResult

UNLUCKY = 32  # requests


class _State(Enum):
    QUEUED = 1
    LEADING = 2  # woken to send a batch that starts with its own transaction
    SENT = 3  # in a batch that another thread sends
    DONE = 4


class _Entry:
    """One waiting transaction. `wake` is a lock, held until there is something to do for its thread."""

    __slots__ = ("error", "footprint", "repeatable", "result", "since", "state", "txn", "wake")

    def __init__(self, txn: Txn, repeatable: bool, since: float) -> None:
        self.txn = txn
        self.repeatable = repeatable
        self.since = since
        self.footprint = Footprint(txn)
        self.state = _State.QUEUED
        self.result: TxnResult | None = None
        self.error: QnetError | None = None
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit:
    """A Transactor over a store, for transactions of many threads.

    Transactions whose keys meet, where one of them writes, never share a request (etcd evaluates the compares of
    all against the state before it), nor do repeatable ones and others. `timeout` bounds how long a transaction
    waits, in seconds; `max_flights` is how many requests may be on their way at a time (1 measured best).
    """

    def __init__(
        self,
        store: Transactor,
        *,
        max_txns: int = 64,
        max_bytes: int = 512 * 1024,
        max_flights: int = 1,
        timeout: float = 4.8,
    ) -> None:
        self._store = store
        self._max_txns = min(max_txns, MAX_OPS - 1)
        self._max_bytes = max_bytes
        self._max_flights = max_flights
        self._timeout = timeout
        self._lock = threading.Lock()
        self._queue: deque[_Entry] = deque()
        self._flights = 0
        self._unlucky = 0

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        """Run a transaction, alone or with others; see `Transactor.txn`."""
        with self._lock:
            alone = self._flights < self._max_flights
            if alone:
                self._flights += 1
        if alone:
            began = time.monotonic()
            error: QnetError | None = None
            metrics.BATCH.observe(1)
            try:
                return self._store.txn(txn, repeatable=repeatable)
            except QnetError as failed:
                error = failed
                raise
            finally:
                self._land(began, error)
        return self._follow(_Entry(txn, repeatable, time.monotonic()))

    def _follow(self, entry: _Entry) -> TxnResult:
        with self._lock:
            if self._flights < self._max_flights:  # it landed just now
                self._flights += 1
                entry.state = _State.LEADING
            else:
                self._queue.append(entry)
        if entry.state is not _State.LEADING:
            self._wait(entry)
        if entry.state is _State.LEADING:
            self._lead(entry)
        if entry.error is not None:
            raise entry.error
        if entry.result is None:
            raise Internal("a group commit ended without a result")
        return entry.result

    def _wait(self, entry: _Entry) -> None:
        """Return when the entry is done or leads."""
        if entry.wake.acquire(timeout=max(0.0, entry.since + self._timeout - time.monotonic())):
            return
        with self._lock:
            if entry.state is _State.QUEUED:
                self._queue.remove(entry)
                raise Unavailable(f"cannot write: no request to etcd was free within {self._timeout:g} s")
            if entry.state is _State.SENT:
                raise Ambiguous(
                    f"cannot write: no answer from etcd within {self._timeout:g} s; the request may have taken effect"
                )

    def _lead(self, entry: _Entry) -> None:
        began = time.monotonic()
        error: QnetError | None = None
        try:
            with self._lock:
                batch = self._board(entry)
            metrics.BATCH.observe(len(batch))
            error = self._send(batch)
            if len(batch) > 1:
                time.sleep(0)  # let those just served queue up again, or the next request carries one of them
        finally:
            self._land(began, error)

    def _board(self, first: _Entry) -> list[_Entry]:
        """Take from the queue, in order, all that may travel with `first`."""
        batch, members = Batch(first.footprint), [first]
        left: deque[_Entry] = deque()
        size = first.footprint.size
        while self._queue and len(members) < self._max_txns and batch.open:
            entry = self._queue.popleft()
            if (
                entry.repeatable is first.repeatable
                and size + entry.footprint.size <= self._max_bytes
                and batch.admit(entry.footprint)
            ):
                size += entry.footprint.size
                entry.state = _State.SENT
                members.append(entry)
            else:
                left.append(entry)
        left.extend(self._queue)
        self._queue = left
        return members

    def _send(self, members: list[_Entry]) -> QnetError | None:
        """Send the members' transactions and hand out the results; returns the error if etcd was away."""
        if len(members) == 1:
            return self._send_alone(members[0])
        error: QnetError
        try:
            results = self._send_as_one(members) or self._send_nested(members)
        except Unavailable as failed:
            error = failed
        except QnetError:  # refused as a whole, for one of them
            errors = [self._send_alone(entry) for entry in members]
            return next((failed for failed in errors if failed is not None), None)
        except BaseException:
            error = Internal("group commit: the thread that sent the request broke off")
            self._finish(members, [error] * len(members))
            raise
        else:
            self._finish(members, results)
            return None
        self._finish(members, [error] * len(members))
        return error

    def _send_as_one(self, members: list[_Entry]) -> Sequence[OpResult]:
        """Send them as one transaction without nesting, which is cheaper for all: it succeeds if each of them does.
        Returns nothing if one would fail, and then does without for a while."""
        if self._unlucky:
            self._unlucky -= 1
            return ()
        compares = dict.fromkeys(compare for entry in members for compare in entry.txn.compares)
        success = tuple(op for entry in members for op in entry.txn.success)
        if max(len(compares), len(success)) > MAX_OPS or any(isinstance(op, Txn) for op in success):
            return ()
        answer = self._store.txn(Txn(tuple(compares), success), repeatable=members[0].repeatable)
        if not answer.succeeded:
            self._unlucky = UNLUCKY
            return ()
        left = iter(answer.results)
        return [TxnResult(True, answer.revision, tuple(islice(left, len(entry.txn.success)))) for entry in members]

    def _send_nested(self, members: list[_Entry]) -> Sequence[OpResult]:
        """Send them as nested transactions, each of which decides for itself."""
        nested = Txn(success=tuple(entry.txn for entry in members))
        return self._store.txn(nested, repeatable=members[0].repeatable).results

    def _send_alone(self, entry: _Entry) -> QnetError | None:
        outcome: TxnResult | QnetError
        try:
            outcome = self._store.txn(entry.txn, repeatable=entry.repeatable)
        except QnetError as failed:
            outcome = failed
        self._finish([entry], [outcome])
        return outcome if isinstance(outcome, Unavailable) else None

    @staticmethod
    def _finish(members: list[_Entry], outcomes: Sequence[object]) -> None:
        for entry, outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, TxnResult):
                entry.result = outcome
            else:
                entry.error = outcome if isinstance(outcome, QnetError) else Internal("no result")
            entry.state = _State.DONE
            entry.wake.release()

    def _land(self, began: float, error: QnetError | None) -> None:
        """A request has returned: wake who leads the next one; fail those who would wait too long with it."""
        now = time.monotonic()
        with self._lock:
            while self._queue:
                entry = self._queue.popleft()
                if isinstance(error, Unavailable) and now - entry.since + (now - began) > self._timeout:
                    entry.error = Unavailable(str(error))
                    entry.state = _State.DONE
                    entry.wake.release()
                    continue
                entry.state = _State.LEADING
                entry.wake.release()
                return
            self._flights -= 1
