"""Events of all hosts in one stream. Clients that ask for the same share the streams from hosts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from qnet.errors import QnetError
from scheduler.gateway.containers import renamed
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import Broken, dumps
from scheduler.gateway.rights import Rights
from scheduler.gateway.routes import Route
from scheduler.gateway.services import HOST_LABEL, Services, filters_of, filters_text, take_hosts
from scheduler.gateway.upstream import BAD, MOST, Refused, message_of
from scheduler.gateway.volumes import SHARED
from scheduler.model import Machine
from scheduler.networks import DRIVER
from scheduler.translate import TENANT

logger = logging.getLogger(__name__)

WAITING = 4096  # events that a client may be late
HISTORY = 256  # events that an engine remembers
HOSTS_AGAIN = 1.0  # seconds until a host that has joined, or come back, is heard
FIRST = 2.0  # seconds for hosts to begin before the client is told that they have

NANO = 10**9

Event = tuple[dict[str, Any], bytes]
LOST: Event = ({}, b"")


class Topic:
    """One question to all hosts, and those who listen to the answers."""

    def __init__(self, services: Services, path: str, hosts: Callable[[], list[Machine]], *, ends: bool) -> None:
        self._s = services
        self._path = path
        self._hosts = hosts
        self._ends = ends
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._begun: set[str] = set()
        self.listeners: set[asyncio.Queue[Event | None]] = set()
        self._refusals: dict[str, QnetError] = {}
        self._last: dict[str, int] = {}  # when each host's last event was, in nanoseconds
        self._task = asyncio.create_task(self._run())

    async def begun(self) -> None:
        """All hosts tell now, or were given their time. Raises Refused: all refuse."""
        deadline = asyncio.get_running_loop().time() + FIRST
        while asyncio.get_running_loop().time() < deadline:
            hosts = {host.name for host in self._hosts()}
            if hosts <= self._begun | self._refusals.keys():
                if hosts and hosts <= self._refusals.keys():
                    raise next(iter(self._refusals.values()))
                return
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """Nobody listens any more."""
        self._task.cancel()
        for stream in self._streams.values():
            stream.cancel()

    async def _run(self) -> None:
        while True:
            for host in self._hosts():
                there = self._streams.get(host.name)
                if there is None or (there.done() and not self._ends):
                    self._streams[host.name] = asyncio.create_task(self._follow(host))
            if self._ends and all(stream.done() for stream in self._streams.values()):
                for listener in self.listeners:
                    _offer(listener, None)
                return
            if self._ends:
                await asyncio.wait(self._streams.values(), timeout=HOSTS_AGAIN)
            else:
                await asyncio.sleep(HOSTS_AGAIN)

    async def _follow(self, host: Machine) -> None:
        border = self._last.get(host.name, 0)  # told before the stream broke off
        try:
            async with self._s.upstreams.asked(host, "GET", self._from(host)) as answer:
                if answer.status >= BAD:
                    self._refusals[host.name] = Refused(answer.status, message_of(await answer.content(MOST)))
                    return
                self._refusals.pop(host.name, None)
                self._begun.add(host.name)
                async for line in answer.lines():
                    self._tell(line, host, border)
        except QnetError as error:
            logger.info("events of %s end: %s", host.name, error)
        finally:
            if not self._ends:
                self._begun.discard(host.name)

    def _from(self, host: Machine) -> str:
        """What is asked of a host: of one that was heard before, from its last event on."""
        last = self._last.get(host.name)
        if last is None:
            return self._path
        path, _, query = self._path.partition("?")
        kept = [(name, value) for name, value in parse_qsl(query) if name != "since"]
        return f"{path}?{urlencode([*kept, ('since', f'{last // NANO}.{last % NANO:09}')])}"

    def _tell(self, line: bytes, host: Machine, border: int) -> None:
        try:
            event = msgspec.json.decode(line)
            told = {**(event["Actor"].get("Attributes") or {}), HOST_LABEL: host.name}
            if event.get("Type") == "container":
                told["name"] = renamed(f"/{told.get('name', '')}", told).removeprefix("/")
            event["Actor"]["Attributes"] = told
        except (msgspec.MsgspecError, KeyError, TypeError):
            logger.warning("host %s told an event that is none", host.name)
            return
        when = event.get("timeNano")
        if isinstance(when, int):
            if when <= border:
                return
            self._last[host.name] = max(when, self._last.get(host.name, 0))  # engines tell some the other way round
        data = dumps(event)
        for listener in self.listeners:
            _offer(listener, (event, data))


def _offer(listener: asyncio.Queue[Event | None], event: Event | None) -> None:
    """A client that takes nothing loses its stream, and nobody waits for it."""
    if listener.full():
        listener.get_nowait()
        listener.put_nowait(LOST)
    else:
        listener.put_nowait(event)


class Events:
    """See the module."""

    def __init__(self, services: Services, rights: Rights) -> None:
        self._s = services
        self._rights = rights
        self._topics: dict[tuple[str, ...], Topic] = {}

    def routes(self) -> list[Route]:
        """The one call."""
        return [Route("GET", "/events", "aggregated", self.events)]

    async def events(self, x: Exchange) -> None:
        """Events as they come, of all hosts."""
        filters = filters_of(x)
        before = filters.get("label", [])
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        narrowed = len(filters.get("label", [])) != len(before)
        names = frozenset(host.name for host in hosts)
        filters["network"] = self._s.network_names(x.caller, filters.get("network", ()))
        path = x.target("events", query={"filters": filters_text(filters)})
        shared = not (x.request.parameter("since") or x.request.parameter("until"))

        def listed() -> list[Machine]:
            now = self._s.hosts(x.caller)
            return [host for host in now if host.name in names] if narrowed else now

        key = (path, x.caller.tenant, *(sorted(names) if narrowed else ()))
        topic = self._topics.get(key) if shared else None
        if topic is None:
            topic = Topic(self._s, path, listed, ends=bool(x.request.parameter("until")))
            if shared:
                self._topics[key] = topic
        waiting = WAITING if shared else WAITING + HISTORY * len(hosts)  # that comes all at once
        listener: asyncio.Queue[Event | None] = asyncio.Queue(waiting)
        topic.listeners.add(listener)
        kinds = filters.get("type")
        try:
            await topic.begun()
            images = await self._rights.own(x) if x.caller.tenant and (not kinds or "image" in kinds) else {}
            await x.watched(self._tell(x, listener, images))
        finally:
            topic.listeners.discard(listener)
            if not topic.listeners:
                topic.close()
                if self._topics.get(key) is topic:
                    del self._topics[key]

    async def _tell(self, x: Exchange, listener: asyncio.Queue[Event | None], images: dict[str, bool]) -> None:
        async with x.stream() as send:
            while (found := await listener.get()) is not None:
                event, data = found
                if found is LOST:
                    raise Broken("the client was too slow: events are lost")
                if not x.caller.tenant or await self._mine(x, event, images):
                    await send(data)

    async def _mine(self, x: Exchange, event: dict[str, Any], images: dict[str, bool]) -> bool:
        """Whether an event is about something of the caller's tenant."""
        tenant, told = x.caller.tenant, event["Actor"]["Attributes"]
        kind = event.get("Type")
        if kind == "container":
            return bool(told.get(TENANT) == tenant)
        if kind == "image":
            return await self._rights.hears(x, event, images)
        name = str(told.get("name") if kind == "network" else event["Actor"].get("ID"))
        if kind == "network" and told.get("type") == DRIVER and self._is_there(told[HOST_LABEL], name, event):
            return await self._owners(kind, name, event) == {tenant}
        if kind == "volume" and told.get("driver") == SHARED:
            return await self._owners(kind, name, event) == {tenant}
        return False

    def _is_there(self, host: str, name: str, event: Mapping[str, Any]) -> bool:
        """Whether containers there can be on the cluster's network: a host's own of that name its agent leaves out."""
        if event.get("Action") not in ("connect", "disconnect"):
            return True
        with suppress(QnetError):
            return name in self._s.view.machine(host).networks
        return False

    async def _owners(self, kind: str, name: str, event: Mapping[str, Any]) -> Set[str]:
        """Whose a network or volume is. When an engine tells of its end, nothing else tells any more whose it was; if
        several had that name, it may have been any one's."""
        if event.get("Action") == "destroy":
            return self._s.known.owners(kind, name)
        if kind == "volume":
            now = await self._s.work(self._s.known.volume_tenant, name)
        else:
            network = self._s.view.network(name)
            now = network.tenant if network else None
        return {now} if now is not None else self._s.known.owners(kind, name)
