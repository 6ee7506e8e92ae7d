"""Hosts, what they hold, and what is asked for: the values of placement.

CPUs are counted in thousandths, memory and disks in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from scheduler.rules import Affinity, Constraint, Spread

State: TypeAlias = Literal["ready", "drain", "down"]
Port: TypeAlias = tuple[str, int]
"""Protocol and number: `("tcp", 80)`. An address of the host is not told apart."""


class Machine(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A host as its agent registered it: what seldom changes.

    `trouble`: its parts that do not work. `parents`: links, and names for links, that networks can stand on. `volumes`:
    those that are on this host only. `tenants`: who may use it; nobody named: everybody. `pids` 0: no limit.
    """

    v: int = 1
    name: str
    cpus: int
    memory: int
    pids: int = 0
    state: State = "ready"
    trouble: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    platform: str = "linux/amd64"
    parents: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()


class Vitals(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What changes by itself: shares of the host that were busy just now and over the past hours (0 to 1), free disk,
    images, and how many starts failed in the last minutes."""

    v: int = 1
    now: float = 0.0
    hours: float = 0.0
    disk: int = 1 << 62
    images: frozenset[str] = frozenset()
    failures: int = 0


class Container(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A container that a host has or is to have. One that does not run takes neither CPUs nor memory, but keeps name
    and ports. `claim` is unique to each time that it is placed. `group`: what it is spread with."""

    v: int = 1
    name: str
    host: str
    claim: str = ""
    since: str = ""
    tenant: str = "default"
    image: str = ""
    running: bool = True
    cpus: int = 0
    memory: int = 0
    pids: int = 0
    ports: tuple[Port, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    group: str = ""


class Load(msgspec.Struct, frozen=True, gc=False):
    """What the containers of a host take together; `running` counts them, `ports` says how often each is taken."""

    cpus: int = 0
    memory: int = 0
    pids: int = 0
    running: int = 0
    ports: Mapping[Port, int] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One container to be placed.

    `parents`: what its networks stand on. `pinned`: volumes that are on some hosts only. `disk`: bytes that must be
    free.
    """

    name: str
    image: str = ""
    tenant: str = "default"
    platform: str = ""
    cpus: int = 0
    memory: int = 0
    pids: int = 0
    disk: int = 0
    ports: tuple[Port, ...] = ()
    parents: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    group: str = ""
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    spreads: tuple[Spread, ...] = ()

    def on(self, host: str) -> Container:
        """What it is on a host."""
        return Container(
            name=self.name,
            host=host,
            tenant=self.tenant,
            image=self.image,
            cpus=self.cpus,
            memory=self.memory,
            pids=self.pids,
            ports=self.ports,
            volumes=self.volumes,
            labels=self.labels,
            group=self.group,
        )


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How hosts are filled, see `[scheduler]` in the settings.

    `overcommit_*`: how much of a host may be promised, 1.0: all that it has. `strategy`: the emptiest host first, or
    the fullest that still has room. The rest are weights of scores between 0 and 1.
    """

    overcommit_cpus: float = 1.0
    overcommit_memory: float = 1.0
    strategy: Literal["spread", "binpack"] = "spread"
    room: float = 10.0
    now: float = 3.0
    hours: float = 1.0
    image: float = 1.0
    failures: float = 5.0
    wishes: float = 20.0
    apart: float = 40.0
