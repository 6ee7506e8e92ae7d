"""Containers: lists are the fleet's, everything else is the owning host's."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, datetime
from string import ascii_letters, digits
from typing import Any

import msgspec
import re2

from qnet.errors import InvalidRequest, QnetError
from scheduler import policy
from scheduler.ask import ID, NAME
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import Answer, dumps
from scheduler.gateway.images import Images, joined
from scheduler.gateway.routes import OWNER, Route
from scheduler.gateway.services import (
    HOST_LABEL,
    Services,
    filters_of,
    filters_text,
    has_label,
    labelled,
    take_hosts,
    total,
)
from scheduler.gateway.upstream import Missing, Refused
from scheduler.model import Container, Machine, called
from scheduler.rules import QUIET
from scheduler.translate import NAME as NAME_LABEL
from scheduler.translate import TENANT, cpus

DOWN = "Host down"
EXECS = 100_000
ONE = ascii_letters + digits
CREATED = 201
RELAYED = (
    ("GET", "top"),
    ("GET", "logs"),
    ("GET", "changes"),
    ("GET", "export"),
    ("GET", "stats"),
    ("POST", "resize"),
    ("POST", "start"),
    ("POST", "stop"),
    ("POST", "restart"),
    ("POST", "kill"),
    ("POST", "pause"),
    ("POST", "unpause"),
    ("POST", "attach"),
    ("POST", "wait"),
    ("HEAD", "archive"),
    ("GET", "archive"),
    ("PUT", "archive"),
)
CHANGES = frozenset({"start", "stop", "restart", "kill", "pause", "unpause", "archive"})


class Containers:
    """See the module."""

    def __init__(self, services: Services, images: Images) -> None:
        self._s = services
        self._images = images
        self._execs: dict[str, tuple[str, str]] = {}  # host and container

    def routes(self) -> list[Route]:
        """All of `/containers` and `/exec` but creation."""
        one = "/containers/{id}"
        return [
            Route("GET", "/containers/json", "aggregated", self.all),
            Route("POST", "/containers/prune", "fanned out", self.prune),
            Route("GET", f"{one}/json", OWNER, self.inspect),
            Route("GET", f"{one}/attach/ws", OWNER, self._relay("attach", "ws")),
            *(Route(method, f"{one}/{what}", OWNER, self._relay(what)) for method, what in RELAYED),
            Route("POST", f"{one}/rename", OWNER, self.rename),
            Route("POST", f"{one}/update", OWNER, self.update),
            Route("POST", f"{one}/exec", OWNER, self.exec),
            Route("DELETE", one, OWNER, self.remove),
            Route("POST", "/exec/{id}/start", OWNER, self._on_exec("start")),
            Route("POST", "/exec/{id}/resize", OWNER, self._on_exec("resize")),
            Route("GET", "/exec/{id}/json", OWNER, self._on_exec("json")),
            Route("POST", "/commit", OWNER, self.commit),
        ]

    # -- lists -----------------------------------------------------------------------------------------------

    async def all(self, x: Exchange) -> None:
        """All containers, the newest first."""
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        if x.caller.tenant:
            filters.setdefault("label", []).append(f"{TENANT}={x.caller.tenant}")
            mine = {one.host for one in self._s.view.containers() if one.tenant == x.caller.tenant}
            hosts = [host for host in hosts if host.name in mine]
            if asked := filters.get("ancestor"):
                filters["ancestor"] = await self._images.ancestors(x, asked)
                if not filters["ancestor"]:
                    await x.answer(200, [])
                    return
        borders = await self._borders(x, filters)
        filters["network"] = self._s.network_names(x.caller, filters.get("network", ()))
        names, limit = filters.get("name", []), x.request.parameter("limit")
        most = int(limit) if limit.isdigit() else 0
        query = {"filters": filters_text({**filters, "name": [*names, *_short(names)]})}
        query |= {"limit": "", "all": "1"} if most and (borders or names) else {}
        path = x.target("containers", "json", query=query)
        found = await self._s.every(x, "GET", path, hosts=hosts) if hosts else {}
        entries = [self.shown(entry, host) for host, listed in found.items() for entry in listed]
        entries = [entry for entry in entries if all(inside(entry["Created"]) for inside in borders)]
        entries = [entry for entry in entries if any(_matches(names, name) for name in entry["Names"])]
        entries += self._unreachable(filters, found.keys(), hosts, x)
        entries.sort(key=lambda entry: -entry["Created"])
        await x.answer(200, entries[: most or None])

    async def _borders(self, x: Exchange, filters: dict[str, list[str]]) -> list[Callable[[int], bool]]:
        """`before` and `since` name containers that other hosts do not have."""
        found: list[Callable[[int], bool]] = []
        if len(self._s.hosts(x.caller)) < 2:
            return found
        for word, sign in (("before", -1), ("since", 1)):
            for name in filters.pop(word, ()):
                container, host = await self._s.owner(x, name)
                inspected = await self._s.upstreams.call(host, "GET", f"/containers/{container.id}/json")
                border = int(datetime.fromisoformat(inspected["Created"][:19]).replace(tzinfo=UTC).timestamp())
                found.append(_beyond(border, sign))
        return found

    def shown(self, entry: dict[str, Any], host: str) -> dict[str, Any]:
        """An entry of a host's list, as the fleet has it."""
        labels = labelled(entry, host)["Labels"]
        entry["Names"] = [renamed(name, labels) for name in entry.get("Names") or ()]
        return self._networks(entry)

    def _unreachable(
        self, filters: Mapping[str, list[str]], answered: Any, hosts: list[Machine], x: Exchange
    ) -> list[dict[str, Any]]:
        """What is known of containers whose hosts do not answer."""
        if any(values for what, values in filters.items() if what not in ("name", "id", "label")):
            return []
        every = x.request.parameter("all").lower() in ("1", "true")
        up = {host.name for host in self._s.hosts(x.caller)} - {host.name for host in hosts}
        found = []
        for one in self._s.view.containers():
            if one.host in answered or one.host in up or not (one.running or every):
                continue
            if x.caller.tenant not in ("", one.tenant):
                continue
            if all(_named(one, what, values) for what, values in filters.items()):
                found.append(_remembered(one))
        return found

    async def prune(self, x: Exchange) -> None:
        """Remove all that have stopped."""
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        if x.caller.tenant:
            filters.setdefault("label", []).append(f"{TENANT}={x.caller.tenant}")
        path = x.target("containers", "prune", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "POST", path, hosts=hosts)
        gone = [one for answer in found.values() for one in answer.get("ContainersDeleted") or ()]
        self._s.note(x, "container prune", ", ".join(one[:12] for one in gone))
        await x.answer(200, {"ContainersDeleted": gone or None, "SpaceReclaimed": total(found, "SpaceReclaimed")})

    # -- one of them -----------------------------------------------------------------------------------------

    def _relay(self, *what: str) -> Callable[[Exchange], Any]:
        async def relay(x: Exchange) -> None:
            try:
                container, host = await self._s.owner(x, x.args["id"])
            except Missing as error:
                if what != ("kill",):
                    raise
                raise Missing(f"Cannot kill container: {x.args['id']}: {error}") from error
            if what[0] in ("start", "restart"):
                await self._s.work(self._s.desk.check_start, container)
            empty = b"" if what == ("start",) else None  # old engines would take another HostConfig there
            status = await x.relay(host, x.target("containers", _ref(container, x.args["id"]), *what), empty)
            if what[0] in CHANGES and x.request.method != "GET":
                result = "done" if status < 400 else f"refused: {status}"
                self._s.note(x, what[0], container.name, host.name, result)

        return relay

    async def inspect(self, x: Exchange) -> None:
        """All of one."""
        container, host = await self._s.owner(x, x.args["id"])

        def change(found: dict[str, Any]) -> dict[str, Any]:
            labels = labelled(found["Config"], host.name)["Labels"]
            found["Name"] = renamed(found["Name"], labels)
            return self._networks(found)

        await x.rewritten(host, x.target("containers", _ref(container, x.args["id"]), "json"), change)

    def _networks(self, found: dict[str, Any]) -> dict[str, Any]:
        for name, place in ((found.get("NetworkSettings") or {}).get("Networks") or {}).items():
            network = self._s.view.network(name)
            if network is not None and place:
                place["NetworkID"] = network.id
        return found

    async def remove(self, x: Exchange) -> None:
        """Remove one; its name is free, and its address held, when the answer is there."""
        if x.request.parameter("link") in ("1", "true", "True"):
            raise InvalidRequest("links are of one host: remove the container, or its network")
        container, host = await self._s.owner(x, x.args["id"])
        target = x.target("containers", _ref(container, x.args["id"]))
        answer, content = await self._s.upstreams.answered(host, "DELETE", target)
        if answer.status in (204, 404):
            await self._s.work(self._s.desk.remove, container)
        result = "done" if answer.status == 204 else f"refused: {answer.status}"
        self._s.note(x, "remove", container.name, host.name, result)
        await x.hand(answer, content)

    async def rename(self, x: Exchange) -> None:
        """Another name, which no other container of the fleet may have."""
        container, host = await self._s.owner(x, x.args["id"])
        name = x.request.parameter("name").removeprefix("/")
        target = x.target("containers", _ref(container, x.args["id"]), "rename")
        if ID.fullmatch(name):
            raise InvalidRequest(f"{name[:12]}…: a name of 64 hexadecimal digits is a container's id")
        if not NAME.fullmatch(name) or name == container.name or not container.claim:
            await x.relay(host, target, b"")  # the engine says what is wrong; of those of others, the agent tells
            return
        taken = self._s.view.container(name)
        if taken is not None:
            raise Refused(409, f"Error when allocating new name: {in_use(taken, x.caller.tenant)}")
        renamed = await self._s.work(self._s.desk.rename, container, name)

        async def back() -> None:
            await self._s.work(self._s.desk.rename, renamed, container.name)

        await asyncio.shield(asyncio.create_task(self._or_back(x, host, target, b"", 204, back)))
        self._s.note(x, "rename", f"{container.name} to {name}", host.name)

    async def _or_back(
        self, x: Exchange, host: Machine, target: str, body: bytes, good: int, back: Callable[[], Awaitable[None]]
    ) -> Answer:
        """Have an engine do what is noted already; if it does not, that is taken back before the client knows."""
        try:
            answer, content = await self._s.upstreams.answered(host, "POST", target, body)
        except QnetError:
            await back()
            raise
        if answer.status != good:
            await back()
        await x.hand(answer, content)
        return answer

    async def update(self, x: Exchange) -> None:
        """Other limits: what they take of the host is reserved first."""
        container, host = await self._s.owner(x, x.args["id"])
        body = await x.json()
        if not self._s.powers(x.caller):
            body = policy.limits(body)
        asked = _resized(container, body)
        if int(body.get("NanoCpus") or 0) <= host.cpus * 1_000_000:  # more the engine refuses
            await self._s.work(self._s.desk.resize, container, asked)

        async def back() -> None:
            await self._s.work(self._s.desk.resize, asked, container)

        target = x.target("containers", _ref(container, x.args["id"]), "update")
        answer = await asyncio.shield(asyncio.create_task(self._or_back(x, host, target, dumps(body), 200, back)))
        status = answer.status
        self._s.note(x, "update", container.name, host.name, "done" if status == 200 else f"refused: {status}")

    async def commit(self, x: Exchange) -> None:
        """An image of a container, on its host."""
        container, host = await self._s.owner(x, x.request.parameter("container"))
        target = x.target("commit", query={"container": _ref(container, x.request.parameter("container"))})
        if not x.caller.tenant:
            await x.relay(host, target)
            return
        image = joined(x.request.parameter("repo"), x.request.parameter("tag"))
        await self._images.rights.check_making(x, image, made=True)
        body = policy.container(await x.json())
        async with self._s.upstreams.asked(host, "POST", target, dumps(body)) as answer:
            content = await answer.content()
            if answer.status == CREATED:
                for name in filter(None, (image, str(msgspec.json.decode(content)["Id"]))):
                    await self._images.rights.give(x.caller, name)
            await x.hand(answer, content)

    # -- exec ------------------------------------------------------------------------------------------------

    async def exec(self, x: Exchange) -> None:
        """Something else to run in a container."""
        container, host = await self._s.owner(x, x.args["id"])
        body = await x.json()
        if not self._s.powers(x.caller):
            body = policy.exec_config(body)

        def remember(made: dict[str, Any]) -> dict[str, Any]:
            self._execs[made["Id"]] = (host.name, container.id)
            while len(self._execs) > EXECS:
                del self._execs[next(iter(self._execs))]
            return made

        target = x.target("containers", _ref(container, x.args["id"]), "exec")
        await x.rewritten(host, target, remember, dumps(body))

    def _on_exec(self, what: str) -> Callable[[Exchange], Any]:
        async def relay(x: Exchange) -> None:
            await x.relay(await self._exec_host(x), x.target("exec", x.args["id"], what))

        return relay

    async def _exec_host(self, x: Exchange) -> Machine:
        """Where it was made; one that this process did not see is looked for."""
        number = x.args["id"]
        known = self._execs.get(number)
        if known is None:
            hosts = self._s.hosts(x.caller)
            found, _ = await self._s.upstreams.each(
                hosts, lambda host: self._s.upstreams.call(host, "GET", x.target("exec", number, "json", query={}))
            )
            for name, told in found.items():
                known = self._execs[number] = (name, told["ContainerID"])
        if known is not None:
            try:
                return (await self._s.owner(x, known[1]))[1]
            except Refused:
                pass
        raise Missing(f"No such exec instance: {number}")


