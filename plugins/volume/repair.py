"""Finds what died or was left behind: clients that do not answer, volumes that nobody has any more, the trash."""

from __future__ import annotations

import logging
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from functools import cache, partial

from plugins.volume.holding import Holder
from plugins.volume.making import Maker
from plugins.volume.model import Held
from plugins.volume.ports import Directories, Mounts
from plugins.volume.repository import Repository
from qnet import log, metrics, systemd
from qnet.engine import Engine, EngineContainer, InProgress
from qnet.errors import QnetError, Unavailable
from qnet.folder import Folder
from qnet.loop import Loop
from qnet.sightings import Sightings

logger = logging.getLogger(__name__)

HEALTH = timedelta(seconds=30)  # how old what is known of a pool may be
CHANCE = 0.3  # that a host looks when it could


class Repair(Loop):
    """Compares after each event of the engine and every `interval` seconds."""

    def __init__(
        self,
        repository: Repository,
        maker: Maker,
        holder: Holder,
        held: Folder[Held],
        mounts: Mounts,
        directories: Directories,
        engine: Engine,
        in_progress: InProgress,
        missing: Sightings,
        now: Callable[[], str],
        poke: threading.Event,
        interval: float,
    ) -> None:
        super().__init__(engine, poke)
        self._repository = repository
        self._maker = maker
        self._holder = holder
        self._held = held
        self._mounts = mounts
        self._directories = directories
        self._engine = engine
        self._in_progress = in_progress
        self._missing = missing
        self._now = now
        self._interval = interval

    def once(self) -> None:
        """Compare once; what fails keeps nothing else from being put right."""
        away = ""
        for step in (
            self._repository.follow,
            self._clients,
            self._users,
            self._lanes,
            self._asked,
            self._pools,
            self._trash,
            self._health,
        ):
            try:
                step()
            except Unavailable as error:
                logger.warning("repair: %s", error)
                away = str(error)
            except Exception:
                logger.exception("repair: it is tried again")
                away = "a comparison that failed"
        systemd.report(away)

    def compare(self) -> None:
        """Until the end."""
        while not self.stopping.is_set():
            self.poke.clear()
            log.new_request()
            self.once()
            self.poke.wait(self._interval)

    def _clients(self) -> None:
        """A dead client is replaced. Containers that run keep what they had mounted: they need a restart."""
        found, mounted, living = self._held.all(), self._mounts.all(), self._mounts.clients()
        for held in found:
            target = self._holder.target(held.id)
            if held.mounts and target in mounted and target not in living:
                names = ", ".join(one.name for one in self._containers().get(held.name, ())) or "no container"
                logger.error("the client of volume %s is dead; to be restarted: %s", held.name, names)
                self._holder.revive(held)
                metrics.REPAIRS.labels("client of a volume").inc()

    def _users(self) -> None:
        """An engine that is killed unmounts nothing: a volume that none of its containers has is forgotten."""
        containers = self._containers()
        unused = {held.id: held for held in self._held.all() if held.name not in containers or not held.mounts}
        gone = self._missing.overdue(unused)
        for volume in set(gone) - self._in_progress.may_explain(gone):
            metrics.REPAIRS.labels("volume that nobody has").inc()
            self._holder.drop(unused[volume])
        for held in self._held.all():
            users = containers.get(held.name, ())
            old = self._left_behind(held, users) if held.died else ()
            if held.died and not old:
                self._held.amend(held.id, died=False)
            self._repository.note(held.name, tuple(one.name for one in users), old)

    def _left_behind(self, held: Held, users: Collection[EngineContainer]) -> tuple[str, ...]:
        """The names of those containers that have another mount than the one that is there now."""
        device = self._mounts.all().get(self._holder.target(held.id), "")
        processes = {one.name: self._engine.process(one.id) for one in users}
        return tuple(name for name, pid in processes.items() if pid and not self._mounts.sees(pid, device))

    def _containers(self) -> Mapping[str, Collection[EngineContainer]]:
        """The containers that run, by volume and name. Raises Unavailable."""
        found: defaultdict[str, list[EngineContainer]] = defaultdict(list)
        for container in sorted(self._engine.containers(), key=lambda one: one.name):
            for volume in container.volumes if container.running else ():
                found[volume].append(container)
        return found

    def _lanes(self) -> None:
        """Limits are as the store has them."""
        for held in self._held.all():
            volume = self._repository.copy(held.name)
            if volume is not None and volume.id == held.id:
                self._holder.shape(volume)
        self._holder.tidy()

    def _asked(self) -> None:
        """Volumes that hosts wait for which are no Gluster servers."""
        for record in self._repository.asked():
            if self._maker.able(record.pool):
                self._maker.serve(record)

    def _pools(self) -> None:
        """Pools are at hand, so that what volumes have can be told at once. Raises Unavailable: one is not."""
        errors: list[QnetError] = []
        for pool in self._repository.known_pools():
            try:
                self._directories.open(pool)
            except QnetError as error:
                errors.append(error)
        if errors:
            raise Unavailable("; ".join(map(str, errors)))

    def _health(self) -> None:
        """One host a minute looks at each pool; which one is left to chance, so that not all of them queue for it."""
        for pool in self._repository.known_pools():
            if self._looked_at(pool.name) or random.random() > CHANCE:  # noqa: S311
                continue
            try:
                if not self._maker.able(pool.name):
                    continue
                self._maker.look(pool, partial(self._looked_at, pool.name))
            except QnetError as error:
                logger.warning("health of pool %s: %s", pool.name, error)

    def _looked_at(self, pool: str) -> bool:
        found = self._repository.health(pool)
        age = datetime.fromisoformat(self._now()) - datetime.fromisoformat(found.at) if found else None
        return age is not None and age < HEALTH

    def _trash(self) -> None:
        now, clears = datetime.fromisoformat(self._now()), cache(self._clears)
        for trash in self._repository.known_trash():
            try:
                if not trash.moved:
                    if clears(trash.volume.pool):
                        self._maker.clear(trash)
                elif trash.expires and datetime.fromisoformat(trash.expires) <= now:
                    self._maker.purge(trash)
            except QnetError as error:
                logger.warning("volume %s in the trash: %s", trash.volume.name, error)

    def _clears(self, pool: str) -> bool:
        """Whether this host can remove limits of a pool, and no server would miss it."""
        if not self._maker.able(pool):
            return False
        away = self._maker.away(pool)
        if away:
            logger.info("pool %s: removed volumes keep their limits while %s is away", pool, ", ".join(away))
        return not away
