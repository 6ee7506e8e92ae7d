"""Two tenants on every call of the table: what is one's is to the other as if it were not there."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.front import dial, sides
from tests.e2e.front.dial import Answer
from tests.e2e.front.table import ROWS, Row
from tests.e2e.placement.fleet import Fleet
from tests.lab.cluster import Lab

pytestmark = pytest.mark.slow

VERSION = "1.41"
NAMED_BY = {"containers": "c", "exec": "e", "images": "i", "distribution": "i", "networks": "n", "volumes": "v"}
SLOT = re.compile(r"\{([a-z])\}")
NUMBER = re.compile(r"(sha256:)?[0-9a-f]{12,64}")
NOT_FOUND = 404
# Calls that find nothing of the fleet by a name, and are answered the same whatever the name.
ELSEWHERE = {"GET /distribution/{name}/json": 500}
# Calls that name nothing of anybody's: what a tenant asks, if not what the table has, and the status. With `lists`, its
# own is in the answer.
LISTS = "lists"
OWN: Mapping[str, tuple[str | None, int, str]] = {
    "GET /containers/json": ("?all=1", 200, LISTS),
    "POST /containers/create": (None, 201, ""),
    "POST /containers/prune": ("", 200, ""),
    "GET /images/json": (None, 200, LISTS),
    "POST /build": (None, 403, ""),
    "POST /build/prune": ("", 403, ""),
    "POST /build/cancel": (None, 403, ""),
    "POST /images/create": (None, 500, ""),
    "GET /images/search": (None, 500, ""),
    "POST /images/prune": ("", 403, ""),
    "POST /images/load": (None, 403, ""),
    "POST /auth": (None, 500, ""),
    "GET /info": (None, 200, ""),
    "GET /version": (None, 200, ""),
    "GET /_ping": (None, 200, ""),
    "HEAD /_ping": (None, 200, ""),
    "GET /events": ("?since=1&until={now}", 200, LISTS),
    "GET /system/df": (None, 200, LISTS),
    "GET /networks": (None, 200, LISTS),
    "POST /networks/create": (None, 403, ""),
    "POST /networks/prune": ("", 200, ""),
    "GET /volumes": (None, 200, LISTS),
    "POST /volumes/create": (None, 403, ""),
    "POST /volumes/prune": ("", 200, ""),
    "POST /session": (None, 403, ""),
    "POST /grpc": (None, 403, ""),
}


@dataclass
class Tenant:
    """A tenant with one thing of each kind, on host2; it asks host1's front."""

    fleet: Fleet
    name: str
    folder: Path
    things: dict[str, list[str]]
    """Each by every spelling, by its letter in the table."""

    def __post_init__(self) -> None:
        self.context = dial.certified(self.folder)

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        host, at = self.fleet.hosts[:2]
        return dial.ask(at, host, self.context, method, f"/v{VERSION}{path}", body)

    def made(self, path: str, body: object = None) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status < 300, (path, answer)
        return json.loads(answer.body or "{}")

    def told(self, path: str) -> dict[str, Any]:
        answer = self.ask("GET", path)
        assert answer.status == 200, (path, answer)
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def make(self, number: int) -> None:
        """Make the things, and a second container and network that nothing uses."""
        name, supernet = self.name, f"10.20{number}"
        for network, subnet in (("net", f"{supernet}.1.0/24"), ("idle", f"{supernet}.2.0/24")):
            asked = {"Name": f"{name}-{network}", "Driver": "qnet", "Options": {"mode": "vxlan"}}
            self.made("/networks/create", {**asked, "IPAM": {"Config": [{"Subnet": subnet}]}})
        self.made("/volumes/create", {"Name": f"{name}-data", "Driver": "sharedfs"})
        limits = {"NetworkMode": f"{name}-net", "Binds": [f"{name}-data:/data"]}
        asked = {"Image": "busybox", "Cmd": ["sleep", "1d"], "StopSignal": "KILL", "HostConfig": limits}
        box = self.made(f"/containers/create?name={name}-one", asked)["Id"]
        self.made(f"/containers/{name}-one/start")
        idle = self.made(f"/containers/create?name={name}-two", asked)["Id"]
        image = self.made(f"/commit?container={name}-one&repo={name}/app")["Id"]
        number_ = self.made(f"/containers/{name}-one/exec", {"Cmd": ["true"]})["Id"]
        network = self.told(f"/networks/{name}-net")["Id"]
        digits = image.removeprefix("sha256:")
        self.things = {
            "c": [f"{name}-one", box, box[:12]],
            "x": [f"{name}-two", idle, idle[:12]],
            "e": [number_, number_[:12]],
            "i": [f"{name}/app", f"{name}/app:latest", f"docker.io/{name}/app", image, digits, digits[:12]],
            "n": [f"{name}-net", network, network[:12]],
            "v": [f"{name}-data"],
            "p": [name],
        }

    @property
    def secrets(self) -> set[str]:
        """What nobody else may read."""
        told = {text for letter in "cxeinv" for text in self.things[letter] if len(text) >= 6}
        return told | {self.name, self.things["n"][1][:12]}

    def state(self) -> list[dict[str, Any]]:
        """All that is there of its things."""
        box, idle, image = self.things["c"][1], self.things["x"][1], self.things["i"][3]
        own = (f"networks/{self.name}-net", f"networks/{self.name}-idle", f"volumes/{self.name}-data")
        paths = (f"containers/{box}/json", f"containers/{idle}/json", f"images/{image}/json", *own)
        return [self.told(f"/{path}") for path in (*paths, f"exec/{self.things['e'][0]}/json")]


