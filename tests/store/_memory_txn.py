"""The rules of etcd's transactions that do not touch the data: what is refused, which branches run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from qnet.errors import InvalidRequest, NotFound
from qnet.store.base import Compare, Delete, KeyValue, Op, Put, Range, Txn, TxnResult

_RELATION: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
MAX_OPS = 128  # etcd's --max-txn-ops


@dataclass(frozen=True, slots=True)
class Path:
    """Which branch of a transaction runs, and of the transactions nested in that branch, in order."""

    succeeded: bool
    nested: tuple[Path, ...]


def decide(txn: Txn, holds: Callable[[Compare], bool]) -> Path:
    """Evaluate all compares before anything is written, as etcd does."""
    succeeded = all(holds(compare) for compare in txn.compares)
    branch = txn.success if succeeded else txn.failure
    return Path(succeeded, tuple(decide(op, holds) for op in branch if isinstance(op, Txn)))


def holds(compare: Compare, kvs: Iterable[KeyValue]) -> bool:
    """Whether every key that the compare names satisfies it. A missing key has revision 0 and no value."""
    found = list(kvs)
    if not found:
        return compare.target != "value" and _RELATION[compare.op](0, compare.operand)
    field = {"create": "create_revision", "mod": "mod_revision", "value": "value"}[compare.target]
    return all(_RELATION[compare.op](getattr(kv, field), compare.operand) for kv in found)


def stamp(result: TxnResult, revision: int) -> TxnResult:
    """Give a result and the ones nested in it the revision of the store."""
    results = tuple(stamp(r, revision) if isinstance(r, TxnResult) else r for r in result.results)
    return replace(result, revision=revision, results=results)


def check(txn: Txn, leases: Container[int]) -> None:
    """Refuse what etcd refuses before it does anything.

    Raises:
        InvalidRequest: a key is empty or written twice, or there are too many operations.
        NotFound: a lease is gone.
    """
    _check_ops(txn, MAX_OPS)
    for branch in (txn.success, txn.failure):
        _check_branch(branch)
    _check_leases(txn, leases)


def _check_ops(txn: Txn, limit: int) -> None:
    ops = max(len(txn.compares), len(txn.success), len(txn.failure))
    if ops > limit:
        raise InvalidRequest("too many operations in the transaction")
    if not all(compare.key or compare.whole_prefix for compare in txn.compares):
        raise InvalidRequest("the key is empty")
    for op in (*txn.success, *txn.failure):
        if isinstance(op, Txn):
            _check_ops(op, limit - ops)
        elif not (isinstance(op, Range) or op.key or (isinstance(op, Delete) and op.whole_prefix)):
            raise InvalidRequest("the key is empty")


def _check_leases(txn: Txn, leases: Container[int]) -> None:
    for op in (*txn.success, *txn.failure):
        if isinstance(op, Txn):
            _check_leases(op, leases)
        elif isinstance(op, Put) and op.lease and op.lease not in leases:
            raise NotFound("the lease is gone")


def _check_branch(ops: tuple[Op, ...]) -> tuple[set[str], list[Delete]]:
    """etcd's checkIntervals: the keys that a branch may put, and what it may delete; they must not meet."""
    deletes = [op for op in ops if isinstance(op, Delete)]
    puts: set[str] = set()
    for op in ops:
        if isinstance(op, Txn):
            then, then_deletes = _check_branch(op.success)
            other, other_deletes = _check_branch(op.failure)
            for key in then | other:
                _refuse(key in puts or _deletes(deletes, key), key)
            puts |= then | other
            deletes += then_deletes + other_deletes
    for op in ops:
        if isinstance(op, Put):
            _refuse(op.key in puts or _deletes(deletes, op.key), op.key)
            puts.add(op.key)
    return puts, deletes


def _deletes(deletes: list[Delete], key: str) -> bool:
    return any(key.startswith(d.key) if d.whole_prefix else key == d.key for d in deletes)


def _refuse(twice: bool, key: str) -> None:
    if twice:
        raise InvalidRequest(f"duplicate key in the transaction: {key}")