def renamed(name: str, labels: Mapping[str, str]) -> str:
    """A container's name, of that on its engine, which has none of one character."""
    real = labels.get(NAME_LABEL, "")
    return f"/{real}" if real and name == f"/{called(real)}" else name


def _beyond(border: int, sign: int) -> Callable[[int], bool]:
    return lambda created: sign * created > sign * border


def in_use(taken: Container, tenant: str) -> Refused:
    """An engine's words for a name that another container has. Of another tenant's it says no more than that."""
    if tenant not in ("", taken.tenant):
        return Refused(409, f'Conflict. The container name "/{taken.name}" is already in use.')
    return Refused(
        409,
        f'Conflict. The container name "/{taken.name}" is already in use by container "{taken.id}". You have to remove '
        f"(or rename) that container to be able to reuse that name.",
    )


def _ref(container: Container, asked: str) -> str:
    """What its engine finds it by: its name if the client said that, as errors repeat it; else its id, as the beginning
    of one may be a name there."""
    text = asked.removeprefix("/")
    if text == container.called and not ID.fullmatch(text):
        return text
    if not container.id:
        raise Refused(409, f"container {container.name} is being made: try again")
    return container.id


def _named(one: Container, what: str, values: list[str]) -> bool:
    if what == "label":
        labels = {**one.labels, TENANT: one.tenant}
        return all(has_label(labels, value) for value in values)
    if what == "name":
        return _matches(values, f"/{one.name}")
    return not values or any(one.id.startswith(value) for value in values)


