"""Keeps what this host's VXLAN links know as the store has it: one change of a record reaches every host of the VNI.

A host tells by a record of its own that it takes part in a VNI, and where. Where containers are, the records of their
addresses tell, which are written anyway.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

from plugins.network.forwarding import Box, Changes, Key, Table, difference
from plugins.network.ports import Filters, Tunnels
from plugins.network.rules import Senders
from qnet import metrics, schema
from qnet.errors import Internal, QnetError, Unavailable
from qnet.schema import AddressRecord, VtepRecord
from qnet.store.base import Store
from qnet.store.cache import Change, PrefixCache

logger = logging.getLogger(__name__)

LOADERS = 16  # VNIs that are loaded at a time when the process starts
MOST = 1000  # changes that wait for each other
PATIENCE = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """A VNI as this host has it: its link, the underlay's, and the address to be found at."""

    vni: int
    tenant: str
    link: str
    underlay: str
    local: str


_Hear: TypeAlias = "Callable[[_Follower, list[Change]], None]"


class _Follower:
    """One VNI, and a copy of where its containers are."""

    def __init__(self, segment: Segment, store: Store, host: str, hear: _Hear) -> None:
        self.segment = segment
        self.table = Table(host)
        self.live = False  # whether what changes is written: not before all is loaded
        prefix = schema.tenant_contents_prefix(segment.tenant)
        self.boxes = PrefixCache(store, prefix, lambda news: hear(self, news))

    @property
    def senders(self) -> frozenset[tuple[str, str]]:
        """Who may send packets of the VNI, see `rules.Senders`."""
        return frozenset((self.segment.underlay, vtep) for vtep in self.table.vteps)


