"""The store on etcd v3: generated stubs over channels of our own (docs/decisions/0001-etcd-client.md)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc
import msgspec
from pyetcd import etcdrpc as rpc

from qnet.errors import NotFound, Unavailable
from qnet.store import _etcd_errors as errors
from qnet.store._etcd_links import Links, Tls
from qnet.store._etcd_watch import EtcdWatch, WatchHub
from qnet.store._etcd_wire import key_value, span, txn_request, txn_result
from qnet.store.base import EndpointStatus, KeyValue, RangeResult, Txn, TxnResult, WatchSink

__all__ = ["EtcdStore", "Tls"]

_PAGE = 5_000  # keys in one answer
_ERRORS = 8  # StatusResponse.errors of etcd 3.4, which the stubs do not know


class EtcdStore:
    """A cluster of etcd members. Making it connects nothing, so it may be made before a fork and used after.

    `endpoints` are "host:port"; `timeout` bounds every call, in seconds, however many endpoints there are.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: Tls | None = None,
        user: str = "",
        password: str = "",
        timeout: float = 4.0,
    ) -> None:
        self._links = Links(endpoints, tls, user, password, timeout)
        self._hub = WatchHub(self._links)

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        """Run a transaction; see `Transactor.txn`."""
        response = self._links.call("txn", txn_request(txn), "write", repeatable=repeatable)
        return txn_result(txn, response, response.header.revision)

    def get(self, key: str) -> KeyValue | None:
        """Read one key, linearizably."""
        response = self._links.call("range", rpc.RangeRequest(key=key.encode()), f"read {key}", repeatable=True)
        return key_value(response.kvs[0]) if response.kvs else None

    def range(self, prefix: str, *, limit: int = 0, after: str = "", revision: int = 0) -> RangeResult:
        """Read keys below a prefix, in pages of one revision.

        Raises:
            NotFound: `revision` has been compacted away.
        """
        start, end = span(prefix)
        if after:
            start = max(start, after.encode() + b"\0")
        request = rpc.RangeRequest(key=start, range_end=end, revision=revision)
        what = f"read the keys below {prefix}"
        kvs: list[KeyValue] = []
        now = 0
        while True:
            request.limit = min(_PAGE, limit - len(kvs)) if limit else _PAGE
            try:
                page = self._links.call("range", request, what, repeatable=True)
            except NotFound as error:
                if revision or not now:
                    raise
                raise Unavailable(f"cannot {what}: their revision was compacted meanwhile") from error
            kvs.extend(map(key_value, page.kvs))
            now = now or page.header.revision
            if not page.more or len(kvs) == limit:
                return RangeResult(tuple(kvs), now, page.more)
            request.key = page.kvs[-1].key + b"\0"
            request.revision = revision or now

    def count(self, prefix: str) -> int:
        """The number of keys below a prefix."""
        start, end = span(prefix)
        request = rpc.RangeRequest(key=start, range_end=end, count_only=True)
        what = f"count the keys below {prefix}"
        return int(self._links.call("range", request, what, repeatable=True).count)

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write a key whatever it holds; returns the revision."""
        request = rpc.PutRequest(key=key.encode(), value=value, lease=lease)
        return int(self._links.call("put", request, f"write {key}", repeatable=False).header.revision)

    def delete(self, key: str) -> bool:
        """Delete a key; returns whether it existed."""
        request = rpc.DeleteRangeRequest(key=key.encode())
        return bool(self._links.call("delete", request, f"delete {key}", repeatable=False).deleted)

    def grant(self, ttl: int) -> int:
        """Make a lease of `ttl` seconds (etcd has a minimum of about two); returns its id."""
        request = rpc.LeaseGrantRequest(TTL=ttl)
        return int(self._links.call("grant", request, "make a lease", repeatable=False).ID)

    def keepalive(self, lease: int) -> int:
        """Renew a lease once; returns the seconds it now has, 0 if it is gone."""
        request = rpc.LeaseKeepAliveRequest(ID=lease)
        return max(0, int(self._links.call("keepalive", request, "renew a lease", repeatable=True).TTL))

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; a lease that is gone is no error."""
        with suppress(NotFound):
            self._links.call("revoke", rpc.LeaseRevokeRequest(ID=lease), "end a lease", repeatable=True)

    def watch(self, prefix: str, start_revision: int, sink: WatchSink) -> EtcdWatch:
        """Deliver every change below the prefix from `start_revision` on; see `Store.watch`."""
        return self._hub.add(prefix, start_revision, sink)

    def status(self) -> tuple[EndpointStatus, ...]:
        """Ask every endpoint at the same time how it is; never raises."""
        asked: list[tuple[str, Any, str]] = []
        began, answered = time.monotonic(), dict[Any, float]()
        for endpoint in self._links.endpoints:
            try:
                call = endpoint.method("status").future(rpc.StatusRequest(), self._links.timeout)
            except Exception as error:  # noqa: BLE001  (unreadable certificates, a closed store)
                asked.append((endpoint.address, None, str(error)))
            else:
                call.add_done_callback(lambda done: answered.setdefault(done, time.monotonic() - began))
                asked.append((endpoint.address, call, ""))
        found = [_status(*entry) for entry in asked]
        return tuple(
            msgspec.structs.replace(status, seconds=answered.get(call, time.monotonic() - began))
            for status, (_, call, _) in zip(found, asked, strict=True)
        )

    def close(self) -> None:
        """End watches and connections; idempotent."""
        self._hub.close()
        self._links.close()


def _status(address: str, call: Any, error: str) -> EndpointStatus:
    from google.protobuf.unknown_fields import UnknownFieldSet  # each command would wait for it

    if call is None:
        return EndpointStatus(address, error=error)
    try:
        answer = call.result()
    except grpc.RpcError as failed:
        return EndpointStatus(address, error=errors.detail(failed))
    leader = answer.leader != 0 and answer.leader == answer.header.member_id
    troubles = tuple(one.data.decode() for one in UnknownFieldSet(answer) if one.field_number == _ERRORS)
    cluster = f"{answer.header.cluster_id:x}"
    return EndpointStatus(address, answer.version, leader, answer.dbSize, cluster=cluster, troubles=troubles)
