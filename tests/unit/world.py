"""Several hosts on one in-process store, each with an engine that is a plain value: what the IPAM tests act on."""

from __future__ import annotations

import random
import secrets
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from plugins.ipam.endpoints import Endpoints
from plugins.ipam.holds import Holds
from plugins.ipam.journal import Journal
from plugins.ipam.repair import Repair
from plugins.ipam.repository import Repository
from plugins.ipam.service import Service
from plugins.ipam.uses import Carving, Uses
from qnet import schema
from qnet.addresses.model import parse_pool_id
from qnet.engine import EngineContainer, EngineEndpoint, EngineNetwork, EngineSubnet, EngineView, InProgress
from qnet.errors import Unavailable
from qnet.schema import AddressRecord
from qnet.store.base import Store
from qnet.store.commit import GroupCommit
from qnet.tenants import Change, Tenants

GRACE = 10.0
SUPERNETS = {"default": (ip_network("10.200.0.0/20"), ip_network("fd00:200::/48"))}


@dataclass
class Clock:
    """Monotonic seconds that only tests move."""

    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Container:
    """A container of the fake engine on one network of one pool."""

    id: str
    asked: str = ""
    address: str = ""
    endpoint: str = ""
    started: bool = False


@dataclass
class FakeEngine:
    """What an engine would list. `starting` is the container that it has locked."""

    instance: str
    networks: dict[str, str] = field(default_factory=dict)  # network id → pool id
    gateways: dict[str, str] = field(default_factory=dict)
    containers: dict[str, tuple[str, Container]] = field(default_factory=dict)  # id → (network, container)
    starting: str = ""
    away: bool = False

    def view(self) -> EngineView:
        if self.away:
            raise Unavailable("engine is away")
        networks = tuple(self._network(name, pool) for name, pool in self.networks.items())
        return EngineView(networks, self.containers_now())

    def busy_containers(self) -> frozenset[str]:
        return frozenset({self.starting} if self.starting else ())

    def containers_now(self) -> tuple[EngineContainer, ...]:
        return tuple(self._container(network, one) for network, one in self.containers.values())

    def busy(self, container: str, patience: float) -> bool:
        assert 0 < patience <= 1
        return container == self.starting

    def _network(self, name: str, pool_id: str) -> EngineNetwork:
        pool = parse_pool_id(pool_id)
        subnet = EngineSubnet(str(pool.subnet), self.gateways.get(name, ""), ())
        return EngineNetwork(name, f"net-{name}", "qnet", "qnet", pool.tenant, (subnet,))

    @staticmethod
    def _container(network: str, one: Container) -> EngineContainer:
        running = bool(one.address)
        asked = (one.asked,) if one.asked else ()
        end = EngineEndpoint(network, one.endpoint, (one.address,) if running else (), asked)
        return EngineContainer(one.id, f"name-{one.id}", running, one.started, (end,))


