"""Has volumes made, and what was removed cleared away: directories and limits in a pool.

A step that fails leaves a record that is not ready: whoever asks next goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from plugins.volume.directories import place
from plugins.volume.lock import PoolLocks
from plugins.volume.model import show_size
from plugins.volume.ports import Directories, Enforcer, Usage
from plugins.volume.repository import Repository
from qnet.errors import InvalidRequest, NotFound, QnetError, Unavailable
from qnet.schema import TrashRecord, VolumePoolRecord, VolumeRecord

WAITING = 90.0  # seconds that a volume may take to be made elsewhere: an engine waits two minutes for a create
PAUSE = 0.1  # seconds between looks whether it is


class Maker:
    """What this host does in pools, and has others do that can."""

    def __init__(self, repository: Repository, locks: PoolLocks, enforcer: Enforcer, directories: Directories) -> None:
        self._repository = repository
        self._locks = locks
        self._enforcer = enforcer
        self._directories = directories

    def ready(self, name: str) -> VolumeRecord:
        """A volume that can be used. Raises NotFound, Unavailable."""
        found = self._repository.get(name)
        return found if found.ready else self.make(found)

    def make(self, record: VolumeRecord) -> VolumeRecord:
        """Have what a record says made, by this host or by one that can."""
        pool = self._repository.pool(record.pool)
        return self._make_here(pool, record) if self._enforcer.able(pool) else self._ask(record)

    def serve(self, record: VolumeRecord) -> None:
        """Make a volume for a host that cannot, or let it know why not. Raises Unavailable."""
        try:
            self._make_here(self._repository.pool(record.pool), record)
        except NotFound:
            return  # removed meanwhile, or its pool
        except QnetError as error:
            self._repository.change(record, asked=False, trouble=str(error))

    def able(self, pool: str) -> bool:
        """Whether this host can change limits of a pool. Raises NotFound, Unavailable."""
        return self._enforcer.able(self._repository.pool(pool))

    def away(self, pool: str) -> Collection[str]:
        """Servers of a pool without which nothing is cleared. Raises NotFound, Unavailable."""
        return self._enforcer.away(self._repository.pool(pool))

    def clear(self, trash: TrashRecord) -> None:
        """Take a removed volume's limit and directory away. Raises NotFound, Unavailable."""
        pool = self._repository.pool(trash.volume.pool)
        with self._locks.hold(pool.name):
            if not self._repository.in_trash(trash.volume.id):
                return  # undeleted
            self._enforcer.lift(pool, place(trash.volume))
            self._directories.discard(pool, trash.volume)
            self._repository.moved(trash)

    def purge(self, trash: TrashRecord) -> None:
        """Delete what was in a volume for good. Raises NotFound, Unavailable."""
        self._directories.purge(self._repository.pool(trash.volume.pool), trash.volume)
        self._repository.forget(trash)

    def look(self, pool: VolumePoolRecord, younger: Callable[[], bool]) -> None:
        """Note how a pool is, unless another host did while this one waited. Raises NotFound, Unavailable."""
        with self._locks.hold(pool.name):
            if not younger():
                self._repository.note_health(pool.name, self._enforcer.health(pool))

    def check_room(self, volume: VolumeRecord, size: int) -> None:
        """Whether what a volume has fits into a size. Raises InvalidRequest, Unavailable."""
        if not size:
            return
        usage = self.usage(volume, self._repository.pools())
        if usage is None and volume.size:
            raise Unavailable(f"pool {volume.pool} does not answer: it is not known how much volume {volume.name} has")
        used = usage.used if usage else self._directories.measure(self._repository.pool(volume.pool), volume)
        if used > size:
            raise InvalidRequest(
                f"volume {volume.name} has {used:,} bytes, more than {show_size(size)}: remove files, or choose more"
            )

    def source(self, name: str, tenant: str) -> VolumeRecord:
        """What a volume is to be a copy of. Raises NotFound: its tenant has no such volume."""
        found = self._repository.find(name)
        if found is None or found.tenant != tenant or not found.ready:
            raise NotFound(f"-o from={name}: tenant {tenant} has no such volume")
        return found

    def usage(self, record: VolumeRecord, pools: Collection[VolumePoolRecord]) -> Usage | None:
        """What a volume has; None: it has no limit, or its pool does not answer."""
        return next((self._directories.usage(pool, record) for pool in pools if pool.name == record.pool), None)

    def _make_here(self, pool: VolumePoolRecord, record: VolumeRecord) -> VolumeRecord:
        """Make what a record says: again, where that broke off."""
        with self._locks.hold(pool.name):
            # whoever removes it from here on clears what is made now, who did before, has; who resizes, waits
            record = self._now_as(record)
            if record.ready:
                return record  # another host was faster
            self._enforcer.prepare(pool, record.strict)
            if record.restored:
                self._directories.restore(pool, record)
            self._directories.make(pool, record)
            self._enforcer.limit(pool, place(record), record.size, record.inodes)
        source = None
        if record.source_id:
            found = self.source(record.source, record.tenant)
            if found.id != record.source_id:
                raise NotFound(f"volume {record.source}, which {record.name} was to be a copy of, was removed")
            source = self._repository.pool(found.pool), found
        self._directories.fill(pool, record, source)  # without the lock: a copy takes its time
        return self._repository.change(record, ready=True, restored=False, source_id="", asked=False, trouble="")

    def _ask(self, record: VolumeRecord) -> VolumeRecord:
        """Have a host make a volume that can, and wait for it."""
        self._repository.change(record, asked=True, trouble="")
        deadline = time.monotonic() + WAITING
        while time.monotonic() < deadline:
            found = self._now_as(record)
            if found.ready:
                return found
            if found.trouble:
                raise Unavailable(found.trouble)
            time.sleep(PAUSE)
        raise Unavailable(
            f"volume {record.name}: this host is no Gluster server, and none on which sharedfs runs has made it within "
            f"{WAITING:g} s"
        )

    def _now_as(self, record: VolumeRecord) -> VolumeRecord:
        """A volume, read now. Raises NotFound: it was removed meanwhile."""
        found = self._repository.get(record.name)
        if found.id != record.id:
            raise NotFound(f"volume {record.name} was removed meanwhile")
        return found
