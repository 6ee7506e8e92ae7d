"""Every call of the engine's API, 1.41 and 1.48: what the front does with it, and that it answers as an engine does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scheduler.gateway.builds import Builds
from scheduler.gateway.containers import Containers
from scheduler.gateway.create import Creation
from scheduler.gateway.events import Events
from scheduler.gateway.images import Images
from scheduler.gateway.networks import Networks
from scheduler.gateway.routes import REFUSED, Route
from scheduler.gateway.system import System
from scheduler.gateway.volumes import Volumes
from tests.e2e.placement.fleet import Fleet
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow

# method and path as the API's documentation has them; what the front does; with what it is asked here, if not with the
# path as it is; which status both answer. {c} a container that runs, {x} one to be removed, {n} a bridge network with
# {c} on it, {v} a volume, {i} an image's second name, {e} an exec of {c}.
API = """
GET /containers/json | aggregated | ?all=1 | 200
POST /containers/create | placed | ?name=made-{p} {"Image":"busybox","HostConfig":{"NetworkMode":"none"}} | 201
GET /containers/{id}/json | owner | {c} | 200
GET /containers/{id}/top | owner | {c} | 200
GET /containers/{id}/logs | owner | {c}?stdout=1 | 200
GET /containers/{id}/changes | owner | {c} | 200
GET /containers/{id}/export | owner | {c} | 200
GET /containers/{id}/stats | owner | {c}?stream=0 | 200
POST /containers/{id}/resize | owner | {c}?h=10&w=10 | 200
POST /containers/{id}/start | owner | {c} | 304
POST /containers/{id}/stop | owner | {x}?t=0 | 304
POST /containers/{id}/restart | owner | {c}?t=0 | 204
POST /containers/{id}/kill | owner | {x} | 409
POST /containers/{id}/update | owner | {c} {"CpuShares":200} | 200
POST /containers/{id}/rename | owner | {x}?name=renamed-{p} | 204
POST /containers/{id}/pause | owner | {c} | 204
POST /containers/{id}/unpause | owner | {c} | 204
POST /containers/{id}/attach | owner | {x}?logs=1&stdout=1 | 200
GET /containers/{id}/attach/ws | owner | {c} | 400
POST /containers/{id}/wait | owner | {x} | 200
DELETE /containers/{id} | owner | {x} | 204
HEAD /containers/{id}/archive | owner | {c}?path=/etc | 200
GET /containers/{id}/archive | owner | {c}?path=/bin/true | 200
PUT /containers/{id}/archive | owner | {c}?path=/nowhere | 404
POST /containers/prune | fanned out | ?filters={"label":["no=such"]} | 200
POST /containers/{id}/exec | owner | {c} {"Cmd":["true"]} | 201
POST /exec/{id}/start | owner | {e} {"Detach":true} | 200
POST /exec/{id}/resize | owner | {e}?h=10&w=10 | 500
GET /exec/{id}/json | owner | {e} | 200
POST /commit | owner | ?container={c}&repo=commit-{p} | 201
GET /images/json | aggregated | | 200
POST /build | one host | | 500
POST /build/prune | fanned out | ?filters={"id":["none"]} | 200
POST /build/cancel | one host | ?id=none | 200
POST /images/create | fanned out | ?fromImage=nosuch.invalid/x&tag=1 | 500
GET /images/{name}/json | owner | {i} | 200
GET /images/{name}/history | owner | {i} | 200
POST /images/{name}/push | owner | nosuch.invalid/{i}?tag=1 | 400
POST /images/{name}/tag | fanned out | busybox?repo=tag-{p}&tag=2 | 201
DELETE /images/{name} | fanned out | tag-{p}:2 | 200
GET /images/search | one host | ?term=x | 500
POST /images/prune | fanned out | ?filters={"label":["no=such"]} | 200
POST /auth | one host | {"username":"a","password":"b","serveraddress":"nosuch.invalid"} | 500
GET /info | aggregated | | 200
GET /version | one host | | 200
GET /_ping | served | | 200
HEAD /_ping | served | | 200
GET /events | aggregated | ?since=1&until=2 | 200
GET /system/df | aggregated | | 200
GET /images/{name}/get | owner | {i} | 200
GET /images/get | owner | ?names={i} | 200
POST /images/load | fanned out | | 200
GET /networks | aggregated | | 200
GET /networks/{id} | aggregated | {n} | 200
DELETE /networks/{id} | fanned out | {n} | 403
POST /networks/create | fanned out | {"Name":"net2-{p}","Driver":"bridge","CheckDuplicate":true} | 201
POST /networks/{id}/connect | owner | {n} {"Container":"{c}"} | 403
POST /networks/{id}/disconnect | owner | {n} {"Container":"{x}"} | 200
POST /networks/prune | fanned out | ?filters={"label":["no=such"]} | 200
GET /volumes | aggregated | | 200
POST /volumes/create | one host | {"Name":"vol2-{p}"} | 201
GET /volumes/{name} | owner | {v} | 200
DELETE /volumes/{name} | owner | vol2-{p} | 204
PUT /volumes/{name} | refused | {v} | 501
POST /volumes/prune | fanned out | ?filters={"label":["no=such"]} | 200
GET /distribution/{name}/json | one host | nosuch.invalid/x | 500
POST /session | one host | | 400
POST /grpc | one host | | 500
GET /swarm | refused | | 501
POST /swarm/init | refused | | 501
POST /swarm/join | refused | | 501
POST /swarm/leave | refused | | 501
POST /swarm/update | refused | | 501
GET /swarm/unlockkey | refused | | 501
POST /swarm/unlock | refused | | 501
GET /nodes | refused | | 501
GET /nodes/{id} | refused | x | 501
DELETE /nodes/{id} | refused | x | 501
POST /nodes/{id}/update | refused | x | 501
GET /services | refused | | 501
POST /services/create | refused | | 501
GET /services/{id} | refused | x | 501
DELETE /services/{id} | refused | x | 501
POST /services/{id}/update | refused | x | 501
GET /services/{id}/logs | refused | x | 501
GET /tasks | refused | | 501
GET /tasks/{id} | refused | x | 501
GET /tasks/{id}/logs | refused | x | 501
GET /secrets | refused | | 501
POST /secrets/create | refused | | 501
GET /secrets/{id} | refused | x | 501
DELETE /secrets/{id} | refused | x | 501
POST /secrets/{id}/update | refused | x | 501
GET /configs | refused | | 501
POST /configs/create | refused | | 501
GET /configs/{id} | refused | x | 501
DELETE /configs/{id} | refused | x | 501
POST /configs/{id}/update | refused | x | 501
GET /plugins | refused | | 501
GET /plugins/privileges | refused | | 501
POST /plugins/pull | refused | | 501
GET /plugins/{name}/json | refused | x | 404
DELETE /plugins/{name} | refused | x | 501
POST /plugins/{name}/enable | refused | x | 501
POST /plugins/{name}/disable | refused | x | 501
POST /plugins/{name}/upgrade | refused | x | 501
POST /plugins/create | refused | | 501
POST /plugins/{name}/push | refused | x | 501
POST /plugins/{name}/set | refused | x | 501
GET /containers/{id}/checkpoints | refused | {c} | 501
POST /containers/{id}/checkpoints | refused | {c} | 501
DELETE /containers/{id}/checkpoints/{checkpoint} | refused | {c} | 501
"""


@dataclass(frozen=True)
class Row:
    """A call: as documented, what the front does, what is asked, with which body, and the status."""

    method: str
    path: str
    way: str
    asked: str
    body: str
    status: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def rows() -> list[Row]:
    """The table above."""
    found = []
    for line in API.strip().splitlines():
        call_, way, asked, status = (part.strip() for part in f"{line} ".split("|"))
        method, path = call_.split()
        asked, _, body = asked.partition('{"') if '{"' in asked and "filters=" not in asked else (asked, "", "")
        found.append(Row(method, path, way, asked.strip(), f'{{"{body}' if body else "", int(status)))
    return found


ROWS = rows()
PARTS: tuple[tuple[Any, int], ...] = (
    *((Builds, 2), (Containers, 2), (Creation, 2), (Events, 2), (Images, 1), (Networks, 1), (System, 4), (Volumes, 1)),
)


class Things:
    """What the calls are about, made through a socket. Containers are on one network, and so on one host."""

    def __init__(self, socket: Path, prefix: str) -> None:
        self.socket, self.prefix = socket, prefix
        self.post("/networks/create", {"Name": f"net-{prefix}", "Driver": "bridge", "CheckDuplicate": True})
        self.names = {"p": prefix, "n": f"net-{prefix}", "v": f"vol-{prefix}", "i": f"image-{prefix}"}
        self.body = {"Image": "busybox", "Cmd": ["sleep", "1d"], "HostConfig": {"NetworkMode": f"net-{prefix}"}}
        self.names["c"] = self.post(f"/containers/create?name=run-{prefix}", self.body)["Id"]
        self.post(f"/containers/{self.names['c']}/start")
        self.post("/volumes/create", {"Name": f"vol-{prefix}"})
        self.post(f"/images/busybox/tag?repo=image-{prefix}")
        self.post(f"/images/busybox/tag?repo=tag-{prefix}&tag=2")
        self.number = 0

    def post(self, path: str, body: object = None) -> Any:
        status, found = call(self.socket, "POST", f"/v1.41{path}", body, timeout=60)
        assert status < 300, (path, status, found)
        return found

    def fill(self, text: str) -> str:
        """Names for `{c}` and the like; those that a call uses up are made for it."""
        names = dict(self.names)
        if "{x}" in text:
            self.number += 1
            names["x"] = self.post(f"/containers/create?name=spare{self.number}-{self.prefix}", self.body)["Id"]
        if "{e}" in text:
            names["e"] = self.post(f"/containers/{names['c']}/exec", {"Cmd": ["true"]})["Id"]
        return re.sub(r"\{([a-z])\}", lambda match: names[match[1]], text)

    def ask(self, row: Row, version: str) -> tuple[int, Any]:
        asked = self.fill(f"{row.asked} {row.body}")
        text, body = asked.split(" ", 1) if row.body else (asked.strip(), "")
        name, question, query = text.partition("?")
        path = re.sub(r"\{\w+\}", name, row.path, count=1).replace("{checkpoint}", "x") + question + query
        value = json.loads(body) if body else ({} if row.method in ("POST", "PUT") and row.body else None)
        return call(self.socket, row.method, f"/v{version}{path}", value, timeout=60)


@pytest.fixture(scope="module")
def pair(three_hosts: Any) -> Iterator[tuple[Things, Things]]:
    """The same things straight on host1's engine and through its front."""
    fleet, host = Fleet(three_hosts), three_hosts.hosts[0]
    straight = Things(host.docker_socket, "s")
    front = Things(host.gateway.socket, "f")
    yield straight, front
    names = host.docker("ps", "-aq").stdout.split()
    host.docker("rm", "-f", *names, check=False)
    for what in ("s", "f"):
        host.docker("network", "rm", f"net-{what}", f"net2-{what}", check=False)
        host.docker(
            "rmi", "-f", *(f"{one}-{what}" for one in ("image", "commit")), f"nosuch.invalid/{what}", check=False
        )
    for other in three_hosts.hosts:
        other.docker("rmi", "-f", "image-f", check=False)
        ids = other.docker("ps", "-aq").stdout.split()
        if ids:
            other.docker("rm", "-f", *ids)
        for network in ("net2-f", "net-f"):
            other.docker("network", "rm", network, check=False)
        other.docker("volume", "rm", "vol-f", "vol2-f", "vol-s", "vol2-s", check=False)
    fleet.sweep()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_front_answers_as_an_engine(pair: tuple[Things, Things], row: Row) -> None:
    """The same status, and the same fields; what is refused says why."""
    straight, front = pair
    version = "1.41"
    status, found = front.ask(row, version)
    assert status == row.status, (row, status, found)
    if row.way == "refused":
        assert len(found["message"]) > 10
        return
    expected = straight.ask(row, version)
    assert expected[0] == status, (row, expected, status, found)
    assert _shape(found) >= _shape(expected[1]), (found, expected[1])