@dataclass
class World:
    """The tenant whose things are asked for, and the one who asks."""

    shop: Tenant
    evil: Tenant


@pytest.fixture(scope="module")
def world(three_hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Both, each with things of its own."""
    fleet, folder, names = Fleet(three_hosts), tmp_path_factory.mktemp("tenants"), ("shop", "evil")
    found = []
    for number, name in enumerate(names):
        fleet.qnet("tenant", "create", name, "--vni", "auto", "--supernet", f"10.20{number}.0.0/16", check=False)
        found.append(Tenant(fleet, name, sides.certificates_for(three_hosts, folder / name, "tenant", name), {}))
        found[-1].make(number)
    yield World(*found)
    for name in names:
        for container in fleet.ps("-a", "--tenant", name):
            fleet.qnet("rm", "-f", container)
        found[names.index(name)].ask("DELETE", f"/images/{name}/app")
        fleet.hosts[0].docker("volume", "rm", f"{name}-data")
    fleet.sweep()


@pytest.fixture(autouse=True)
def untouched(world: World) -> Iterator[None]:
    """What is the one's is as it was, whatever the other asked."""
    before = world.shop.state()
    yield
    assert world.shop.state() == before


def slots(row: Row) -> list[str]:
    """What a call names of somebody's: the part of its path, then others."""
    kind = [NAMED_BY[row.path.split("/")[1]]] if "{" in row.path else []
    return kind + [letter for letter in SLOT.findall(_rest(row)) if letter != "p"]


def _rest(row: Row) -> str:
    """The query and the body of a call; with a name in its path, what comes before them is that name."""
    _, question, query = row.asked.partition("?")
    return f"{question}{query} {row.body}"


def asked(row: Row, tenant: Tenant, names: list[str]) -> Answer:
    """A call by a tenant, with these names in its slots."""
    names = list(names)
    path = re.sub(r"\{\w+\}", lambda _: names.pop(0), row.path)
    rest = SLOT.sub(lambda match: tenant.name if match[1] == "p" else names.pop(0), _rest(row))
    query, _, body = rest.partition(" ")
    if row.name == "POST /images/{name}/push":
        query = ""  # the name has its tag
    return tenant.ask(row.method, path + query, json.loads(body) if body else None)


def nobodys(spelling: str) -> str:
    """The like of a spelling, which is nobody's."""
    if NUMBER.fullmatch(spelling):
        kind, _, digits = spelling.rpartition(":")
        return f"{kind}:" * bool(kind) + hashlib.sha256(b"nobody").hexdigest()[: len(digits)]
    return spelling.replace("shop", "none")


def plain(answer: Answer, name: str) -> tuple[int, dict[str, str], str]:
    """An answer without the name that was asked for, and without what differs each time."""
    kept = {key: value for key, value in answer.headers.items() if key not in ("Date", "Content-Length")}
    return answer.status, kept, answer.body.replace(name.removeprefix("docker.io/"), "NAME")


NAMING = [row for row in ROWS if row.way != "refused" and slots(row)]
REST = [row for row in ROWS if row.way == "refused" or not slots(row)]


@pytest.mark.parametrize("row", NAMING, ids=lambda row: row.name)
def test_anothers_is_as_if_it_were_not_there(world: World, row: Row) -> None:
    """By name, id and beginning of the id, in every place of a call that names something."""
    shop, evil, places = world.shop, world.evil, slots(row)
    status = ELSEWHERE.get(row.name, NOT_FOUND)
    for place, letter in enumerate(places):
        own = [evil.things[one][0] for one in places]
        for spelling in shop.things[letter]:
            answers = []
            for name in (spelling, nobodys(spelling)):
                found = asked(row, evil, [*own[:place], name, *own[place + 1 :]])
                answers.append(plain(found, name))
            assert answers[0] == answers[1], spelling
            assert answers[0][0] == status, (spelling, answers[0])


@pytest.mark.parametrize("row", REST, ids=lambda row: row.name)
def test_nothing_of_anothers_is_told(world: World, row: Row) -> None:
    """By what lists, makes, removes or tells without naming anything; what is refused, whatever is named."""
    shop, evil = world.shop, world.evil
    if row.way == "refused":
        places = [shop.things[NAMED_BY.get(row.path.split("/")[1], "c")][0]] * row.path.count("{")
        found = asked(row, evil, places)
        assert found.status == row.status, found
        assert not [place for place in places if row.status != NOT_FOUND and place in found.body], found
        return
    assert row.name in OWN, f"{row.name}: say what a tenant gets of it"
    text, status, lists = OWN[row.name]
    text = (row.asked if text is None else text).replace("{now}", str(int(time.time()))).replace("{p}", evil.name)
    body = json.loads(row.body.replace("{p}", evil.name)) if row.body else None
    found = evil.ask(row.method, row.path + text, body)
    assert found.status == status, found
    told = found.body + json.dumps(found.headers)
    assert [secret for secret in shop.secrets if secret in told] == []
    if lists:
        own = shop.ask(row.method, row.path + text, body).body
        assert [secret for secret in shop.secrets if secret in own], own


def test_every_call_is_one_or_the_other() -> None:
    """Nothing is said of a call that does not exist, or that names something."""
    assert {row.name for row in REST if row.way != "refused"} == OWN.keys()
    assert ELSEWHERE.keys() <= {row.name for row in NAMING}
