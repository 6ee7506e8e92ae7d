"""What this host's engine has: networks, containers, their endpoints. Never called from inside a driver call, but for
`containers` and `busy`, which take no lock that the engine holds meanwhile, or give up in time."""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import docker
import requests

from qnet.errors import Unavailable
from qnet.tenants import DEFAULT

logger = logging.getLogger(__name__)

REMOTE_API = "1.41"  # Docker 20.10: to make a client of, before the engine told its own
ADDRESS_SPACE = "qnet"  # what the IPAM driver calls it, and the network driver knows its subnets by
VOLUME_DRIVER = "sharedfs"
BUSY_PATIENCE = 0.25
CHANGES = {"type": ["container", "network"], "event": ["start", "connect", "disconnect", "rename", "destroy", "remove"]}
RUNNING = frozenset({"running", "paused", "restarting"})


@dataclass(frozen=True, slots=True)
class EngineSubnet:
    """One IPAM entry of a network."""

    subnet: str
    gateway: str
    auxiliary: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineNetwork:
    """A network as the engine lists it; `tenant` is that of its IPAM options."""

    id: str
    name: str
    driver: str
    ipam_driver: str
    tenant: str
    subnets: tuple[EngineSubnet, ...]


@dataclass(frozen=True, slots=True)
class EngineEndpoint:
    """A container on a network: `addresses` it has now, `asked` those that it was made with (`--ip`, `--ip6`)."""

    network: str
    endpoint: str
    addresses: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """A container that exists; `started` ones run or have run. `volumes` are those of sharedfs."""

    id: str
    name: str
    running: bool
    started: bool
    endpoints: tuple[EngineEndpoint, ...]
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineView:
    """Everything that the engine had at one time. Endpoints name their network by id."""

    networks: tuple[EngineNetwork, ...]
    containers: tuple[EngineContainer, ...]


class Engine:
    """The engine behind a unix socket, or with `tls` (authority, certificate, key) that behind an agent at HOST:PORT.

    Each call has a deadline of `timeout` seconds.
    """

    def __init__(self, socket: str, timeout: float, tls: tuple[str, str, str] | None = None) -> None:
        self._url = f"tcp://{socket}" if tls else f"unix://{socket}"
        self._tls = tls
        self._timeout = timeout
        self._version = "auto"  # what both understand, negotiated by the first call

    def view(self) -> EngineView:
        """List networks and containers.

        Raises:
            Unavailable: the engine does not answer.
        """
        networks = self._call("networks", lambda client: client.networks())
        found = tuple(_network(entry) for entry in networks)
        return EngineView(found, self.containers(found))

    def containers(self, networks: Iterable[EngineNetwork] | None = None) -> tuple[EngineContainer, ...]:
        """List all containers, stopped ones too. This takes no lock in the engine.

        Raises:
            Unavailable: the engine does not answer.
        """
        ids = {network.name: network.id for network in networks or ()}
        entries = self._call("containers", lambda client: client.containers(all=True))
        return tuple(_container(entry, ids) for entry in entries)

    def process(self, container: str) -> int:
        """The id of a container's first process; 0: it does not run. Raises Unavailable."""
        found = self._call("inspect", lambda client: client.inspect_container(container))
        return int(found.get("State", {}).get("Pid", 0))

    def busy_containers(self) -> frozenset[str]:
        """The ids of the containers that the engine is starting or stopping right now. Raises Unavailable."""
        return frozenset(one.id for one in self.containers() if self.busy(one.id, BUSY_PATIENCE))

    def busy(self, container: str, patience: float) -> bool:
        """Whether the engine is starting or stopping a container: it holds its lock, and inspect does not answer within
        `patience` seconds."""
        try:
            self._call("inspect", lambda client: client.inspect_container(container), patience)
        except Unavailable:
            return True
        return False

    def version(self) -> str:
        """The engine's version. Raises Unavailable."""
        return str(self._call("version", lambda client: client.version())["Version"])

    def follow(self, on_event: Callable[[], None], stop: threading.Event) -> None:
        """Call `on_event` for each change of who is on which network, until `stop`; reconnects by itself.

        It may sit in a read for ever when nothing happens: run it on a daemon thread.
        """
        while not stop.is_set():
            try:
                client = self._client(self._timeout)
                stream = client.events(decode=True, filters=CHANGES)
                on_event()
                for _ in stream:
                    on_event()
                    if stop.is_set():
                        return
            except (docker.errors.DockerException, requests.RequestException, OSError, ValueError) as error:
                logger.debug("events of the engine: %s", error)
            stop.wait(1.0)

    def _call(self, what: str, call: Callable[[Any], Any], timeout: float | None = None) -> Any:
        try:
            client = self._client(timeout or self._timeout)
            self._version = client.api_version
            try:
                return call(client)
            finally:
                client.close()
        except docker.errors.NotFound:
            return {}
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise Unavailable(f"docker engine at {self._url}: {what}: {error}") from error

    def _client(self, timeout: float) -> Any:
        if self._tls is None:
            return docker.APIClient(base_url=self._url, version=self._version, timeout=timeout)
        if self._version == "auto":
            first = remote_client(self._url, self._tls, REMOTE_API, timeout)
            self._version = first.version(api_version=False)["ApiVersion"]
            first.close()
        return remote_client(self._url, self._tls, self._version, timeout)


