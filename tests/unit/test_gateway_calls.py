"""Calls of the front on engines that are functions: what it asks of which host, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import msgspec
import pytest
import re2

from qnet import schema
from qnet.errors import QnetError, Unavailable
from qnet.schema import VolumeRecord
from qnet.store.base import Delete, Txn
from scheduler.callers import Caller
from scheduler.gateway.builds import Builds
from scheduler.gateway.containers import Containers
from scheduler.gateway.events import Events
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import Request, request_head
from scheduler.gateway.images import Images
from scheduler.gateway.networks import Networks
from scheduler.gateway.rights import Rights
from scheduler.gateway.server import status_of
from scheduler.gateway.services import Services
from scheduler.gateway.system import System
from scheduler.gateway.upstream import Refused, Upstreams
from scheduler.gateway.volumes import Volumes
from scheduler.known import Cluster
from scheduler.model import Container, Machine, Net, Network
from scheduler.runs import Runs
from scheduler.translate import ID
from scheduler.translate import NAME as NAME_LABEL
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
        found = found(path) if callable(found) else found
        return msgspec.json.decode(msgspec.json.encode(found))

    def close(self) -> None:
        pass


class Asked(Exchange):
    """A request whose answer is kept: by ourselves, or from which engine it is."""

    def __init__(self, caller: Caller, method: str, target: str, body: object = None, **args: str) -> None:
        request = Request(cast(Any, None), request_head(method, target, ()))
        super().__init__(request, cast(Any, None), caller, cast(Any, None), {})
        self.args, self._sent, self.path = args, body, target
        self.relayed_to: list[tuple[str, str]] = []
        self.told: Any = None

    async def json(self) -> Any:
        return self._sent

    async def answer(self, status: int, value: object = None, headers: object = None) -> None:
        self.told = (status, value)

    async def watched(self, work: Any) -> Any:
        return await work

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
        known.start()
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
    made.services.known.close()
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


# -- names of containers -----------------------------------------------------------------------------------------------


def engine_lists(asked: str, *names: str) -> list[dict[str, Any]]:
    """What an engine of Docker 20.10 lists of containers of these names, filtered by a request's filters (Go's regular
    expressions are RE2 too). One of the fleet says its real name by a label."""
    query = dict(parse_qsl(asked.partition("?")[2]))
    patterns = [one for one in json.loads(query.get("filters", "{}")).get("name", {}) if one != "("]
    listed = []
    for number, name in enumerate(names):
        real = name.removesuffix(".qnet") if len(name) == 6 else name
        if not patterns or any(re2.search(one, f"/{name}") or re2.search(one, name) for one in patterns):
            labels = {NAME_LABEL: real} if name != "b.qnet" else {}
            listed.append({"Id": name, "Names": [f"/{name}"], "Labels": labels, "Created": 100 - number})
    most = int(query.get("limit", "0"))
    return listed[: most or None]


@pytest.mark.parametrize("caller", [ANN, SHOP])
@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ([], ["a", "ab", "b.qnet", "qnet", "Z"]),
        (["a"], ["a", "ab"]),
        (["^a$"], ["a"]),
        (["^/a$"], ["a"]),
        (["/a"], ["a", "ab"]),
        (["^[a-z]$"], ["a"]),
        (["^(a|ab)$"], ["a", "ab"]),
        (["^/?[aZ]$"], ["a", "Z"]),
        (["^Z$", "^ab$"], ["ab", "Z"]),
        (["qnet"], ["b.qnet", "qnet"]),
        (["^a.qnet$"], []),
        ([r"^b\.qnet$"], ["b.qnet"]),  # made by hand, it is called that
        (["^b$"], []),
        (["(", "^a$"], ["a"]),
    ],
)
def test_containers_are_found_by_the_names_that_they_have_here(
    front: Front, caller: Caller, patterns: list[str], found: list[str]
) -> None:
    there = ("a.qnet", "ab", "b.qnet", "qnet", "Z.qnet")
    front.engines.answers["host2", "GET /containers/json"] = lambda path: engine_lists(path, *there)
    front.engines.answers["host1", "GET /containers/json"] = []
    handler = Containers(front.services, cast(Any, None)).all
    for most in (0, 1, 3):
        query = {"filters": json.dumps({"name": patterns}), **({"limit": str(most)} if most else {})}
        status, told = front.do(handler, Asked(caller, "GET", f"/containers/json?{urlencode(query)}")).told
        assert (status, [name[1:] for one in told for name in one["Names"]]) == (200, found[: most or None])


# -- events ------------------------------------------------------------------------------------------------------------


def heard(front: Front, kind: str, action: str, name: str, host: str = "host1", **told: str) -> list[str]:
    """The tenants that hear an event, when all is known that the store has."""
    revision = front.store.range(schema.ROOT, limit=1).revision
    assert all(cache.wait(revision, 5) for cache in front.services.known._caches)
    drivers = {"network": {"name": name, "type": "qnet"}, "volume": {"driver": "sharedfs"}}
    attributes = {**drivers[kind], "qnet.host": host, **told}
    event = {"Type": kind, "Action": action, "Actor": {"ID": name, "Attributes": attributes}}
    events = Events(front.services, Rights(front.services))

    async def mine(tenant: str) -> bool:
        return await events._mine(Asked(Caller(f"tenant {tenant}", tenant=tenant), "GET", "/events"), event, {})

    return [tenant for tenant in ("shop", "evil") if asyncio.run(mine(tenant))]


def volume(front: Front, name: str, tenant: str) -> None:
    record = VolumeRecord(name=name, id=tenant, tenant=tenant, pool="p", since="", ready=True)
    front.store.put(schema.volume_key(name), schema.encode(record))


def gone(front: Front, where: str) -> None:
    front.store.txn(Txn((), (Delete(where),)))
    front.view.catch_up()


def test_a_tenant_hears_that_its_network_is_gone(front: Front) -> None:
    assert heard(front, "network", "create", "web") == heard(front, "network", "connect", "web") == ["shop"]
    assert heard(front, "network", "destroy", "web") == ["shop"]  # of a host that has the cluster's no more
    gone(front, key(NETWORKS, "web"))
    assert heard(front, "network", "destroy", "web") == heard(front, "network", "disconnect", "web") == ["shop"]
    assert heard(front, "network", "destroy", "nosuch") == []


def test_nobody_hears_of_what_only_has_the_name(front: Front) -> None:
    volume(front, "data", "shop")
    for action in ("create", "connect", "disconnect", "destroy"):
        assert heard(front, "network", action, "web", type="bridge") == []
        assert heard(front, "volume", action, "data", driver="local") == []
    for action in ("connect", "disconnect"):
        assert heard(front, "network", action, "web", "host2") == heard(front, "network", action, "web", "host9") == []


def test_a_tenant_hears_that_its_volume_is_gone(front: Front) -> None:
    volume(front, "data", "shop")
    assert heard(front, "volume", "mount", "data") == heard(front, "volume", "destroy", "data") == ["shop"]
    gone(front, schema.volume_key("data"))
    assert heard(front, "volume", "destroy", "data") == heard(front, "volume", "unmount", "data") == ["shop"]


def test_of_an_end_nobody_hears_that_may_be_anothers(front: Front) -> None:
    volume(front, "data", "shop")
    gone(front, schema.volume_key("data"))
    volume(front, "data", "evil")
    assert heard(front, "volume", "create", "data") == heard(front, "volume", "mount", "data") == ["evil"]
    assert heard(front, "volume", "destroy", "data") == []
    gone(front, key(NETWORKS, "web"))
    front.put(NETWORKS, "web", msgspec.structs.replace(WEB, tenant="evil"))
    front.view.catch_up()
    assert heard(front, "network", "connect", "web") == ["evil"]
    assert heard(front, "network", "destroy", "web") == []


def test_those_whose_things_are_gone_are_remembered_within_bounds(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.known.GONE", 2)
    for name in ("v1", "v2", "v3", "v4", "v2"):
        volume(front, name, "shop")
        gone(front, schema.volume_key(name))
    volume(front, "v5", "shop")
    known = {name: bool(heard(front, "volume", "destroy", name)) for name in ("v1", "v2", "v3", "v4", "v5")}
    assert known == {"v1": False, "v2": True, "v3": False, "v4": True, "v5": True}


# -- all hosts ---------------------------------------------------------------------------------------------------------

AWAY = Unavailable("host host2 did not answer within 600 s")
PARTS: Mapping[str, Callable[[Services], Any]] = {
    "/containers/prune": lambda services: Containers(services, cast(Any, None)),
    "/images/prune": Images,
    "/networks/prune": Networks,
    "/volumes/prune": Volumes,
    "/build/prune": lambda services: Builds(services, cast(Any, None)),
}


@pytest.mark.parametrize("path", PARTS)
@pytest.mark.parametrize(
    ("error", "status", "why"),
    [
        (AWAY, 503, "host host2 did not answer within 600 s; it went well on host1"),
        (
            Refused(409, "a prune operation is already running"),
            409,
            "host host2: a prune operation is already running;",
        ),
    ],
)
def test_a_host_that_prunes_nothing_is_named(front: Front, path: str, error: QnetError, status: int, why: str) -> None:
    front.engines.answers = {("host1", f"POST {path}"): {}, ("host2", f"POST {path}"): error}
    x = Asked(ANN, "POST", path)
    with pytest.raises(QnetError, match=why) as caught:
        front.do(PARTS[path](front.services).prune, x)
    assert status_of(caught.value) == status
    kind = path.split("/")[1].removesuffix("s")
    assert [(note[1], note[4], note[5].partition(":")[0]) for note in front.notes] == [
        (f"{kind} prune", "host1", "refused")
    ]


def test_what_takes_disks_is_told_of_all_hosts_or_not_at_all(front: Front) -> None:
    none = cast(Any, None)
    system = System(front.services, none, none, none)
    front.engines.answers = {("host1", "GET /system/df"): {}, ("host2", "GET /system/df"): AWAY}
    with pytest.raises(Unavailable, match="host host2 did not answer"):
        front.do(system.df, Asked(ANN, "GET", "/system/df"))
    assert not front.notes


def test_a_host_that_is_left_out_is_warned_of(front: Front) -> None:
    system = System(front.services, cast(Any, None), Images(front.services), cast(Any, None))
    front.engines.answers = {("host1", "GET /info"): {}, ("host2", "GET /info"): AWAY, ("host1", "GET /volumes"): {}}
    warned = ["host2: it does not answer, and is left out"]
    assert front.do(system.info, Asked(ANN, "GET", "/info")).told[1]["Warnings"] == warned
    assert front.do(Volumes(front.services).all, Asked(ANN, "GET", "/volumes")).told[1]["Warnings"] == warned
    del front.engines.answers["host2", "GET /info"]
    front.engines.answers["host2", "GET /info"] = {}
    front.engines.answers |= {(host, "GET /images/json"): [] for host in ("host1", "host2")}
    assert not front.do(system.info, Asked(ANN, "GET", "/info")).told[1]["Warnings"]


@pytest.mark.parametrize(
    ("method", "path", "slow"),
    [
        ("GET", "/v1.41/containers/json", False),
        ("GET", "/v1.41/info?x=/system/df", False),
        ("GET", "/v1.41/system/df", True),
        ("GET", "/system/df?type=volume", True),
        ("POST", "/v1.41/images/prune?filters=x", True),
        ("POST", "/v1.41/containers/create?name=a", True),
        ("POST", "/v1.41/images/a/tag", True),
        ("DELETE", "/v1.41/images/a", True),
    ],
)
def test_what_takes_an_engine_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, method: str, path: str, slow: bool
) -> None:
    monkeypatch.setattr("scheduler.gateway.upstream.LONG", 0.2)
    upstreams = object.__new__(Upstreams)
    upstreams._timeout = 0.05

    @asynccontextmanager
    async def asked(*_: object) -> AsyncIterator[None]:
        await asyncio.sleep(5)
        yield

    upstreams.asked = asked  # type: ignore[method-assign,assignment]
    with pytest.raises(Unavailable, match="host h did not answer within 0.2 s" if slow else "within 0.05 s"):
        asyncio.run(upstreams.call(Machine(name="h", cpus=1, memory=1), method, path))
