"""What the volume plugin does as this host's engine, and its operator, ask. `making` works in pools, `holding` on this
host; what was removed is cleared away by `repair`."""

from __future__ import annotations

import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from plugins.volume.holding import Holder
from plugins.volume.making import Maker
from plugins.volume.model import Options, agree, parse_name, parse_options
from plugins.volume.ports import Meters, Traffic, Usage
from plugins.volume.repository import Repository
from qnet.errors import NotFound, QnetError
from qnet.schema import HealthRecord, MountRecord, TenantRecord, VolumePoolRecord, VolumeRecord

logger = logging.getLogger(__name__)


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
        maker: Maker,
        holder: Holder,
        meters: Meters,
        tenant: Callable[[str], TenantRecord],
        now: Callable[[], str],
        trash: timedelta,
        poke: Callable[[], None],
    ) -> None:
        self._repository = repository
        self._maker = maker
        self._holder = holder
        self._meters = meters
        self._tenant = tenant
        self._now = now
        self._trash = trash
        self._poke = poke

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
                source = self._maker.source(ask.source, ask.tenant)
                self._maker.check_room(source, ask.size)
                fields["source_id"] = source.id
            record = VolumeRecord(name=name, id=secrets.token_hex(8), since=self._now(), **fields)
            found = record if self._repository.add(record, owner) else self._repository.get(name)
            if found is record:
                self._make_or_undo(record)
                return
        agree(found, ask, options)
        if not found.ready:
            self._maker.make(found)

    def mount(self, name: str, mount: str) -> str:
        """Mount a volume on this host for one more user; returns the directory that containers see.

        Raises:
            NotFound, Conflict, Unavailable
        """
        found = self._holder.mount(self._maker.ready(parse_name(name)), mount)
        self._poke()
        return found

    def unmount(self, name: str, mount: str) -> None:
        """A user less; with the last one, the volume goes from this host, now or with the next comparison.

        Raises:
            InvalidRequest: no name of a volume.
        """
        self._holder.unmount(parse_name(name), mount)
        self._poke()

    def remove(self, name: str) -> None:
        """Put a volume into the trash. Raises NotFound, Conflict: a host has it; naming it."""
        self._repository.remove(parse_name(name), self._expires)
        self._poke()

    def path(self, name: str) -> str:
        """Where this host has a volume mounted, or empty. Raises NotFound, Unavailable."""
        return self._holder.path(self._known(name))

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
                usage = self._maker.usage(record, pools)
                if usage is None:
                    silent.add(record.pool)  # each of its volumes would be waited for
                else:
                    found[record.name] = usage
        return found

    def mounted(self) -> list[Shown]:
        """The volumes that this host has. Raises Unavailable."""
        mine = {held.id for held in self._holder.all()}
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
        volume = self._maker.ready(parse_name(name))
        self._maker.check_room(volume, size)
        return self._maker.make(self._repository.resize(volume, size, self._tenant(volume.tenant)))

    def limit(self, name: str, bps: int | None, read_iops: int | None) -> list[str]:
        """Give a volume other limits, 0: none; None: as they are. Returns the hosts where they hold from its next mount
        on, for it was mounted without any.

        Raises:
            NotFound, Unavailable
        """
        volume = self._maker.ready(parse_name(name))
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
                return self._maker.make(self._repository.undelete(trash, self._tenant(trash.volume.tenant)))
        raise NotFound(f"there is no volume {name} in the trash")

    def _make_or_undo(self, record: VolumeRecord) -> None:
        try:
            self._maker.make(record)
        except QnetError:
            try:
                self._repository.remove(record.name, lambda _, now: now, record)
                self._poke()
            except NotFound:
                logger.info("volume %s was removed while it was made, or made by another host", record.name)
            except QnetError as error:
                logger.warning("volume %s stays half made until somebody asks for it: %s", record.name, error)
            raise

    def _expires(self, record: VolumeRecord, now: str) -> str:
        after = {"delete": timedelta(), "trash": self._trash}.get(record.retain)
        return "" if after is None else (datetime.fromisoformat(now) + after).isoformat()

    def _mounted(self, name: str) -> list[MountRecord]:
        return [mount for _, mount in self._repository.mounted(name)]

    def _shown(self, record: VolumeRecord, pools: Collection[VolumePoolRecord], mounts: Iterable[MountRecord]) -> Shown:
        health = self._repository.health(record.pool)
        return Shown(record, self._maker.usage(record, pools), health, tuple(mounts), self._holder.path(record))

    def _known(self, name: str) -> VolumeRecord:
        record = self._repository.show(parse_name(name))
        if record is None:
            raise NotFound(f"there is no volume {name}")
        return record

    def _measured(self, shown: Shown) -> Shown:
        traffic = self._meters.read(self._holder.target(shown.record.id)) if shown.target else None
        return replace(shown, traffic=traffic)
