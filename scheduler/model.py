"""Hosts, what they hold, and what is asked for: the values of placement.

CPUs are counted in thousandths, memory and disks in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from scheduler.rules import Affinity, Constraint, Spread

State: TypeAlias = Literal["ready", "drain", "down"]
PLACED = "placed"  # the state of a container that is being made
AUTO = "auto"  # an address: any that is free, or held for the name
Port: TypeAlias = tuple[str, int]
"""Protocol and number: `("tcp", 80)`. An address of the host is not told apart."""


class Net(msgspec.Struct, frozen=True, omit_defaults=True):
    """A network that a host's engine has. `pools`: the ids of those whose addresses qnet gives out."""

    tenant: str = "default"
    driver: str = ""
    pools: tuple[str, ...] = ()


class Kept(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True, gc=False):
    """An address that is kept for a container."""

    tenant: str
    subnet: str
    address: str


class Machine(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A host as its agent registered it: what seldom changes.

    `url`: where its agent takes calls for the engine, HOST:PORT; `engine` and `api` are versions,
    `qnet` is that of its agent. `trouble`: its parts
    that do not work. `parents`: links, and names for links, that networks can stand on. `networks` by name. `volumes`:
    those that are on this host only. `tenants`: who may use it; nobody named: everybody. `pids` 0: no limit.
    """

    v: int = 1
    name: str
    cpus: int
    memory: int
    pids: int = 0
    url: str = ""
    engine: str = ""
    api: str = ""
    qnet: str = ""
    since: str = ""
    state: State = "ready"
    trouble: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    platform: str = "linux/amd64"
    parents: frozenset[str] = frozenset()
    networks: Mapping[str, Net] = {}
    volumes: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()


class Orders(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What an operator says of a host: over what its agent says. A label without text is none."""

    v: int = 1
    state: State = "ready"
    labels: Mapping[str, str] = {}


class Network(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A network that every host is to have. `options` are the driver's, `subnets` as the engine takes them: subnet,
    range, gateway."""

    v: int = 1
    name: str
    id: str
    since: str
    tenant: str = "default"
    driver: str = "qnet"
    options: Mapping[str, str] = {}
    ipam_options: Mapping[str, str] = {}
    subnets: tuple[Mapping[str, Any], ...] = ()
    internal: bool = False
    ipv6: bool = False
    labels: Mapping[str, str] = {}

    @property
    def parents(self) -> frozenset[str]:
        """The link that it stands on, if one was named."""
        return frozenset({self.options["parent"]} if self.options.get("parent") else ())


class Vitals(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What changes by itself: shares of the host that were busy just now, over the last minutes and over the past hours
    (0 to 1), free disk, images, and how many starts failed in the last minutes."""

    v: int = 1
    now: float = 0.0
    minutes: float = 0.0
    hours: float = 0.0
    disk: int = 1 << 62
    images: frozenset[str] = frozenset()
    failures: int = 0


class Container(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A container that a host has or is to have. One that does not run takes neither CPUs nor memory, but keeps name
    and ports.

    `claim` is unique to each time that it is placed; empty: somebody else than qnet made it. `by`: the replica that
    makes it, empty when it is made. `id` is the engine's, `state` too. `addresses`: those that are kept for it, by
    network; `ips`: what it has now. `hold`: seconds for which they are held for its name when it is removed. `group`:
    what it is spread with. `request`: the id of the request that placed it, as it stands in logs.
    """

    v: int = 1
    name: str
    host: str
    claim: str = ""
    by: str = ""
    id: str = ""
    state: str = ""
    exit: int = 0
    changed: str = ""
    addresses: Mapping[str, tuple[Kept, ...]] = {}
    ips: Mapping[str, str] = {}
    hold: int = 0
    since: str = ""
    tenant: str = "default"
    image: str = ""
    running: bool = True
    cpus: int = 0
    memory: int = 0
    pids: int = 0
    ports: tuple[Port, ...] = ()
    networks: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    group: str = ""
    request: str = ""

    @property
    def called(self) -> str:
        """Its name on its host's engine, which has none of one character."""
        return called(self.name)

    @property
    def reached(self) -> dict[str, tuple[str, ...]]:
        """Its addresses by network: those that are kept for it, else what it has now."""
        found = {network: (ip,) for network, ip in self.ips.items()}
        return found | {network: tuple(one.address for one in kept) for network, kept in self.addresses.items() if kept}


def called(name: str) -> str:
    """What an engine calls a container of that name."""
    return name if len(name) > 1 else f"{name}.qnet"


class Load(msgspec.Struct, frozen=True, gc=False):
    """What the containers of a host take together; `running` counts them, `ports` says how often each is taken."""

    cpus: int = 0
    memory: int = 0
    pids: int = 0
    running: int = 0
    ports: Mapping[Port, int] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One container to be placed.

    `hosts`: it must be one of them, none named: any. `networks`: those that its host must have. `parents`: what its
    networks stand on. `pinned`: volumes that are on some hosts only. `disk`: bytes that must be free. `wanted`:
    addresses that are to be kept for it, by network: a fixed one, or `auto`. `hold`: for how many seconds they are kept
    for its name afterwards.
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
    hosts: frozenset[str] = frozenset()
    networks: frozenset[str] = frozenset()
    parents: frozenset[str] = frozenset()
    pinned: frozenset[str] = frozenset()
    volumes: tuple[str, ...] = ()
    wanted: Mapping[str, str] = {}
    hold: int = 0
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
            networks=tuple(sorted(self.networks)) if self.networks else (),
            volumes=self.volumes,
            hold=self.hold,
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