class _Asked:
    """The part of the engine that `Holds` may ask."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    def containers(self) -> tuple[EngineContainer, ...]:
        return self.engine.containers_now()

    def busy(self, container: str, patience: float) -> bool:
        return self.engine.busy(container, patience)


@dataclass
class FakeProber:
    """What a segment answers: the MAC address of who has an address, or an error; `asked` is every question."""

    has: dict[str, str | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answers(self, tenant: str, subnet: str, address: str, besides: str) -> str:
        self.asked.append(address)
        found = self.has.get(address, "")
        if isinstance(found, Exception):
            raise found
        return "" if found == besides else found


class Host:
    """One host: its plugin, which can crash and start anew, and its engine."""

    def __init__(self, name: str, store: Store, clock: Clock, folder: Path, seed: int = 0) -> None:
        self.name, self.store, self.clock, self.folder, self.seed = name, store, clock, folder, seed
        self.engine = FakeEngine(instance=secrets.token_hex(4))
        self.prober = FakeProber()
        self.start()

    def start(self) -> None:
        """A fresh plugin process: nothing in memory."""
        rng = random.Random(self.seed)
        now = "2026-01-01T00:00:00+00:00".__str__
        self.repository = Repository(self.store, GroupCommit(self.store), self.name, 60, rng)
        self.tenants = Tenants(self.store, now)
        carving = Carving(SUPERNETS, 24, 64)
        self.uses = Uses(self.repository, self.tenants, carving, lambda: (), now, rng)
        self.journal = Journal(self.folder / f"{self.name}.journal")
        holds = Holds(self.repository, _Asked(self.engine), now, lambda: None)
        self.service = Service(
            self.repository, self.uses, holds, self.journal, lambda: None, now, self.prober, sleep=lambda _: None
        )
        self.endpoints = Endpoints(self.repository, self.uses, now)
        self.repair = Repair(
            self.repository, self.uses, self.service, self.journal, InProgress(self.engine), now, GRACE, self.clock
        )

    def crash(self) -> None:
        """End the plugin's process and start another."""
        for pool in self.repository.opened():
            pool.close()
        self.start()

    def close(self) -> None:
        for pool in self.repository.opened():
            pool.close()

    def sync(self) -> None:
        """Let the copies catch up, so that what is picked depends on nothing but the seed."""
        for pool in self.repository.opened():
            pool.catch_up(5.0)

    def tenant(self, name: str, **fields: Any) -> None:
        """`qnet tenant create --untagged`."""
        self.tenants.create(name, Change(**fields))

    def network(self, name: str, subnet: str, gateway: str = "", **options: str) -> str:
        """`docker network create`; returns the pool's id."""
        pool = str(self.service.request_pool(self.engine.instance, subnet, "", options, ":" in subnet))
        given = self.service.request_gateway(self.engine.instance, pool, gateway)
        self.engine.networks[name] = pool
        self.engine.gateways[name] = given.partition("/")[0]
        return pool

    def remove_network(self, name: str) -> None:
        """`docker network rm`."""
        pool, gateway = self.engine.networks.pop(name), self.engine.gateways.pop(name)
        self.service.release_address(pool, gateway)
        self.service.release_pool(pool)

    def start_container(self, network: str, one: Container) -> str:
        """The engine's calls for a start; returns the address. On an error the engine gives back what it got."""
        pool = self.engine.networks[network]
        self.engine.containers.setdefault(one.id, (network, one))
        self.engine.starting = one.id
        try:
            given = self.service.request_address(self.engine.instance, pool, one.asked).partition("/")[0]
            endpoint = secrets.token_hex(8)
            parsed = parse_pool_id(pool)
            self.endpoints.bind(parsed.tenant, [(given, str(parsed.subnet))], network, endpoint, "")
        finally:
            self.engine.starting = ""
        one.address, one.endpoint, one.started = given, endpoint, True
        return given

    def stop_container(self, one: Container) -> None:
        """The engine's call for a stop."""
        network, _ = self.engine.containers[one.id]
        address, one.address, one.endpoint = one.address, "", ""
        self.service.release_address(self.engine.networks[network], address)

    def restart_engine(self) -> None:
        """A new instance of the engine asks again for all that it has."""
        self.engine.instance = secrets.token_hex(4)
        for name, pool_id in self.engine.networks.items():
            pool = parse_pool_id(pool_id)
            options = {"tenant": pool.tenant}
            self.service.request_pool(self.engine.instance, str(pool.subnet), "", options, pool.subnet.version == 6)
            self.service.request_gateway(self.engine.instance, pool_id, self.engine.gateways[name])
        for network, one in self.engine.containers.values():
            if one.address:
                self.service.request_address(self.engine.instance, self.engine.networks[network], one.address)

    def repaired(self) -> None:
        """Two comparisons with more than the grace period between."""
        self.repair_once()
        self.clock.time += GRACE + 1
        self.repair_once()

    def repair_once(self) -> None:
        """One comparison."""
        self.repair.run(self.engine.view)


def records(store: Store, tenant: str, subnet: str) -> dict[str, AddressRecord]:
    """All address records of a pool, as the store has them."""
    prefix = schema.address_key(tenant, subnet)
    return {
        str(ip_address(kv.key.removeprefix(prefix))): schema.decode(kv.value, AddressRecord)
        for kv in store.range(prefix).kvs
    }
