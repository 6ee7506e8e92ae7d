"""What this host has mounted: for whom, by which client, in which lane."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from pathlib import Path

import msgspec

from plugins.volume.directories import DATA, place
from plugins.volume.model import Held
from plugins.volume.ports import Lanes, Mounts, Rates
from plugins.volume.repository import Repository
from qnet.errors import QnetError
from qnet.folder import Folder
from qnet.schema import VolumeRecord

logger = logging.getLogger(__name__)


class Holder:
    """One client for each volume, while anybody here has it; who has it is on disk."""

    def __init__(self, repository: Repository, held: Folder[Held], mounts: Mounts, lanes: Lanes, root: Path) -> None:
        self._repository = repository
        self._held = held
        self._mounts = mounts
        self._lanes = lanes
        self._root = root
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._laning = threading.Lock()

    def all(self) -> tuple[Held, ...]:
        """The volumes that somebody here has, or had until just now."""
        return self._held.all()

    def path(self, volume: VolumeRecord) -> str:
        """Where containers of this host find a volume, or empty."""
        return str(self.target(volume.id) / DATA) if self._held.get(volume.id) else ""

    def mount(self, volume: VolumeRecord, mount: str) -> str:
        """Mount a volume on this host for one more user; returns the directory that containers see.

        Raises:
            NotFound, Conflict, Unavailable
        """
        with self._locks[volume.name]:
            self._repository.claim(volume)  # from now on nobody removes it
            before = self._held.get(volume.id) or Held(id=volume.id, name=volume.name, mounts=())
            self._held.save(msgspec.structs.replace(before, mounts=tuple(dict.fromkeys((*before.mounts, mount)))))
            try:
                self._attach(volume)
            except QnetError:
                self._held.amend(volume.id, mounts=before.mounts)
                if not before.mounts:
                    self._release(before)
                raise
        return str(self.target(volume.id) / DATA)

    def unmount(self, name: str, mount: str) -> None:
        """A user less; with the last one, the volume goes from this host, now or with the next comparison."""
        with self._locks[name]:
            for held in self._held.all():
                if held.name == name and mount in held.mounts:
                    left = msgspec.structs.replace(held, mounts=tuple(each for each in held.mounts if each != mount))
                    self._held.save(left)
                    if not left.mounts:
                        self._release(left)

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

    def _rates(self, volume: VolumeRecord) -> Rates:
        health = self._repository.health(volume.pool)
        return Rates(volume.bps, volume.read_iops, health.copies if health else 1.0)
