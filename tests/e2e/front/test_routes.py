"""Every call of the engine's API, 1.41 and 1.48: what the front does with it, and that it answers as an engine does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
from tests.e2e.front.table import LATER, LATEST, ROWS, VERSIONS, Row
from tests.e2e.placement.fleet import Fleet
from tests.lab.cluster import Lab
from tests.lab.unixhttp import call

pytestmark = [pytest.mark.slow, pytest.mark.engines]

PARTS: tuple[tuple[Any, int], ...] = (
    *((Builds, 2), (Containers, 2), (Creation, 2), (Events, 2), (Images, 1), (Networks, 1), (System, 4), (Volumes, 1)),
)


class Things:
    """What the calls are about, made through a socket. Containers are on one network, and so on one host."""

    def __init__(self, socket: Path, prefix: str, version: str) -> None:
        self.socket, self.prefix, self.version = socket, prefix, version
        self.post("/networks/create", {"Name": f"net-{prefix}", "Driver": "bridge", "CheckDuplicate": True})
        self.names = {"p": prefix, "n": f"net-{prefix}", "v": f"vol-{prefix}", "i": f"image-{prefix}"}
        self.body = {"Image": "busybox", "Cmd": ["sleep", "1d"], "HostConfig": {"NetworkMode": f"net-{prefix}"}}
        self.names["c"] = self.post(f"/containers/create?name=run-{prefix}", self.body)["Id"]
        self.post(f"/containers/{self.names['c']}/start")
        self.post("/volumes/create", {"Name": f"vol-{prefix}"})
        self.post(f"/images/busybox/tag?repo=image-{prefix}")
        self.post(f"/images/busybox/tag?repo=tag-{prefix}&tag=2")
        self.names["a"] = call(socket, "GET", "/version")[1]["Arch"]
        self.number = 0

    def post(self, path: str, body: object = None) -> Any:
        status, found = call(self.socket, "POST", f"/v{self.version}{path}", body, timeout=60)
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

    def ask(self, row: Row) -> tuple[int, Any]:
        asked = self.fill(f"{row.asked} {row.body}")
        text, body = asked.split(" ", 1) if row.body else (asked.strip(), "")
        name, question, query = text.partition("?")
        path = re.sub(r"\{\w+\}", name, row.path, count=1).replace("{checkpoint}", "x") + question + query
        value = json.loads(body) if body else ({} if row.method in ("POST", "PUT") and row.body else None)
        return call(self.socket, row.method, f"/v{self.version}{path}", value, timeout=60)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The rows that the engine's version has."""
    if "row" in metafunc.fixturenames:
        version = VERSIONS[metafunc.config.getoption("--engine")]
        later = [pytest.param(row, id=f"{row.name} of {LATEST}") for row in LATER if version == LATEST]
        metafunc.parametrize("row", [*(pytest.param(row, id=row.name) for row in ROWS), *later])


@pytest.fixture(scope="module")
def pair(fleet_of_engine: Lab, engine: str) -> Iterator[tuple[Things, Things]]:
    """The same things straight on host1's engine and through its front."""
    fleet, host = Fleet(fleet_of_engine), fleet_of_engine.hosts[0]
    straight = Things(host.docker_socket, "s", VERSIONS[engine])
    front = Things(host.gateway.socket, "f", VERSIONS[engine])
    yield straight, front
    names = host.docker("ps", "-aq").stdout.split()
    host.docker("rm", "-f", *names, check=False)
    for what in ("s", "f"):
        host.docker("network", "rm", f"net-{what}", f"net2-{what}", check=False)
        host.docker(
            "rmi", "-f", *(f"{one}-{what}" for one in ("image", "commit")), f"nosuch.invalid/{what}", check=False
        )
    for other in fleet.hosts:
        other.docker("rmi", "-f", "image-f", check=False)
        ids = other.docker("ps", "-aq").stdout.split()
        if ids:
            other.docker("rm", "-f", *ids)
        for network in ("net2-f", "net-f"):
            other.docker("network", "rm", network, check=False)
        other.docker("volume", "rm", "vol-f", "vol2-f", "vol-s", "vol2-s", check=False)
    fleet.sweep()


def test_the_front_answers_as_an_engine(pair: tuple[Things, Things], row: Row) -> None:
    """The same status, and the same fields; what is refused says why."""
    straight, front = pair
    status, found = front.ask(row)
    assert status == row.answered(front.version), (row, status, found)
    if row.way == "refused":
        assert len(found["message"]) > 10
        return
    expected = straight.ask(row)
    assert expected[0] == status, (row, expected, status, found)
    assert _shape(found) >= _shape(expected[1]), (found, expected[1])


def test_newer_clients_are_served_too(pair: tuple[Things, Things]) -> None:
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
    assert {row.name for row in LATER} < {row.name for row in ROWS}
    left = {key for key, way in known.items() if way != "refused"}
    assert left == {("GET", "/metrics")}
    assert len(REFUSED) > 30


def _shape(value: object) -> set[str]:
    if isinstance(value, str) and value.startswith("{"):  # progress, line by line
        return _shape(json.loads(value.strip().splitlines()[0]))
    if isinstance(value, list):
        return _shape(value[0]) if value else set()
    return set(value) if isinstance(value, dict) else set()