def remote_client(url: str, tls: tuple[str, str, str], version: str, timeout: float) -> Any:
    """A client of another host's engine, at `tcp://HOST:PORT`, with authority, certificate and key; the version is
    that of the API ("auto" would ask before the client is ready)."""
    ca, cert, key = tls
    config = docker.tls.TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True)
    client = docker.APIClient(base_url=url, tls=config, version=version, timeout=timeout)
    client.trust_env = False  # neither proxies nor other authorities than the cluster's
    return client


class Busy(Protocol):
    """The part of an engine that `InProgress` asks."""

    def busy_containers(self) -> frozenset[str]:
        """The ids of the containers that the engine is starting or stopping right now."""


class InProgress:
    """What may belong to a start that takes long: no list of the engine has it, only the container's lock does."""

    def __init__(self, engine: Busy) -> None:
        self._engine = engine
        self._suspects: dict[Hashable, frozenset[str]] = {}

    def may_explain(self, doubts: Collection[Hashable]) -> set[Hashable]:
        """Those of the doubts since whose first mention one container has been busy each time. Doubts that are not
        mentioned again are forgotten. Ask before the view that is acted on.

        Raises:
            Unavailable: the engine does not answer.
        """
        busy = self._engine.busy_containers() if doubts else frozenset()
        self._suspects = {doubt: self._suspects.get(doubt, busy) & busy for doubt in doubts}
        return {doubt for doubt, suspects in self._suspects.items() if suspects}


def _network(entry: Mapping[str, Any]) -> EngineNetwork:
    ipam = entry.get("IPAM") or {}
    return EngineNetwork(
        id=entry["Id"],
        name=entry["Name"],
        driver=entry.get("Driver", ""),
        ipam_driver=ipam.get("Driver", ""),
        tenant=(ipam.get("Options") or {}).get("tenant", DEFAULT),
        subnets=tuple(_subnet(config) for config in ipam.get("Config") or () if config.get("Subnet")),
    )


def _subnet(config: Mapping[str, Any]) -> EngineSubnet:
    auxiliary = (config.get("AuxiliaryAddresses") or config.get("AuxAddress") or {}).values()
    return EngineSubnet(
        subnet=str(ipaddress.ip_network(config["Subnet"], strict=False)),
        gateway=config.get("Gateway", "").partition("/")[0],
        auxiliary=tuple(address.partition("/")[0] for address in auxiliary),
    )


def _container(entry: Mapping[str, Any], ids: Mapping[str, str]) -> EngineContainer:
    endpoints = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return EngineContainer(
        id=entry["Id"],
        name=(entry.get("Names") or ["/" + entry["Id"][:12]])[0].lstrip("/"),
        running=entry.get("State") in RUNNING,
        started=entry.get("State") != "created",
        endpoints=tuple(_endpoint(name, settings or {}, ids) for name, settings in endpoints.items()),
        volumes=tuple(mount["Name"] for mount in entry.get("Mounts") or () if mount.get("Driver") == VOLUME_DRIVER),
    )


def _endpoint(name: str, settings: Mapping[str, Any], ids: Mapping[str, str]) -> EngineEndpoint:
    asked = settings.get("IPAMConfig") or {}
    has = (settings.get("IPAddress"), settings.get("GlobalIPv6Address"))
    return EngineEndpoint(
        # the id of a network that was removed and made again is stale in a stopped container: its name counts
        network=ids.get(name) or settings.get("NetworkID") or name,
        endpoint=settings.get("EndpointID", ""),
        addresses=_canonical(has),
        asked=_canonical((asked.get("IPv4Address"), asked.get("IPv6Address"))),
    )


def _canonical(texts: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_address(text)) for text in texts if text)
