"""Which keys a transaction reads and writes, and whether several may share one request."""

from __future__ import annotations

from qnet.store.base import Compare, Delete, Get, Op, Put, Range, Txn

MAX_OPS = 128  # etcd's --max-txn-ops: of a transaction, with the levels above the nested ones added
_OVERHEAD = 16  # bytes that a message adds to its key and value, roughly


class Footprint:
    """What a transaction may touch, in either branch: key → written, prefix → written.

    `size` estimates its bytes, `ops` what it adds to the deepest level of a request.
    """

    __slots__ = ("keys", "ops", "prefixes", "size")

    def __init__(self, txn: Txn) -> None:
        self.keys: dict[str, bool] = {}
        self.prefixes: dict[str, bool] = {}
        self.size = 0
        self.ops = self._add(txn)

    def _add(self, txn: Txn) -> int:
        for compare in txn.compares:
            self._compare(compare)
        deepest = 0
        for branch in (txn.success, txn.failure):
            for op in branch:
                if isinstance(op, Txn):
                    deepest = max(deepest, self._add(op))
                else:
                    self._op(op)
        return max(len(txn.compares), len(txn.success), len(txn.failure)) + deepest

    def _compare(self, compare: Compare) -> None:
        self._touch(compare.key, compare.whole_prefix, written=False)
        if isinstance(compare.operand, bytes):
            self.size += len(compare.operand)

    def _op(self, op: Op) -> None:
        match op:
            case Put(key, value):
                self._touch(key, False, written=True)
                self.size += len(value)
            case Get(key):
                self._touch(key, False, written=False)
            case Delete(key, whole_prefix):
                self._touch(key, whole_prefix, written=True)
            case Range(prefix):
                self._touch(prefix, True, written=False)

    def _touch(self, name: str, whole_prefix: bool, *, written: bool) -> None:
        names = self.prefixes if whole_prefix else self.keys
        names[name] = written or names.get(name, False)
        self.size += len(name) + _OVERHEAD


class Batch:
    """The footprints of transactions that travel together: where two meet, neither writes."""

    __slots__ = ("_keys", "_members", "_prefixes", "_room", "open")

    def __init__(self, first: Footprint) -> None:
        self._keys = dict(first.keys)
        self._prefixes = dict(first.prefixes)
        self._room = MAX_OPS - first.ops  # how many members the request may have
        self.open = self._room > 1
        self._members = 1

    def admit(self, other: Footprint) -> bool:
        """Add a transaction if it may travel with the ones already here."""
        room = min(self._room, MAX_OPS - other.ops)
        if self._members >= room or self._meets(other):
            return False
        self._room = room
        self._members += 1
        self.open = self._members < room
        _merge(self._keys, other.keys)
        _merge(self._prefixes, other.prefixes)
        return True

    def _meets(self, other: Footprint) -> bool:
        keys = self._keys
        for key, written in other.keys.items():
            if key in keys and (written or keys[key]):
                return True
        if self._prefixes and _below(other.keys, self._prefixes):
            return True
        if not other.prefixes:
            return False
        return _below(keys, other.prefixes) or _overlap(self._prefixes, other.prefixes)


def _merge(into: dict[str, bool], other: dict[str, bool]) -> None:
    for name, written in other.items():
        into[name] = written or into.get(name, False)


def _below(keys: dict[str, bool], prefixes: dict[str, bool]) -> bool:
    """Whether a key lies below a prefix and one of the two is written."""
    return any(
        (written or cleared) and key.startswith(prefix)
        for prefix, cleared in prefixes.items()
        for key, written in keys.items()
    )


def _overlap(one: dict[str, bool], two: dict[str, bool]) -> bool:
    return any(
        (written or cleared) and (a.startswith(b) or b.startswith(a))
        for a, written in one.items()
        for b, cleared in two.items()
    )
