"""Connections to etcd's members: lazily made channels, failover inside one deadline, authentication.

A request that may not run twice is sent only on a connection that has just proved itself, and only once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pyetcd import etcdrpc as rpc

from qnet import metrics
from qnet.errors import Ambiguous, InvalidRequest, QnetError, Unavailable
from qnet.store import _etcd_errors as errors

# etcd closes connections that ping more often than every 5 s, or ping without a stream open.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),  # without it gRPC 1.85 waits a minute for a ping's answer
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # in truth the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),  # etcd bounds a batch of a watch in revisions, not in bytes
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
)
_NEEDS_LEADER = (("hasleader", "true"),)  # a member cut off from the quorum refuses instead of waiting
_WRITES = frozenset({"txn", "put", "delete", "grant", "revoke"})
_FRESH = 1.0  # seconds for which an answer vouches for a connection
_PAUSE = 0.1  # seconds between rounds over the endpoints


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of the authority's certificate, and of the client's certificate and key if it has any."""

    ca: str
    cert: str = ""
    key: str = ""

    def credentials(self) -> Any:
        """Read the files.

        Raises:
            InvalidRequest: one of them cannot be read.
        """
        try:
            ca, cert, key = (Path(p).read_bytes() if p else None for p in (self.ca, self.cert, self.key))
        except OSError as error:
            raise InvalidRequest(f"cannot read {error.filename} for etcd: {error.strerror}") from error
        return grpc.ssl_channel_credentials(ca, key, cert)


