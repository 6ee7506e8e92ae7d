"""Builds: each on one host that takes new work, with all that its client asks of it meanwhile."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from qnet.errors import Exhausted, InvalidRequest
from scheduler.callers import Forbidden
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.images import Images
from scheduler.gateway.rights import tags_of
from scheduler.gateway.routes import Route
from scheduler.gateway.services import Services, filters_of, filters_text, take_hosts, total
from scheduler.gateway.spreading import Spreading
from scheduler.model import Machine
from scheduler.rules import CONSTRAINT, parse

BUILD = "build"
HEADERS = ("content-type", "x-registry-config")
BUILT = re.compile(r"sha256:[0-9a-f]{64}\n?")
PULLS = "/events?" + urlencode({"filters": '{"type":["image"],"event":["pull"]}'})
LOOK, MOMENT = 1.0, 0.2  # seconds


class Builds:
    """See the module."""

    def __init__(self, services: Services, images: Images) -> None:
        self._s = services
        self._images = images

    def routes(self) -> list[Route]:
        """`/build`, and BuildKit's own connections."""
        return [
            Route("POST", "/build", "one host", self.build),
            Route("POST", "/build/prune", "fanned out", self.prune),
            Route("POST", "/build/cancel", "one host", self._pinned),
            Route("POST", "/session", "one host", self._pinned),
            Route("POST", "/grpc", "one host", self.grpc),
        ]

    async def build(self, x: Exchange) -> None:
        """Build an image. It is on that host: containers of it go there, unless it is pushed. It is the tenant's by the
        names that are asked for, or by its id."""
        names = [value for name, value in x.request.query if name == "t" and value]
        for image in names:
            await self._images.rights.check_making(x, image, made=True)
        host = await self._host(x, self._rules(x))
        for image in names if x.caller.tenant else ():
            await self._images.rights.give(x.caller, image)
        result = "refused"
        try:
            if x.caller.tenant and not names:
                result = await self._nameless(x, host)
            else:
                status = await x.relay(host, x.target("build"))
                result = "done" if status == 200 else f"refused: {status}"
        finally:
            self._s.note(x, "build", ", ".join(names), host.name, result)

    async def _nameless(self, x: Exchange, host: Machine) -> str:
        """What an engine tells of the image's id decides whose it is."""
        built, quiet = list[str](), x.request.parameter("q") in ("1", "true")

        async def heard(told: dict[str, Any]) -> None:
            aux, text = told.get("aux"), str(told.get("stream"))
            if isinstance(aux, dict) and "ID" in aux:  # classic builds tell it of each step
                built.append(str(aux["ID"]))
            elif quiet and BUILT.fullmatch(text):
                built.append(text.strip())

        async def finish() -> None:
            await self._images.rights.claim(x, built[-1:])

        headers = {name: x.request.headers[name] for name in HEADERS if name in x.request.headers}
        spreading = Spreading(self._s.upstreams, [host], x.target("build"), headers, heard)
        await spreading.answer(x, finish)
        return "done" if spreading.done else "refused"

    async def _pinned(self, x: Exchange) -> None:
        host = await self._host(x, {})
        await x.relay(host, x.target(*x.path.strip("/").split("/")))

    async def grpc(self, x: Exchange) -> None:
        """BuildKit's own connection, which does not say what it builds: what its host has new meanwhile is the
        tenant's, but for what somebody has pulled there."""
        if x.caller.operator:
            await self._pinned(x)
            return
        host, pulled = await self._host(x, {}), set[str]()
        known = await self._images.rights.known(x)
        relaying = asyncio.ensure_future(x.relay(host, x.target("grpc")))
        tasks = (relaying, asyncio.ensure_future(self._pulls(host, pulled)))
        try:
            while True:
                done = relaying.done()
                names, ids = await self._on(host)
                if new := names - known:
                    await asyncio.sleep(MOMENT)  # a pull is told when its name is there already
                    await self._images.rights.claim(x, new - pulled)
                known |= names | ids
                if done:
                    break
                await asyncio.wait([relaying], timeout=LOOK)
            await relaying
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _on(self, host: Machine) -> tuple[set[str], set[str]]:
        """The names of all images on a host, an id where there is none; and all ids."""
        there = {str(one["Id"]): tags_of(one) for one in await self._s.upstreams.call(host, "GET", "/images/json")}
        return {name for id_, tags in there.items() for name in tags or [id_]}, set(there)

    async def _pulls(self, host: Machine, pulled: set[str]) -> None:
        async with self._s.upstreams.asked(host, "GET", PULLS) as answer:
            async for line in answer.lines():
                pulled.add(str(msgspec.json.decode(line)["Actor"]["ID"]))

    async def _host(self, x: Exchange, labels: Mapping[str, str]) -> Machine:
        """One host for all that a client's process does for its builds: sessions, uploads, the build itself."""
        if not self._s.powers(x.caller):
            raise Forbidden("builds run beside other tenants' on their hosts: they are for trusted tenants")
        pinned = self._s.pinned(x.caller.who, x.caller.process, BUILD)
        host = next((one for one in self._s.hosts(x.caller) if one.name == pinned and one.state == "ready"), None)
        if host is None or labels.get(CONSTRAINT):
            rules = parse(labels)
            platform = x.request.parameter("platform").partition(",")[0]
            held = host if x.request.parameter("session") else None
            there = frozenset({held.name}) if held else frozenset()
            try:
                host = await self._s.choose(x, "build", constraints=rules.constraints, platform=platform, hosts=there)
            except Exhausted as error:
                if held is None:
                    raise
                where = f"BuildKit's session of this build is on {held.name} already"
                raise InvalidRequest(f"{where}: {error}; with DOCKER_BUILDKIT=0 rules choose the host") from error
        self._s.pin(x.caller.who, x.caller.process, BUILD, host=host.name)
        return host

    def _rules(self, x: Exchange) -> dict[str, str]:
        """`--label qnet.constraint=…`, and classic Swarm's `--build-arg constraint:…`."""
        labels = _texts(x, "labels")
        found = [labels[CONSTRAINT]] if labels.get(CONSTRAINT) else []
        for name, value in _texts(x, "buildargs").items():
            if name.startswith("constraint:"):  # `rack==r1`: the first = parts name and value
                found.append(name.removeprefix("constraint:") + (f"={value}" if value else ""))
        return {CONSTRAINT: ",".join(found)} if found else {}

    async def prune(self, x: Exchange) -> None:
        """Empty the caches of all hosts."""
        if x.caller.tenant:
            raise Forbidden("the hosts' build caches are for operators")
        filters = filters_of(x)
        hosts = take_hosts(filters, self._s.hosts(x.caller))
        path = x.target("build", "prune", query={"filters": filters_text(filters)})
        found = await self._s.every(x, "POST", path, hosts=hosts)
        gone = [one for told in found.values() for one in told.get("CachesDeleted") or ()]
        self._s.note(x, "build prune", f"{len(gone)} caches")
        await x.answer(200, {"CachesDeleted": gone or None, "SpaceReclaimed": total(found, "SpaceReclaimed")})


def _texts(x: Exchange, name: str) -> dict[str, str]:
    text = x.request.parameter(name)
    try:
        found: Any = msgspec.json.decode(text) if text else {}
        return {str(key): str(value or "") for key, value in found.items()}
    except (msgspec.MsgspecError, AttributeError) as error:
        raise InvalidRequest(f"{name}: a JSON object of texts") from error
