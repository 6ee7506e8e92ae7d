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
    copies: float


class Enforcer(Protocol):
    """What keeps a directory of a pool to its size (`plugins.volume.gluster.Quota`)."""

    def able(self, pool: VolumePoolRecord) -> bool:
        """Whether limits can be changed from this host, as it was a moment ago."""

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

    def mount(self, servers: Collection[str], volume: str, path: str, target: Path, namespace: str = "") -> None:
        """Mount a directory of a Gluster volume, unless it is and answers; by a client in that network namespace."""

    def unmount(self, target: Path) -> None:
        """Unmount it; what is not mounted is no error."""

    def lives(self, target: Path) -> bool:
        """Whether it is mounted, and its client lives, whether that has servers or not."""

    def clients(self) -> Collection[Path]:
        """The targets whose clients live, whether they have servers or not."""

    def all(self) -> Mapping[Path, str]:
        """What is mounted below this plugin's directories, with its device."""

    def users(self, device: str) -> Collection[int]:
        """The processes whose mount namespaces have a device mounted, besides this one's."""

    def sees(self, process: int, device: str) -> bool:
        """Whether a process has a device mounted; true for one that has ended."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What a volume's client on one host may do in a second: bytes each way and reads, 0: as much as it can. It sends
    each byte to so many `copies`."""

    bps: int
    read_iops: int
    copies: float


class Lanes(Protocol):
    """The ways of limited clients to their servers (`plugins.volume.lanes.Lanes`)."""

    def all(self) -> Collection[str]:
        """The volumes that have one on this host, by id."""

    def open(self, volume: str, rates: Rates) -> str:
        """Make one, in place of one that is there; returns the network namespace for the client."""

    def shape(self, volume: str, rates: Rates) -> None:
        """Give one other rates; that there is none is no error."""

    def close(self, volume: str) -> None:
        """Take one away."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes and operations that a client has read and written since it began."""

    read_bytes: int
    written_bytes: int
    reads: int
    writes: int


class Meters(Protocol):
    """What clients count (`plugins.volume.traffic.Meters`)."""

    def read(self, target: Path) -> Traffic | None:
        """What the client of a mount has counted; None while it does not answer."""
