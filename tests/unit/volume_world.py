"""The volume plugin on fakes: one store, hosts with a plugin each, one pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from plugins.volume.directories import place
from plugins.volume.holding import Holder
from plugins.volume.lock import PoolLocks
from plugins.volume.making import Maker
from plugins.volume.model import Held
from plugins.volume.ports import PoolHealth, Rates, Traffic, Usage
from plugins.volume.repair import Repair
from plugins.volume.repository import Repository
from plugins.volume.service import Service
from qnet import schema
from qnet.engine import EngineContainer, InProgress
from qnet.errors import Unavailable
from qnet.folder import Folder
from qnet.schema import VolumePoolRecord, VolumeRecord
from qnet.sightings import Sightings
from qnet.tenants import Change, Tenants
from tests.store.memory import MemoryStore

GIB = 1 << 30
POOL = VolumePoolRecord(name="main", volume="gv0", servers=("gl1", "gl2"), since="")


class Pool:
    """What a pool has: directories with what is in them, limits. `fails` is what the next change of it ends with."""

    def __init__(self) -> None:
        self.homes: dict[str, int] = {}
        self.filled: set[str] = set()
        self.strict = False
        self.trash: dict[str, int] = {}
        self.limits: dict[str, tuple[int, int]] = {}
        self.steps: list[str] = []
        self.fails: Exception | None = None
        self.fails_at = ""
        self.answers = True
        self.gone: list[str] = []

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fails_at:
            raise Unavailable(name)
        if self.fails:
            fails, self.fails = self.fails, None
            raise fails

    def prepare(self, pool: VolumePoolRecord, strict: bool) -> None:
        self._step("prepare")
        self.strict = self.strict or strict

    def limit(self, pool: VolumePoolRecord, path: str, size: int, inodes: int) -> None:
        self._step("limit")
        assert path.rpartition("/")[2] in self.homes
        self.limits[path] = (size, inodes)

    def health(self, pool: VolumePoolRecord) -> PoolHealth:
        self._step("health")
        return PoolHealth("partial", 6, 5, 3, 10 * GIB, 20 * GIB, 2.0)

    def lift(self, pool: VolumePoolRecord, path: str) -> None:
        self._step("lift")
        self.limits.pop(path, None)

    def away(self, pool: VolumePoolRecord) -> list[str]:
        return self.gone

    def open(self, pool: VolumePoolRecord) -> Path:
        return Path("/pool")

    def make(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        self._step("make")
        self.homes.setdefault(volume.id, 0)

    def fill(self, pool: VolumePoolRecord, volume: VolumeRecord, source: Any) -> None:
        self._step("fill")
        assert place(volume) in self.limits or not volume.size
        if source and volume.id not in self.filled:
            self.homes[volume.id] = self.homes[source[1].id]
        self.filled.add(volume.id)

    def discard(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        self._step("discard")
        if volume.id in self.homes:
            assert place(volume) not in self.limits  # the limit goes before the directory
            self.trash[volume.id] = self.homes.pop(volume.id)

    def restore(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        self._step("restore")
        if volume.id in self.trash:
            self.homes[volume.id] = self.trash.pop(volume.id)

    def purge(self, pool: VolumePoolRecord, volume: VolumeRecord) -> None:
        self._step("purge")
        self.trash.pop(volume.id, None)

    def usage(self, pool: VolumePoolRecord, volume: VolumeRecord) -> Usage | None:
        known = self.answers and volume.size
        return Usage(self.homes[volume.id], self.limits[place(volume)][0]) if known else None

    def measure(self, pool: VolumePoolRecord, volume: VolumeRecord) -> int:
        return self.homes[volume.id]


class Mounts:
    """What a host has mounted, which clients are dead, and who else uses a device."""

    def __init__(self) -> None:
        self.there: dict[Path, str] = {}
        self.dead: set[Path] = set()
        self.used: dict[str, list[int]] = {}
        self.namespaces: dict[Path, str] = {}
        self.seen: dict[int, str] = {}
        self.fails = False
        self.made = 0

    def mount(self, servers: Any, volume: str, path: str, target: Path, namespace: str = "") -> None:
        if self.fails:
            raise Unavailable(f"cannot mount {volume}{path}")
        if target not in self.there or target in self.dead:
            self.dead.discard(target)
            self.made += 1
            self.there[target] = f"0:{self.made}"
            self.namespaces[target] = namespace

    def unmount(self, target: Path) -> None:
        self.there.pop(target, None)

    def lives(self, target: Path) -> bool:
        return target in self.clients()

    def clients(self) -> set[Path]:
        return set(self.there) - self.dead

    def all(self) -> dict[Path, str]:
        return dict(self.there)

    def users(self, device: str) -> list[int]:
        return self.used.get(device, [])

    def sees(self, process: int, device: str) -> bool:
        return self.seen[process] == device


class Lanes:
    """The lanes of a host, with their rates; and what its clients count."""

    def __init__(self) -> None:
        self.there: dict[str, Rates] = {}

    def all(self) -> list[str]:
        return list(self.there)

    def open(self, volume: str, rates: Rates) -> str:
        self.there[volume] = rates
        return f"lane-{volume}"

    def shape(self, volume: str, rates: Rates) -> None:
        if volume in self.there:
            self.there[volume] = rates

    def close(self, volume: str) -> None:
        self.there.pop(volume, None)

    def read(self, target: Path) -> Traffic:
        return Traffic(11, 22, 3, 4)


class Enforcer:
    """The pool as one host's glusterd changes it, if it has one."""

    def __init__(self, pool: Pool, server: bool) -> None:
        self.pool, self.server = pool, server

    def able(self, pool: VolumePoolRecord) -> bool:
        return self.server

    def __getattr__(self, name: str) -> Any:
        assert self.server, name
        return getattr(self.pool, name)


