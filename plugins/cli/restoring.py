"""Writes a backup into the store while nobody can be given an address (docs/decisions/0009-restore.md).

Addresses are given out only of pools that are there, and pools are made only while nobody restores: so the pools are
taken away first, in the transaction that says that a restore is at work, and come back last.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import msgspec

from plugins.cli.machines import ALIVE
from plugins.cli.merging import Merged, differing, hosts_of, merge
from qnet import schema
from qnet.engine import EngineView
from qnet.errors import Conflict, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.schema import RestoreRecord
from qnet.store.base import (
    Compare,
    Delete,
    KeyValue,
    Op,
    Put,
    Store,
    Txn,
    at_revision,
    none_newer,
    unchanged,
)

TOGETHER = 100  # keys in a transaction: etcd allows 128 operations
TRIES = 5
ASKED_AT_ONCE = 32
SHOWN = 20

Ask = Callable[[str, str], EngineView]


class TakenOver(Conflict):
    """Another restore has begun, and goes on with this one's work."""

    def __str__(self) -> str:
        return "another restore has begun meanwhile, and goes on with this one's work"


@dataclass(frozen=True, slots=True)
class Done:
    """What a restore did, or would do."""

    written: int
    added: Sequence[str]


class Restore:
    """One backup's way into the store."""

    def __init__(
        self, store: Store, host: str, backup: Mapping[str, bytes], ask: Ask, without: Collection[str], now: str
    ) -> None:
        """`ask` asks the engine of a host, given where its agent is."""
        self._store = store
        self._host = host
        self._backup = backup
        self._ask = ask
        self._without = frozenset(without)
        self._now = now

    def plan(self, replace: bool) -> Done:
        """What it would do. Raises Conflict, with all that is in its way; NotFound, Unavailable."""
        there, gate = self._read()
        values = _values(there) | (_pools(gate) if gate else {})
        if not replace and (other := differing(values, self._backup)):
            more = ", …" if len(other) > SHOWN else ""
            raise Conflict(
                f"the store has {len(other)} records that the backup has otherwise or not at all: "
                f"{', '.join(sorted(other)[:SHOWN])}{more}; add --replace to write the backup's over them; "
                f"what only the store has stays"
            )
        merged = self._merged(values, there)
        return Done(len(_changes(there, merged.values)), merged.added)

    def run(self) -> Done:
        """Do it, whatever the store has. Raises Conflict: something is in its way now, and all is as it was before;
        Unavailable."""
        gate = self._close()
        try:
            for _ in range(TRIES):
                there, _ = self._read()
                merged = self._merged(_values(there) | _pools(gate), there)
                changes = _changes(there, merged.values)
                if self._write(gate, changes, there):
                    self._open(gate)
                    return Done(len(changes), merged.added)
        except TakenOver:
            raise
        except (Conflict, NotFound):
            self._give_back(gate)
            raise
        except Unavailable as error:
            raise Unavailable(
                f"{error}; the restore has broken off, and no address is given out: type it again"
            ) from error
        self._give_back(gate)
        raise Unavailable("the store kept changing: stop who works with containers now, then type it again")

    def _read(self) -> tuple[dict[str, KeyValue], KeyValue | None]:
        found = {kv.key: kv for kv in self._store.range(schema.ROOT).kvs}
        return found, found.pop(schema.RESTORE, None)

    def _merged(self, values: Mapping[str, bytes], there: Mapping[str, KeyValue]) -> Merged:
        alive = [key.removeprefix(ALIVE) for key in there if key.startswith(ALIVE)]
        views = self._views(dict.fromkeys(alive, "") | hosts_of(values, self._backup) | {self._host: ""})
        merged = merge(values, self._backup, views, self._now, lambda: secrets.token_hex(8))
        if merged.problems:
            listed = "\n".join(f"  {problem}" for problem in merged.problems)
            raise Conflict(f"nothing is restored, for one thing would be two's:\n{listed}")
        return merged

    def _views(self, hosts: Mapping[str, str]) -> dict[str, EngineView]:
        """What the engines of all hosts have. Raises Conflict: one does not answer; NotFound."""
        if strange := sorted(self._without - hosts.keys()):
            raise NotFound(f"--without {strange[0]}: there is no such host; hosts: {', '.join(sorted(hosts))}")
        asked = sorted(hosts.keys() - self._without)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            answers = dict(zip(asked, pool.map(lambda host: self._answer(host, hosts[host]), asked), strict=True))
        if silent := [f"  {host}: {answer}" for host, answer in answers.items() if isinstance(answer, QnetError)]:
            listed = "\n".join(silent)
            raise Conflict(
                f"nothing is restored, for these hosts do not tell what they run:\n{listed}\nstart their engine and "
                f"qnet-agent, or add --without HOST for each: what their containers have that the backup does not know "
                f"may then be given to others as well"
            )
        return {host: answer for host, answer in answers.items() if isinstance(answer, EngineView)}

    def _answer(self, host: str, url: str) -> EngineView | QnetError:
        if host != self._host and not url:
            return Unavailable("nobody knows where its agent is; one that runs tells that within 15 s")
        try:
            return self._ask(host, url)
        except (Unavailable, InvalidRequest) as error:
            return error

    # -- the gate --------------------------------------------------------------------------------------------------

    def _close(self) -> KeyValue:
        """Take the pools away, and keep them in the record that says that a restore is at work. One that broke off is
        gone on with: its own transactions fail from now on. Raises Conflict."""
        for _ in range(TRIES):
            before = self._store.get(schema.RESTORE)
            found = self._store.range(schema.POOLS)
            kept = (_pools(before) if before else {}) | {kv.key: kv.value for kv in found.kvs}
            raw = {key: msgspec.Raw(value) for key, value in kept.items()}
            record = RestoreRecord(host=self._host, since=self._now, pools=raw)
            value = schema.encode(record)
            same = at_revision(schema.RESTORE, before.mod_revision if before else 0)
            ops = (Put(schema.RESTORE, value), Delete(schema.POOLS, whole_prefix=True))
            done = self._store.txn(Txn((same, none_newer(schema.POOLS, found.revision)), ops))
            if done.succeeded:
                return KeyValue(schema.RESTORE, value, done.revision, done.revision)
        raise Conflict("others kept changing pools: try again")

    def _open(self, gate: KeyValue) -> None:
        if not self._store.txn(Txn((unchanged(gate),), (Delete(gate.key),))).succeeded:
            raise TakenOver

    def _give_back(self, gate: KeyValue) -> None:
        """The pools as they were, then an open gate. Nothing else was written, or it was already the backup's."""
        if self._write(gate, _pools(gate), {}):
            self._open(gate)

    def _write(self, gate: KeyValue, changes: Mapping[str, bytes | None], there: Mapping[str, KeyValue]) -> bool:
        """Write in parts, pools last. False: something is not as it was read."""
        for keys in _parts(sorted(changes, key=lambda key: (key.startswith(schema.POOLS), key))):
            revisions = [there[key].mod_revision if key in there else 0 for key in keys]
            guards: tuple[Compare, ...] = (unchanged(gate), *map(at_revision, keys, revisions))
            ops: list[Op] = []
            for key in keys:
                value = changes[key]
                ops.append(Delete(key) if value is None else Put(key, value))
            if not self._store.txn(Txn(guards, tuple(ops))).succeeded:
                now = self._store.get(gate.key)
                if now is None or now.mod_revision != gate.mod_revision:
                    raise TakenOver
                return False
        return True


def _values(there: Mapping[str, KeyValue]) -> dict[str, bytes]:
    """Without what comes and goes with leases, but for addresses that are held for a name: these have an owner."""
    return {key: kv.value for key, kv in there.items() if not kv.lease or f"/{schema.ADDRESS}" in key}


def _changes(there: Mapping[str, KeyValue], values: Mapping[str, bytes]) -> dict[str, bytes | None]:
    known = _values(there)
    gone: dict[str, bytes | None] = dict.fromkeys(known.keys() - values.keys())
    return gone | {key: value for key, value in values.items() if known.get(key) != value}


def _pools(gate: KeyValue) -> dict[str, bytes]:
    return {key: bytes(value) for key, value in schema.decode(gate.value, RestoreRecord, gate.key).pools.items()}


def _parts(keys: Iterable[str]) -> Iterable[list[str]]:
    left = iter(keys)
    while part := list(islice(left, TOGETHER)):
        yield part
