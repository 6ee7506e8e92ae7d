"""The store that every daemon shares: an ordered map of keys with revisions, transactions, leases and watches.

The semantics are etcd v3's (https://etcd.io/docs/v3.4/learning/api/): one revision counter for the whole store, a
transaction is atomic, a watch delivers every change after a revision in order. Keys are text, values are bytes.
Implementations: `qnet.store.etcd` (production) and `tests.store.memory` (tests); both pass `tests/contract`.

The structs form no cycles and are made by the thousand, so the garbage collector does not follow them (`gc=False`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import msgspec


class KeyValue(msgspec.Struct, frozen=True, gc=False):
    """One key as it stood at `mod_revision`; `create_revision` changes when a key is deleted and made again."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Compare(msgspec.Struct, frozen=True, gc=False):
    """A condition of a transaction on one key, or on every key below a prefix (`whole_prefix`).

    A missing key compares as revision 0; a prefix without keys satisfies `= 0`.
    """

    key: str
    target: Literal["create", "mod", "value"]
    op: Literal["=", "!=", "<", ">"]
    operand: int | bytes
    whole_prefix: bool = False


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key, "create", "=", 0)


def present(key: str) -> Compare:
    """The key exists."""
    return Compare(key, "create", "!=", 0)


def unchanged(kv: KeyValue) -> Compare:
    """The key is as it was when `kv` was read."""
    return Compare(kv.key, "mod", "=", kv.mod_revision)


def at_revision(key: str, mod_revision: int) -> Compare:
    """The key was last written at this revision (0: it does not exist)."""
    return Compare(key, "mod", "=", mod_revision)


def nothing_below(prefix: str) -> Compare:
    """No key starts with the prefix."""
    return Compare(prefix, "create", "=", 0, whole_prefix=True)


def none_newer(prefix: str, revision: int) -> Compare:
    """No key below the prefix was written after the revision. Deletions are not seen."""
    return Compare(prefix, "mod", "<", revision + 1, whole_prefix=True)


class Get(msgspec.Struct, frozen=True, gc=False):
    """Read one key; its result is a tuple of at most one KeyValue."""

    key: str


class Range(msgspec.Struct, frozen=True, gc=False):
    """Read all keys below a prefix in order; its result is a tuple of KeyValue."""

    prefix: str
    limit: int = 0


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write one key; its result is None."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Delete one key, or all keys below it (`whole_prefix`); its result is the number deleted."""

    key: str
    whole_prefix: bool = False


class Txn(msgspec.Struct, frozen=True, gc=False):
    """If all compares hold, do `success`, else `failure`, atomically. Nested transactions decide for themselves.

    All compares, nested ones too, see the state before the transaction. No key may be written twice in one.
    """

    compares: tuple[Compare, ...] = ()
    success: tuple[Op, ...] = ()
    failure: tuple[Op, ...] = ()


Op: TypeAlias = Get | Range | Put | Delete | Txn


class TxnResult(msgspec.Struct, frozen=True, gc=False):
    """`results` has one entry for each operation of the branch that ran, in order; `revision` is the store's."""

    succeeded: bool
    revision: int
    results: tuple[OpResult, ...]


OpResult: TypeAlias = tuple[KeyValue, ...] | int | TxnResult | None


class RangeResult(msgspec.Struct, frozen=True, gc=False):
    """`more` tells that the limit cut the answer; `revision` is the store's at the time of reading."""

    kvs: tuple[KeyValue, ...]
    revision: int
    more: bool = False


class Event(KeyValue, frozen=True, gc=False):
    """One change: the key as it stands after it. A deletion has `deleted` set, and an empty value."""

    deleted: bool = False


def put_event(kv: KeyValue) -> Event:
    """The event that tells of a key that was written."""
    return Event(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Changes up to and including `revision`, in order; `events` may be empty (progress)."""

    events: tuple[Event, ...]
    revision: int


class Lost(msgspec.Struct, frozen=True):
    """The watch's position was compacted away: read the range anew and watch from there. Ends the watch."""

    reason: str


class Watch(Protocol):
    """A running watch."""

    def cancel(self) -> None:
        """Stop delivering; no call to the sink starts after this returns."""

    def progress(self) -> None:
        """Ask the store at which revision the watch stands; the answer is an empty Batch, soon.

        There is none from a server that cannot tell truthfully (etcd before 3.4.25 and 3.5.8).
        """


WatchSink: TypeAlias = Callable[[Batch | Lost], None]


class EndpointStatus(msgspec.Struct, frozen=True):
    """What one member says of itself, for `qnet doctor`; `error` is empty when it answered, after so many `seconds`.

    `cluster` is the id of its cluster, `troubles` what it calls its errors: alarms, no leader.
    """

    endpoint: str
    version: str = ""
    leader: bool = False
    db_size: int = 0
    error: str = ""
    cluster: str = ""
    troubles: tuple[str, ...] = ()
    seconds: float = 0.0


class Transactor(Protocol):
    """The part of a store that most writers need."""

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        """Run a transaction.

        `repeatable` promises that running it twice is the same as once (its creates carry the caller's own mark, or
        its compares fail after it took effect), so that it may be sent again after a broken connection.

        Raises:
            Unavailable: no endpoint took it within the deadline; it had no effect.
            Ambiguous: it may have taken effect.
        """


class Store(Transactor, Protocol):
    """What every store can do. Each call has the deadline that the store was made with."""

    def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""

    def range(self, prefix: str, *, limit: int = 0, after: str = "", revision: int = 0) -> RangeResult:
        """Read keys below a prefix in order, from behind `after`, as of `revision` (0: now)."""

    def count(self, prefix: str) -> int:
        """The number of keys below a prefix."""

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key whatever it holds; returns the revision. Shared keys want `txn` with a compare."""

    def delete(self, key: str) -> bool:
        """Delete a key; returns whether it existed."""

    def grant(self, ttl: int) -> int:
        """Make a lease of `ttl` seconds; returns its id."""

    def keepalive(self, lease: int) -> int:
        """Renew a lease once; returns the seconds it now has, 0 if it is gone."""

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; a lease that is gone is no error."""

    def watch(self, prefix: str, start_revision: int, sink: WatchSink) -> Watch:
        """Deliver every change below the prefix from `start_revision` on, through reconnects and member loss.

        The sink is called from one thread of the store, in order, and must return quickly.
        """

    def status(self) -> tuple[EndpointStatus, ...]:
        """Ask every endpoint how it is; never raises."""

    def close(self) -> None:
        """End watches and connections."""
