"""Small patterns over a store: bounded read-compare-write, leases kept alive, leases shared by short-lived keys."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from qnet.errors import Conflict, QnetError
from qnet.store.base import Delete, KeyValue, Put, Store, Txn, absent, unchanged

_log = logging.getLogger(__name__)


def cas_update(store: Store, key: str, change: Callable[[KeyValue | None], bytes | None], *, attempts: int = 10) -> int:
    """Replace a key's value by what `change` makes of it (None deletes), if nobody else wrote it meanwhile.

    Returns the revision at which the key is as `change` wants it. `change` may be called several times.

    Raises:
        Conflict: others were faster `attempts` times.
    """
    for _ in range(attempts):
        before = store.get(key)
        value = change(before)
        if value is None and before is None:
            return 0
        guard = absent(key) if before is None else unchanged(before)
        op = Delete(key) if value is None else Put(key, value, before.lease if before else 0)
        result = store.txn(Txn((guard,), (op,)))
        if result.succeeded:
            return result.revision
    raise Conflict(f"cannot update {key}: others changed it {attempts} times in a row")


class RollingLease:
    """Leases for short-lived keys: each key lives between `ttl` and `ttl + window` seconds.

    All keys of one window share a lease, so there is at most one lease for each window.
    """

    def __init__(self, store: Store, ttl: int, window: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._ttl = ttl
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._lease = 0
        self._until = 0.0

    def id(self) -> int:
        """The lease to attach to a key that is written now. Raises what `Store.grant` raises."""
        with self._lock:
            now = self._clock()
            if not self._lease or now >= self._until:
                self._lease = self._store.grant(self._ttl + self._window)
                self._until = now + self._window
            return self._lease

    def renew(self) -> None:
        """Forget the lease: a write said that it is gone (revoked, or this clock stood still)."""
        with self._lock:
            self._lease = 0


class LeaseKeeper:
    """Keeps a lease alive from a thread of its own, and makes a new one when it is lost.

    `on_change(lease)` hears of each new lease, and of 0 when the lease is lost: gone, or not renewed for `ttl`
    seconds because the store cannot be reached. It is called from the thread, except the first time.
    """

    def __init__(
        self,
        store: Store,
        ttl: int,
        on_change: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl = ttl
        self._on_change = on_change
        self._clock = clock
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._lease = 0
        self._expires = 0.0

    @property
    def lease(self) -> int:
        """The lease that lives, as far as is known; 0 if there is none."""
        return self._lease if self._clock() < self._expires else 0

    def start(self) -> int:
        """Make the lease and begin to keep it; returns its id. Raises what `Store.grant` raises."""
        self._grant()
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()
        return self._lease

    def close(self, *, revoke: bool = True) -> None:
        """Stop, and by default end the lease with its keys; idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        if revoke and self._lease:
            lease, self._lease = self._lease, 0
            try:
                self._store.revoke(lease)
            except QnetError as error:
                _log.info("lease %d is left to expire: %s", lease, error)

    def _run(self) -> None:
        while not self._closing.wait(self._pause()):
            try:
                self._tend()
            except QnetError as error:
                _log.warning("cannot renew the lease: %s", error)
                if self._lease and self._clock() >= self._expires:
                    self._lose()

    def _pause(self) -> float:
        """A third of the lifetime, or less if a renewal has failed and time runs out; a second without lease."""
        if not self._lease:
            return min(1.0, self._ttl / 3)
        return max(0.05, min(self._ttl / 3, (self._expires - self._clock()) / 2))

    def _tend(self) -> None:
        if self._lease:
            asked = self._clock()
            left = self._store.keepalive(self._lease)
            if left:
                self._expires = asked + left
                return
            self._lose()
        self._grant()

    def _grant(self) -> None:
        asked = self._clock()
        self._lease = self._store.grant(self._ttl)
        self._expires = asked + self._ttl
        self._tell(self._lease)

    def _lose(self) -> None:
        _log.warning("lease %d is lost", self._lease)
        self._lease = 0
        self._tell(0)

    def _tell(self, lease: int) -> None:
        if self._on_change is not None:
            try:
                self._on_change(lease)
            except Exception:  # noqa: BLE001  (a listener's bug must not let the lease die)
                _log.exception("a listener failed on lease %d", lease)
