"""Images to and from a registry that asks who one is: by the front as straight, from the host that has to."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.e2e.front import sides
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import Fleet
from tests.lab import registry
from tests.lab.host import Host
from tests.lab.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.engines]

USERS = {"ann": "secret", "shop": "of-shop", "evil": "of-evil"}
NOBODY, REFUSED = ("", ""), r"(?i)unauthorized|no basic auth"


@pytest.fixture(scope="module")
def fleet(kept_fleet: Fleet) -> Fleet:
    """One for all tests."""
    return kept_fleet


@pytest.fixture
def images(fleet: Fleet) -> Iterator[Registry]:
    """A registry on the last host, which all trust; no host keeps an image of it."""
    with registry.serving(fleet.hosts[-1], fleet.hosts, USERS) as found:
        yield found
        for tenant in ("shop", "evil"):
            for container in fleet.ps("-a", "--tenant", tenant):
                fleet.qnet("rm", "-f", container)
        for host in fleet.hosts:
            if names := those_of(host, found.name):
                host.docker("rmi", "-f", *names)


def those_of(host: Host, start: str) -> list[str]:
    """The names of a host's images that begin like that."""
    listed = host.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    return [name for name in listed if name.startswith(start)]


def has(fleet: Fleet, name: str) -> set[str]:
    """The hosts that have an image."""
    return {host.name for host in fleet.hosts if those_of(host, name)}


@dataclass(frozen=True)
class User:
    """Somebody whose docker command knows a password, or none."""

    folder: Path
    where: Registry
    name: str
    password: str

    def config(self) -> Path:
        """A configuration as `docker login` writes it."""
        sides.configuration(self.folder)
        file = self.folder / "config.json"
        said = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        known = {"auths": {self.where.name: {"auth": said}}} if self.name else {}
        file.write_text(json.dumps({**json.loads(file.read_text()), **known}))
        return self.folder


@pytest.fixture
def ann(images: Registry, tmp_path: Path) -> Path:
    """The configuration of somebody whom the registry knows."""
    return User(tmp_path / "ann", images, "ann", USERS["ann"]).config()


def committed(side: Side, name: str) -> str:
    """An image that only one host has, the last one."""
    box = side.ok("run", "-d", "--network", "none", "busybox", "touch", "/made")
    side.ok("wait", box)
    side.ok("commit", box, name)
    side.ok("rm", box)
    return name


def test_push_and_pull_as_straight(fleet: Fleet, images: Registry, ann: Path, tmp_path: Path) -> None:
    """The same words and statuses, whoever one says to be."""
    host, folder = fleet.hosts[0], tmp_path
    who = {
        "ann": ann,
        "nobody": User(folder / "nobody", images, *NOBODY).config(),
        "liar": User(folder / "liar", images, "ann", "wrong").config(),
    }
    told: dict[str, list[object]] = {}
    for make in (sides.straight, sides.front):
        side = make(host, ann)
        name = committed(side, f"{images.name}/{side.prefix}/app:1")
        found = told.setdefault(make.__name__, [])
        for user in ("nobody", "liar", "ann"):
            said = make(host, who[user]).docker("push", name)
            found.append((user, "push", said.status, plain(said.err, side)))
        side.ok("rmi", name)
        for user in ("nobody", "ann"):  # engine 28 takes minutes to believe that a password is wrong
            said = make(host, who[user]).docker("pull", name)
            found.append((user, "pull", said.status, plain(said.err, side).splitlines()[-1:]))
        found.append(side.docker("run", "--rm", "--network", "none", name, "ls", "/made").out)
        found.append(side.docker("pull", f"{images.name}/{side.prefix}/none:1").status)
        found.append(side.docker("login", "-u", "ann", "-p", "secret", images.name).out)
        found.append(side.docker("login", "-u", "ann", "-p", "wrong", images.name).status)
        side.ok("rmi", "-f", name)
        side.docker("logout", images.name)
        User(ann, images, "ann", USERS["ann"]).config()
    assert told["front"] == told["straight"]


def plain(text: str, side: Side) -> str:
    """Without what may differ; on several hosts a pull's error says whose it is."""
    return "\n".join(line.partition("host1: ")[2] or line for line in sides.same(text, side).splitlines())


