"""Networks: those of the cluster are one on all hosts; others are their hosts' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qnet.engine import ADDRESS_SPACE
from qnet.errors import Conflict, InvalidRequest, QnetError
from scheduler import policy
from scheduler.ask import BUILT_IN, texts
from scheduler.callers import Forbidden
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import dumps
from scheduler.gateway.routes import Route
from scheduler.gateway.services import HOST_LABEL, Services, filters_of, filters_text, has_label, labelled, take_hosts
from scheduler.gateway.upstream import Missing, Refused
from scheduler.model import AUTO, Container, Machine, Network
from scheduler.networks import DRIVER, NetworkAsked
from scheduler.translate import ID


class Networks:
    """See the module."""

    def __init__(self, services: Services) -> None:
        self._s = services

    def routes(self) -> list[Route]:
        """All of `/networks`."""
        return [
            Route("GET", "/networks", "aggregated", self.all),
            Route("POST", "/networks/create", "fanned out", self.create),
            Route("POST", "/networks/prune", "fanned out", self.prune),
            Route("GET", "/networks/{id}", "aggregated", self.inspect),
            Route("DELETE", "/networks/{id}", "fanned out", self.remove),
            Route("POST", "/networks/{id}/connect", "owner", self._attach("connect")),
            Route("POST", "/networks/{id}/disconnect", "owner", self._attach("disconnect")),
        ]

    async def all(self, x: Exchange) -> None:
        """Each network of the cluster once, and those of hosts."""
        filters = filters_of(x)
        hosts, ids = take_hosts(filters, self._s.hosts(x.caller)), filters.pop("id", [])
        path = x.target("networks", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "GET", path, hosts=hosts)
        merged = self._merged(x, found)
        if "true" in filters.get("dangling", ()) or "1" in filters.get("dangling", ()):
            merged = [entry for entry in merged if self._everywhere(entry, found)]
        await x.answer(200, [entry for entry in merged if not ids or any(entry["Id"].startswith(one) for one in ids)])

    def _merged(self, x: Exchange, found: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        merged: dict[str, dict[str, Any]] = {}
        for host, listed in found.items():
            for entry in listed:
                network = self._of_cluster(entry)
                if x.caller.tenant and (network is None or network.tenant != x.caller.tenant):
                    continue
                shared = network is not None or entry["Name"] in BUILT_IN
                number = entry["Name"] if shared else entry["Id"]
                if number in merged:
                    _join(merged[number], entry, host)
                else:
                    merged[number] = self._shown(entry, host)
        return list(merged.values())

    def _of_cluster(self, entry: Mapping[str, Any]) -> Network | None:
        network = self._s.view.network(entry["Name"])
        return network if network is not None and (entry.get("Labels") or {}).get(ID) == network.id else None

    def _shown(self, entry: dict[str, Any], host: str) -> dict[str, Any]:
        network = self._of_cluster(entry)
        labelled(entry, host)
        if network is not None:
            entry["Id"] = network.id
        return entry

    def _everywhere(self, entry: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
        """Whether no host has left it out of its list."""
        has = {one.name for one in self._s.view.machines() if entry["Name"] in one.networks}
        return has & found.keys() <= set(entry["Labels"][HOST_LABEL].split(","))

    async def inspect(self, x: Exchange) -> None:
        """All of one, with the containers of all hosts."""
        network, hosts = await self._found(x)
        if network is None and len(hosts) == 1:
            host = hosts[0]
            await x.rewritten(host, x.target("networks", x.args["id"]), lambda found: labelled(found, host.name))
            return
        name = network.name if network else x.args["id"]
        path = x.target("networks", name)
        found = await self._s.every(x, "GET", path, hosts=hosts)
        found = {host: entry for host, entry in found.items() if self._of_cluster(entry) == network}
        if not found:
            raise _no_such(x.args["id"])
        first, *others = found.items()
        merged = self._shown(first[1], first[0])
        for name, entry in others:
            _join(merged, entry, name)
        await x.answer(200, merged)

    async def _found(self, x: Exchange) -> tuple[Network | None, list[Machine]]:
        """A network of the cluster and its hosts, or the hosts that have another one of that name or id.

        Raises:
            Refused: there is none, or several.
        """
        asked = x.args["id"]
        network = self._s.network(x.caller, asked)
        if network is not None:
            return network, [host for host in self._s.hosts(x.caller) if network.name in host.networks]
        if x.caller.tenant:
            raise _no_such(asked)
        path = f"/networks/{asked}"
        found = await self._s.upstreams.each(
            self._s.hosts(x.caller), lambda host: self._s.upstreams.call(host, "GET", x.version + path)
        )
        hosts = [host for host in self._s.hosts(x.caller) if host.name in found[0]]
        if not hosts:
            raise _no_such(asked)
        if len(hosts) > 1 and asked not in BUILT_IN:
            names = ", ".join(host.name for host in hosts)
            raise Refused(400, f"network {asked} is ambiguous ({len(hosts)} matches found: on {names}): give its id")
        return None, hosts

    # -- changes ---------------------------------------------------------------------------------------------

    async def create(self, x: Exchange) -> None:
        """Of driver qnet: on every host. Any other driver's is on one host, and so are the containers on it."""
        body = await x.json()
        name, driver = str(body.get("Name") or ""), str(body.get("Driver") or "bridge")
        if driver == DRIVER:
            await self._create_everywhere(x, name, body)
            return
        if x.caller.tenant:
            raise Forbidden(
                f"network {name}: driver {driver} is for operators, as its networks are one host's: use -d qnet"
            )
        has = [one.name for one in self._s.view.machines() if name in one.networks]
        if has or self._s.view.network(name) is not None:
            raise Refused(409, f"network with name {name} already exists")
        host = await self._s.choose_local(x, f"network {name}", texts(body, "Labels"))
        status = await x.relay(host, x.target("networks", "create"), dumps(body), self._until(host, name, there=True))
        self._s.note(x, "network create", name, host.name, "done" if status == 201 else f"refused: {status}")

    def _until(self, host: Machine, name: str, *, there: bool) -> Callable[[int], Any]:
        """What waits until the next request knows of a change."""

        async def wait(status: int) -> None:
            if status < 300:
                await self._s.until(lambda: (name in self._s.view.machine(host.name).networks) is there)

        return wait

    async def _create_everywhere(self, x: Exchange, name: str, body: Mapping[str, Any]) -> None:
        ipam = body.get("IPAM") or {}
        if str(ipam.get("Driver") or "default") not in ("default", ADDRESS_SPACE):
            raise InvalidRequest(f"network {name}: IPAM driver {ipam['Driver']}: networks of qnet have their own")
        asked = NetworkAsked(
            name=name,
            options=texts(body, "Options"),
            ipam_options=texts(ipam, "Options"),
            subnets=tuple(one for one in ipam.get("Config") or () if one),
            internal=bool(body.get("Internal")),
            ipv6=bool(body.get("EnableIPv6")),
            labels=texts(body, "Labels"),
        )
        result = "done"
        try:
            made = await self._s.work(self._s.networks.create, asked, x.caller.tenant, operator=x.caller.operator)
        except QnetError as error:
            result = f"refused: {error}"
            if isinstance(error, Conflict) and "exists" in str(error):
                raise Refused(409, f"network with name {name} already exists") from error
            raise
        finally:
            self._s.note(x, "network create", name, result=result)
        await x.answer(201, {"Id": made.id, "Warning": ""})

    async def remove(self, x: Exchange) -> None:
        """Have no host have it any more."""
        network, hosts = await self._found(x)
        if network is None:
            if len(hosts) > 1:
                raise Refused(403, f"{x.args['id']} is a pre-defined network and cannot be removed")
            name = await self._name(x, hosts[0])
            wait = self._until(hosts[0], name, there=False)
            status = await x.relay(hosts[0], x.target("networks", x.args["id"]), None, wait)
            self._s.note(x, "network remove", name, hosts[0].name, "done" if status == 204 else f"refused: {status}")
            return
        try:
            await self._s.work(self._s.networks.remove, network.name, x.caller.tenant)
        except Conflict as error:
            self._s.note(x, "network remove", network.name, result=f"refused: {error}")
            raise Refused(403, f"error while removing network: {error}") from error
        self._s.note(x, "network remove", network.name)
        await x.answer(204)

    async def _name(self, x: Exchange, host: Machine) -> str:
        told = await self._s.upstreams.call(host, "GET", x.target("networks", x.args["id"], query={}))
        return str(told["Name"])

    async def prune(self, x: Exchange) -> None:
        """Remove all that no container is on."""
        filters = filters_of(x)
        hosts, gone = take_hosts(filters, self._s.hosts(x.caller)), []
        wanted, unwanted = filters.get("label", []), filters.get("label!", [])
        own = filters_text({**filters, "label!": [*unwanted, ID]})
        if not x.caller.tenant:  # engines first: they refuse filters that make no sense
            path = x.target("networks", "prune", query={"filters": own})
            found = await self._s.every(x, "POST", path, hosts=hosts)
            gone = [name for answer in found.values() for name in answer.get("NetworksDeleted") or ()]
        users = {name for one in self._s.view.containers() for name in one.networks}
        for network in self._s.view.networks():
            mine = x.caller.tenant in ("", network.tenant) and network.name not in users
            known = not filters.keys() - {"label", "label!"}
            if (
                mine
                and known
                and all(has_label(network.labels, one) for one in wanted)
                and not any(has_label(network.labels, one) for one in unwanted)
            ):
                await self._s.work(self._s.networks.remove, network.name, x.caller.tenant)
                gone.append(network.name)
        self._s.note(x, "network prune", ", ".join(gone))
        await x.answer(200, {"NetworksDeleted": gone or None})

    def _attached(self, x: Exchange, what: str, body: Mapping[str, Any], container: Container) -> dict[str, Any]:
        """What the engine is told, of the fields that are known."""
        found: dict[str, Any] = {"Container": container.id or container.called}
        if what == "disconnect":
            return {**found, "Force": bool(body.get("Force"))}
        settings = body.get("EndpointConfig") or {}
        if not self._s.powers(x.caller):
            settings = policy.endpoint(settings)
        ipam = {name: value for name, value in (settings.get("IPAMConfig") or {}).items() if value != AUTO}
        return {**found, "EndpointConfig": {**settings, "IPAMConfig": ipam or None}}

    async def _there(self, x: Exchange, host: Machine, network: Network) -> str:
        """The id that one of the cluster has on a host: of that name, the host may have one of its own.

        Raises:
            Refused: the host does not have it.
        """
        path = x.target("networks", query={"filters": filters_text({"label": [f"{ID}={network.id}"]})})
        found = await self._s.upstreams.call(host, "GET", path)
        if not found:
            raise Refused(404, f"network {network.name} not found on host {host.name}, see qnet doctor")
        return str(found[0]["Id"])

    def _attach(self, what: str) -> Callable[[Exchange], Any]:
        async def attach(x: Exchange) -> None:
            body = await x.json()
            network = self._s.network(x.caller, x.args["id"])
            if network is None and x.caller.tenant:
                raise _no_such(x.args["id"])
            container, host = await self._s.owner(x, str(body.get("Container") or ""))
            if network is not None and network.tenant != container.tenant:
                raise Forbidden(
                    f"network {network.name} is of tenant {network.tenant}, the container of {container.tenant}"
                )
            body = self._attached(x, what, body, container)
            there = x.args["id"] if network is None else await self._there(x, host, network)
            status = await x.relay(host, x.target("networks", there, what), dumps(body))
            result = "done" if status == 200 else f"refused: {status}"
            self._s.note(x, f"network {what}", f"{x.args['id']} {container.name}", host.name, result)

        return attach


def _join(merged: dict[str, Any], entry: Mapping[str, Any], host: str) -> None:
    """The same network of another host."""
    merged["Labels"][HOST_LABEL] += f",{host}"
    if entry.get("Containers"):
        merged["Containers"] = {**(merged.get("Containers") or {}), **entry["Containers"]}


def _no_such(name: str) -> Missing:
    return Missing(f"network {name} not found")
