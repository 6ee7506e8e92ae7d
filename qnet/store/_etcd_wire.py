"""Store values to etcd's protobuf messages and back: the hot path, so messages are filled in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyetcd import etcdrpc as rpc

from qnet.store.base import Compare, Delete, Event, Get, KeyValue, Op, OpResult, Put, Range, Txn, TxnResult

_RELATION = {
    "=": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    "<": rpc.Compare.LESS,
    ">": rpc.Compare.GREATER,
}
_TARGET = {
    "create": (rpc.Compare.CREATE, "create_revision"),
    "mod": (rpc.Compare.MOD, "mod_revision"),
    "value": (rpc.Compare.VALUE, "value"),
}


def span(prefix: str) -> tuple[bytes, bytes]:
    """The half-open interval of keys that start with a prefix; etcd writes "all keys" as two zero bytes."""
    if not prefix:
        return b"\0", b"\0"
    start = prefix.encode()
    return start, start[:-1] + bytes((start[-1] + 1,))  # UTF-8 has no byte 255


def txn_request(txn: Txn) -> Any:
    """A TxnRequest."""
    request = rpc.TxnRequest()
    _fill_txn(request, txn)
    return request


def _fill_txn(request: Any, txn: Txn) -> None:
    for compare in txn.compares:
        _fill_compare(request.compare.add(), compare)
    for ops, branch in ((txn.success, request.success), (txn.failure, request.failure)):
        for op in ops:
            _FILL[type(op)](branch.add(), op)


def _fill_compare(message: Any, compare: Compare) -> None:
    target, field = _TARGET[compare.target]
    message.target = target
    message.result = _RELATION[compare.op]
    setattr(message, field, compare.operand)
    if compare.whole_prefix:
        message.key, message.range_end = span(compare.key)
    else:
        message.key = compare.key.encode()


def _fill_get(message: Any, op: Get) -> None:
    message.request_range.key = op.key.encode()


def _fill_range(message: Any, op: Range) -> None:
    request = message.request_range
    request.key, request.range_end = span(op.prefix)
    request.limit = op.limit


def _fill_put(message: Any, op: Put) -> None:
    request = message.request_put
    request.key = op.key.encode()
    request.value = op.value
    if op.lease:
        request.lease = op.lease


def _fill_delete(message: Any, op: Delete) -> None:
    request = message.request_delete_range
    if op.whole_prefix:
        request.key, request.range_end = span(op.key)
    else:
        request.key = op.key.encode()


def _fill_nested(message: Any, op: Txn) -> None:
    message.request_txn.SetInParent()
    _fill_txn(message.request_txn, op)


_FILL: dict[type[Op], Callable[[Any, Any], None]] = {
    Get: _fill_get,
    Range: _fill_range,
    Put: _fill_put,
    Delete: _fill_delete,
    Txn: _fill_nested,
}


def txn_result(txn: Txn, response: Any, revision: int) -> TxnResult:
    """Decode the answer to `txn`. Nested answers carry no revision of their own: they share the request's."""
    succeeded = response.succeeded
    results: list[OpResult] = []
    for op, answer in zip(txn.success if succeeded else txn.failure, response.responses, strict=True):
        kind = type(op)
        if kind is Put:
            results.append(None)
        elif kind is Delete:
            results.append(answer.response_delete_range.deleted)
        elif isinstance(op, Txn):
            results.append(txn_result(op, answer.response_txn, revision))
        else:
            results.append(tuple(map(key_value, answer.response_range.kvs)))
    return TxnResult(succeeded, revision, tuple(results))


def key_value(message: Any) -> KeyValue:
    """A KeyValue of etcd as ours."""
    return KeyValue(message.key.decode(), message.value, message.create_revision, message.mod_revision, message.lease)


def event(message: Any) -> Event:
    """An Event of etcd as ours."""
    kv = message.kv
    key = kv.key.decode()
    return Event(key, kv.value, kv.create_revision, kv.mod_revision, kv.lease, message.type == 1)