def test_who_asks_what_from_where(fleet: Fleet, images: Registry, ann: Path) -> None:
    """An image goes to the registry from the host that has it; a pull is every host's, one for a container its own."""
    side, last, all_ = sides.front(fleet.hosts[0], ann), fleet.hosts[-1], {host.address for host in fleet.hosts}
    box = side.ok("run", "-d", "--network", "none", "-e", f"constraint:host=={last.name}", "busybox", "touch", "/made")
    side.ok("wait", box)
    name = f"{images.name}/team/app:1"
    side.ok("commit", box, name)
    side.ok("rm", box)
    side.ok("push", name)
    assert images.served("PUT", "/v2/team/app/manifests/1") == {(last.address, "ann")}
    side.ok("rmi", name)
    assert has(fleet, name) == set()
    on = ("-e", f"constraint:host=={last.name}")
    assert side.ok("run", "--rm", "--network", "none", *on, name, "ls", "/made") == "/made"
    assert images.served("GET", "/v2/team/app/") == {(last.address, "ann")}
    assert has(fleet, name) == {last.name}
    side.ok("pull", name)
    assert images.served("GET", "/v2/team/app/manifests") == {(one, "ann") for one in all_}
    assert has(fleet, name) == {host.name for host in fleet.hosts}
    assert not {one.who for one in images.asked if one.method == "PUT"} - {"ann"}


def test_the_sdk_says_who_one_is(fleet: Fleet, images: Registry, ann: Path) -> None:
    """By `login`, and by the credentials of one call, in what is made, brought and asked of the registry."""
    name = committed(sides.front(fleet.hosts[0], ann), f"{images.name}/sdk/app:1").removesuffix(":1")
    client = docker.DockerClient(f"unix://{fleet.hosts[0].gateway.socket}", timeout=60)
    secret = {"username": "ann", "password": USERS["ann"]}
    try:
        with pytest.raises(docker.errors.APIError, match=REFUSED):
            client.images.get_registry_data(f"{name}:1")
        assert "errorDetail" in client.images.push(name, tag="1", auth_config={**secret, "password": "wrong"})
        assert "errorDetail" not in client.images.push(name, tag="1", auth_config=secret)
        client.images.remove(f"{name}:1")
        with pytest.raises(docker.errors.APIError, match=REFUSED):
            client.images.pull(name, tag="1")
        assert client.login(**secret, registry=images.name)["Status"] == "Login Succeeded"
        assert client.images.pull(name, tag="1").tags == [f"{name}:1"]
        assert client.images.get_registry_data(f"{name}:1", auth_config=secret).id.startswith("sha256:")
    finally:
        client.close()
    assert has(fleet, name) == {host.name for host in fleet.hosts}


def test_a_tenants_image_is_pulled_with_ones_own_credentials(fleet: Fleet, images: Registry, tmp_path: Path) -> None:
    """That hosts have it for one tenant gives it to no other, who pulls it as the registry lets them."""
    host, at = fleet.hosts[0], fleet.hosts[-1]
    made = {}
    for number, tenant in enumerate(("shop", "evil")):
        fleet.qnet("tenant", "create", tenant, "--vni", "auto", "--supernet", f"10.20{number}.0.0/16", check=False)
        certificates = sides.certificates_for(fleet.lab, tmp_path / f"{tenant}-tls", "tenant", tenant)
        for user in (tenant, ""):
            config = User(tmp_path / f"{tenant}-{user}", images, user, USERS.get(user, "")).config()
            made[tenant, user] = sides.remote(host, at, certificates, config)
    ops = sides.front(host, User(tmp_path / "ops", images, "ann", USERS["ann"]).config())
    pushed, name = committed(ops, f"{images.name}/ops/app:1"), f"{images.name}/shop/app:1"
    ops.ok("push", pushed)
    images.copy("ops/app", "shop/app")  # under a name that no host ever had
    shop, evil = made["shop", "shop"], made["evil", "evil"]
    assert made["shop", ""].docker("pull", name).status == 1
    shop.ok("pull", name)
    assert has(fleet, name) == {one.name for one in fleet.hosts}
    assert images.served("GET", "/v2/shop/app/manifests") == {(one.address, "shop") for one in fleet.hosts}
    assert made["evil", ""].docker("pull", name).status == 1
    assert evil.docker("image", "inspect", name).status == 1
    assert evil.docker("push", name).status == 1
    assert evil.docker("create", "--network", "none", "--pull", "never", name).status == 1
    evil.ok("pull", name)
    assert evil.ok("create", "--network", "none", "--pull", "never", "--name", "evils", name)
    evil.ok("rm", "evils")
    evil.ok("rmi", name)
    assert shop.ok("image", "inspect", "-f", "{{.Os}}", name) == "linux"
    shop.ok("push", name)
    shop.ok("rmi", name)
    assert has(fleet, name) == set()