def test_newer_clients_are_served_too(pair: tuple[Things, Things], three_hosts: Any) -> None:
    """1.48, where the engines have it; else they say which they have."""
    _, front = pair
    status, found = call(front.socket, "GET", "/v1.48/containers/json")
    newest = call(front.socket, "GET", "/version")[1]["ApiVersion"]
    if tuple(map(int, newest.split("."))) >= (1, 48):
        assert status == 200
    else:
        assert status == 400
        assert newest in found["message"]


def test_every_call_is_in_the_table_and_every_row_is_a_call() -> None:
    """What the front serves is what the table says, no more and no less."""
    parts = [part(*[None] * count) for part, count in PARTS]  # type: ignore[arg-type]
    routes: list[Route] = [route for part in parts for route in part.routes()]
    known = {(route.method, route.path.replace("{image}", "{name}")): route.way for route in routes}
    for row in ROWS:
        if row.way != "refused":
            assert known.pop((row.method, row.path), None) == row.way, row.name
    left = {key for key, way in known.items() if way != "refused"}
    assert left == {("GET", "/metrics")}
    assert len(REFUSED) > 30


def _shape(value: object) -> set[str]:
    if isinstance(value, str) and value.startswith("{"):  # progress, line by line
        return _shape(json.loads(value.strip().splitlines()[0]))
    if isinstance(value, list):
        return _shape(value[0]) if value else set()
    return set(value) if isinstance(value, dict) else set()
