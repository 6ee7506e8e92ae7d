"""A copy of all keys below a prefix, fed by a watch, that knows at which revision it stands."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from qnet.errors import InvalidRequest, QnetError
from qnet.store.base import Batch, Event, KeyValue, Lost, Store, Txn, Watch, none_newer, put_event

_log = logging.getLogger(__name__)
_PAGE = 4_096  # keys in one read, so that loading does not need the memory twice
_ASK = 0.02  # seconds that `wait` gives the watch before it looks for itself, and between looks
_BACKOFF = (0.1, 0.3, 1.0)

_Row: TypeAlias = tuple[bytes, int, int, int]  # value, create_revision, mod_revision, lease
Change: TypeAlias = tuple[str, bytes | None]  # suffix, and the new value; None: it is gone
OnChange: TypeAlias = Callable[[list[Change]], None]


class PrefixCache:
    """The keys below `prefix`, by suffix. Reads take no lock; losing the watch's place makes it read anew.

    `on_change` hears of every difference in order, several at once, never twice at a time, from `start`, from the
    watch and from `apply`. It runs under the cache's lock: it may read the cache, must be quick, and
    nobody may call `apply` or `close` while holding a lock that it takes.
    """

    def __init__(self, store: Store, prefix: str, on_change: OnChange | None = None) -> None:
        self.prefix = prefix
        self._store = store
        self._on_change = on_change
        self._changed = threading.Condition(threading.RLock())
        self._rows: dict[str, _Row] = {}
        self._tombstones: dict[str, int] = {}  # deletions that `apply` told before the watch
        self._revision = 0
        self._watch: Watch | None = None
        self._reloader: threading.Thread | None = None
        self._closing = threading.Event()

    # -- reading ---------------------------------------------------------------------------------------------

    def get(self, suffix: str) -> KeyValue | None:
        """The key `prefix + suffix`, as far as the cache knows."""
        row = self._rows.get(suffix)
        return self._kv(suffix, row) if row else None

    def items(self) -> list[tuple[str, KeyValue]]:
        """All suffixes with their keys, in no order."""
        return [(suffix, self._kv(suffix, row)) for suffix, row in list(self._rows.items())]

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, suffix: str) -> bool:
        return suffix in self._rows

    @property
    def revision(self) -> int:
        """The cache has every change up to this revision (and perhaps later ones of its own process)."""
        return self._revision

    @property
    def synced(self) -> bool:
        """It has been loaded and is being fed; false while it reads anew."""
        return self._watch is not None

    def _kv(self, suffix: str, row: _Row) -> KeyValue:
        return KeyValue(self.prefix + suffix, *row)

    # -- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Load the keys and begin to follow them; once. Raises what the store raises, and may then be repeated."""
        if self._watch is None and self._reloader is None:
            self._load()

    def close(self) -> None:
        """Stop following; idempotent. The copy stays readable."""
        self._closing.set()
        with self._changed:
            watch, self._watch = self._watch, None
            reloader = self._reloader
            self._changed.notify_all()
        if watch is not None:
            watch.cancel()
        if reloader is not None:
            reloader.join()

    def _load(self) -> None:
        """Read everything at one revision, page by page, tell the differences, and watch from there."""
        page = self._store.range(self.prefix, limit=_PAGE)
        revision = page.revision
        seen: set[str] = set()
        while True:
            with self._changed:
                self._merge(map(put_event, page.kvs))
            seen.update(kv.key[len(self.prefix) :] for kv in page.kvs)
            if not page.more or self._closing.is_set():
                break
            page = self._store.range(self.prefix, limit=_PAGE, after=page.kvs[-1].key, revision=revision)
        with self._changed:
            gone = [s for s, row in self._rows.items() if s not in seen and row[2] <= revision]
            self._merge(Event(self.prefix + suffix, b"", 0, revision, deleted=True) for suffix in gone)
            self._advance(revision)
            if not self._closing.is_set():
                self._watch = self._store.watch(self.prefix, revision + 1, self._hear)

    def _reload(self) -> None:
        for attempt in range(1_000_000_000):
            try:
                self._load()
            except QnetError as error:
                _log.warning("cannot read %s anew: %s", self.prefix, error)
            else:
                return
            if self._closing.wait(_BACKOFF[min(attempt, len(_BACKOFF) - 1)]):
                return

    # -- changes ---------------------------------------------------------------------------------------------

    def apply(self, *events: Event) -> None:
        """Take in changes that this process made, before the watch tells them. Older news never undo newer.

        Their `mod_revision` is the revision of the transaction that made them.
        """
        for event in events:
            if not event.key.startswith(self.prefix):
                raise InvalidRequest(f"{event.key} is not below {self.prefix}")
        with self._changed:
            fresh = [event for event in events if event.mod_revision > self._revision]
            self._merge(fresh)
            for event in fresh:
                if event.deleted:
                    suffix = event.key[len(self.prefix) :]
                    self._tombstones[suffix] = max(event.mod_revision, self._tombstones.get(suffix, 0))

    def _hear(self, news: Batch | Lost) -> None:
        with self._changed:
            if self._closing.is_set():
                return
            if isinstance(news, Lost):
                _log.info("reading %s anew: %s", self.prefix, news.reason)
                self._watch = None
                self._reloader = threading.Thread(target=self._reload, name="cache-reload", daemon=True)
                self._reloader.start()
                return
            self._merge(news.events)
            self._advance(news.revision)

    def _merge(self, events: Iterable[Event]) -> None:
        """Take in changes, each unless something newer is known of its key. Every host does this for every address that
        any host gives out, so it is written to be quick."""
        rows, tombstones, cut = self._rows, self._tombstones, len(self.prefix)
        changes: list[Change] = []
        for event in events:
            suffix, revision = event.key[cut:], event.mod_revision
            row = rows.get(suffix)
            known = row[2] if row else tombstones.get(suffix, 0)
            if event.deleted:
                if row is not None and known <= revision:
                    del rows[suffix]
                    changes.append((suffix, None))
            elif known < revision:
                # One object for equal numbers: this is most of what a row costs beside its value.
                created = revision if event.create_revision == revision else event.create_revision
                rows[suffix] = (event.value, created, revision, event.lease)
                if tombstones:
                    tombstones.pop(suffix, None)
                changes.append((suffix, event.value))
        if changes and self._on_change is not None:
            try:
                self._on_change(changes)
            except Exception:  # noqa: BLE001  (a listener's bug must not leave the copy behind)
                _log.exception("a cache's listener failed on %s and %d more", changes[0][0], len(changes) - 1)

    def _advance(self, revision: int) -> None:
        if revision > self._revision:
            self._revision = revision
            if self._tombstones:
                self._tombstones = {s: r for s, r in self._tombstones.items() if r > revision}
            self._changed.notify_all()

    # -- waiting ---------------------------------------------------------------------------------------------

    def wait(self, revision: int, timeout: float) -> bool:
        """Wait until the cache has every change up to `revision`; false after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._revision < revision:
            left = deadline - time.monotonic()
            if left <= 0 or self._closing.is_set():
                return False
            watch = self._watch
            if watch is not None:
                watch.progress()
            with self._changed:
                arrived = self._changed.wait_for(lambda: self._revision >= revision, min(_ASK, left))
            if not arrived:
                self._look()
        return True

    def _look(self) -> None:
        """Prove from reads that nothing has changed since `revision`: not every etcd can tell progress.

        No key is newer than our revision, and there are as many as we have: then none was put or deleted. The
        order of the reads matters. Keys applied ahead of the watch make this fail, but then events are coming.
        """
        with self._changed:
            if self._watch is None:
                return
            stand, size = self._revision, len(self._rows)
        try:
            now = self._store.range(self.prefix, limit=1).revision
            same = self._store.count(self.prefix) == size
            if same and self._store.txn(Txn((none_newer(self.prefix, stand),)), repeatable=True).succeeded:
                with self._changed:
                    self._advance(now)
        except QnetError as error:
            _log.debug("cannot look where %s stands: %s", self.prefix, error)