class Overlay:
    """The VNIs of this host. One thread writes to the kernel, so that what is written last is what was heard last."""

    def __init__(self, store: Store, tunnels: Tunnels, filters: Filters, host: str) -> None:
        self._store = store
        self._tunnels = tunnels
        self._filters = filters
        self._host = host
        self._lock = threading.RLock()
        self._guarding = threading.Lock()
        self._guarded: Senders | None = None  # whose rules are in force
        self._followers: dict[int, _Follower] = {}
        self._pending: dict[_Follower, dict[Key, str | None]] = {}
        self._known = False  # whether what an earlier process published was looked at
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._hosts = PrefixCache(store, schema.VTEPS, lambda news: self._work.put(lambda: self._hear_hosts(news)))
        self._thread = threading.Thread(target=self._run, name="overlay", daemon=True)
        self._thread.start()

    def enter(self, segment: Segment) -> None:
        """Take part in a VNI, or go on as this segment says. Raises Unsupported, Unavailable."""
        with self._lock:
            fresh = self._fresh([segment])
            self._follow(fresh, {})
        if fresh:
            self._work.put(lambda: self._go_live(segment.vni))
            self._guard()

    def leave(self, vni: int) -> None:
        """Take part no longer; that this host does not is no error. Its record goes now, or with the next `sync`."""
        with self._lock:
            follower = self._followers.pop(vni, None)
            self._known = False
            if follower is not None:
                follower.boxes.close()
            try:
                self._guard()
                self._store.delete(schema.vtep_key(vni, self._host))  # last: as long as it is there, there may be rules
            except QnetError as error:
                logger.warning("host %s leaves VNI %d with the next comparison: %s", self._host, vni, error)

    def sync(self, wanted: Mapping[int, Segment]) -> None:
        """Take part in these VNIs, and compare what the kernel has. Raises Unavailable.

        Of others only what an earlier process left is withdrawn: one that this process is about to make must stay.
        """
        with self._lock:
            fresh = self._fresh(wanted.values())
            if fresh or not self._known:
                published = {kv.key: kv.value for kv in self._store.range(schema.VTEPS).kvs}
                self._follow(fresh, published)
                self._withdraw(published)
            self._publish()
            if fresh:
                self._guard(anew=True)  # before frames flow
        self._work.put(self._reconcile)
        if fresh:
            done = threading.Event()
            self._work.put(done.set)
            done.wait(PATIENCE)  # what else is to be compared would only slow this down

    def close(self) -> None:
        """End the thread and stop following; the kernel keeps what it knows."""
        self._work.put(None)
        self._thread.join(timeout=0.2)  # what it leaves half done, the next process compares
        self._hosts.close()
        for follower in self._followers.values():
            follower.boxes.close()

    def _fresh(self, segments: Iterable[Segment]) -> list[Segment]:
        """Those that are not followed, or not as they are now."""
        has = {vni: follower.segment for vni, follower in self._followers.items()}
        return [segment for segment in segments if has.get(segment.vni) != segment]

    def _follow(self, fresh: Collection[Segment], published: Mapping[str, bytes]) -> None:
        """Publish that the host takes part, and load what is needed, many at a time."""
        if not fresh:
            return
        self._hosts.start()
        try:
            with ThreadPoolExecutor(min(LOADERS, len(fresh))) as pool:
                list(pool.map(lambda segment: self._begin(segment, published), fresh))
        finally:
            vnis = {segment.vni for segment in fresh}
            self._work.put(lambda: self._load_hosts(vnis))

    def _begin(self, segment: Segment, published: Mapping[str, bytes]) -> None:
        key, record = schema.vtep_key(segment.vni, self._host), schema.encode(VtepRecord(address=segment.local))
        if published.get(key) != record:
            self._store.put(key, record)
        follower = _Follower(segment, self._store, self._host, self._post_boxes)
        try:
            follower.boxes.start()
        except QnetError:
            follower.boxes.close()
            raise
        before, self._followers[segment.vni] = self._followers.get(segment.vni), follower
        if before is not None:
            before.boxes.close()

    def _withdraw(self, published: Iterable[str]) -> None:
        """Take back what an earlier process published and nothing needs, and its rules."""
        self._known = True
        for key in published:
            vni, host = _place(key.removeprefix(schema.VTEPS))
            if host == self._host and vni not in self._followers:
                self.leave(vni)

    def _publish(self) -> None:
        """Tell again that this host takes part, where somebody deleted that."""
        for vni, follower in self._followers.items() if self._hosts.synced else ():
            record, has = (
                schema.encode(VtepRecord(address=follower.segment.local)),
                self._hosts.get(f"{vni}/{self._host}"),
            )
            if has is None or has.value != record:
                self._store.put(schema.vtep_key(vni, self._host), record)

    def _post_boxes(self, follower: _Follower, news: list[Change]) -> None:
        self._work.put(lambda: self._hear_boxes(follower, news))

    # -- what the thread does --------------------------------------------------------------------------------

    def _run(self) -> None:
        done = 0
        while (task := self._work.get()) is not None:
            self._try(task)
            done += 1
            if self._work.empty() or done % MOST == 0:
                self._try(self._flush)  # all that came meanwhile at once

    @staticmethod
    def _try(task: Callable[[], None]) -> None:
        try:
            task()
        except QnetError as error:
            logger.warning("VXLAN: %s; it is compared again", error)
        except Exception:
            logger.exception("VXLAN: it is compared again")

    def _hear_hosts(self, news: Iterable[Change]) -> None:
        for suffix, value in news:
            vni, host = _place(suffix)
            if follower := self._followers.get(vni):
                self._note(follower, follower.table.hosts([(host, _vtep(value))]))

    def _load_hosts(self, vnis: Collection[int]) -> None:
        items = self._hosts.items()
        self._hear_hosts((suffix, kv.value) for suffix, kv in items if _place(suffix)[0] in vnis)

    def _hear_boxes(self, follower: _Follower, news: Iterable[Change]) -> None:
        found = []
        for suffix, value in news:
            _, kind, address = suffix.split("/", 2)
            if f"{kind}/" == schema.ADDRESS:
                found.append((address, _box(suffix, value)))
        self._note(follower, follower.table.boxes(found))

    def _go_live(self, vni: int) -> None:
        """Write what was loaded of a VNI."""
        if follower := self._followers.get(vni):
            follower.live = True
            self._note(follower, follower.table.entries)

    def _note(self, follower: _Follower, changes: Changes) -> None:
        if changes and follower.live:
            self._pending.setdefault(follower, {}).update(changes)

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        mine = {each: changes for each, changes in pending.items() if self._followers.get(each.segment.vni) is each}
        if any(kind == "flood" for changes in mine.values() for kind, _ in changes):
            self._guard()
        if mine:
            self._tunnels.change({each.segment.link: changes for each, changes in mine.items()})

    def _guard(self, *, anew: bool = False) -> None:
        """Put the rules of the underlay into force; `anew`: whatever they are."""
        with self._guarding:
            wanted = {vni: follower.senders for vni, follower in list(self._followers.items())}
            before, self._guarded = None if anew else self._guarded, None
            if wanted != before:
                try:
                    self._filters.underlay(wanted, before)
                except Unavailable:
                    if before is None:
                        raise
                    self._filters.underlay(wanted)  # somebody took the rules away
            self._guarded = wanted

    def _reconcile(self) -> None:
        followers = list(self._followers.values())
        if not followers:
            return
        self._guard(anew=True)
        has, changes = self._tunnels.entries(), {}
        for follower in followers:
            follower.live = True
            link = follower.segment.link
            if wrong := difference(has.get(link, {}), follower.table.entries):
                metrics.REPAIRS.labels("forwarding entries").inc()
                logger.info("%s: %d forwarding entries put right", link, len(wrong))
                changes[link] = wrong
        self._pending.clear()
        self._tunnels.change(changes)


def _place(suffix: str) -> tuple[int, str]:
    """The VNI and the host that a record of a host's own address is about."""
    vni, host = suffix.split("/", 1)
    return int(vni), host


def _vtep(value: bytes | None) -> str | None:
    try:
        return schema.decode(value, VtepRecord).address if value is not None else None
    except Internal as error:
        logger.error("%s", error)
        return None


def _box(suffix: str, value: bytes | None) -> Box | None:
    """Who has an address; None: nobody that frames could be sent to."""
    try:
        record = schema.decode(value, AddressRecord, suffix) if value is not None else None
    except Internal as error:
        logger.error("%s", error)
        return None
    return Box(record.mac, record.host) if record is not None and record.mac else None
