"""What the volume plugin needs of the world outside."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qnet.schema import Health, VolumePoolRecord, VolumeRecord


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """See `qnet.schema.HealthRecord`."""

    state: Health
    bricks: int
    bricks_up: int
    heal: int
    free: int
    total: int


class Enforcer(Protocol):
    """What keeps a directory of a pool to its size (`plugins.volume.gluster.Quota`)."""

    def prepare(self, pool: VolumePoolRecord, strict: bool) -> None:
        """Give the pool what it needs, once. `strict`: from now on, limits are looked at before each write."""

    def limit(self, pool: VolumePoolRecord, path: str, size: int, inodes: int) -> None:
        """Hold a directory to so many bytes and inodes; 0: as it is."""

    def health(self, pool: VolumePoolRecord) -> PoolHealth:
        """How the pool is."""

    def lift(self, pool: VolumePoolRecord, path: str) -> None:
        """Hold a directory to nothing any more; before it is moved away."""

    def away(self, pool: VolumePoolRecord) -> Collection[str]:
        """Servers that would miss a change of a limit, which what has time waits for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that a volume has, and that it may have as the pool enforces it."""

    used: int
    limit: int


class Directories(Protocol):
    """The directories of pools (`plugins.volume.directories.Directories`)."""

    def open(self, pool: VolumePoolRecord) -> Path:
        """Have a pool at hand on this host."""

    def make(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Make a volume's directory, which is limited."""

    def fill(
        self, pool: VolumePoolRecord, volume: VolumeRecord, source: tuple[VolumePoolRecord, VolumeRecord] | None
    ) -> None:
        """Make what containers see, empty or with all that another volume has; if it is there it stays as it is."""

    def discard(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Move a volume into the trash; one that is there already is no error."""

    def restore(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """The reverse."""

    def purge(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        """Delete a volume that is in the trash."""

    def usage(self, pool: VolumePoolRecord, volume: VolumeRecord) -> Usage | None:
        """What a volume with a limit has; None while the pool does not answer, or without a limit."""

    def measure(self, pool: VolumePoolRecord, volume: VolumeRecord) -> int:
        """The bytes that a volume has, file by file: for those without a limit."""


class Mounts(Protocol):
    """The clients of this host (`plugins.volume.mounts.Mounts`)."""

    def mount(self, servers: Collection[str], volume: str, path: str, target: Path) -> None:
        """Mount a directory of a Gluster volume, unless it is and answers."""

    def unmount(self, target: Path) -> None:
        """Unmount it; what is not mounted is no error."""

    def alive(self, target: Path) -> bool:
        """Whether it is mounted, and its client answers."""

    def all(self) -> Mapping[Path, str]:
        """What is mounted below this plugin's directories, with its device."""

    def users(self, device: str) -> Collection[int]:
        """The processes whose mount namespaces have a device mounted, besides this one's."""
