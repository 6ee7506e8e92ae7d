"""What the fleet says of itself, in the words of an engine."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from qnet.errors import QnetError, Unavailable
from scheduler.callers import Forbidden
from scheduler.gateway.containers import Containers
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.images import Images
from scheduler.gateway.routes import Route
from scheduler.gateway.services import Services, late
from scheduler.gateway.volumes import Volumes
from scheduler.model import Machine

logger = logging.getLogger(__name__)

AGAIN = 10.0  # seconds
SOON, LOOK, PATIENCE = 0.5, 0.05, 5.0
SUMS = ("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "NCPU", "MemTotal")
ALWAYS = ("Api-Version", "Docker-Experimental", "Ostype", "Server")
PING = (*ALWAYS, "Builder-Version", "Swarm", "Cache-Control", "Pragma")
TENANTS = ("ServerVersion", "OSType", "OperatingSystem", "Architecture", "KernelVersion", "Swarm", "Driver", "Plugins")
GIB = 1 << 30


class System:
    """See the module."""

    def __init__(self, services: Services, containers: Containers, images: Images, volumes: Volumes) -> None:
        self._s = services
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._ping: dict[str, str] = {}

    def routes(self) -> list[Route]:
        """What is about the whole."""
        return [
            Route("GET", "/_ping", "served", self.ping),
            Route("HEAD", "/_ping", "served", self.ping),
            Route("GET", "/info", "aggregated", self.info),
            Route("GET", "/version", "one host", self.version),
            Route("GET", "/system/df", "aggregated", self.df),
            Route("GET", "/metrics", "served", self.metrics),
        ]

    def headers(self) -> Mapping[str, str]:
        """What every engine sends with each answer; of several versions, the oldest one's."""
        return {name: self._ping[name] for name in ALWAYS if name in self._ping}

    async def follow(self) -> None:
        """Keep knowing that."""
        while True:
            await self._look()
            await asyncio.sleep(AGAIN if self._ping else SOON)

    async def _look(self) -> None:
        host = self._oldest(self._s.view.machines())
        if host is None:
            return
        try:
            async with asyncio.timeout(AGAIN), self._s.upstreams.asked(host, "GET", "/_ping") as answer:
                await answer.content()
                told = {name.title(): value for name, value in answer.headers.items()}
                self._ping = {name: told[name] for name in PING if name in told}
        except (QnetError, TimeoutError) as error:
            logger.info("%s", error)

    async def cut(self) -> None:
        """End what is asked of hosts that are down: TCP notices that late if something was on its way to them."""
        while True:
            for host in self._s.view.machines():
                if host.state == "down":
                    self._s.upstreams.cut(host)
            await asyncio.sleep(SOON)

    @staticmethod
    def _oldest(hosts: list[Machine]) -> Machine | None:
        up = [one for one in hosts if one.state != "down"]
        return min(up, key=lambda one: (_version(one.api), one.name), default=None)

    async def ping(self, x: Exchange) -> None:
        """The front is there. It does not say so before it knows an engine: clients take the version from this."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not self._ping:
            if asyncio.get_running_loop().time() > deadline:
                raise Unavailable("no host is up: see qnet host ls")
            await self._look()
            await asyncio.sleep(LOOK)
        kind = {"Content-Type": "text/plain; charset=utf-8"}
        await x.answer(200, b"OK", {**self._ping, **kind})

    async def metrics(self, x: Exchange) -> None:
        """The front's own metrics, for Prometheus."""
        if x.caller.tenant:
            raise Forbidden("metrics are for operators")
        await x.answer(200, generate_latest(), {"Content-Type": CONTENT_TYPE_LATEST})

    async def version(self, x: Exchange) -> None:
        """That of the oldest engine: what works there works everywhere."""
        host = self._oldest(self._s.hosts(x.caller)) or self._s.any_host(x.caller)
        await x.relay(host, x.target("version"))

    async def info(self, x: Exchange) -> None:
        """The sums of all hosts, which are listed as labels."""
        found = await self._s.every(x, "GET", f"{x.version}/info")
        oldest = self._oldest([host for host in self._s.hosts(x.caller) if host.name in found])
        if oldest is None:
            raise Unavailable("no host is up: see qnet host ls")
        told = dict(found[oldest.name])
        if len(found) > 1:
            told |= {name: sum(int(one.get(name) or 0) for one in found.values()) for name in SUMS}
            told["Images"] = len(self._images.merged(x, await self._s.every(x, "GET", f"{x.version}/images/json")))
            told["Name"], told["ID"] = f"{socket.gethostname()} (qnet, {len(found)} hosts)", "qnet"
            told["Warnings"] = [f"{name}: {one}" for name, info in found.items() for one in info.get("Warnings") or ()]
        if x.caller.tenant:
            taken = self._s.view.taken(x.caller.tenant)
            mine = [one for one in self._s.view.containers() if one.tenant == x.caller.tenant]
            running = sum(one.running for one in mine)
            told = {name: told[name] for name in TENANTS if name in told}
            told |= {"Containers": taken.running, "ContainersRunning": running, "ContainersPaused": 0}
            told |= {"ContainersStopped": len(mine) - running, "Images": 0, "Name": "qnet", "ID": "qnet"}
        else:
            told["Warnings"] = [*(told.get("Warnings") or ()), *late(self._s.hosts(x.caller), found)] or None
            told["Labels"] = [
                *(told.get("Labels") or ()),
                *map(self._of, sorted(self._s.view.machines(), key=lambda one: one.name)),
            ]
        await x.answer(200, told)

    def _of(self, host: Machine) -> str:
        """A host in one line."""
        load = self._s.view.load(host.name)
        trouble = f", trouble: {', '.join(host.trouble)}" if host.trouble else ""
        return (
            f"qnet.host.{host.name}={host.state}, engine {host.engine}, {load.running} running, "
            f"CPUs {load.cpus / 1000:g} of {host.cpus / 1000:g}, "
            f"memory {load.memory / GIB:.1f} of {host.memory / GIB:.1f} GiB{trouble}"
        )

    async def df(self, x: Exchange) -> None:
        """What takes disks."""
        found = await self._s.every(x, "GET", x.target("system", "df"), whole=True)
        told: dict[str, Any] = {"LayersSize": sum(int(one.get("LayersSize") or 0) for one in found.values())}
        told["Images"] = self._images.merged(x, {name: one.get("Images") or [] for name, one in found.items()})
        told["Containers"] = [
            self._containers.shown(entry, name)
            for name, one in found.items()
            for entry in one.get("Containers") or ()
            if self._s.owns(x.caller, entry["Id"])
        ]
        volumes = {name: one.get("Volumes") or () for name, one in found.items()}
        told["Volumes"] = await self._volumes.merged(x, volumes)
        caches = [entry for one in found.values() for entry in one.get("BuildCache") or ()]
        told["BuildCache"] = [] if x.caller.tenant else caches
        if x.caller.tenant:
            told["LayersSize"] = 0
        else:
            told = {**next(iter(found.values()), {}), **told}
        await x.answer(200, told)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
