"""Keeps what this host's VXLAN links know as the store has it: one change of a record reaches every host of the VNI.

A host tells by a record of its own that it takes part in a VNI, and where. Where containers are, the records of their
addresses tell, which are written anyway.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from plugins.network.forwarding import Box, Changes, Table, difference
from plugins.network.ports import Filters, Tunnels
from qnet import metrics, schema
from qnet.errors import Internal, QnetError
from qnet.schema import AddressRecord, VtepRecord
from qnet.store.base import Store
from qnet.store.cache import Change, PrefixCache

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Segment:
    """A VNI as this host has it: its link, the underlay's, and the address to be found at."""

    vni: int
    tenant: str
    link: str
    underlay: str
    local: str


class _Follower:
    """One VNI and the copies of what it needs from the store."""

    def __init__(self, segment: Segment, store: Store, host: str, post: Callable[[Callable[[], None]], None]) -> None:
        self.segment = segment
        self.table = Table(host)
        self.apply: Callable[[Changes], None] = lambda _: None
        self._hosts = PrefixCache(
            store, schema.vtep_key(segment.vni), lambda news: post(lambda: self._hear_hosts(news))
        )
        contents = schema.tenant_contents_prefix(segment.tenant)
        self._boxes = PrefixCache(store, contents, lambda news: post(lambda: self._hear_boxes(news)))

    def start(self) -> None:
        """Load both copies. Raises Unavailable."""
        self._hosts.start()
        self._boxes.start()

    def close(self) -> None:
        """Follow no longer."""
        self._hosts.close()
        self._boxes.close()

    def _hear_hosts(self, news: list[Change]) -> None:
        self.apply(self.table.hosts((host, _vtep(value)) for host, value in news))

    def _hear_boxes(self, news: list[Change]) -> None:
        found = []
        for suffix, value in news:
            _, kind, address = suffix.split("/", 2)
            if f"{kind}/" == schema.ADDRESS:
                found.append((address, _box(suffix, value)))
        self.apply(self.table.boxes(found))


class Overlay:
    """The VNIs of this host. One thread writes to the kernel, so that what is written last is what was heard last."""

    def __init__(self, store: Store, tunnels: Tunnels, filters: Filters, host: str) -> None:
        self._store = store
        self._tunnels = tunnels
        self._filters = filters
        self._host = host
        self._lock = threading.RLock()
        self._guarding = threading.Lock()
        self._followers: dict[int, _Follower] = {}
        self._known = False  # whether what an earlier process published was looked at
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="overlay", daemon=True)
        self._thread.start()

    def enter(self, segment: Segment) -> None:
        """Take part in a VNI, or go on as this segment says. Raises Unsupported, Unavailable."""
        with self._lock:
            follower = self._followers.get(segment.vni)
            if follower is not None and follower.segment == segment:
                return
            record = schema.encode(VtepRecord(address=segment.local))
            self._store.put(schema.vtep_key(segment.vni, self._host), record)
            if follower is not None:
                follower.close()
            fresh = _Follower(segment, self._store, self._host, self._work.put)
            fresh.apply = lambda changes: self._apply(fresh, changes)
            self._followers[segment.vni] = fresh
            try:
                fresh.start()
            except QnetError:
                fresh.close()
                del self._followers[segment.vni]
                raise
        self._guard()

    def leave(self, vni: int) -> None:
        """Take part no longer; that this host does not is no error. Its record goes now, or with the next `sync`."""
        with self._lock:
            follower = self._followers.pop(vni, None)
            self._known = False
            if follower is not None:
                follower.close()
            try:
                self._guard()
                self._store.delete(schema.vtep_key(vni, self._host))  # last: as long as it is there, there may be rules
            except QnetError as error:
                logger.warning("host %s leaves VNI %d with the next comparison: %s", self._host, vni, error)

    def sync(self, wanted: Mapping[int, Segment]) -> None:
        """Take part in these VNIs, and compare what the kernel has. Raises Unavailable.

        Of others only what an earlier process left is withdrawn: one that this process is about to make must stay.
        """
        for segment in wanted.values():
            self.enter(segment)
        self._work.put(self._reconcile)
        if not self._known:
            self._withdraw(wanted)

    def close(self) -> None:
        """End the thread and stop following; the kernel keeps what it knows."""
        self._work.put(None)
        self._thread.join(timeout=2)
        for follower in self._followers.values():
            follower.close()

    def _withdraw(self, wanted: Mapping[int, Segment]) -> None:
        """Take back what an earlier process published and nothing needs, and its rules. Raises Unavailable."""
        self._known = True
        try:
            keys = [kv.key for kv in self._store.range(schema.VTEPS).kvs]
        except QnetError:
            self._known = False
            raise
        for vni, host in (key.removeprefix(schema.VTEPS).split("/") for key in keys):
            with self._lock:
                if host == self._host and int(vni) not in {*wanted, *self._followers}:
                    self.leave(int(vni))

    # -- what the thread does --------------------------------------------------------------------------------

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            try:
                task()
            except QnetError as error:
                logger.warning("VXLAN: %s; it is compared again", error)
            except Exception:
                logger.exception("VXLAN: it is compared again")

    def _apply(self, follower: _Follower, changes: Changes) -> None:
        if not changes or self._followers.get(follower.segment.vni) is not follower:
            return
        if any(kind == "flood" for kind, _ in changes):
            self._guard()
        self._tunnels.change(follower.segment.link, changes)

    def _guard(self) -> None:
        with self._guarding:
            followers = list(self._followers.values())
            links = {follower.segment.underlay for follower in followers}
            self._filters.underlay({follower.segment.vni: follower.table.vteps for follower in followers}, links)

    def _reconcile(self) -> None:
        followers = list(self._followers.values())
        if followers:
            self._guard()
        for follower in followers:
            link = follower.segment.link
            changes = difference(self._tunnels.entries(link), follower.table.entries)
            if changes:
                metrics.REPAIRS.labels("forwarding entries").inc()
                logger.info("%s: %d forwarding entries put right", link, len(changes))
                self._tunnels.change(link, changes)


def _vtep(value: bytes | None) -> str | None:
    return schema.decode(value, VtepRecord).address if value is not None else None


def _box(suffix: str, value: bytes | None) -> Box | None:
    """Who has an address; None: nobody that frames could be sent to."""
    try:
        record = schema.decode(value, AddressRecord, suffix) if value is not None else None
    except Internal as error:
        logger.error("%s", error)
        return None
    return Box(record.mac, record.host) if record is not None and record.mac else None