def _matches(patterns: Collection[str], name: str) -> bool:
    """Whether a container is asked for by its name, as engines look: with the slash before it, and without."""
    for pattern in patterns:
        try:
            # RE2, as engines: a pattern of a tenant's must not stop the front
            search = re2.compile(pattern, QUIET).search
        except re2.error:
            continue
        if search(name) or search(name.removeprefix("/")):
            return True
    return not patterns


def _short(patterns: Collection[str]) -> list[str]:
    """What names those containers of one character on their engines that are asked for."""
    found = [re.escape(called(one)) for one in ONE if patterns and _matches(patterns, f"/{one}")]
    return [f"^/({'|'.join(found)})$"] if found else []


def _remembered(one: Container) -> dict[str, Any]:
    """An entry of a list for a container whose host does not answer."""
    try:
        created = int(datetime.fromisoformat(one.since[:19]).replace(tzinfo=UTC).timestamp())
    except ValueError:
        created = 0
    return {
        "Id": one.id,
        "Names": [f"/{one.called if '/' in one.name else one.name}"],
        "Image": one.image,
        "ImageID": "",
        "Command": "",
        "Created": created,
        "Ports": [],
        "Labels": {**one.labels, HOST_LABEL: one.host},
        "State": one.state,
        "Status": DOWN,
        "HostConfig": {"NetworkMode": ""},
        "NetworkSettings": {"Networks": {name: {"IPAddress": one.ips.get(name, "")} for name in one.networks}},
        "Mounts": [],
    }


def _resized(container: Container, body: Mapping[str, Any]) -> Container:
    changed: dict[str, Any] = {}
    try:
        if any(body.get(name) for name in ("NanoCpus", "CpuQuota")):
            changed["cpus"] = cpus(body)
        if body.get("Memory"):
            changed["memory"] = int(body["Memory"])
        if body.get("PidsLimit") is not None:
            changed["pids"] = max(0, int(body["PidsLimit"]))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"limits: {error}") from error
    return msgspec.structs.replace(container, **changed)
