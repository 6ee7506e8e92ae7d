"""All watches of one store on one stream, which moves to another member when it breaks.

Every watch remembers up to which revision it has delivered and resumes behind it: sinks see no break.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc
from pyetcd import etcdrpc as rpc

from qnet import metrics
from qnet.errors import InvalidRequest, QnetError, Unavailable
from qnet.store import _etcd_errors as errors
from qnet.store._etcd_links import Endpoint, Links
from qnet.store._etcd_wire import event, span
from qnet.store.base import Batch, Lost, WatchSink

_log = logging.getLogger(__name__)
_CONNECT = 2.0  # seconds that a member may take to prove itself before the stream tries the next one
_BACKOFF_MIN, _BACKOFF_MAX = 0.05, 1.0


class _Broken(Exception):
    """The stream cannot go on."""


class EtcdWatch:
    """One watch; `position` is the last revision that its sink has had completely."""

    def __init__(self, hub: WatchHub, prefix: str, start_revision: int, sink: WatchSink) -> None:
        self.prefix = prefix
        self.position = start_revision - 1
        self.asked = False
        self.id: int | None = None
        self.cancelled = False
        self._hub = hub
        self._sink = sink
        self._delivery = threading.RLock()

    def cancel(self) -> None:
        """Stop delivering. Waits for a running call of the sink, so hold no lock that the sink takes."""
        with self._delivery:
            if self.cancelled:
                return
            self.cancelled = True
        self._hub.forget(self)

    def progress(self) -> None:
        """Ask where the watch stands. Members before 3.4.25 and 3.5.8 tell no truth: no answer then."""
        self.asked = True
        self._hub.ask()

    def deliver(self, batch: Batch | Lost) -> None:
        """Call the sink, unless cancelled; its exceptions are logged."""
        with self._delivery:
            if self.cancelled:
                return
            if isinstance(batch, Lost):
                self.cancelled = True
            else:
                self.position = max(self.position, batch.revision)
            try:
                self._sink(batch)
            except Exception:  # noqa: BLE001  (a sink's bug must not end the other watches)
                _log.exception("the sink of the watch on %s failed", self.prefix)

    def request(self) -> Any:
        """The message that creates it, or creates it again."""
        start, end = span(self.prefix)
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=start, range_end=end, start_revision=self.position + 1, progress_notify=True
            )
        )


class WatchHub:
    """Owns the stream and the thread that reads it; the thread starts with the first watch."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._watches: dict[EtcdWatch, None] = {}
        self._requests: queue.SimpleQueue[Any] | None = None  # of the stream that is open, else None
        self._creating: deque[EtcdWatch] = deque()  # etcd answers creations in their order
        self._by_id: dict[int, EtcdWatch] = {}
        self._call: Any = None

    def add(self, prefix: str, start_revision: int, sink: WatchSink) -> EtcdWatch:
        """Start a watch."""
        if start_revision < 1:
            raise InvalidRequest(f"a watch cannot start at revision {start_revision}")
        watch = EtcdWatch(self, prefix, start_revision, sink)
        with self._lock:
            if self._closing.is_set():
                raise Unavailable(f"cannot watch {prefix}: the store is closed")
            self._watches[watch] = None
            if self._requests is not None:
                self._create(watch, self._requests)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="etcd-watch", daemon=True)
                self._thread.start()
        return watch

    def forget(self, watch: EtcdWatch) -> None:
        """Drop a watch that was cancelled."""
        with self._lock:
            self._watches.pop(watch, None)
            if self._requests is not None and watch.id is not None and watch.id in self._by_id:
                self._cancel(watch.id, self._requests)

    def ask(self) -> None:
        """Request progress on the open stream; a stream that opens later asks by itself."""
        with self._lock:
            if self._requests is not None:
                self._requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))

    def close(self) -> None:
        """End all watches and the thread; idempotent. Not to be called from a sink."""
        with self._lock:
            self._closing.set()
            watches, thread, call = list(self._watches), self._thread, self._call
        if call is not None:
            call.cancel()
        for watch in watches:
            watch.cancel()
        if thread is not None:
            thread.join()

    def _create(self, watch: EtcdWatch, requests: queue.SimpleQueue[Any]) -> None:
        watch.id = None
        self._creating.append(watch)
        requests.put(watch.request())

    def _cancel(self, watch_id: int, requests: queue.SimpleQueue[Any]) -> None:
        del self._by_id[watch_id]
        requests.put(rpc.WatchRequest(cancel_request=rpc.WatchCancelRequest(watch_id=watch_id)))

    def _run(self) -> None:
        backoff = _BACKOFF_MIN
        failed: set[int] = set()  # endpoints not to try until the others have been
        while not self._closing.is_set():
            order = self._links.order()
            index = next((i for i in order if i not in failed), order[0])
            endpoint = self._links.endpoints[index]
            heard, reason = self._follow(endpoint)
            if self._closing.is_set():
                return
            metrics.ETCD_BREAKS.inc()
            metrics.ETCD_UP.set(heard)
            _log.warning("the watch stream to etcd member %s broke: %s", endpoint.address, reason)
            backoff = _BACKOFF_MIN if heard else min(backoff * 2, _BACKOFF_MAX)
            failed = {index} if heard or len(failed) >= len(order) else failed | {index}
            self._closing.wait(backoff)

    def _follow(self, endpoint: Endpoint) -> tuple[bool, str]:
        """Read a stream to this member until it breaks: whether anything came, and why it ended."""
        heard = False
        try:
            for response in self._open(endpoint):
                if not heard:
                    metrics.ETCD_UP.set(1)
                heard = True
                self._handle(response, endpoint)
        except grpc.RpcError as error:
            return heard, errors.detail(error)
        except (_Broken, QnetError, ValueError) as error:
            return heard, str(error)
        finally:
            self._shut()
        return heard, "the member ended the stream"

    def _open(self, endpoint: Endpoint) -> Any:
        """Connect, and create every watch at its position."""
        endpoint.probe(_CONNECT)
        self._links.ensure_token(endpoint, _CONNECT)
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._lock:
            if self._closing.is_set():
                return ()
            self._call = endpoint.method("watch")(_drain(requests), metadata=self._links.metadata)
            self._requests = requests
            for watch in self._watches:
                self._create(watch, requests)
            if any(watch.asked for watch in self._watches):
                requests.put(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
            return self._call

    def _shut(self) -> None:
        with self._lock:
            call, self._call = self._call, None
            requests, self._requests = self._requests, None
            self._creating.clear()
            self._by_id.clear()
        if requests is not None:
            requests.put(None)
        if call is not None:
            call.cancel()

    def _handle(self, response: Any, endpoint: Endpoint) -> None:
        if response.created:
            self._created(response)
        elif response.canceled:
            self._canceled(response)
        elif response.watch_id == -1:
            if truthful_progress(endpoint.version):
                with self._lock:
                    watches = list(self._by_id.values())
                for watch in watches:
                    self._progressed(watch, response.header.revision)
        else:
            with self._lock:
                found = self._by_id.get(response.watch_id)
            if found is None:
                return
            if not response.events:
                self._progressed(found, response.header.revision)
                return
            events = tuple(map(event, response.events))
            if events[0].mod_revision <= found.position:
                # A member that lags behind may repeat what another one has told.
                events = tuple(told for told in events if told.mod_revision > found.position)
            if events:
                found.deliver(Batch(events, events[-1].mod_revision))

    def _progressed(self, watch: EtcdWatch, revision: int) -> None:
        if watch.asked and revision >= watch.position:
            watch.asked = False
            watch.deliver(Batch((), revision))
        else:
            watch.position = max(watch.position, revision)

    def _created(self, response: Any) -> None:
        with self._lock:
            watch = self._creating.popleft()
            if not response.canceled:
                watch.id = response.watch_id
                self._by_id[response.watch_id] = watch
                if watch.cancelled and self._requests is not None:
                    self._cancel(response.watch_id, self._requests)
                return
        if response.compact_revision:
            self._lose(watch, response.compact_revision)
        elif not watch.cancelled:
            self._links.distrust_token()
            raise _Broken(f"etcd refused to watch {watch.prefix}: {response.cancel_reason}")

    def _canceled(self, response: Any) -> None:
        with self._lock:
            watch = self._by_id.pop(response.watch_id, None)
        if watch is None:
            return
        if response.compact_revision:
            self._lose(watch, response.compact_revision)
        else:
            raise _Broken(f"etcd ended the watch on {watch.prefix}: {response.cancel_reason}")

    def _lose(self, watch: EtcdWatch, compacted: int) -> None:
        with self._lock:
            self._watches.pop(watch, None)
        watch.deliver(Lost(f"revision {watch.position + 1} of {watch.prefix} was compacted (to {compacted})"))


def _drain(requests: queue.SimpleQueue[Any]) -> Iterator[Any]:
    while (request := requests.get()) is not None:
        yield request


def truthful_progress(version: str) -> bool:
    """Whether progress answers cannot overtake events: etcd-io/etcd#15220, mended in 3.4.25 and 3.5.8."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    return numbers >= (3, 5, 8) or (3, 4, 25) <= numbers < (3, 5)
