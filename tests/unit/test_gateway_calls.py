"""Calls of the front on engines that are functions: what it asks of which host, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from random import Random
from typing import Any, cast

import msgspec
import pytest

from qnet import schema
from qnet.errors import QnetError
from scheduler.callers import Caller
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import Request, request_head
from scheduler.gateway.networks import Networks
from scheduler.gateway.services import Services
from scheduler.gateway.upstream import Refused, Upstreams
from scheduler.known import Cluster
from scheduler.model import Container, Machine, Net, Network
from scheduler.runs import Runs
from scheduler.translate import ID
from scheduler.view import ALIVE, CONTAINERS, MACHINES, NETWORKS, View, key
from tests.store.memory import MemoryStore

ANN, SHOP = Caller("operator ann"), Caller("tenant shop", tenant="shop")
WEB = Network(name="web", id="c" * 64, since="", tenant="shop")
C1 = Container(name="c1", host="host2", tenant="shop", id="1" * 64, claim="1", networks=())


class Engines:
    """`answers` of a host's engine to METHOD PATH, as `Upstreams` gives them: values, or what it raises."""

    each = Upstreams.each

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str]] = []

    async def call(self, host: Machine, method: str, path: str, body: object = None) -> Any:
        what = f"{method} {path.partition('?')[0]}"
        self.asked.append((host.name, what))
        found = self.answers.get((host.name, what), Refused(404, "not found"))
        if isinstance(found, QnetError):
            raise found
        return msgspec.json.decode(msgspec.json.encode(found))

    def close(self) -> None:
        pass


class Asked(Exchange):
    """A request whose answer is kept: by ourselves, or from which engine it is."""

    def __init__(self, caller: Caller, method: str, target: str, body: object = None, **args: str) -> None:
        request = Request(cast(Any, None), request_head(method, target, ()))
        super().__init__(request, cast(Any, None), caller, cast(Any, None), {})
        self.args, self._sent = args, body
        self.relayed_to: list[tuple[str, str]] = []
        self.told: Any = None

    async def json(self) -> Any:
        return self._sent

    async def answer(self, status: int, value: object = None, headers: object = None) -> None:
        self.told = (status, value)

    async def relay(self, host: Machine, target: str, *_: Any) -> int:
        self.relayed_to.append((host.name, target))
        return 200


class Front:
    """The front's services, a tenant's network `web`, and two hosts: host2 has one of its own of that name."""

    def __init__(self) -> None:
        self.store, self.engines, self.notes = MemoryStore(), Engines(), list[tuple[str, ...]]()
        self.view = View(self.store)
        for name, networks in (("host1", {"web": Net("shop", "qnet")}), ("host2", {})):
            self.put(MACHINES, name, Machine(name=name, cpus=1, memory=1, networks=networks))
            self.store.put(key(ALIVE, name), b"")
        self.put(NETWORKS, "web", WEB)
        self.put(CONTAINERS, "c1", C1)
        self.view.start()
        known, none = Cluster(self.store, self.view), cast(Any, None)
        runs = Runs(none, self.view, none, known, 0, 0)
        upstreams = cast(Upstreams, self.engines)
        self.services = Services(self.view, none, runs, none, known, upstreams, cast(Any, self), Random(0))

    def put(self, kind: str, name: str, record: msgspec.Struct) -> None:
        self.store.put(key(kind, name), schema.encode(record))

    def note(self, *words: str) -> None:
        self.notes.append(words)

    def do(self, handler: Callable[[Any], Awaitable[None]], x: Asked) -> Asked:
        asyncio.run(cast(Any, handler(x)))
        return x


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front()
    yield made
    made.services.close()
    made.view.close()
    made.store.close()


# -- networks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller", [ANN, SHOP])
@pytest.mark.parametrize("what", ["connect", "disconnect"])
def test_a_container_comes_onto_no_network_that_only_has_the_name(front: Front, caller: Caller, what: str) -> None:
    attach = Networks(front.services)._attach(what)
    front.engines.answers["host2", "GET /networks"] = []  # none that is the cluster's
    with pytest.raises(Refused, match="network web not found on host host2"):
        front.do(attach, Asked(caller, "POST", f"/networks/web/{what}", {"Container": "c1"}, id="web"))
    front.engines.answers["host2", "GET /networks"] = [{"Id": "engines-id", "Labels": {ID: WEB.id}}]
    for name in ("web", WEB.id, WEB.id[:12]):
        done = front.do(attach, Asked(caller, "POST", f"/networks/web/{what}", {"Container": "c1"}, id=name))
        assert done.relayed_to == [("host2", f"/networks/engines-id/{what}")]


def test_a_network_has_no_containers_of_one_that_only_has_its_name(front: Front) -> None:
    inspect, strange = Networks(front.services).inspect, {"Name": "web", "Id": "b", "Containers": {"evil": {}}}
    ours = {"Name": "web", "Id": "a", "Labels": {ID: WEB.id}, "Containers": {"c1": {}}}
    front.put(MACHINES, "host2", Machine(name="host2", cpus=1, memory=1, networks={"web": Net("shop", "qnet")}))
    front.view.catch_up()  # an agent may be late, or of an older version
    front.engines.answers = {("host1", "GET /networks/web"): ours, ("host2", "GET /networks/web"): strange}
    status, told = front.do(inspect, Asked(SHOP, "GET", "/networks/web", id="web")).told
    assert (status, told["Id"], list(told["Containers"])) == (200, WEB.id, ["c1"])
    assert told["Labels"]["qnet.host"] == "host1"
