"""Random transactions give the same results on the in-process store and on etcd."""

from __future__ import annotations

from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from qnet.errors import QnetError
from qnet.store.base import Compare, Delete, Get, KeyValue, Put, Range, Store, Txn, TxnResult
from qnet.store.etcd import EtcdStore
from tests.store.memory import MemoryStore

_runs = count()
_keys = st.sampled_from(["a", "a/1", "a/2", "b", "b/1", "c"])
_prefixes = st.sampled_from(["a", "a/", "b", "", "z"])
_values = st.sampled_from([b"", b"x", b"y"])
_relations = st.sampled_from(["=", "!=", "<", ">"])

_by_revision = st.tuples(st.sampled_from(["create", "mod"]), _relations, st.integers(0, 6))
_by_value = st.tuples(st.just("value"), _relations, _values)


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    whole = draw(st.booleans())
    target, relation, operand = draw(_by_revision | _by_value)
    return Compare(draw(_prefixes if whole else _keys), target, relation, operand, whole)  # type: ignore[arg-type]


_ops = (
    st.builds(Get, _keys)
    | st.builds(Range, _prefixes, st.integers(0, 3))
    | st.builds(Put, _keys, _values)
    | st.builds(Delete, _keys)
    | st.builds(Delete, _prefixes, st.just(True))
)


def branches(inner: Any) -> Any:
    return st.lists(inner, max_size=3).map(tuple)


def txns(inner: Any) -> Any:
    return st.builds(Txn, st.lists(compares(), max_size=2).map(tuple), branches(inner), branches(inner))


_txn = txns(st.recursive(_ops, txns, max_leaves=8))


def below(prefix: str, base: int, op: Any) -> Any:
    """The operation with its keys below a prefix, and its revisions counted from `base`."""
    match op:
        case Txn():
            return Txn(
                tuple(below(prefix, base, c) for c in op.compares),
                tuple(below(prefix, base, o) for o in op.success),
                tuple(below(prefix, base, o) for o in op.failure),
            )
        case Compare(key, _, _, operand):
            moved = operand + base if isinstance(operand, int) and operand else operand
            return replace(op, key=prefix + key, operand=moved)
        case Range(name):
            return replace(op, prefix=prefix + name)
        case _:
            return replace(op, key=prefix + op.key)


def relative(base: int, value: Any) -> Any:
    """A result with revisions counted from `base`."""
    match value:
        case TxnResult():
            return TxnResult(value.succeeded, value.revision - base, relative(base, value.results))
        case KeyValue():
            return replace(value, create_revision=value.create_revision - base, mod_revision=value.mod_revision - base)
        case tuple():
            return tuple(relative(base, part) for part in value)
        case _:
            return value


def play(store: Store, prefix: str, steps: list[Txn]) -> list[Any]:
    base = store.put(prefix + "a/2", b"start")
    told: list[Any] = []
    for txn in steps:
        try:
            told.append(relative(base, store.txn(below(prefix, base, txn))))
        except QnetError as error:
            told.append(type(error))
        told.append(relative(base, store.range(prefix).kvs))
    return told


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_txn, min_size=1, max_size=6))
def test_the_same_results(etcd_store: EtcdStore, steps: list[Txn]) -> None:
    prefix = f"/diff{next(_runs)}/"
    memory = MemoryStore()
    assert play(memory, prefix, steps) == play(etcd_store, prefix, steps)
    memory.close()
