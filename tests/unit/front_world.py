"""A front on a store in process, with engines that are dictionaries of images and speak HTTP over socket pairs."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import unquote

from qnet import schema
from qnet.store.base import Store
from scheduler.audit import Audit
from scheduler.callers import Caller
from scheduler.gateway.builds import Builds
from scheduler.gateway.create import Creation
from scheduler.gateway.events import Events
from scheduler.gateway.http import Answer, Broken, ClientGone, Peer, Request, answer_head, request_head
from scheduler.gateway.images import Images
from scheduler.gateway.routes import Router
from scheduler.gateway.server import Server
from scheduler.gateway.services import Services
from scheduler.gateway.upstream import Upstreams
from scheduler.known import Cluster
from scheduler.model import Machine, Vitals
from scheduler.networks import Networks
from scheduler.streams import Hangups, Plain, Stream
from scheduler.view import VITALS, key
from tests.unit.placement_world import NOW, World

MOST = 1 << 20
Answers = Callable[[Request, bytes], "tuple[int, Any] | None"]


def id_of(number: int | str) -> str:
    """An image's id that begins with these digits."""
    return "sha256:" + f"{number}".ljust(64, "0")


class Engine:
    """Images by id, with their names; `asked` has each request but reads of one image. `also` answers before all else:
    what is a list of values is a stream of lines."""

    def __init__(self) -> None:
        self.images: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.told: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.also: Answers = lambda *_: None

    def find(self, name: str) -> str:
        """As engines do: by name, by digest, by the beginning of an id."""
        exact = next((id_ for id_, names in self.images.items() if name in names or f"{name}:latest" in names), "")
        begun = [id_ for id_ in self.images if id_.startswith((name, f"sha256:{name}"))]
        return exact or (begun[0] if len(begun) == 1 else "")

    def entry(self, id_: str) -> dict[str, Any]:
        """What it tells of one."""
        tags, digests = ([one for one in self.images[id_] if ("@" in one) is at] for at in (False, True))
        return {"Id": id_, "RepoTags": tags, "RepoDigests": digests, "Created": 0, "Labels": None}

    def answer(self, request: Request, body: bytes) -> tuple[int, Any]:
        """Status, and what is told."""
        _, _, what = unquote(request.path).rpartition("/images/")
        name, _, verb = what.rpartition("/")
        if (found := self.also(request, body)) is not None:
            return found
        if what == "json":
            return 200, [self.entry(id_) for id_ in self.images]
        name = what if request.method == "DELETE" else name
        id_ = self.find(name)
        if not id_:
            return 404, {"message": f"No such image: {name}"}
        if request.method == "DELETE":
            return 200, self._delete(id_, name)
        if verb == "history":
            return 200, [{"Id": id_, "Tags": self.entry(id_)["RepoTags"]}]
        if verb == "tag":
            self.images[id_].append(f"{request.parameter('repo')}:{request.parameter('tag')}".removesuffix(":"))
            return 201, None
        return 200, self.entry(id_)

    def _delete(self, id_: str, name: str) -> list[dict[str, str]]:
        if name in self.images[id_]:
            self.images[id_].remove(name)
            if self.images[id_]:
                return [{"Untagged": name}]
        del self.images[id_]
        return [{"Untagged": name}, {"Deleted": id_}]

    async def serve(self, sock: socket.socket) -> None:
        """Answer on a connection until it ends."""
        peer = Peer(Plain(sock), ClientGone)
        try:
            while raw := await peer.head():
                request = Request(peer, raw)
                if request.path.endswith("/events"):
                    await self._events(peer)
                    return
                body = await request.content(MOST)
                if request.method != "GET":
                    self.asked.append(f"{request.method} {unquote(request.path)}?{unquote(request.query_text)}")
                status, value = self.answer(request, body)
                if status == 101:
                    await peer.write(answer_head(101, {"Upgrade": "h2c", "Connection": "Upgrade"}))
                    await peer.read()
                    return
                lines = value if isinstance(value, list) and in_lines(request.path) else [value]
                data = b"".join(json.dumps(line).encode() + b"\n" for line in lines if line is not None)
                await peer.write(answer_head(status, {"Content-Length": str(len(data))}) + data)
        except ClientGone:
            pass
        finally:
            peer.close()

    async def _events(self, peer: Peer) -> None:
        await peer.write(answer_head(200, {}))
        while (event := await self.told.get()) is not None:
            await peer.write(json.dumps(event).encode() + b"\n")