class Host:
    """A host's plugin, and its engine's running containers with their volume."""

    def __init__(self, name: str, store: MemoryStore, pool: Pool, folder: Path, clock: Clock) -> None:
        self.name, self.folder, self.store, self.pool, self.clock = name, folder, store, pool, clock
        self.running: dict[str, str] = {}
        self.starting: frozenset[str] = frozenset()
        self.mounts, self.lanes = Mounts(), Lanes()
        self.processes: dict[str, int] = {}
        self.enforcer = Enforcer(pool, server=True)
        self.start()

    def start(self) -> None:
        """As a process begins."""
        self.repository = Repository(self.store, self.name, self.clock.now)
        self.locks = PoolLocks(self.store, self.name)
        self.held: Folder[Held] = Folder(self.folder / self.name, Held, durable=False)
        tenants, root = Tenants(self.store, self.clock.now), Path("/mounts")
        self.maker = Maker(self.repository, self.locks, self.enforcer, self.pool)
        self.holder = Holder(self.repository, self.held, self.mounts, self.lanes, root)
        self.service = Service(
            self.repository,
            self.maker,
            self.holder,
            self.lanes,
            tenants.get,
            self.clock.now,
            timedelta(days=7),
            lambda: None,
        )
        self.repair = Repair(
            self.repository,
            self.maker,
            self.holder,
            self.held,
            self.mounts,
            self.pool,
            self,  # type: ignore[arg-type]
            InProgress(self),
            Sightings(10.0, self.clock.monotonic),
            self.clock.now,
            threading.Event(),
            1.0,
        )
        self.repository.follow()

    def containers(self) -> tuple[EngineContainer, ...]:
        return tuple(EngineContainer(name, name, True, True, (), (volume,)) for name, volume in self.running.items())

    def process(self, container: str) -> int:
        return self.processes.get(container, 0)

    follow = None

    def busy_containers(self) -> frozenset[str]:
        return self.starting

    def compared(self, times: int = 1) -> None:
        """Comparisons, each 11 seconds after the one before."""
        for _ in range(times):
            self.clock.passed += 11
            self._catch_up()
            self.repair.once()

    def _catch_up(self) -> None:
        """What it follows comes by threads."""
        deadline = time.monotonic() + 5
        while sorted(self.repository.known_trash(), key=str) != sorted(self.repository.trash(), key=str):
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def close(self) -> None:
        self.repository.close()
        self.locks.close()


class Clock:
    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> str:
        return (datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=self.passed)).isoformat()

    def monotonic(self) -> float:
        return self.passed


class World:
    """Two hosts."""

    def __init__(self, folder: Path) -> None:
        self.store, self.pool, self.clock = MemoryStore(), Pool(), Clock()
        self.store.put(schema.volume_pool_key("main"), schema.encode(POOL))
        self.tenants = Tenants(self.store, self.clock.now)
        self.tenants.create("shop", Change(vlan=100))
        self.one, self.two = (Host(name, self.store, self.pool, folder, self.clock) for name in ("host1", "host2"))

    def volume(self, name: str = "data") -> VolumeRecord:
        return self.one.repository.get(name)

    def heard(self, host: Host, wanted: Callable[[], bool]) -> None:
        """Watches deliver in threads of their own."""
        deadline = time.monotonic() + 5
        while not wanted():
            assert time.monotonic() < deadline
            time.sleep(0.005)
