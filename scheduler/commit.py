"""A decision becomes true in one transaction that fails if anything that it was based on has changed. Any number of
processes decide at once; none leads."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from random import Random

import msgspec

from qnet import schema
from qnet.errors import Ambiguous, Conflict, Exhausted, Unavailable
from qnet.store.base import (
    Compare,
    Delete,
    Event,
    Get,
    KeyValue,
    Put,
    Store,
    Transactor,
    Txn,
    absent,
    unchanged,
)
from scheduler.model import Container, Request
from scheduler.place import Busy
from scheduler.view import CONTAINERS, View, books, key

ATTEMPTS = 30
PATIENCE = 5.0  # seconds that a decision waits for others of this process on the only hosts that it can take


class Desk:
    """Places requests and takes containers back. Safe for many threads."""

    def __init__(self, store: Store, commit: Transactor, view: View, now: Callable[[], str], random: Random) -> None:
        """`commit` may carry transactions of several threads in one request, see `qnet.store.commit`."""
        self._store = store
        self._commit = commit
        self._view = view
        self._now = now
        self._random = random
        self._free = threading.Condition()
        self._busy: set[str] = set()  # hosts of which a decision of this process is on its way
        self.placed = self.again = 0

    def place(self, request: Request) -> Container:
        """Give a request a host, for good.

        Raises:
            Exhausted: no host can take it; every filter with how many hosts it drops.
            Conflict: its name is taken.
            Unavailable: the store is away, or too many decide at once.
        """
        claim, current = secrets.token_hex(8), False
        for _ in range(ATTEMPTS):
            try:
                host, still = self._decide(request)
            except Exhausted:
                if current:
                    raise
                self._view.catch_up()  # it may have been freed just now
                current = True
                continue
            current = False
            try:
                made = self._try(request, host, still, claim)
            finally:
                with self._free:
                    self._busy.discard(host)
                    self._free.notify_all()
            if made is not None:
                self.placed += 1
                return made
            self.again += 1
        raise Unavailable(f"container {request.name}: others were faster {ATTEMPTS} times: try again")

    def remove(self, container: Container) -> None:
        """Take a container back, unless it was placed anew; one that is gone is no error. Raises Unavailable."""
        where = key(CONTAINERS, container.name)
        found = self._store.get(where)
        while found is not None and schema.decode(found.value, Container, where).claim == container.claim:
            done = self._commit.txn(Txn((unchanged(found),), (Delete(where),), (Get(where),)))
            if done.succeeded:
                self._view.apply(Event(where, b"", 0, done.revision, deleted=True))
                return
            found = _one(done.results[0])

    def _decide(self, request: Request) -> tuple[str, tuple[Compare, ...]]:
        with self._free:
            while True:
                try:
                    host, still = self._view.decide(request, self._random, self._busy)
                except Busy:
                    if not self._free.wait(PATIENCE):
                        raise Unavailable(f"container {request.name}: no host was free to be asked") from None
                    continue
                self._busy.add(host)
                return host, still

    def _try(self, request: Request, host: str, still: tuple[Compare, ...], claim: str) -> Container | None:
        """The container if this could be written; None: something has changed."""
        made = msgspec.structs.replace(request.on(host), claim=claim, since=self._now())
        where, value = key(CONTAINERS, made.name), schema.encode(made)
        compares = (absent(where), *still)
        # the books last: whoever knows of them has to know of what they were written for
        ops = (Put(where, value), *(Put(book, claim.encode()) for book in books(made, host)))
        try:
            done = self._commit.txn(Txn(compares, ops, (Get(where),)), repeatable=True)
        except Ambiguous:
            found = self._store.get(where)
            return self._mine(found, made, 0)
        if done.succeeded:
            self._written(made, value, done.revision)
            return made
        return self._mine(_one(done.results[0]), made, done.revision)

    def _mine(self, found: KeyValue | None, made: Container, revision: int) -> Container | None:
        """Whether what is there is this very one, of an answer that was lost. Raises Conflict: it is another one."""
        if found is not None:
            there = schema.decode(found.value, Container, found.key)
            if there.claim != made.claim:
                raise Conflict(f"container name {made.name} is in use: choose another, or qnet rm {made.name}")
            self._written(there, found.value, found.mod_revision)
            return there
        self._view.catch_up(revision)
        return None

    def _written(self, made: Container, value: bytes, revision: int) -> None:
        self._view.apply(
            Event(key(CONTAINERS, made.name), value, revision, revision),
            *(Event(book, made.claim.encode(), revision, revision) for book in books(made, made.host)),
        )


def _one(found: object) -> KeyValue | None:
    return found[0] if isinstance(found, tuple) and found else None
