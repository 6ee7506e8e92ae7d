"""What the engine's API has, and what the front does with each call of it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from scheduler.callers import Caller
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.upstream import Missing, Refused
from scheduler.model import Machine

Way: TypeAlias = Literal["served", "placed", "owner", "one host", "fanned out", "aggregated", "refused"]
OWNER: Way = "owner"
TURNS: tuple[Way, ...] = ("placed", "fanned out", "one host")
AT_ONCE = 8  # changes of one tenant
VERSION = re.compile(r"/v([0-9]{1,3})\.([0-9]{1,3})(/.*)")
SWARM = "this is a fleet under qnet, not a swarm: {} does not exist here; see docs/front.md"
FORM = "application/x-www-form-urlencoded"
LEAST = (1, 41)
PLUGINS = "plugins belong to the hosts: install them there, with the engine's own socket or the hosts' package manager"
CHECKPOINTS = "checkpoints stay on one host and are not kept by the fleet: use docker commit, or a volume"
REFUSED = (
    *((verb, path, SWARM.format(path.split("/")[1])) for path in (
        "/swarm", "/swarm/{rest}", "/nodes", "/nodes/{rest}", "/services", "/services/{rest}",
        "/tasks", "/tasks/{rest}", "/secrets", "/secrets/{rest}", "/configs", "/configs/{rest}",
    ) for verb in ("GET", "POST", "DELETE")),
    ("PUT", "/volumes/{name}", SWARM.format("a cluster volume")),
    *((verb, path, PLUGINS) for path in ("/plugins", "/plugins/{rest}") for verb in ("GET", "POST", "DELETE")
      if (verb, path) != ("GET", "/plugins/{rest}")),
    ("GET", "/plugins/privileges", PLUGINS),
    *((verb, "/containers/{id}/checkpoints", CHECKPOINTS) for verb in ("GET", "POST")),
    ("DELETE", "/containers/{id}/checkpoints/{rest}", CHECKPOINTS),
)  # fmt: skip


class Route(NamedTuple):
    """A call of the engine's API. In `path`, `{name}` is one part, `{image}` and `{rest}` may have slashes."""

    method: str
    path: str
    way: Way
    handler: Callable[[Exchange], Awaitable[None]]


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route], any_host: Callable[[Caller], Machine]) -> None:
        """`any_host`: one whose engine may speak for the fleet."""
        self._any_host = any_host
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        refused = [Route(method, path, "refused", _refusal(message)) for method, path, message in REFUSED]
        self.routes = [*routes, *refused, Route("GET", "/plugins/{rest}", "refused", _no_plugin)]
        self._found = [(route, _pattern(route.path)) for route in self.routes]

    async def __call__(self, x: Exchange) -> None:
        """Answer a request. Raises QnetError."""
        x.version, x.path = _parts(x.request.path)
        if FORM in x.request.headers.get("content-type", "").lower() and not x.request.ended:
            raise Refused(415, f"{FORM}: give parameters in the query")  # engines would let them count for more
        for route, pattern in self._found:
            if route.method == x.request.method and (match := pattern.fullmatch(x.path)):
                x.args = match.groupdict()
                try:
                    async with self._turn(x, route):
                        await route.handler(x)
                except Missing:
                    if x.caller.tenant or x.begun or x.request.method not in ("GET", "HEAD"):
                        raise  # one that has come there meanwhile must not be changed behind our back
                    await self._in_its_words(x)
                return
        raise Refused(404, "page not found")

    def _turn(self, x: Exchange, route: Route) -> contextlib.AbstractAsyncContextManager[object]:
        """One tenant's changes do not keep others' waiting."""
        if x.caller.operator or route.way not in TURNS or route.method == "GET":
            return contextlib.nullcontext()
        return self._turns[x.caller.tenant]

    async def _in_its_words(self, x: Exchange) -> None:
        """What an engine says to a request that it cannot do either."""
        await x.relay(self._any_host(x.caller), x.target(*x.path.strip("/").split("/")), x.body)


def _parts(path: str) -> tuple[str, str]:
    """The version with its slash, and what follows, decoded. What an engine could read as another path is refused."""
    match = VERSION.fullmatch(path)
    version, rest = (f"/v{match[1]}.{match[2]}", match[3]) if match else ("", path)
    if match and (int(match[1]), int(match[2])) < LEAST:
        least = ".".join(map(str, LEAST))
        raise Refused(400, f"client version {version[2:]} is too old. Minimum supported API version is {least}")
    decoded = unquote(rest, errors="surrogateescape")
    parts = decoded.split("/")
    strange = any(part in ("", ".", "..") for part in parts[1:]) or not decoded.isprintable()
    if not decoded.startswith("/") or strange:
        raise Refused(404, "page not found")
    return version, decoded


def _pattern(path: str) -> re.Pattern[str]:
    pattern = re.sub(r"\{(image|rest)\}", r"(?P<\1>.+)", path)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))


async def _no_plugin(x: Exchange) -> None:
    """`docker inspect` asks for plugins too, and goes on at this."""
    raise Refused(404, f'plugin "{x.args["rest"].removesuffix("/json")}" not found')


def _refusal(message: str) -> Callable[[Exchange], Awaitable[None]]:
    async def refuse(_: Exchange) -> None:
        raise Refused(501, message)

    return refuse
