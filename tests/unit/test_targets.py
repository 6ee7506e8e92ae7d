"""Service discovery: which containers Prometheus is told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from qnet import schema
from scheduler.callers import Caller
from scheduler.model import Container, Kept, Net
from scheduler.targets import target
from scheduler.view import CONTAINERS, key
from tests.store.memory import MemoryStore
from tests.unit.placement_world import World, asked

PORT = {"qnet.metrics.port": "9100"}
BOTH = {"web": "10.77.0.5", "data": "10.78.0.5"}
NETS = {"web": Net(pools=("p",)), "data": Net(pools=("q",)), "bridge": Net()}


@pytest.fixture
def world() -> Iterator[World]:
    made = World(MemoryStore())
    made.tenant("shop")
    yield made
    made.close()


def labelled(name: str, labels: dict[str, str], **fields: Any) -> dict[str, Any]:
    return asked(name, container={"Image": "busybox", "Labels": labels}, **fields)


def test_a_labelled_container_is_told_of_while_it_runs(world: World) -> None:
    assert world.call("GET", "/v1/targets") == (200, [])
    _, answer = world.call("POST", "/v1/runs", labelled("a1", PORT))
    world.run("plain")
    ran = answer["containers"][0]
    entry = {
        "targets": [f"{ran['addresses']['web'][0]}:9100"],
        "labels": {
            "container": "a1",
            "host": ran["host"],
            "tenant": "default",
            "network": "web",
            "__metrics_path__": "/metrics",
            "__scheme__": "http",
        },
    }
    assert world.call("GET", "/v1/targets") == (200, [entry])
    there = world.view.container("a1")
    for state in ("exited", "paused", "running"):
        changed = msgspec.structs.replace(there, state=state, running=state != "exited")
        world.store.put(key(CONTAINERS, "a1"), schema.encode(changed))
        assert world.call("GET", "/v1/targets")[1] == ([entry] if state == "running" else [])
    world.call("DELETE", "/v1/containers/a1", force="1")
    assert world.call("GET", "/v1/targets") == (200, [])


def test_tenants_are_told_of_their_own_only(world: World) -> None:
    world.call("POST", "/v1/runs", labelled("ours", PORT))
    status, _ = world.call("POST", "/v1/runs", labelled("theirs", PORT, network="shop", tenant="shop"))
    assert status == 201

    def told(**query: str) -> list[str]:
        return [one["labels"]["container"] for one in world.call("GET", "/v1/targets", **query)[1]]

    assert told() == ["ours", "theirs"]
    assert told(tenant="shop") == ["theirs"]
    world.caller = Caller("tenant shop", "shop")
    assert told() == ["theirs"]
    assert world.call("GET", "/v1/targets", tenant="default")[0] == 400


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"qnet.metrics.port": "http"}, "a port, 1 to 65535"),
        ({"qnet.metrics.port": "0"}, "a port, 1 to 65535"),
        ({"qnet.metrics.port": "65536"}, "a port, 1 to 65535"),
        ({"qnet.metrics.port": "9" * 5000}, "a port, 1 to 65535"),
        ({"qnet.metrics.port": "²"}, "a port, 1 to 65535"),
        ({"qnet.metrics.port": "9100@evil:80"}, "a port, 1 to 65535"),
        ({**PORT, "qnet.metrics.path": "metrics"}, "a path such as /metrics"),
        ({**PORT, "qnet.metrics.path": "/m?x=${1}"}, "a path such as /metrics"),
        ({**PORT, "qnet.metrics.path": "/m\n"}, "a path such as /metrics"),
        ({**PORT, "qnet.metrics.scheme": "file"}, "http or https"),
    ],
)
def test_labels_that_make_no_sense(world: World, labels: dict[str, str], says: str) -> None:
    status, message = world.refused(labelled("a1", labels))
    assert (status, says in message) == (400, True), message
    foreign = Container(name="x", host="host1", state="running", ips={"web": "10.77.0.5"}, labels=labels)
    assert target(foreign, NETS) is None


@pytest.mark.parametrize(
    ("fields", "labels", "told"),
    [
        ({"ips": {"web": "10.77.0.5"}}, {}, ("10.77.0.5:9100", "web")),
        ({"ips": BOTH}, {}, ("10.78.0.5:9100", "data")),
        ({"ips": BOTH}, {"qnet.metrics.network": "web"}, ("10.77.0.5:9100", "web")),
        ({"ips": {"web": "10.77.0.5"}}, {"qnet.metrics.network": "data"}, None),
        ({"ips": {"bridge": "172.17.0.2"}}, {}, None),  # the same on every host
        ({"ips": {"gone": "10.79.0.2"}}, {}, None),
        ({"addresses": {"web": (Kept("default", "fd00::/64", "fd00::5"),)}}, {}, ("[fd00::5]:9100", "web")),
        ({"addresses": {"web": ()}, "ips": {"web": "10.77.0.5"}}, {}, ("10.77.0.5:9100", "web")),
        ({}, {}, None),
    ],
)  # fmt: skip
def test_the_address_is_one_that_qnet_gave(
    fields: dict[str, Any], labels: dict[str, str], told: tuple[str, str] | None
) -> None:
    found = target(Container(name="x", host="host1", state="running", labels=PORT | labels, **fields), NETS)
    assert (found and (found.targets[0], found.labels["network"])) == told
