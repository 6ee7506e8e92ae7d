"""`docker create`, and so `docker run`: a host is picked, the container made there, the engine's words handed on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from qnet.errors import Exhausted, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.tenants import DEFAULT
from scheduler.ask import BUILT_IN, CONTAINER, NAME, Asked
from scheduler.gateway.containers import in_use
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import Answer, dumps
from scheduler.gateway.images import Images
from scheduler.gateway.rights import ID
from scheduler.gateway.routes import Route
from scheduler.gateway.services import Services
from scheduler.gateway.upstream import GONE, Missing, Refused, message_of
from scheduler.model import Container, Machine
from scheduler.runs import Run, bodies
from scheduler.translate import TENANT

CREATED, TAKEN = 201, 409
MODES = ("NetworkMode", "IpcMode", "PidMode")
ENGINES_ID = re.compile("[0-9a-f]{64}")


class Creation:
    """See the module."""

    def __init__(self, services: Services, images: Images) -> None:
        self._s = services
        self._images = images

    def routes(self) -> list[Route]:
        """The one call."""
        return [Route("POST", "/containers/create", "placed", self.create)]

    async def create(self, x: Exchange) -> None:
        """Make a container. What was begun is finished, or undone, though the client is gone."""
        await asyncio.shield(asyncio.create_task(self._create(x)))

    async def _create(self, x: Exchange) -> None:
        body, name = await x.json(), x.request.parameter("name").removeprefix("/")
        tenant = self._tenant(x, body)
        try:
            await self._free(x, name)
            if x.caller.tenant:
                body["Image"] = await self._images.usable(x, str(body.get("Image") or ""))
            hosts = set[str]()
            body = await self._by_name(x, body, hosts)
            beside = await self._beside(x, body, hosts)
            run = self._run(x, body, name, tenant, bool(beside))
            made = await self._placed(x, run, beside)
        except QnetError as error:
            self._s.placed(x, "create", name, tenant, "", error)
            raise
        if made is not None:
            self._s.placed(x, "create", made.name, tenant, made.host, None)

    # -- what is asked ---------------------------------------------------------------------------------------

    def _tenant(self, x: Exchange, body: Mapping[str, Any]) -> str:
        """Whose it is: an operator says it by a label, or by the network."""
        if x.caller.tenant:
            return x.caller.tenant
        labels = body.get("Labels") or {}
        tenant = str(labels.get(TENANT, "")) if isinstance(labels, Mapping) else ""
        names = [str((body.get("HostConfig") or {}).get("NetworkMode") or "")]
        names += (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        owners = (self._s.network(x.caller, name) for name in names)
        tenant = tenant or next((one.tenant for one in owners if one is not None), DEFAULT)
        if tenant != DEFAULT and self._s.view.tenant(tenant) is None:
            raise NotFound(f"tenant {tenant[:64]} does not exist: make it with qnet tenant create")
        return tenant

    def _run(self, x: Exchange, body: Mapping[str, Any], name: str, tenant: str, beside: bool) -> Run:
        return Run(
            container=body,
            name=name,
            tenant=tenant,
            platform=x.request.parameter("platform"),
            start=False,
            operator=x.caller.operator,
            powers=self._s.powers(x.caller),
            beside=beside,
        )

    async def _by_name(self, x: Exchange, body: dict[str, Any], hosts: set[str]) -> dict[str, Any]:
        """Networks by their names: each engine has ids of its own of the cluster's. One that is a host's own, and named
        by its id as compose does, adds that host."""

        async def named(text: str) -> str:
            found = self._s.network(x.caller, text) if text not in BUILT_IN else None
            if found is not None:
                return found.name
            if x.caller.tenant or not ENGINES_ID.fullmatch(text):
                return text
            path = f"{x.version}/networks/{text}"
            owned, _ = await self._s.upstreams.each(
                self._s.hosts(x.caller), lambda host: self._s.upstreams.call(host, "GET", path)
            )
            hosts.update(owned)
            return next((str(entry["Name"]) for entry in owned.values()), text)

        limits = body.get("HostConfig") or {}
        places = (body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
        if not isinstance(limits, dict) or not isinstance(places, dict):
            raise InvalidRequest("HostConfig and EndpointsConfig: objects")
        limits = {**limits, "NetworkMode": await named(str(limits.get("NetworkMode") or ""))}
        entries = {await named(name): _without_id(entry) for name, entry in places.items()}
        return {**body, "HostConfig": limits, "NetworkingConfig": {"EndpointsConfig": entries}}

    async def _free(self, x: Exchange, name: str) -> None:
        """Whether a name is free; of a container that is gone its host may know before we do. Raises Refused."""
        if name and not NAME.fullmatch(name):
            raise InvalidRequest(f"Invalid container name ({name[:64]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        taken = self._s.view.container(name)
        if taken is None:
            return
        if taken.id and x.caller.tenant in ("", taken.tenant):
            host = self._s.runs.up(taken)
            if await self._s.work(self._s.runs.there, host, taken) is None:
                await self._s.work(self._s.desk.remove, taken)
                return
        raise in_use(taken, x.caller.tenant)

    async def _beside(self, x: Exchange, body: Mapping[str, Any], hosts: set[str]) -> str:
        """The host of what this one shares something with: the `hosts` of its networks, if they are one host's, and
        those of containers; they are named by their ids from now on.

        Raises:
            Refused: there is no such container.
            InvalidRequest: they are on several hosts.
        """
        limits = body.get("HostConfig") or {}

        async def own(text: str) -> str:
            name, colon, rest = text.partition(":")
            try:
                found = await self._s.container(x, name)
            except Missing as error:
                raise Refused(TAKEN, str(error)) from error  # at 404 clients would pull the image
            hosts.add(found.host)
            return f"{found.id}{colon}{rest}"

        for mode in MODES:
            if str(limits.get(mode) or "").startswith(CONTAINER):
                limits[mode] = CONTAINER + await own(limits[mode].removeprefix(CONTAINER))
        for several in ("VolumesFrom", "Links"):
            if limits.get(several):
                limits[several] = [await own(str(one)) for one in limits[several]]
        if len(hosts) > 1:
            raise InvalidRequest(f"it shares something of several hosts: {', '.join(sorted(hosts))}")
        return next(iter(hosts), "")

    # -- making it -------------------------------------------------------------------------------------------

    async def _placed(self, x: Exchange, run: Run, beside: str) -> Container | None:
        """None: the engine refuses, and the client has its words."""
        image = str(run.container.get("Image") or "")
        pinned = beside or self._s.pinned(x.caller.who, x.caller.process, image)
        if pinned:
            try:
                return await self._try(x, run, frozenset({pinned}))
            except Exhausted:
                if beside:
                    raise
        return await self._try(x, run, frozenset())

    def _begin(self, run: Run, hosts: frozenset[str]) -> tuple[Asked, Container]:
        """In a thread: reading the request may ask the store, and placing does."""
        asked = self._s.runs.asked(run)[0]
        request = msgspec.structs.replace(asked.request, hosts=hosts) if hosts else asked.request
        return asked, self._s.runs.begin(request)

    async def _try(self, x: Exchange, run: Run, hosts: frozenset[str]) -> Container | None:
        asked, placed = await self._s.work(self._begin, run, hosts)
        made: Container | None = None
        try:
            host = self._s.view.machine(placed.host)
            body, others = bodies(asked, placed)
            query = {"name": placed.called}
            target = x.target("containers", "create", query=query)
            answer, content = await self._s.upstreams.answered(host, "POST", target, dumps(body))
            if answer.status == CREATED:
                created = str(msgspec.json.decode(content)["Id"])
                for network, settings in others:
                    await self._connect(x, host, network, created, settings)
                made = await self._s.work(self._s.runs.confirm, placed, created, running=False)
        except Unavailable:
            self._s.later(self._s.work(self._s.runs.undo, placed))  # it may take as long again
            raise
        except QnetError:
            await self._s.work(self._s.runs.undo, placed)
            raise
        if made is None:
            await self._s.work(self._s.runs.undo, placed)
        else:
            self._s.pins.pop((x.caller.who, x.caller.process, placed.image), None)
        if made is None and answer.status == GONE and "image" in message_of(content).lower():
            return await self._elsewhere(x, run, hosts, host, answer, content)
        await x.hand(answer, content)
        return made

    async def _elsewhere(
        self, x: Exchange, run: Run, hosts: frozenset[str], host: Machine, answer: Answer, content: bytes
    ) -> Container | None:
        """The host does not have the image. One that was built or loaded, and is in no registry, is where it is; any
        other one the client pulls now, on this host only."""
        image = str(run.container["Image"])
        holders = frozenset[str]() if hosts else await self._holders(x, image)
        if holders:
            return await self._try(x, run, holders)
        self._s.pin(x.caller.who, x.caller.process, image, host=host.name)
        await x.hand(answer, content)
        return None

    async def _holders(self, x: Exchange, image: str) -> frozenset[str]:
        """The hosts that have an image that is in no registry, or that is named by its id."""

        async def ask(host: Machine) -> Any:
            return await self._s.upstreams.call(host, "GET", f"/images/{image}/json")

        found, _ = await self._s.upstreams.each(self._s.hosts(x.caller), ask)
        begin = ID + image.removeprefix(ID)
        return frozenset(
            name for name, told in found.items() if not told.get("RepoDigests") or told["Id"].startswith(begin)
        )

    async def _connect(self, x: Exchange, host: Machine, network: str, created: str, settings: object) -> None:
        body = {"Container": created, "EndpointConfig": settings}
        await self._s.upstreams.call(host, "POST", f"{x.version}/networks/{network}/connect", body)


def _without_id(entry: object) -> object:
    return {name: value for name, value in entry.items() if name != "NetworkID"} if isinstance(entry, dict) else entry
