"""Volumes, their pools and who has them mounted, as the store has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar

import msgspec

from plugins.volume.ports import PoolHealth
from qnet import schema
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, Unavailable
from qnet.schema import HealthRecord, MountRecord, TenantRecord, TrashRecord, VolumePoolRecord, VolumeRecord
from qnet.store.base import (
    Compare,
    Delete,
    KeyValue,
    Put,
    Store,
    Txn,
    absent,
    none_newer,
    nothing_below,
    unchanged,
)
from qnet.store.cache import PrefixCache
from qnet.tenants import exists

ATTEMPTS = 20
TWICE = 2  # what is in the trash changes once: when its directory is there, too
RecordT = TypeVar("RecordT", bound=msgspec.Struct)


class Repository:
    """Every method raises Unavailable if the store is away, but for what shows things, which knows what was last."""

    def __init__(
        self, store: Store, host: str, now: Callable[[], str], changed: Callable[[list[str]], None] = lambda names: None
    ) -> None:
        """`changed` hears the names of volumes that are not what they were."""
        self._store = store
        self._host = host
        self._now = now
        self._volumes = PrefixCache(store, schema.VOLUMES, lambda found: changed([name for name, _ in found]))
        self._mounts = PrefixCache(store, schema.VOLUME_MOUNTS)
        self._pools = PrefixCache(store, schema.VOLUME_POOLS)
        self._health = PrefixCache(store, schema.VOLUME_HEALTH)
        self._trash = PrefixCache(store, schema.VOLUME_TRASH)
        self._caches = (self._volumes, self._mounts, self._pools, self._health, self._trash)

    def follow(self) -> None:
        """Begin to follow the store, unless that has been done."""
        for cache in self._caches:
            cache.start()

    def close(self) -> None:
        """Stop following."""
        for cache in self._caches:
            cache.close()

    # -- volumes ---------------------------------------------------------------------------------------------

    def find(self, name: str) -> VolumeRecord | None:
        """A volume, read now."""
        return _one(self._store.get(schema.volume_key(name)), VolumeRecord)

    def get(self, name: str) -> VolumeRecord:
        """A volume that must be there, read now. Raises NotFound."""
        found = self.find(name)
        if found is None:
            raise NotFound(f"there is no volume {name}: docker volume create -d sharedfs {name}")
        return found

    def show(self, name: str) -> VolumeRecord | None:
        """A volume: read now, or as it was when the store was last reached."""
        try:
            return self.find(name)
        except Unavailable:
            if not self._volumes.synced:
                raise
            return self.copy(name)

    def known(self) -> list[VolumeRecord]:
        """All volumes as this process last heard of them."""
        return [schema.decode(kv.value, VolumeRecord, kv.key) for _, kv in self._volumes.items()]

    def asked(self) -> list[VolumeRecord]:
        """Volumes that a host waits for, as this process last heard of them."""
        return [one for one in self.known() if one.awaited]

    def copy(self, name: str) -> VolumeRecord | None:
        """A volume as this process last heard of it."""
        return _one(self._volumes.get(name), VolumeRecord)

    def shown(self) -> list[VolumeRecord]:
        """All volumes: read now, or as they were when the store was last reached."""
        try:
            found = [schema.decode(kv.value, VolumeRecord, kv.key) for kv in self._store.range(schema.VOLUMES).kvs]
        except Unavailable:
            if not self._volumes.synced:
                raise
            found = self.known()
        return sorted(found, key=lambda one: one.name)

    def add(self, record: VolumeRecord, tenant: TenantRecord) -> bool:
        """Write a new volume down; false: there is one of that name.

        Raises:
            InvalidRequest, Exhausted: its tenant may not have it.
            Conflict: the tenant is gone, or others of its volumes kept changing.
        """
        key = schema.volume_key(record.name)
        for _ in range(ATTEMPTS):
            fits = self._fits(record, tenant)
            ops = (Put(key, schema.encode(record)), _sized(record))
            if self._store.txn(Txn((absent(key), *exists(tenant.name), *fits), ops)).succeeded:
                return True
            if self._store.get(key) is not None:
                return False
        raise Conflict(f"volume {record.name}: others of tenant {tenant.name} kept changing; try again")

    def resize(self, before: VolumeRecord, size: int, tenant: TenantRecord) -> VolumeRecord:
        """Write another size down; the volume is to be made ready. Raises as `change`, InvalidRequest, Exhausted."""
        wanted = msgspec.structs.replace(before, size=size)
        return self.change(before, lambda: self._fits(wanted, tenant), size=size, ready=False)

    def _fits(self, record: VolumeRecord, tenant: TenantRecord) -> tuple[Compare, ...]:
        """What must hold so that a volume of that size is within its tenant's limit."""
        if not tenant.max_volumes:
            return ()
        if not record.size:
            raise InvalidRequest(f"tenant {tenant.name} has a limit for its volumes: give volume {record.name} a size")
        prefix, mine = schema.volume_size_key(tenant.name), _sized(record).key
        found = self._store.range(prefix)
        has = sum(int(kv.value) for kv in found.kvs if kv.key != mine)
        if has + record.size > tenant.max_volumes:
            raise Exhausted(
                f"tenant {tenant.name} has volumes of {has:,} of {tenant.max_volumes:,} bytes: remove or shrink some, "
                f"or raise its limit: qnet tenant set {tenant.name} --volumes SIZE"
            )
        return (none_newer(prefix, found.revision),)

    def change(
        self, before: VolumeRecord, compares: Callable[[], tuple[Compare, ...]] = tuple, **fields: object
    ) -> VolumeRecord:
        """Change a volume, if `compares` hold too. Raises NotFound: it is gone, or another of that name is there."""
        key = schema.volume_key(before.name)
        for _ in range(ATTEMPTS):
            besides = compares()
            kv = self._store.get(key)
            found = _one(kv, VolumeRecord)
            if kv is None or found is None or found.id != before.id:
                raise NotFound(f"volume {before.name} was removed meanwhile")
            made = msgspec.structs.replace(found, **fields)
            ops = (Put(key, schema.encode(made)), *(() if made.size == found.size else (_sized(made),)))
            if self._store.txn(Txn((unchanged(kv), *besides), ops)).succeeded:
                return made
        raise Conflict(f"volume {before.name}: others changed it {ATTEMPTS} times in a row; try again")

    def remove(
        self, name: str, expires: Callable[[VolumeRecord, str], str], only: VolumeRecord | None = None
    ) -> TrashRecord:
        """Put a volume into the trash until a time that depends on the one now; `only` if it is still as it was then.

        Raises:
            NotFound: there is none.
            Conflict: a host has it mounted; naming it and its containers.
        """
        key, mounts = schema.volume_key(name), schema.volume_mount_key(name)
        for _ in range(ATTEMPTS):
            kv = self._store.get(key)
            record = _one(kv, VolumeRecord)
            if kv is None or record is None or (only and not _same(only, record)):
                raise NotFound(f"there is no volume {name}")
            now = self._now()
            trash = TrashRecord(volume=record, removed=now, expires=expires(record, now))
            put = Put(schema.volume_trash_key(record.id), schema.encode(trash))
            ops = (Delete(key), Delete(_sized(record).key), put)
            if self._store.txn(Txn((unchanged(kv), nothing_below(mounts)), ops)).succeeded:
                return trash
            holders = [_one(each, MountRecord) for each in self._store.range(mounts).kvs]
            if holders:
                raise Conflict(f"volume {name} is in use {' and '.join(_where(one) for one in holders if one)}")
        raise Conflict(f"volume {name}: others changed it {ATTEMPTS} times in a row; try again")

    # -- trash -----------------------------------------------------------------------------------------------

    def trash(self) -> list[TrashRecord]:
        """What was removed, the latest first."""
        found = (schema.decode(kv.value, TrashRecord, kv.key) for kv in self._store.range(schema.VOLUME_TRASH).kvs)
        return sorted(found, key=lambda one: one.removed, reverse=True)

    def known_trash(self) -> list[TrashRecord]:
        """What was removed, as this process last heard of it: every host compares with it every few seconds."""
        return [schema.decode(kv.value, TrashRecord, kv.key) for _, kv in self._trash.items()]

    def in_trash(self, volume: str) -> bool:
        """Whether the volume with this id is in the trash, read now."""
        return self._store.get(schema.volume_trash_key(volume)) is not None

    def restorable(self) -> list[TrashRecord]:
        """What can be undeleted, the latest first: not what was to be deleted at once, a create that failed, say."""
        return [one for one in self.trash() if not one.expires or one.expires > one.removed]

    def undelete(self, trash: TrashRecord, tenant: TenantRecord) -> VolumeRecord:
        """Take a volume out of the trash; it is to be made ready.

        Raises:
            Conflict: its name is taken, or it is gone.
            InvalidRequest, Exhausted: its tenant may not have it.
        """
        made = msgspec.structs.replace(trash.volume, ready=False, restored=True)
        key, where = schema.volume_key(made.name), schema.volume_trash_key(made.id)
        for _ in range(TWICE):
            kv = self._store.get(where)
            if kv is None:
                break
            compares = (absent(key), unchanged(kv), *exists(tenant.name), *self._fits(made, tenant))
            ops = (Put(key, schema.encode(made)), _sized(made), Delete(where))
            if self._store.txn(Txn(compares, ops)).succeeded:
                return made
        raise Conflict(f"volume {made.name} cannot be undeleted: there is one of that name, or it was purged meanwhile")

    def moved(self, trash: TrashRecord) -> TrashRecord | None:
        """Note that a volume's directory is in the trash; None: it was undeleted meanwhile."""
        key = schema.volume_trash_key(trash.volume.id)
        kv = self._store.get(key)
        if kv is None:
            return None
        made = msgspec.structs.replace(schema.decode(kv.value, TrashRecord, key), moved=True)
        return made if self._store.txn(Txn((unchanged(kv),), (Put(key, schema.encode(made)),))).succeeded else None

    def forget(self, trash: TrashRecord) -> None:
        """A volume is purged."""
        self._store.delete(schema.volume_trash_key(trash.volume.id))

    # -- mounts ----------------------------------------------------------------------------------------------

    def claim(self, volume: VolumeRecord) -> None:
        """This host has a volume mounted, or is about to. Raises NotFound: it was removed meanwhile."""
        key, mine = schema.volume_key(volume.name), schema.volume_mount_key(volume.name, self._host)
        for _ in range(ATTEMPTS):
            kv, has = self._store.get(key), _one(self._store.get(mine), MountRecord)
            found = _one(kv, VolumeRecord)
            if kv is None or found is None or found.id != volume.id:
                raise NotFound(f"volume {volume.name} was removed meanwhile")
            if has is not None and has.id == volume.id:
                return
            limited = bool(volume.bps or volume.read_iops)
            record = MountRecord(host=self._host, id=volume.id, since=self._now(), limited=limited)
            if self._store.txn(Txn((unchanged(kv),), (Put(mine, schema.encode(record)),))).succeeded:
                return
        raise Conflict(f"volume {volume.name}: others changed it {ATTEMPTS} times in a row; try again")

    def note(self, name: str, containers: tuple[str, ...], restart: tuple[str, ...]) -> None:
        """Which containers of this host have a volume, and are to be restarted, if that is something new."""
        key = schema.volume_mount_key(name, self._host)
        kv = self._mounts.get(f"{name}/{self._host}")
        if kv is not None:
            record = schema.decode(kv.value, MountRecord, key)
            fresh = msgspec.structs.replace(record, containers=containers, restart=restart)
            if record != fresh:
                self._store.txn(Txn((unchanged(kv),), (Put(key, schema.encode(fresh)),)))  # or the next time

    def disclaim(self, name: str) -> None:
        """This host has a volume no more."""
        self._store.delete(schema.volume_mount_key(name, self._host))

    def mounted(self, name: str = "") -> list[tuple[str, MountRecord]]:
        """Who has volumes, or one volume, with its name."""
        found = (
            (suffix.rpartition("/")[0], schema.decode(kv.value, MountRecord)) for suffix, kv in self._mounts.items()
        )
        return sorted((pair for pair in found if name in ("", pair[0])), key=lambda pair: (pair[0], pair[1].host))

    # -- pools -----------------------------------------------------------------------------------------------

    def known_pools(self) -> list[VolumePoolRecord]:
        """All pools, as this process last heard of them."""
        return [schema.decode(kv.value, VolumePoolRecord, kv.key) for _, kv in self._pools.items()]

    def pools(self) -> list[VolumePoolRecord]:
        """All pools: read now, or as they were when the store was last reached."""
        try:
            found = self._store.range(schema.VOLUME_POOLS).kvs
        except Unavailable:
            if not self._pools.synced:
                raise
            return self.known_pools()
        return [schema.decode(kv.value, VolumePoolRecord, kv.key) for kv in found]

    def pool(self, name: str) -> VolumePoolRecord:
        """A pool, or without a name the only one. Raises NotFound, InvalidRequest."""
        pools = {one.name: one for one in self.pools()}
        there = ", ".join(sorted(pools)) or "none: qnet volume pool add NAME SERVER[,SERVER…]:/VOLUME"
        if name:
            if name not in pools:
                raise NotFound(f"there is no pool {name}; there are: {there}")
            return pools[name]
        if len(pools) != 1:
            raise InvalidRequest(f"which pool? Give -o pool=NAME; there are: {there}")
        return next(iter(pools.values()))

    def health(self, pool: str) -> HealthRecord | None:
        """How a pool was when somebody looked last."""
        return _one(self._health.get(pool), HealthRecord)

    def note_health(self, pool: str, found: PoolHealth) -> None:
        """How a pool is."""
        record = HealthRecord(at=self._now(), host=self._host, **asdict(found))
        self._store.put(schema.volume_health_key(pool), schema.encode(record))


def _same(one: VolumeRecord, other: VolumeRecord) -> bool:
    """Whether nobody has changed a record, but for who is to make it."""
    return one == msgspec.structs.replace(other, asked=one.asked, trouble=one.trouble)


def _sized(record: VolumeRecord) -> Put:
    return Put(schema.volume_size_key(record.tenant, record.name), str(record.size).encode())


def _one(kv: KeyValue | None, kind: type[RecordT]) -> RecordT | None:
    return schema.decode(kv.value, kind, kv.key) if kv is not None else None


def _where(record: MountRecord) -> str:
    """Where a volume is in use."""
    return f"on {record.host}" + (f" by {', '.join(record.containers)}" if record.containers else "")