class Endpoint:
    """One member: its channel is made at the first use, so in the process that uses it."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        self.address = address
        self.version = ""
        self.answered = 0.0  # when it last answered; 0 when it has not, or has failed since
        self._tls = tls
        self._lock = threading.Lock()
        self._channel: Any = None
        self._methods: dict[str, Any] = {}

    def method(self, name: str) -> Any:
        """The callable of one RPC."""
        return self._methods.get(name) or self._open()[name]

    def _open(self) -> dict[str, Any]:
        with self._lock:
            if not self._methods:
                if self._tls is None:
                    self._channel = grpc.insecure_channel(self.address, _OPTIONS)
                else:
                    self._channel = grpc.secure_channel(self.address, self._tls.credentials(), _OPTIONS)
                kv, lease = rpc.KVStub(self._channel), rpc.LeaseStub(self._channel)
                self._methods = {
                    "txn": kv.Txn,
                    "range": kv.Range,
                    "put": kv.Put,
                    "delete": kv.DeleteRange,
                    "grant": lease.LeaseGrant,
                    "keepalive": _once(lease.LeaseKeepAlive),
                    "revoke": lease.LeaseRevoke,
                    "watch": rpc.WatchStub(self._channel).Watch,
                    "status": rpc.MaintenanceStub(self._channel).Status,
                    "authenticate": rpc.AuthStub(self._channel).Authenticate,
                }
            return self._methods

    def probe(self, timeout: float) -> None:
        """Make sure that the member answers. Raises grpc.RpcError."""
        self.version = self.method("status")(rpc.StatusRequest(), timeout).version
        self.answered = time.monotonic()

    def close(self) -> None:
        """Close the channel; idempotent."""
        with self._lock:
            if self._channel is not None:
                self._channel.close()


def _once(stream: Any) -> Any:
    """A bidirectional method as a call with one request and one answer."""

    def call(request: Any, timeout: float, metadata: Any) -> Any:
        answers = stream(iter((request,)), timeout, metadata)
        try:
            return next(answers)
        finally:
            answers.cancel()

    return call


class Links:
    """The members of one cluster, and the rules by which a call finds one that answers."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None, user: str, password: str, timeout: float) -> None:
        if not addresses:
            raise InvalidRequest("no etcd endpoint is configured")
        self.endpoints = tuple(Endpoint(address, tls) for address in addresses)
        self.user = user
        self.timeout = timeout
        self.metadata: tuple[tuple[str, str], ...] = _NEEDS_LEADER
        self.closed = False
        self._password = password
        self._auth_lock = threading.Lock()
        self._authenticated = not user
        self._good = 0

    def call(self, name: str, request: Any, what: str, *, repeatable: bool) -> Any:
        """Call `name` on the endpoint that answered last, else on the others, within the deadline.

        Raises:
            Unavailable: no endpoint answered, and the request had no effect.
            Ambiguous: it is not known whether the request took effect.
        """
        try:
            with metrics.ETCD.labels(name).time():
                answer = self._call(name, request, what, repeatable)
        except QnetError as error:
            metrics.ETCD_ERRORS.labels(name, type(error).__name__).inc()
            metrics.ETCD_UP.set(not isinstance(error, Unavailable))
            raise
        metrics.ETCD_UP.set(1)
        return answer

    def _call(self, name: str, request: Any, what: str, repeatable: bool) -> Any:
        deadline = time.monotonic() + self.timeout
        reasons: dict[str, str] = {}
        doubtful = False
        while True:
            futile = True
            for turn, index in enumerate(self.order()):
                endpoint, sent = self.endpoints[index], False
                now = time.monotonic()
                share = (deadline - now) / (len(self.endpoints) - turn)
                if share <= 0:
                    break
                try:
                    self._ready(endpoint, now + share, repeatable)
                    sent = True
                    answer = self._send(endpoint, name, request, now + share if repeatable else deadline)
                except grpc.RpcError as error:
                    self._check(endpoint, error, what)
                    reasons[endpoint.address] = errors.detail(error)
                    futile = futile and errors.refused(error)
                    doubtful = doubtful or (name in _WRITES and sent and not errors.never_sent(error))
                except ValueError as error:  # gRPC's answer to a call on a closed channel
                    raise Unavailable(f"cannot {what}: the store is closed") from error
                else:
                    self._good = index
                    return answer
                if doubtful and not repeatable:
                    raise self._unreachable(what, reasons, doubtful)
            if futile or time.monotonic() + _PAUSE >= deadline:
                raise self._unreachable(what, reasons, doubtful)
            time.sleep(_PAUSE)

    def distrust_token(self) -> None:
        """A watch was refused, which may mean that the token has expired: fetch another before the next."""
        if self.user:
            self.metadata, self._authenticated = _NEEDS_LEADER, False

    def order(self) -> list[int]:
        """Indexes of the endpoints, the one that answered last first."""
        count, good = len(self.endpoints), self._good
        return [(good + turn) % count for turn in range(count)]

    def _ready(self, endpoint: Endpoint, until: float, repeatable: bool) -> None:
        """Have an endpoint prove itself if it has failed, or before a request that may be sent only once."""
        now = time.monotonic()
        if not endpoint.answered or not (repeatable or now - endpoint.answered < _FRESH):
            endpoint.probe(until - now)
        self.ensure_token(endpoint, until - now)

    def _send(self, endpoint: Endpoint, name: str, request: Any, until: float) -> Any:
        metadata = self.metadata
        try:
            answer = endpoint.method(name)(request, until - time.monotonic(), metadata)
        except grpc.RpcError as error:
            if not self.user or not errors.wants_token(error):
                raise
            self._authenticate(endpoint, metadata, until - time.monotonic())
            answer = endpoint.method(name)(request, until - time.monotonic(), self.metadata)
        endpoint.answered = time.monotonic()
        return answer

    def ensure_token(self, endpoint: Endpoint, timeout: float) -> None:
        """Authenticate if that is needed and was not done. Raises grpc.RpcError."""
        if not self._authenticated:
            self._authenticate(endpoint, _NEEDS_LEADER, timeout)

    def _authenticate(self, endpoint: Endpoint, stale: tuple[tuple[str, str], ...], timeout: float) -> None:
        """Fetch a token, unless someone has done so since `stale` was read. Raises grpc.RpcError."""
        with self._auth_lock:
            if self.metadata is not stale:
                return
            request = rpc.AuthenticateRequest(name=self.user, password=self._password)
            try:
                token = endpoint.method("authenticate")(request, max(timeout, 0.0)).token
            except grpc.RpcError as error:
                if not errors.auth_is_off(error):
                    raise
            else:
                self.metadata = (*_NEEDS_LEADER, ("token", token))
            self._authenticated = True

    def _check(self, endpoint: Endpoint, error: Any, what: str) -> None:
        """Note that the endpoint failed; raise what the caller must hear, if another would say the same."""
        if not errors.broken(error):
            raise errors.translate(what, error, self.user) from error
        endpoint.answered = 0.0
        if self.closed:
            raise Unavailable(f"cannot {what}: the store is closed") from error

    def _unreachable(self, what: str, reasons: dict[str, str], doubtful: bool) -> Unavailable:
        listed = "; ".join(f"{e.address}: {reasons.get(e.address, 'not tried')}" for e in self.endpoints)
        text = f"cannot {what}: etcd is unreachable: {listed}"
        return Ambiguous(f"{text}; the request may have taken effect") if doubtful else Unavailable(text)

    def close(self) -> None:
        """Close all channels."""
        self.closed = True
        for endpoint in self.endpoints:
            endpoint.close()
