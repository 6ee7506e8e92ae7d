"""Runs through the API, on a store and engines in process: what is answered, what is left, who may."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from qnet import schema
from qnet.listen import parse_listen
from qnet.schema import PoolRecord
from qnet.store.base import Store
from scheduler.callers import Caller
from scheduler.model import Container, Net, Orders, Vitals
from scheduler.reconcile import INTERVAL, ROUND
from scheduler.view import CONTAINERS, ORDERS, REPLICAS, VITALS, key
from tests.store.memory import MemoryStore
from tests.unit.placement_world import ANN, SUBNET, World, asked, away

SHOP, LAB = Caller("tenant shop", "shop"), Caller("tenant lab", "lab")
STEPS = ("create", "created", "connect", "start", "started")
ADDRESSES = schema.contents_prefix("default", SUBNET) + schema.ADDRESS


@pytest.fixture
def store() -> Store:
    return MemoryStore()


@pytest.fixture
def world(store: Store) -> Iterator[World]:
    made = World(store)
    yield made
    made.close()


def addresses(world: World) -> dict[str, dict[str, Any]]:
    found = world.store.range(ADDRESSES).kvs
    return {kv.key.removeprefix(ADDRESSES): json.loads(kv.value) for kv in found}


# -- what a run leaves -------------------------------------------------------------------------------------------


def test_a_run_makes_one_container_with_an_address_that_is_held(world: World) -> None:
    ran = world.run("a1", container={"Image": "busybox", "Env": ["A=1", "constraint:host==host2"], "Cmd": ["x"]})
    assert ran["host"] == "host2"
    (made,) = world.engines.containers["host2"].values()
    assert made["Id"] == ran["id"]
    assert made["State"]["Status"] == "running"
    assert made["Config"]["Env"] == ["A=1"]
    ((address,),) = ran["addresses"].values()
    assert made["NetworkSettings"]["Networks"]["web"]["IPAMConfig"] == {"IPv4Address": address}
    record = addresses(world)[address]
    assert (record["kind"], record["host"], record["container"]) == ("held", "host2", "a1")
    assert made["Config"]["Labels"]["qnet.claim"] == record["placement"]


def test_a_name_of_one_letter_has_another_on_the_engine(world: World) -> None:
    ran = world.run("a")
    (made,) = world.engines.containers[ran["host"]].values()
    assert (made["Name"], made["Config"]["Labels"]["qnet.name"]) == ("/a.qnet", "a")
    assert [one["name"] for one in world.call("GET", "/v1/containers")[1]] == ["a"]
    assert world.call("DELETE", "/v1/containers/a", force="1")[0] == 200
    assert world.engines.containers[ran["host"]] == {}


def test_the_next_of_a_name_has_its_address_wherever_it_goes(world: World) -> None:
    first = world.run("web-1")
    world.call("DELETE", "/v1/containers/web-1", force="1")
    (held,) = addresses(world).values()
    assert "host" not in held or held["host"] == ""
    world.call("PATCH", f"/v1/hosts/{first['host']}", {"state": "drain"})
    for name in ("x1", "x2"):
        assert world.run(name)["addresses"] != first["addresses"]
    again = world.run("web-1")
    assert again["host"] != first["host"]
    assert again["addresses"] == first["addresses"]
    assert len(addresses(world)) == 3


def test_what_nobody_named_or_wanted_to_keep_holds_nothing(world: World) -> None:
    labels = {"Image": "busybox", "Labels": {"qnet.ip": "any"}}
    for ran in (world.run(), world.run("b1", container=labels)):
        assert ran["addresses"]
        world.call("DELETE", f"/v1/containers/{ran['name']}", force="1")
    assert addresses(world) == {}


def test_an_address_that_was_asked_for_is_given_once(world: World) -> None:
    assert world.run("a1", address="10.77.0.9")["addresses"] == {"web": ["10.77.0.9"]}
    status, words = world.refused(asked("a2", address="10.77.0.9"))
    assert (status, "is taken: held for container a1" in words) == (409, True)
    world.call("DELETE", "/v1/containers/a1", force="1")
    assert "held for the next container called a1" in world.refused(asked("a2", address="10.77.0.9"))[1]
    assert world.run("a1", address="10.77.0.9")["addresses"] == {"web": ["10.77.0.9"]}
    assert "is not in network web: 10.77.0.0/24" in world.refused(asked("a3", address="10.78.0.9"))[1]
    assert world.run("a4", address="none").get("addresses", {}) == {}


def test_instances_are_spread_and_answered_one_by_one(world: World) -> None:
    ran = world.run("w", instances=7, container={"Image": "busybox", "Labels": {"qnet.spread": "host:max_per=3"}})
    assert [one["name"] for one in ran] == [f"w-{number}" for number in range(1, 8)]
    assert sorted(Counter(one["host"] for one in ran).values()) == [2, 2, 3]
    more = asked("w", instances=4, container={"Image": "busybox", "Labels": {"qnet.spread": "host:max_per=3"}})
    status, answer = world.call("POST", "/v1/runs", {**more, "name": "v"})
    assert status == 201
    assert all("error" not in one for one in answer["containers"])
    status, answer = world.call("POST", "/v1/runs", more)
    assert {one["error"].split(":")[0] for one in answer["containers"]} == {
        f"container name w-{number} is in use by a container on {ran[number - 1]['host']}" for number in range(1, 5)
    }


def test_an_image_is_pulled_on_the_chosen_host_only_with_the_callers_credentials(world: World) -> None:
    ran = world.run("a1", container={"Image": "private/x"}, auth="c2VjcmV0")
    assert world.engines.pulled == [(ran["host"], "private/x", "c2VjcmV0")]
    world.run("a2", container={"Image": "private/x", "Labels": {"qnet.constraint": f"host=={ran['host']}"}})
    assert len(world.engines.pulled) == 1
    body = {"Image": "private/y"}
    assert "No such image" in world.refused(asked("a3", container=body, pull="never"))[1]
    assert "nosuch" in world.refused(asked("a4", container={"Image": "nosuch/z"}))[1]


def test_what_a_tenants_run_pulls_is_its_own(world: World) -> None:
    """Before it is there; not what operators have, nor what could not be pulled."""
    world.tenant("shop")
    world.caller, seen = SHOP, list[dict[str, bool]]()
    world.engines.fault = lambda step: seen.append(dict(world.view.rights("private/x:1"))) if step == "pull" else None
    for name, image in (("a1", "private/x:1"), ("a2", "nosuch/y:1"), ("a3", "busybox")):
        world.call("POST", "/v1/runs", asked(name, network="shop", container={"Image": image}))
    world.view.catch_up()
    assert seen[0] == world.view.rights("private/x:1") == {"shop": False}
    assert world.view.rights("nosuch/y:1") == world.view.rights("busybox:latest") == {}
    assert not world.view.sees("lab", "private/x:1")


def test_what_operators_have_stays_for_all_though_a_tenants_run_pulls_it(world: World) -> None:
    world.tenant("shop")
    world.caller = SHOP
    world.store.put(key(VITALS, "host3"), schema.encode(Vitals(images=frozenset({"nginx:1"}))))
    world.view.catch_up()
    world.call("POST", "/v1/runs", asked("a1", network="shop", container={"Image": "nginx:1"}, pull="always"))
    assert world.engines.pulled
    assert world.view.rights("nginx:1") == {}


def test_all_networks_of_a_container_get_their_addresses(world: World) -> None:
    world.network("two", "10.5.0.0/24")
    nets = {"web": {"driver": "qnet", "pools": (f"default/{SUBNET}",)}, "two": {"pools": ("default/10.5.0.0/24",)}}
    for name in ("host1", "host2", "host3"):
        world.host(name, networks=nets)
    ran = world.run("a1", networks=[{"name": "two"}, {"name": "web", "address": "10.77.0.7"}])
    (made,) = world.engines.containers[ran["host"]].values()
    given = made["NetworkSettings"]["Networks"]
    assert given["web"]["IPAMConfig"] == {"IPv4Address": "10.77.0.7"}
    assert given["two"]["IPAMConfig"] == {"IPv4Address": ran["addresses"]["two"][0]}


# -- what fails leaves nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_host_that_refuses_leaves_nothing(world: World, step: str) -> None:
    world.network("two", "10.5.0.0/24")
    nets = {"web": {"pools": (f"default/{SUBNET}",)}, "two": {"pools": ("default/10.5.0.0/24",)}}
    for name in ("host1", "host2", "host3"):
        world.host(name, networks=nets)
    before = world.content()
    world.engines.fault = away(step)
    status, answer = world.call("POST", "/v1/runs", asked("a1", networks=[{"name": "web"}, {"name": "two"}]))
    assert (status, f"host away at {step}" in answer["message"]) == (503, True)
    assert world.content() == before


def test_a_failed_run_keeps_what_was_held_before(world: World) -> None:
    first = world.run("a1")
    world.call("DELETE", "/v1/containers/a1", force="1")
    world.engines.fault = away("start")
    assert world.call("POST", "/v1/runs", asked("a1"))[0] == 503
    world.engines.fault = lambda _: None
    assert world.run("a1")["addresses"] == first["addresses"]


class Died(BaseException):
    """kill -9 of the replica."""


@pytest.mark.parametrize("step", ["create", "created", "start", "started"])
@pytest.mark.parametrize("host", ["up", "down"])
def test_another_replica_settles_what_a_dead_one_left(world: World, store: Store, step: str, host: str) -> None:
    before = world.content()

    def kill(now: str) -> None:
        if now == step:
            raise Died

    world.engines.fault = kill
    with pytest.raises(Died):
        world.runs.run(world.api._run(_call(world, asked("a1"))))
    world.engines.fault = lambda _: None
    other = World(store, replica="r0", engines=world.engines)
    try:
        other.later()
        left = other.content()
        assert key(CONTAINERS, "a1") in left  # r1 lives: it may be at it
        store.delete(key(REPLICAS, "r1"))
        if host == "down":
            name = json.loads(left[key(CONTAINERS, "a1")])["host"]
            store.delete(f"/qnet/v1/placement/alive/{name}")
            other.later()
            other.later()
            assert key(CONTAINERS, "a1") in other.content()  # nobody can look: it stays taken
            store.put(f"/qnet/v1/placement/alive/{name}", b"")
        other.later()
        other.later()
        found = other.content()
        if step == "started":
            record = schema.decode(found[key(CONTAINERS, "a1")], Container)
            assert (record.by, record.running, bool(record.id)) == ("", True, True)
        else:
            del before[key(REPLICAS, "r1")]
            found.pop(key(REPLICAS, "r0"))
            assert found == before
    finally:
        other.close()


def test_a_replica_settles_its_own(world: World) -> None:
    """The host did not answer, not even to be asked what became of it."""
    before = world.content()
    world.engines.fault = away("created", "inspect", "remove")
    assert world.call("POST", "/v1/runs", asked("a1"))[0] == 503
    assert world.content() != before
    world.engines.fault = lambda _: None
    world.later()
    assert world.content() == before


def all_asked(world: World) -> None:
    """Every host has its turn."""
    world.view.catch_up()
    for _ in world.view.machines():
        world.reconciler.once()


def test_a_container_that_went_while_no_agent_looked_is_forgotten(world: World) -> None:
    gone, stays = world.run("a1"), world.run("b1")
    engine = world.engines.containers[gone["host"]]
    all_asked(world)
    assert world.call("GET", "/v1/containers/a1")[1]["id"] == gone["id"]
    del engine[gone["id"]]
    all_asked(world)
    assert world.call("GET", "/v1/containers/a1")[0] == 404
    assert world.call("GET", "/v1/containers/b1")[1]["id"] == stays["id"]
    again = world.run("a1")
    assert again["addresses"] == gone["addresses"]  # it was held for the name, as after any removal


@pytest.mark.parametrize("state", ["down", "in trouble", "away", "another replica's"])
def test_nothing_is_forgotten_that_cannot_be_looked_for(world: World, state: str) -> None:
    ran = world.run("a1")
    world.engines.containers[ran["host"]].clear()
    if state == "down":
        world.store.delete(f"/qnet/v1/placement/alive/{ran['host']}")
    elif state == "in trouble":
        world.host(ran["host"], trouble=("engine",))
    elif state == "away":
        world.engines.fault = away("list")
    else:
        world.store.put(key(REPLICAS, "r0"), b"")
    all_asked(world)
    assert world.call("GET", "/v1/containers/a1")[0] == 200


def test_a_container_that_the_agent_found_by_itself_is_forgotten_by_its_id(world: World) -> None:
    one = Container(name="x1", host="host1", id="1" * 64, image="busybox", tenant="default", state="running")
    world.store.put(key(CONTAINERS, "x1"), schema.encode(one))
    world.view.catch_up()
    known = world.view.container("x1")
    fresh = msgspec.structs.replace(one, id="2" * 64)
    world.store.put(key(CONTAINERS, "x1"), schema.encode(fresh))
    assert known is not None
    world.desk.remove(known)
    assert schema.decode(world.content()[key(CONTAINERS, "x1")], Container).id == fresh.id
    all_asked(world)
    assert key(CONTAINERS, "x1") not in world.content()


def test_every_host_of_a_large_fleet_has_its_turn(world: World) -> None:
    for number in range(4, 401):
        world.host(f"host{number}")
    asked_for: list[str] = []
    world.engines.ids = lambda host: asked_for.append(host.name) or frozenset()  # type: ignore[method-assign]
    world.view.catch_up()
    for _ in range(int(ROUND / INTERVAL)):
        world.reconciler.once()
    assert len(asked_for) >= 400
    assert set(asked_for) == {f"host{number}" for number in range(1, 401)}


def test_a_container_is_not_removed_while_its_host_is_down(world: World) -> None:
    ran = world.run("a1")
    world.store.delete(f"/qnet/v1/placement/alive/{ran['host']}")
    status, answer = world.call("DELETE", "/v1/containers/a1", force="1")
    assert (status, "is down" in answer["message"]) == (503, True)
    assert addresses(world)
    assert world.call("DELETE", f"/v1/hosts/{ran['host']}")[1]["containers"] == 1
    assert world.call("GET", "/v1/containers/a1")[0] == 404


# -- limits of tenants, tenants among each other ------------------------------------------------------------------


def test_a_tenants_limits_hold(world: World) -> None:
    world.tenant("shop", max_containers=2, max_cpus=2000, max_memory=1 << 30)
    world.caller = SHOP
    body = {"Image": "busybox", "HostConfig": {"NanoCpus": 10**9, "Memory": 1 << 29}}
    assert "say how many" in world.refused(asked("s0", "shop"))[1]
    greedy = {"Image": "busybox", "HostConfig": {"NanoCpus": 3 * 10**9, "Memory": 1}}
    assert "tenant shop has 0 of the 2 CPUs that it may have" in world.refused(asked("s0", "shop", container=greedy))[1]
    for name in ("s1", "s2"):
        world.run(name, network="shop", container=body)
    status, words = world.refused(asked("s3", "shop", container=body))
    assert (status, "tenant shop has 2 of the 2 containers" in words) == (409, True)
    (shop,) = world.call("GET", "/v1/tenants")[1]
    assert (shop["containers"], shop["cpus"], shop["memory"]) == (2, 2000, 1 << 30)


def test_a_tenants_limit_of_addresses_holds(world: World) -> None:
    world.tenant("shop", max_addresses=1)
    world.caller = SHOP
    world.run("s1", network="shop")
    assert "has all of the 1 addresses" in world.refused(asked("s2", "shop"))[1]


ROUTES = (
    ("GET", "/v1/containers/l1", None),
    ("DELETE", "/v1/containers/l1?force=1", None),
    ("GET", "/v1/networks/lab", None),
    ("DELETE", "/v1/networks/lab", None),
    ("GET", "/v1/containers?tenant=lab", None),
    ("GET", "/v1/networks?tenant=lab", None),
    ("POST", "/v1/runs", asked("l1", "shop")),
    ("POST", "/v1/runs", asked("x1", "lab")),
    ("POST", "/v1/runs", asked("x1", "shop", tenant="lab")),
    ("POST", "/v1/runs", asked("x1", "web")),
    ("POST", "/v1/runs", asked("x1", "")),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "busybox", "HostConfig": {"Binds": ["lab-data:/x"]}})),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "busybox", "HostConfig": {"Binds": ["/etc:/x"]}})),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "busybox", "HostConfig": {"Privileged": True}})),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "busybox", "HostConfig": {"PidMode": "host"}})),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "busybox", "HostConfig": {"CapAdd": ["ALL"]}})),
    ("POST", "/v1/runs", asked("x1", "shop", container={"Image": "b", "HostConfig": {"NetworkMode": "container:l1"}})),
    ("POST", "/v1/placements", asked("x1", "lab")),
    ("GET", "/v1/hosts", None),
    ("GET", "/v1/hosts/host1", None),
    ("PATCH", "/v1/hosts/host1", {"state": "drain"}),
    ("DELETE", "/v1/hosts/host1", None),
    ("POST", "/v1/images/pull", {"image": "busybox"}),
    ("POST", "/v1/networks", {"name": "n1", "tenant": "lab", "options": {"tenant": "lab"}}),
    ("POST", "/v1/networks", {"name": "n1", "options": {"parent": "eth1"}}),
    ("POST", "/v1/networks", {"name": "lab"}),
    ("GET", "/metrics", None),
)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: str(value)[:60])
def test_no_route_lets_a_tenant_touch_another(world: World, method: str, path: str, body: Any) -> None:
    for name in ("shop", "lab"):
        world.tenant(name)
    nets = {name: {"tenant": name, "driver": "qnet", "pools": (f"{name}/{subnet}",)} for name, subnet in
            (("shop", "10.9.0.0/24"), ("lab", "10.10.0.0/24"))}  # fmt: skip
    for number in (1, 2, 3):
        world.host(f"host{number}", networks={**nets, "web": {"pools": (f"default/{SUBNET}",)}})
    world.caller = LAB
    world.run("l1", network="lab", container={"Image": "busybox", "HostConfig": {"Binds": ["lab-data:/x"]}})
    before = world.content()
    world.caller = SHOP
    path, _, query = path.partition("?")
    answer = world.client().open(path, method=method, json=body, query_string=query)
    assert answer.status_code in (400, 403, 404, 409), answer.text
    assert world.content() == before
    assert "10.10.0." not in answer.text
    assert world.engines.pulled == []


def test_lists_show_a_tenant_its_own_only(world: World) -> None:
    for name in ("shop", "lab"):
        world.tenant(name)
    world.run("w1")
    world.caller = SHOP
    world.run("s1", network="shop")
    assert [one["name"] for one in world.call("GET", "/v1/containers", all="1")[1]] == ["s1"]
    assert [one["name"] for one in world.call("GET", "/v1/networks")[1]] == ["shop"]
    assert [one["name"] for one in world.call("GET", "/v1/tenants")[1]] == ["shop"]
    assert world.call("GET", "/v1/health")[1] == {"ready": True, "hosts": 0, "containers": 0}
    taken = world.refused(asked("w1", "shop"))[1]
    assert taken == "container name w1 is in use: choose another, or qnet rm w1"  # not whose, not where
    world.store.put(key(ORDERS, "host1"), schema.encode(Orders(state="drain")))
    status, found = world.call("POST", "/v1/placements", asked("s2", "shop"))
    assert (status, {one["host"] for one in found["verdicts"]}) == (200, {"host2", "host3"})
    words = [world.refused(asked("s3", name))[1].replace(name, "X") for name in ("lab", "nosuch")]
    assert words == ["network 'X' is not there: see qnet network ls"] * 2


def test_an_operator_says_whose_a_container_is(world: World) -> None:
    world.tenant("shop")
    said = "network shop belongs to tenant shop, the container to default: add --tenant shop"
    assert world.refused(asked("s1", "shop"))[1] == said
    assert "network web belongs to tenant default" in world.refused(asked("s1", "web", tenant="shop"))[1]
    body = {"Image": "busybox", "HostConfig": {"Mounts": [{"Type": "volume", "Source": "shop-data", "Target": "/x"}]}}
    assert "volume shop-data belongs to tenant shop" in world.refused(asked("s1", container=body))[1]
    assert world.run("s1", network="shop", container=body, tenant="shop")["host"]
    assert world.call("GET", "/v1/containers/s1")[1]["tenant"] == "shop"


def test_what_a_host_has_of_its_own_is_not_what_a_tenant_has_under_that_name(world: World) -> None:
    """An engine takes its own volume or network of a name before one of the cluster."""
    world.tenant("shop")
    world.host("host2", networks={"shop": Net("default", "bridge")}, volumes=frozenset({"shop-data"}))
    world.caller = SHOP
    body = {"Image": "busybox", "HostConfig": {"Binds": ["shop-data:/x"]}}
    said = world.refused(asked("s1", "shop", container=body))[1]
    assert "volume shop-data: a host has one of its own of that name" in said
    there = {"Image": "busybox", "Labels": {"qnet.constraint": "host==host2"}}
    assert "1 does not have network shop" in world.refused(asked("s1", "shop", container=there))[1]
    own = Container(name="own", host="host2", networks=("shop",))
    world.store.put(key(CONTAINERS, "own"), schema.encode(own))
    world.host("host2", networks={})  # as agents tell of it
    assert world.call("DELETE", "/v1/networks/shop")[0] == 200  # what is on that host's own keeps nobody from it
    world.caller = ANN
    world.host("host2", alive=False, networks={"own": Net("default", "bridge")})
    asked_for = {"name": "own", "subnets": [{"Subnet": "10.8.0.0/24"}], "options": {"parent": "eth1"}}
    assert "network own exists on host host2" in world.call("POST", "/v1/networks", asked_for)[1]["message"]


def test_affinities_see_containers_of_the_same_tenant_only(world: World) -> None:
    world.tenant("shop")
    ran = world.run("db")
    world.caller = SHOP
    near = {"Image": "busybox", "Labels": {"qnet.affinity": "container==db"}}
    assert "3 fail container==db" in world.refused(asked("s1", "shop", container=near))[1]
    far = {"Image": "busybox", "Labels": {"qnet.affinity": "container!=db", "qnet.constraint": f"host=={ran['host']}"}}
    assert world.run("s2", network="shop", container=far)["host"] == ran["host"]


# -- bad requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "missing required field `container`"),
        ({"container": {"Image": "b"}, "nmae": "x"}, "unknown field `nmae`"),
        ({"container": {}}, "give the name of an image"),
        (asked("-x"), "is no container name"),
        (asked("x" * 200), "is no container name"),
        (asked("x1", "nosuch"), "network 'nosuch' is not there: see qnet network ls"),
        (asked("x1", address="10.77.0.300"), "auto, none or an address"),
        (asked("x1", address="10.77.0.255"), "network or broadcast address"),
        (asked("x1", instances=0), "1 to 1000"),
        (asked("x1", pull="often"), "missing, always, never"),
        (asked("x1", tenant="nosuch"), "tenant nosuch does not exist"),
        (asked("x1", container={"Image": "b", "HostConfig": {"Memory": "1g"}}), "Memory: a number"),
        (asked("x1", container={"Image": "b", "HostConfig": {"Memory": -5}}), "Memory: a number"),
        (asked("x1", container={"Image": "b", "Env": "A=1"}), "Env: a list of texts"),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.constraint": "rack"}}), "NAME==VALUE"),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.ip": "maybe"}}), "sticky"),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.spread": "rack:max_per=0"}}), "max_per"),
        (asked("x1", container={"Image": "b", "HostConfig": {"Binds": ["x"]}}), "give VOLUME:PATH"),
        (asked("x1", container={"Image": "b", "HostConfig": {"NanoCpus": 9 * 10**9}}), "3 lack CPUs"),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.constraint": "rack==r9"}}), "3 fail rack==r9"),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.spread": "rakc"}}), "no host has that label"),
        (
            asked("x1", container={"Image": "b", "Labels": {"qnet.spred": "rack"}}),
            "qnet.spred means nothing: type qnet.spread",
        ),
        (asked("x1", container={"Image": "b", "Labels": {"qnet.metric.port": "1"}}), "type qnet.metrics.port"),
        (asked("x1", platform="linux/arm64"), "3 are not linux/arm64"),
        (asked("x1", container={"Image": "b", "HostConfig": {"StorageOpt": {"size": "lots"}}}), "a size such as 10G"),
    ],
)
def test_bad_requests_say_what_is_wrong_and_make_nothing(world: World, body: dict[str, Any], words: str) -> None:
    assert words in world.refused(body)[1]


def test_labels_of_others_and_those_that_containers_have_are_taken(world: World) -> None:
    names = (
        "qnet.keep",
        "qnet.host",
        "qnet.network",
        "qnet.tenant",
        "qnet.name",
        "qnet.claim",
        "net.spread",
        "qnet.ours",
    )
    assert world.run(container={"Image": "busybox", "Labels": dict.fromkeys(names, "x")})["name"]


def test_refusals_name_every_filter(world: World) -> None:
    world.store.put(key(ORDERS, "host1"), schema.encode(Orders(state="drain")))
    world.host("host2", parents=frozenset({"eth0"}))
    world.host("host4", alive=False)
    body = {"Image": "busybox", "HostConfig": {"Memory": 9 << 30}}
    words = world.refused(asked("x1", container=body))[1]
    assert words.startswith("no host: 1 ")
    lacks = "1 lacks memory (most free: host3 8 GiB of 9 GiB asked)"
    for part in ("1 drained", "1 has no parent eth1", "1 down", lacks):
        assert part in words


def test_a_host_without_room_on_its_disk_takes_nothing(world: World) -> None:
    for name, free in (("host1", 1 << 20), ("host2", 5 << 30), ("host3", 20 << 30)):
        world.store.put(key(VITALS, name), schema.encode(Vitals(disk=free)))
    body = {"Image": "busybox", "HostConfig": {"StorageOpt": {"size": "10G"}}}
    assert {world.run(container=body)["host"] for _ in range(3)} == {"host3"}
    assert {world.run()["host"] for _ in range(12)} == {"host2", "host3"}
    body["HostConfig"] = {"StorageOpt": {"size": "30g"}}
    assert "no host: 3 lack disk (most free: host3 20 GiB of 30 GiB asked)" in world.refused(asked(container=body))[1]


def test_a_dry_run_makes_nothing_and_agrees_with_the_run(world: World) -> None:
    before = world.content()
    body = asked("x1", container={"Image": "busybox", "Labels": {"qnet.constraint": "host!=host1"}})
    status, found = world.call("POST", "/v1/placements", body)
    assert (status, world.content()) == (200, before)
    assert {one["host"]: one["suits"] for one in found["verdicts"]} == {"host1": False, "host2": True, "host3": True}
    assert [one["reasons"] for one in found["verdicts"]][-1] == ["fails host!=host1"]
    assert world.call("POST", "/v1/runs", body)[1]["containers"][0]["host"] == found["host"]


# -- hosts, networks, images, audit ------------------------------------------------------------------------------------


def test_hosts_are_drained_and_labelled(world: World) -> None:
    world.host("host1", labels={"rack": "r1", "disk": "ssd"})
    world.call("PATCH", "/v1/hosts/host1", {"state": "drain", "labels": {"rack": "r2", "zone": "z", "disk": ""}})
    found = world.call("GET", "/v1/hosts/host1")[1]
    assert (found["state"], found["labels"]) == ("drain", {"rack": "r2", "zone": "z"})
    world.call("PATCH", "/v1/hosts/host1", {"labels": {"rack": None, "disk": None}})
    found = world.call("GET", "/v1/hosts/host1")[1]
    assert (found["state"], found["labels"]) == ("drain", {"rack": "r1", "zone": "z", "disk": "ssd"})
    assert world.call("PATCH", "/v1/hosts/host1", {"state": "sleepy"})[1]["message"] == "state 'sleepy': ready or drain"
    assert world.call("PATCH", "/v1/hosts/nosuch", {"state": "drain"})[0] == 404
    assert world.call("PATCH", "/v1/hosts/host1", {"labels": {"no space": "x"}})[0] == 400
    assert world.call("DELETE", "/v1/hosts/host1")[1]["message"] == "host host1 is not down: stop its agent first"


def test_a_network_is_made_where_it_can_be_and_removed_when_nobody_is_on_it(world: World) -> None:
    asked_for = {"name": "n1", "subnets": [{"Subnet": "10.8.0.0/24"}], "options": {"parent": "eth1"}}
    world.host("host1", parents=frozenset())
    nets = {"n1": {"pools": ("default/10.8.0.0/24",)}, "web": {"pools": (f"default/{SUBNET}",)}}

    def made(step: str) -> None:
        if step == "create network":  # the agents of the others follow
            for name in ("host2", "host3"):
                world.host(name, networks=nets)

    taken = world.call("POST", "/v1/networks", {**asked_for, "name": "web"})
    assert (taken[0], "network web exists" in taken[1]["message"]) == (409, True)
    world.engines.fault = made
    status, found = world.call("POST", "/v1/networks", asked_for)
    assert (status, found["hosts"], found["subnets"]) == (201, ["host2", "host3"], [{"Subnet": "10.8.0.0/24"}])
    assert "n1" in world.engines.networks["host2"]
    nowhere = world.call("POST", "/v1/networks", {"name": "n2", "options": {"parent": "eth9"}})
    assert "no host can have it: none has parent eth9" in nowhere[1]["message"]
    world.run("a1")
    assert "network web has containers: a1" in world.call("DELETE", "/v1/networks/web")[1]["message"]
    pool = PoolRecord(tenant="default", subnet="10.8.0.0/24", since="")
    world.store.put(schema.pool_key("default", "10.8.0.0/24"), schema.encode(pool))
    held = world.run("kept", network="n1")["addresses"]["n1"][0]
    world.call("DELETE", "/v1/containers/kept", force="1")
    where = schema.address_key("default", "10.8.0.0/24", held)
    assert world.store.get(where) is not None
    assert world.call("DELETE", "/v1/networks/n1")[0] == 200
    assert world.store.get(where) is None  # or its subnet would stay taken as long as the name's hold
    assert world.call("GET", "/v1/networks/n1")[0] == 404


def test_images_are_pulled_where_rules_say(world: World) -> None:
    world.host("host2", labels={"rack": "r2"})
    answer = world.client().post("/v1/images/pull", json={"image": "new", "on": "rack==r2", "auth": "c2VjcmV0"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1] == {"host": "host2", "status": "pulled", "done": True}
    assert world.engines.pulled == [("host2", "new", "c2VjcmV0")]
    answer = world.client().post("/v1/images/pull", json={"image": "nosuch/x"})
    assert {json.loads(line)["host"] for line in answer.text.splitlines()} == {"host1", "host2", "host3"}
    status, answer = world.call("POST", "/v1/images/pull", {"image": "x", "on": "rack==r9"})
    assert (status, answer["message"]) == (409, "no host matches 'rack==r9'")


def test_every_change_is_audited(world: World) -> None:
    ran = world.run("a1", auth="c2VjcmV0")
    world.call("POST", "/v1/runs", asked("a1"))
    world.call("PATCH", "/v1/hosts/host1", {"state": "drain"})
    world.call("DELETE", "/v1/containers/a1")
    world.call("DELETE", "/v1/containers/a1", force="1")
    assert [(entry[1], entry[2], entry[-1].split(":")[0]) for entry in world.audit] == [
        ("run", "a1", "done"), ("run", "a1", "refused"), ("host drain", "host1", "done"),
        ("remove", "a1", "refused"), ("remove", "a1", "done"),
    ]  # fmt: skip
    assert {entry[0] for entry in world.audit} == {"operator ann"}
    assert world.audit[0][4] == ran["host"]
    assert "c2VjcmV0" not in str(world.audit)


def test_a_place_to_listen() -> None:
    assert parse_listen("[::]:7443") == ("::", 7443)
    for wrong in ("7443", "host:", "host:99999"):
        with pytest.raises(Exception, match="HOST:PORT"):
            parse_listen(wrong)


def _call(world: World, body: dict[str, Any]) -> Any:
    import msgspec

    from scheduler.api import RunAsked
    from scheduler.web import Call

    return Call(world.caller, {}, {}, msgspec.convert(body, RunAsked))
