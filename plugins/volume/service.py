"""What the volume plugin does.

A step that fails leaves a record that is not ready: whoever asks next goes on from there. What was removed is cleared
away by `repair`.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from plugins.volume.directories import DATA, place
from plugins.volume.lock import PoolLocks
from plugins.volume.model import Held, Options, agree, parse_name, parse_options, show_size
from plugins.volume.ports import Directories, Enforcer, Lanes, Meters, Mounts, Rates, Traffic, Usage
from plugins.volume.repository import Repository
from qnet.errors import InvalidRequest, NotFound, QnetError, Unavailable
from qnet.folder import Folder
from qnet.schema import HealthRecord, MountRecord, TenantRecord, TrashRecord, VolumePoolRecord, VolumeRecord

logger = logging.getLogger(__name__)

WAITING = 90.0  # seconds that a volume may take to be made elsewhere: an engine waits two minutes for a create
PAUSE = 0.1  # seconds between looks whether it is


@dataclass(frozen=True, slots=True)
class Shown:
    """A volume with what is known of it here; `target` is where this host has it mounted, or empty, and `traffic` what
    this host read and wrote since then."""

    record: VolumeRecord
    usage: Usage | None
    health: HealthRecord | None
    mounts: tuple[MountRecord, ...]
    target: str
    traffic: Traffic | None = None


class Service:
    """Volumes as this host's engine, and its operator, ask for them."""

    def __init__(
        self,
        repository: Repository,
        held: Folder[Held],
        locks: PoolLocks,
        enforcer: Enforcer,
        directories: Directories,
        mounts: Mounts,
        lanes: Lanes,
        meters: Meters,
        root: Path,
        tenant: Callable[[str], TenantRecord],
        now: Callable[[], str],
        trash: timedelta,
        poke: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._held = held
        self._pool_locks = locks
        self._enforcer = enforcer
        self._directories = directories
        self._mounts = mounts
        self._lanes = lanes
        self._meters = meters
        self._root = root
        self._tenant = tenant
        self._now = now
        self._trash = trash
        self._poke = poke
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._laning = threading.Lock()

    # -- the engine's calls ----------------------------------------------------------------------------------

    def create(self, name: str, options: Options | None) -> None:
        """Make a volume, unless one like it is there. What it has is never touched.

        Raises:
            InvalidRequest, NotFound, Conflict, Unavailable
        """
        ask = parse_options(options)
        found = self._repository.find(parse_name(name))
        if found is None:
            owner = self._tenant(ask.tenant)
            pool = self._repository.pool(ask.pool)
            fields = {field: getattr(ask, field) for field in ask.__struct_fields__} | {"pool": pool.name}
            if ask.source:
                source = self._source(ask.source, ask.tenant)
                self._check_room(source, ask.size)
                fields["source_id"] = source.id
            record = VolumeRecord(name=name, id=secrets.token_hex(8), since=self._now(), **fields)
            found = record if self._repository.add(record, owner) else self._repository.get(name)
            if found is record:
                self._make_or_undo(record)
                return
        agree(found, ask, options)
        if not found.ready:
            self._make(found)

    def mount(self, name: str, mount: str) -> str:
        """Mount a volume on this host for one more user; returns the directory that containers see.

        Raises:
            NotFound, Conflict, Unavailable
        """
        volume = self._ready(parse_name(name))
        with self._locks[name]:
            self._repository.claim(volume)  # from now on nobody removes it
            before = self._held.get(volume.id) or Held(id=volume.id, name=name, mounts=())
            self._held.save(msgspec.structs.replace(before, mounts=tuple(dict.fromkeys((*before.mounts, mount)))))
            try:
                self._attach(volume)
            except QnetError:
                self._held.amend(volume.id, mounts=before.mounts)
                if not before.mounts:
                    self._release(before)
                raise
        self._poke()
        return str(self.target(volume.id) / DATA)

    def unmount(self, name: str, mount: str) -> None:
        """A user less; with the last one, the volume goes from this host, now or with the next comparison.

        Raises:
            InvalidRequest: no name of a volume.
        """
        with self._locks[parse_name(name)]:
            for held in self._held.all():
                if held.name == name and mount in held.mounts:
                    left = msgspec.structs.replace(held, mounts=tuple(each for each in held.mounts if each != mount))
                    self._held.save(left)
                    if not left.mounts:
                        self._release(left)
        self._poke()

    def remove(self, name: str) -> None:
        """Put a volume into the trash. Raises NotFound, Conflict: a host has it; naming it."""
        self._repository.remove(parse_name(name), self._expires)
        self._poke()

    def path(self, name: str) -> str:
        """Where this host has a volume mounted, or empty. Raises NotFound, Unavailable."""
        return self._path(self._known(name))

    def inspect(self, name: str) -> Shown:
        """A volume. Raises NotFound, Unavailable."""
        record = self._known(name)
        return self._measured(self._shown(record, self._repository.pools(), self._mounted(name)))

    def all(self) -> list[Shown]:
        """All volumes, without what they have. Raises Unavailable."""
        mounts = defaultdict[str, list[MountRecord]](list)
        for name, mount in self._repository.mounted():
            mounts[name].append(mount)
        return [self._shown(record, (), mounts[record.name]) for record in self._repository.shown()]

    def used(self) -> dict[str, Usage]:
        """What the volumes with a limit have, by name, of pools that answer. Raises Unavailable."""
        pools, silent, found = self._repository.pools(), set[str](), dict[str, Usage]()
        for record in self._repository.shown():
            if record.size and record.pool not in silent:
                usage = self._usage(record, pools)
                if usage is None:
                    silent.add(record.pool)  # each of its volumes would be waited for
                else:
                    found[record.name] = usage
        return found

    def mounted(self) -> list[Shown]:
        """The volumes that this host has. Raises Unavailable."""
        mine = {held.id for held in self._held.all()}
        records = [record for record in self._repository.shown() if record.id in mine] if mine else []
        pools = self._repository.known_pools()
        return [self._measured(self._shown(record, pools, self._mounted(record.name))) for record in records]

    # -- the operator's --------------------------------------------------------------------------------------

    def resize(self, name: str, size: int) -> VolumeRecord:
        """Give a volume another size, while it is used.

        Raises:
            InvalidRequest: it has more than that.
            NotFound, Unavailable
        """
        volume = self._ready(parse_name(name))
        self._check_room(volume, size)
        return self._make(self._repository.resize(volume, size, self._tenant(volume.tenant)))

    def limit(self, name: str, bps: int | None, read_iops: int | None) -> list[str]:
        """Give a volume other limits, 0: none; None: as they are. Returns the hosts where they hold from its next mount
        on, for it was mounted without any.

        Raises:
            NotFound, Unavailable
        """
        volume = self._ready(parse_name(name))
        made = self._repository.change(
            volume,
            bps=volume.bps if bps is None else bps,
            read_iops=volume.read_iops if read_iops is None else read_iops,
        )
        if not (made.bps or made.read_iops):
            return []
        return [mount.host for mount in self._mounted(name) if not mount.limited]

    def undelete(self, name: str) -> VolumeRecord:
        """Take the volume of that name that was removed last out of the trash.

        Raises:
            NotFound, Conflict, Unavailable
        """
        parse_name(name)
        for trash in self._repository.restorable():
            if trash.volume.name == name:
                return self._make(self._repository.undelete(trash, self._tenant(trash.volume.tenant)))
        raise NotFound(f"there is no volume {name} in the trash")

    # -- shared with `repair` ---------------------------------------------------------------------------------

    def target(self, volume_id: str) -> Path:
        """Where this host mounts a volume."""
        return self._root / volume_id

    def revive(self, held: Held) -> None:
        """Mount a volume in place of a dead client's, unless nobody here has it now. Raises NotFound, Unavailable."""
        volume = self._repository.get(held.name)
        with self._locks[held.name]:
            if self._held.get(held.id) == held and volume.id == held.id:
                self._attach(volume)

    def shape(self, volume: VolumeRecord) -> None:
        """Hold the client of a volume to what it may do now. Raises Unsupported, Unavailable."""
        self._lanes.shape(volume.id, self._rates(volume))

    def tidy(self) -> None:
        """Take lanes away that no volume here needs. Raises Unsupported, Unavailable."""
        for lane in self._lanes.all():
            with self._laning:  # a mount is noted as held before its lane is made
                if self._held.get(lane) is None:
                    self._lanes.close(lane)

    def drop(self, held: Held) -> None:
        """Forget whoever had a volume here, because the engine knows nobody."""
        with self._locks[held.name]:
            if self._held.get(held.id) == held:
                self._release(held)

    def clear(self, trash: TrashRecord) -> None:
        """Take a removed volume's limit and directory away. Raises NotFound, Unavailable."""
        pool = self._repository.pool(trash.volume.pool)
        with self._pool_locks.hold(pool.name):
            if not self._repository.in_trash(trash.volume.id):
                return  # undeleted
            self._enforcer.lift(pool, place(trash.volume))
            self._directories.discard(pool, trash.volume)
            self._repository.moved(trash)

    def able(self, pool: str) -> bool:
        """Whether this host can change limits of a pool. Raises NotFound, Unavailable."""
        return self._enforcer.able(self._repository.pool(pool))

    def serve(self, record: VolumeRecord) -> None:
        """Make a volume for a host that cannot, or let it know why not. Raises Unavailable."""
        try:
            self._make_here(self._repository.pool(record.pool), record)
        except NotFound:
            return  # removed meanwhile, or its pool
        except QnetError as error:
            self._repository.change(record, asked=False, trouble=str(error))

    def away(self, pool: str) -> Collection[str]:
        """Servers of a pool without which nothing is cleared. Raises NotFound, Unavailable."""
        return self._enforcer.away(self._repository.pool(pool))

    def purge(self, trash: TrashRecord) -> None:
        """Delete what was in a volume for good. Raises NotFound, Unavailable."""
        self._directories.purge(self._repository.pool(trash.volume.pool), trash.volume)
        self._repository.forget(trash)

    def look(self, pool: VolumePoolRecord, younger: Callable[[], bool]) -> None:
        """Note how a pool is, unless another host did while this one waited. Raises NotFound, Unavailable."""
        with self._pool_locks.hold(pool.name):
            if not younger():
                self._repository.note_health(pool.name, self._enforcer.health(pool))

    def _attach(self, volume: VolumeRecord) -> None:
        """Mount a volume here, unless it is and its client lives; in a lane if it is limited. Raises Unavailable."""
        pool, target, lane = self._repository.pool(volume.pool), self.target(volume.id), ""
        if self._mounts.lives(target):
            return
        if target in self._mounts.all():
            self._held.amend(volume.id, died=True)
        if volume.bps or volume.read_iops:
            with self._laning:
                lane = self._lanes.open(volume.id, self._rates(volume))
        self._mounts.mount(pool.servers, pool.volume, place(volume), target, lane)

    def _ready(self, name: str) -> VolumeRecord:
        found = self._repository.get(name)
        return found if found.ready else self._make(found)

    def _make_or_undo(self, record: VolumeRecord) -> None:
        try:
            self._make(record)
        except QnetError:
            try:
                self._repository.remove(record.name, lambda _, now: now, record)
                self._poke()
            except NotFound:
                logger.info("volume %s was removed while it was made, or made by another host", record.name)
            except QnetError as error:
                logger.warning("volume %s stays half made until somebody asks for it: %s", record.name, error)
            raise

    def _make(self, record: VolumeRecord) -> VolumeRecord:
        """Have what a record says made, by this host or by one that can."""
        pool = self._repository.pool(record.pool)
        return self._make_here(pool, record) if self._enforcer.able(pool) else self._ask(record)

    def _make_here(self, pool: VolumePoolRecord, record: VolumeRecord) -> VolumeRecord:
        """Make what a record says: again, where that broke off."""
        with self._pool_locks.hold(pool.name):
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
            found = self._source(record.source, record.tenant)
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

    def _check_room(self, volume: VolumeRecord, size: int) -> None:
        """Whether what a volume has fits into a size. Raises InvalidRequest, Unavailable."""
        if not size:
            return
        usage = self._usage(volume, self._repository.pools())
        if usage is None and volume.size:
            raise Unavailable(f"pool {volume.pool} does not answer: it is not known how much volume {volume.name} has")
        used = usage.used if usage else self._directories.measure(self._repository.pool(volume.pool), volume)
        if used > size:
            raise InvalidRequest(
                f"volume {volume.name} has {used:,} bytes, more than {show_size(size)}: remove files, or choose more"
            )

    def _source(self, name: str, tenant: str) -> VolumeRecord:
        found = self._repository.find(name)
        if found is None or found.tenant != tenant or not found.ready:
            raise NotFound(f"-o from={name}: tenant {tenant} has no such volume")
        return found

    def _release(self, held: Held) -> None:
        """Unmount a volume that nobody on this host has any more; what fails is tried again by `repair`."""
        target = self.target(held.id)
        try:
            device = self._mounts.all().get(target)
            if device and self._mounts.users(device):
                return  # the engine copies out of a stopped container, say
            self._mounts.unmount(target)
            if held.id in self._lanes.all():
                self._lanes.close(held.id)
            self._repository.disclaim(held.name)
            self._held.remove(held.id)
        except QnetError as error:
            logger.warning("volume %s stays mounted for now: %s", held.name, error)

    def _expires(self, record: VolumeRecord, now: str) -> str:
        after = {"delete": timedelta(), "trash": self._trash}.get(record.retain)
        return "" if after is None else (datetime.fromisoformat(now) + after).isoformat()

    def _mounted(self, name: str) -> list[MountRecord]:
        return [mount for _, mount in self._repository.mounted(name)]

    def _shown(self, record: VolumeRecord, pools: Collection[VolumePoolRecord], mounts: Iterable[MountRecord]) -> Shown:
        health = self._repository.health(record.pool)
        return Shown(record, self._usage(record, pools), health, tuple(mounts), self._path(record))

    def _path(self, record: VolumeRecord) -> str:
        return str(self.target(record.id) / DATA) if self._held.get(record.id) else ""

    def _known(self, name: str) -> VolumeRecord:
        record = self._repository.show(parse_name(name))
        if record is None:
            raise NotFound(f"there is no volume {name}")
        return record

    def _measured(self, shown: Shown) -> Shown:
        traffic = self._meters.read(self.target(shown.record.id)) if shown.target else None
        return replace(shown, traffic=traffic)

    def _rates(self, volume: VolumeRecord) -> Rates:
        health = self._repository.health(volume.pool)
        return Rates(volume.bps, volume.read_iops, health.copies if health else 1.0)

    def _usage(self, record: VolumeRecord, pools: Collection[VolumePoolRecord]) -> Usage | None:
        return next((self._directories.usage(pool, record) for pool in pools if pool.name == record.pool), None)
