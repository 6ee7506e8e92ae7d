"""What the engine's API has, and what the front does with each call of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import unquote

from scheduler.gateway.exchange import Exchange
from scheduler.gateway.upstream import Refused

Way: TypeAlias = Literal["served", "placed", "owner", "one host", "fanned out", "aggregated", "refused"]
OWNER: Way = "owner"
VERSION = re.compile(r"/v([0-9]+\.[0-9]+)(/.*)")
SWARM = "this is a fleet under qnet, not a swarm: {} does not exist here; see docs/front.md"
PLUGINS = "plugins belong to the hosts: install them there, with the engine's own socket or the hosts' package manager"
CHECKPOINTS = "checkpoints stay on one host and are not kept by the fleet: use docker commit, or a volume"
REFUSED = (
    *((verb, path, SWARM.format(path.split("/")[1])) for path in (
        "/swarm", "/swarm/{rest}", "/nodes", "/nodes/{rest}", "/services", "/services/{rest}",
        "/tasks", "/tasks/{rest}", "/secrets", "/secrets/{rest}", "/configs", "/configs/{rest}",
    ) for verb in ("GET", "POST", "DELETE")),
    ("PUT", "/volumes/{name}", SWARM.format("a cluster volume")),
    *((verb, path, PLUGINS) for path in ("/plugins", "/plugins/{rest}") for verb in ("GET", "POST", "DELETE")),
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

    def __init__(self, routes: Iterable[Route]) -> None:
        refused = [Route(method, path, "refused", _refusal(message)) for method, path, message in REFUSED]
        self.routes = [*routes, *refused]
        self._found = [(route, _pattern(route.path)) for route in self.routes]

    async def __call__(self, x: Exchange) -> None:
        """Answer a request. Raises QnetError."""
        x.version, x.path = _parts(x.request.path)
        for route, pattern in self._found:
            if route.method == x.request.method and (match := pattern.fullmatch(x.path)):
                x.args = match.groupdict()
                await route.handler(x)
                return
        raise Refused(404, "page not found")


def _parts(path: str) -> tuple[str, str]:
    """The version with its slash, and what follows, decoded. What an engine could read as another path is refused."""
    match = VERSION.fullmatch(path)
    version, rest = (f"/v{match[1]}", match[2]) if match else ("", path)
    decoded = unquote(rest, errors="surrogateescape")
    parts = decoded.split("/")
    strange = any(part in ("", ".", "..") for part in parts[1:]) or not decoded.isprintable()
    if not decoded.startswith("/") or strange:
        raise Refused(404, "page not found")
    return version, decoded


def _pattern(path: str) -> re.Pattern[str]:
    pattern = re.sub(r"\{(image|rest)\}", r"(?P<\1>.+)", path)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))


def _refusal(message: str) -> Callable[[Exchange], Awaitable[None]]:
    async def refuse(_: Exchange) -> None:
        raise Refused(501, message)

    return refuse