def in_lines(path: str) -> bool:
    """Whether what a POST there is answered with is a stream of lines."""
    return path.partition("?")[0].endswith(("/load", "/build", "/images/create"))


class FakeUpstreams(Upstreams):
    """Goes to engines of this process."""

    def __init__(self, engines: dict[str, Engine]) -> None:
        self._engines, self._timeout = engines, 5.0
        self._sessions, self._warming = {}, {}
        self._idle, self._lent = defaultdict(list), defaultdict(set)
        self.hangups = Hangups()
        self.serving: set[asyncio.Task[None]] = set()

    def _warm(self, host: Machine) -> None:
        pass

    async def _stream(self, host: Machine) -> Stream:
        one, other = socket.socketpair()
        self.serving.add(asyncio.create_task(self._engines[host.name].serve(other)))
        return Plain(one)


class Front:
    """The images' part of a front for tenants `shop`, which is trusted, and `evil`. Enter it in a loop."""

    def __init__(self, store: Store, hosts: int = 2) -> None:
        self.world = World(store, hosts)
        self.store, self.view, self.desk = store, self.world.view, self.world.desk
        self.engines = {f"host{number + 1}": Engine() for number in range(hosts)}
        self.host = self.engines["host1"]
        self.world.tenant("shop", trusted=True)
        self.world.tenant("evil")

    async def __aenter__(self) -> Front:
        self.upstreams = FakeUpstreams(self.engines)
        world, audit = self.world, Audit("", lambda: NOW)
        networks = Networks(self.store, self.view, world.engines, world.addresses, lambda: NOW)  # type: ignore[arg-type]
        services = Services(
            *(
                self.view,
                self.desk,
                world.runs,
                networks,
                Cluster(self.store, self.view),
                self.upstreams,
                audit,
                Random(1),
            )
        )
        self.services, images = services, Images(services)
        parts = (images, Creation(services, images), Builds(services, images), Events(services, images.rights))
        router = Router([route for part in parts for route in part.routes()], services.any_host)
        self._server = Server(router, self.upstreams, dict)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.services.close()
        for task in self.upstreams.serving:
            task.cancel()
        await asyncio.gather(*self.upstreams.serving, return_exceptions=True)
        self.world.close()

    def put(self, image: str, *names: str, hosts: str = "host1 host2") -> None:
        """Have hosts have an image, and tell so."""
        for host in hosts.split():
            if host in self.engines:
                self.engines[host].images[image] = list(names)
        self.tell()

    def tell(self) -> None:
        """Agents tell which images there are."""
        for host, engine in self.engines.items():
            there = frozenset(name for names in engine.images.values() for name in names if "@" not in name)
            self.store.put(key(VITALS, host), schema.encode(Vitals(images=there)))
        self.view.catch_up()

    def rights(self, image: str) -> dict[str, bool]:
        """Who has brought it."""
        self.view.catch_up()
        return dict(self.view.rights(image))

    async def open(self, tenant: str, method: str, path: str, body: bytes = b"", **headers: str) -> Peer:
        """A request on its way: its client's end."""
        one, other = socket.socketpair()
        client, server = Peer(Plain(one), Broken), Peer(Plain(other), ClientGone)
        caller = Caller(f"tenant {tenant}", tenant, "1") if tenant else Caller("operator ann", process="2")
        fields = {"Connection": "close", "Content-Length": str(len(body)), **headers}
        await client.write(request_head(method, f"/v1.41{path}", fields.items()) + body)

        async def serve() -> None:
            try:
                await self._server._requests(server, caller, None)
            except ClientGone:
                pass
            finally:
                server.close()

        self.upstreams.serving.add(asyncio.create_task(serve()))
        return client

    async def ask(self, tenant: str, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status, and what is answered: JSON values, a list of them if there are several lines."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        client = await self.open(tenant, method, path, data, **headers)
        try:
            answer = Answer(client, await client.head(), method)
            lines = [json.loads(line) async for line in answer.lines()]
        finally:
            client.close()
        return answer.status, lines if in_lines(path) and answer.status < 400 else lines[0] if lines else None
