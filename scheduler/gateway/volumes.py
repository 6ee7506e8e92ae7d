"""Volumes: those of sharedfs are one on all hosts; others are their hosts' own, and bring containers there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qnet.errors import Conflict
from scheduler.callers import Forbidden
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import dumps
from scheduler.gateway.routes import Route
from scheduler.gateway.services import Services, filters_of, filters_text, labelled, late, take_hosts, total
from scheduler.gateway.upstream import Missing, Refused
from scheduler.model import Machine

SHARED, GLOBAL = "sharedfs", "global"


class Volumes:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._s = services

    def routes(self) -> list[Route]:
        """All of `/volumes`."""
        return [
            Route("GET", "/volumes", "aggregated", self.all),
            Route("POST", "/volumes/create", "one host", self.create),
            Route("POST", "/volumes/prune", "fanned out", self.prune),
            Route("GET", "/volumes/{name}", "owner", self.inspect),
            Route("DELETE", "/volumes/{name}", "owner", self.remove),
        ]

    async def all(self, x: Exchange) -> None:
        """Each shared volume once, and those of hosts."""
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        path = x.target("volumes", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "GET", path, hosts=hosts)
        volumes = await self.merged(x, {host: told.get("Volumes") or () for host, told in found.items()})
        if filters.get("dangling", ["false"])[0] in ("true", "1"):
            used = {name for one in self._s.view.containers() for name in one.volumes}
            volumes = [one for one in volumes if one.get("Scope") != GLOBAL or one["Name"] not in used]
        warnings = [one for told in found.values() for one in told.get("Warnings") or ()]
        warnings += [] if x.caller.tenant else late(hosts, found)
        await x.answer(200, {"Volumes": volumes, "Warnings": warnings or None})

    async def merged(self, x: Exchange, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The volumes that hosts list, each once, for a caller."""
        merged: dict[tuple[str, str], dict[str, Any]] = {}
        for host, listed in found.items():
            for entry in listed:
                shared = entry.get("Scope") == GLOBAL
                merged.setdefault((entry["Name"], "" if shared else host), entry if shared else labelled(entry, host))
        volumes = list(merged.values())
        if not x.caller.tenant:
            return volumes
        mine = await self._s.work(self._s.known.volumes_of, x.caller.tenant)
        return [one for one in volumes if one.get("Driver") == SHARED and one["Name"] in mine]

    async def create(self, x: Exchange) -> None:
        """A shared volume is made by any host; another one on a host that is picked for it."""
        body = await x.json()
        name, driver = str(body.get("Name") or ""), str(body.get("Driver") or "local")
        if x.caller.tenant:
            if driver != SHARED:
                raise Forbidden(
                    f"volume {name}: driver {driver} is for operators, as its volumes are one host's: use -d sharedfs"
                )
            options = body.get("DriverOpts") or {}
            if not isinstance(options, dict) or options.get("tenant", x.caller.tenant) != x.caller.tenant:
                raise Forbidden(f"volume {name}: its options name another tenant")
            taken = await self._s.work(self._s.known.volume_tenant, name) not in (None, x.caller.tenant)
            if taken or self._s.known.pinned(name):
                raise Conflict(f"volume {name}: that name is taken: choose another")
            own = {**options, "tenant": x.caller.tenant}
            # and no other spelling of them
            body = {"Name": name, "Driver": driver, "DriverOpts": own, "Labels": body.get("Labels") or {}}
        here = [one for one in self._s.hosts(x.caller) if name and name in one.volumes]
        if driver == SHARED:
            host = self._s.any_host(x.caller)
        else:
            labels = body.get("Labels") or {}
            host = here[0] if here else await self._s.choose_local(x, f"volume {name}", labels)

        async def wait(status: int) -> None:
            if status == 201 and name and driver != SHARED:
                await self._s.until(lambda: name in self._s.view.machine(host.name).volumes)

        def shown(made: dict[str, Any]) -> dict[str, Any]:
            return made if made.get("Scope") == GLOBAL else labelled(made, host.name)

        status = await x.rewritten(host, x.target("volumes", "create"), shown, dumps(body), wait)
        self._s.note(x, "volume create", name, host.name, "done" if status == 201 else f"refused: {status}")

    async def inspect(self, x: Exchange) -> None:
        """All of one."""
        host = await self._host(x)

        def shown(found: dict[str, Any]) -> dict[str, Any]:
            return found if found.get("Scope") == GLOBAL else labelled(found, host.name)

        await x.rewritten(host, x.target("volumes", x.args["name"]), shown)

    async def _host(self, x: Exchange) -> Machine:
        """A host that has it. Raises Refused: none has, or several have one of that name."""
        name = x.args["name"]
        if x.caller.tenant:
            if await self._s.work(self._s.known.volume_tenant, name) != x.caller.tenant:
                raise Missing(f"get {name}: no such volume")
            return self._s.any_host(x.caller)
        hosts = self._s.hosts(x.caller)
        found, _ = await self._s.upstreams.each(
            hosts, lambda host: self._s.upstreams.call(host, "GET", x.target("volumes", name, query={}))
        )
        has = [host for host in hosts if host.name in found]
        if not has:
            raise Missing(f"get {name}: no such volume")
        if len(has) > 1 and found[has[0].name].get("Scope") != GLOBAL:
            raise Conflict(f"volume {name} is on several hosts: {', '.join(one.name for one in has)}")
        return has[0]

    async def remove(self, x: Exchange) -> None:
        """Remove one that no container of any host has."""
        name, host = x.args["name"], await self._host(x)
        users = [one.id for one in self._s.view.containers() if name in one.volumes]
        if users and name not in host.volumes:
            raise Refused(409, f"remove {name}: volume is in use - [{', '.join(users)}]")

        async def wait(status: int) -> None:
            if status == 204:
                await self._s.until(lambda: name not in self._s.view.machine(host.name).volumes)

        status = await x.relay(host, x.target("volumes", name), None, wait)
        self._s.note(x, "volume remove", name, host.name, "done" if status == 204 else f"refused: {status}")

    async def prune(self, x: Exchange) -> None:
        """Remove the hosts' own volumes that nobody uses; a tenant has none of those."""
        filters = filters_of(x)
        hosts = take_hosts(filters, [] if x.caller.tenant else self._s.hosts(x.caller))
        path = x.target("volumes", "prune", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "POST", path, hosts=hosts) if hosts else {}
        gone = [name for told in found.values() for name in told.get("VolumesDeleted") or ()]
        self._s.note(x, "volume prune", ", ".join(gone))
        await x.answer(200, {"VolumesDeleted": gone or None, "SpaceReclaimed": total(found, "SpaceReclaimed")})
