"""What must be done so that this host's records agree with what its engine really has. Pure.

The records are read before the engine is asked, so that a record which the engine cannot explain is either left over
or of a start in progress; the second is why a missing endpoint must be missed twice, `grace` seconds apart, with the
record unchanged between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from qnet.addresses.model import IPAddress, IPNetwork, parse_address, parse_subnet
from qnet.engine import EngineContainer, EngineNetwork, EngineView
from qnet.schema import AddressRecord
from qnet.tenants import DEFAULT

DRIVER = "qnet"


@dataclass(frozen=True, slots=True)
class Place:
    """An address of a pool."""

    tenant: str
    subnet: IPNetwork
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Observed:
    """A record as it was read before the engine was asked."""

    record: AddressRecord
    revision: int


@dataclass(frozen=True, slots=True)
class Owner:
    """The container and endpoint that have an address, by the engine."""

    container: EngineContainer
    network: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Action:
    """`release`: nobody has it; `hold`: only a stopped container asked for it; `update`: the owner is known better;
    `claim`: an endpoint has no record; `conflict`: an endpoint has the address of another's record."""

    do: Literal["release", "hold", "update", "claim", "conflict"]
    place: Place
    observed: Observed | None = None
    owner: Owner | None = None

    @property
    def takes_away(self) -> bool:
        """Whether it takes an address from an endpoint: right only if no start is in progress that it belongs to."""
        return self.do in ("release", "hold") and self.observed is not None and self.observed.record.kind == "endpoint"


Sightings: TypeAlias = Mapping[Place, tuple[int, float]]
MissedTwice: TypeAlias = Callable[[Place, int], bool]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do now, and what was seen for the next time."""

    actions: tuple[Action, ...]
    sightings: Sightings


@dataclass(slots=True)
class Engine:
    """The engine's view by address."""

    live: dict[Place, Owner] = field(default_factory=dict)
    asking: dict[Place, list[Owner]] = field(default_factory=lambda: defaultdict(list))
    containers: dict[str, EngineContainer] = field(default_factory=dict)
    names: dict[str, EngineContainer] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)


def pools_of(view: EngineView) -> dict[tuple[str, IPNetwork], list[EngineNetwork]]:
    """The pools that the engine's networks use."""
    found: dict[tuple[str, IPNetwork], list[EngineNetwork]] = defaultdict(list)
    for network in view.networks:
        if network.ipam_driver == DRIVER:
            for entry in network.subnets:
                found[network.tenant or DEFAULT, parse_subnet(entry.subnet)].append(network)
    return found


def by_address(view: EngineView) -> Engine:
    """Sort the engine's view by address, for networks whose addresses are qnet's."""
    engine = Engine()
    networks = {network.id: network for network in view.networks if network.ipam_driver == DRIVER}
    engine.networks = set(networks)
    for container in view.containers:
        engine.containers[container.id] = engine.names[container.name] = container
        for end in container.endpoints:
            network = networks.get(end.network)
            if network is None:
                continue
            owner = Owner(container, network.id, end.endpoint)
            for text in end.addresses if container.running else ():
                for place in _places(network, text):
                    engine.live[place] = owner
            for text in end.asked if container.started else ():
                for place in _places(network, text):
                    engine.asking[place].append(owner)
    return engine


def compare(
    host: str, records: Mapping[Place, Observed], engine: Engine, seen: Sightings, now: float, grace: float
) -> Verdict:
    """Compare records with the engine.

    Args:
        records: this host's, and any other's that stand where the engine has endpoints.
        seen: the sightings of the last verdict: place → (revision, time of the first sighting).
        now: monotonic seconds.
    """
    actions: list[Action] = []
    sightings: dict[Place, tuple[int, float]] = {}

    def missed_twice(place: Place, revision: int) -> bool:
        before = seen.get(place)
        if before is None or before[0] != revision:
            sightings[place] = (revision, now)
            return False
        sightings[place] = before
        return now - before[1] >= grace

    for place, observed in records.items():
        record = observed.record
        if record.host != host:
            continue
        if record.kind == "endpoint":
            live, asking = engine.live.get(place), engine.asking.get(place, [])
            if live is not None:
                actions += _known_better(place, observed, live)
            elif missed_twice(place, observed.revision):
                keeps = asking or record.placement
                actions.append(Action("hold" if keeps else "release", place, observed, next(iter(asking), None)))
        elif record.kind == "held":
            actions += _held(place, observed, engine, missed_twice)
        elif record.kind == "host" and record.network not in engine.networks:
            if missed_twice(place, observed.revision):
                actions.append(Action("release", place, observed))
    actions += _without_record(host, records, engine, missed_twice)
    return Verdict(tuple(actions), sightings)


def _places(network: EngineNetwork, text: str) -> Iterable[Place]:
    address = parse_address(text)
    for entry in network.subnets:
        subnet = parse_subnet(entry.subnet)
        if address in subnet:
            yield Place(network.tenant or DEFAULT, subnet, address)


def _known_better(place: Place, observed: Observed, live: Owner) -> list[Action]:
    record = observed.record
    known = (record.container_id, record.container, record.network, record.endpoint)
    if known == (live.container.id, live.container.name, live.network, live.endpoint):
        return []
    return [Action("update", place, observed, live)]


def _held(place: Place, observed: Observed, engine: Engine, missed_twice: MissedTwice) -> list[Action]:
    """A held address stays while a container that it can be for exists."""
    record = observed.record
    if place in engine.live:
        # an engine gives an address back before its list says that the container stopped: one look proves nothing
        wrong = missed_twice(place, observed.revision)
        return [Action("update", place, observed, engine.live[place])] if wrong else []
    asking = engine.asking.get(place, [])
    owner = next((one for one in asking if one.container.id == record.container_id), None)
    owner = owner or next((one for one in asking if not one.container.running), None)
    if owner is not None:
        same = (record.container_id, record.container) == (owner.container.id, owner.container.name)
        return [] if same else [Action("hold", place, observed, owner)]
    if record.placement:  # its container may not be there yet; who placed it knows when it is gone
        return []
    named = engine.names.get(record.container) if record.container else None
    if named is not None and record.container_id in ("", named.id) and not asking and _by_name(record, named):
        return []
    return [Action("release", place, observed)]


def _by_name(record: AddressRecord, container: EngineContainer) -> bool:
    """Whether the container is still on the network that the address was held on for its name."""
    return any(end.network == record.network and not end.asked for end in container.endpoints)


def _without_record(
    host: str, records: Mapping[Place, Observed], engine: Engine, missed_twice: MissedTwice
) -> Iterable[Action]:
    for place, owner in engine.live.items():
        observed = records.get(place)
        if observed is None:
            if missed_twice(place, 0):
                yield Action("claim", place, None, owner)
        elif observed.record.host != host or observed.record.kind not in ("endpoint", "held"):
            yield Action("conflict", place, observed, owner)
    for place, owners in engine.asking.items():
        if place not in records and place not in engine.live and missed_twice(place, 0):
            yield Action("claim", place, None, owners[0])
