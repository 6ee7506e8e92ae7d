"""Records of containers as placement and agents change them: each change compares what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from qnet import schema
from qnet.errors import Conflict, NotFound, Unavailable
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
    TxnResult,
    absent,
    unchanged,
)
from scheduler.addresses import Addresses
from scheduler.model import Container
from scheduler.view import CONTAINERS, key

TRIES = 8


class Records:
    """The containers of the store. Safe for many threads."""

    def __init__(self, store: Store, commit: Transactor, addresses: Addresses) -> None:
        self._store = store
        self._commit = commit
        self._addresses = addresses

    def read(self, name: str) -> tuple[Container | None, KeyValue | None]:
        """The container of a name. Raises Unavailable."""
        kv = self._store.get(key(CONTAINERS, name))
        return (_decoded(kv), kv) if kv else (None, None)

    def amend(
        self,
        container: Container,
        change: Callable[[Container], Container],
        still: Iterable[Compare] = (),
        also: Iterable[Put] = (),
        known: KeyValue | None = None,
    ) -> tuple[Container, Event] | None:
        """Change a container, unless it is gone or was placed anew, or something else is not so any more: None.

        Args:
            known: its record as the caller knows it, which spares a read if that is still so.

        Raises:
            Unavailable
        """
        for _ in range(TRIES):
            there, kv = self.read(container.name) if known is None else (_decoded(known), known)
            known = None
            if there is None or kv is None or there.claim != container.claim or there.host != container.host:
                return None
            fresh = change(there)
            if fresh == there:
                return there, Event(kv.key, kv.value, kv.create_revision, kv.mod_revision)
            value = schema.encode(fresh)
            txn = Txn((unchanged(kv), *still), (Put(kv.key, value), *also), (Get(kv.key),))
            done = self._commit.txn(txn, repeatable=not also)
            if done.succeeded:
                return fresh, Event(kv.key, value, kv.create_revision, done.revision)
            found = done.results[0] if done.results else None
            if still and isinstance(found, tuple) and found and found[0].mod_revision == kv.mod_revision:
                return None  # it is not the record that has changed
        raise Unavailable(f"container {container.name}: its record kept changing; try again")

    def rename(self, container: Container, name: str) -> tuple[Container, tuple[Event, ...]]:
        """Give it another name. Raises Conflict: that is taken; NotFound: it is gone, or placed anew; Unavailable."""
        for _ in range(TRIES):
            there, kv = self.read(container.name)
            if there is None or kv is None or there.claim != container.claim or there.host != container.host:
                raise NotFound(f"container {container.name} is not there any more")
            where, fresh = key(CONTAINERS, name), msgspec.structs.replace(there, name=name)
            value = schema.encode(fresh)
            ops = (Put(where, value), Delete(kv.key))
            done = self._store.txn(Txn((absent(where), unchanged(kv)), ops, (Get(where),)))
            if done.succeeded:
                gone = Event(kv.key, b"", 0, done.revision, deleted=True)
                return fresh, (gone, Event(where, value, done.revision, done.revision))
            if done.results and done.results[0]:
                raise Conflict(f"container name {name} is in use: choose another")
        raise Unavailable(f"container {container.name}: its record kept changing; try again")

    def drop(self, container: Container, *, hold: bool = True) -> Event | None:
        """Remove a container and give its addresses back, unless it was placed anew; one that is gone is no error.

        Args:
            hold: whether the addresses are held for the next one of its name, if it was placed so; those that were
                held before are in any case.

        Raises:
            Unavailable
        """
        for _ in range(TRIES):
            there, kv = self.read(container.name)
            if there is None or kv is None or there.claim != container.claim or there.host != container.host:
                return None
            if not there.claim and there.id != container.id:
                return None
            compares, ops = self._addresses.give_back(there, hold)
            txn = Txn((unchanged(kv), *compares), (Delete(kv.key), *ops), (Get(kv.key),))
            done = self._send(txn)
            if done is not None and done.succeeded:
                return Event(kv.key, b"", 0, done.revision, deleted=True)
        raise Unavailable(f"container {container.name}: its record kept changing; try again")

    def _send(self, txn: Txn) -> TxnResult | None:
        try:
            return self._commit.txn(txn)
        except NotFound:  # a lease ended early: this machine slept, or someone revoked it
            self._addresses.renew()
            return None


def _decoded(kv: KeyValue) -> Container:
    return schema.decode(kv.value, Container, kv.key)
