"""Tenants through the front: each sees and touches what is its own, by every call, and none has power over a host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.front import sides
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import Result, wait_for

pytestmark = pytest.mark.slow
AT_TWO = "qnet.constraint=host==host2"


class Client:
    """A tenant, or an operator, by TLS from host2 to host1's front."""

    def __init__(self, fleet: Fleet, folder: Path, role: str, name: str, config: Path) -> None:
        self.fleet, self.name = fleet, name
        self.folder = sides.certificates_for(fleet.lab, folder / name, role, name)
        self.side: Side = sides.remote(fleet.hosts[0], fleet.hosts[1], self.folder, config)

    def docker(self, *words: str) -> sides.Said:
        return self.side.docker(*words)

    def ok(self, *words: str) -> str:
        return self.side.ok(*words)

    def call(self, method: str, path: str, body: object = None, text: str = "") -> tuple[int, Any]:
        """A request as a hostile client writes it."""
        data = text or (json.dumps(body) if body is not None else "")
        files = ("--cacert", "ca.pem", "--cert", "cert.pem", "--key", "key.pem")
        named = [str(self.folder / word) if word.endswith(".pem") else word for word in files]
        sent = ("-H", "Content-Type: application/json", "-d", data) if data else ()
        head = ("-I",) if method == "HEAD" else ("-X", method)
        url = f"https://{self.fleet.hosts[0].address}:2376{path}"
        done: Result = self.fleet.hosts[1].exec(
            "curl",
            "-s",
            "-g",
            "--path-as-is",
            *named,
            *head,
            *sent,
            "-w",
            "\n%{http_code}",
            url,
            timeout=60,
            check=False,
        )
        found, _, status = done.stdout.rpartition("\n")
        try:
            return int(status), json.loads(found)
        except ValueError:
            return int(status), found


@pytest.fixture
def clients(fleet: Fleet, config: Path, tmp_path: Path) -> Iterator[dict[str, Client]]:
    """Two tenants with a network and a container each, and an operator."""
    for number, name in enumerate(("shop", "evil")):
        fleet.qnet("tenant", "create", name, "--vni", "auto", "--supernet", f"10.20{number}.0.0/16", check=False)
    found = {
        "shop": Client(fleet, tmp_path, "tenant", "shop", config),
        "evil": Client(fleet, tmp_path, "tenant", "evil", config),
        "ops": Client(fleet, tmp_path, "operator", "ops", config),
    }
    for number, name in enumerate(("shop", "evil")):
        one = found[name]
        made = one.docker(
            "network", "create", "-d", "qnet", "-o", "mode=vxlan", "--subnet", f"10.20{number}.1.0/24", f"{name}-net"
        )
        assert made.status == 0, made
        one.ok("run", "-d", "--network", f"{name}-net", "--name", f"{name}-one", "busybox", "sleep", "1d")
        one.ok("volume", "create", "-d", "sharedfs", f"{name}-data")
    yield found
    fleet.restore()
    for name in ("shop", "evil"):
        for container in fleet.ps("-a", "--tenant", name):
            fleet.qnet("rm", "-f", container)
        fleet.qnet("network", "rm", f"{name}-net")
        fleet.hosts[0].docker("volume", "rm", f"{name}-data", check=False)
    for address in json.loads(fleet.qnet("address", "ls", "--json").stdout):
        if address.get("kind") == "held":
            fleet.qnet("address", "release", "--yes", address["address"], check=False)


def test_each_sees_its_own(clients: dict[str, Client]) -> None:
    shop, evil, ops = clients["shop"], clients["evil"], clients["ops"]
    assert shop.ok("ps", "--format", "{{.Names}}") == "shop-one"
    assert evil.ok("ps", "-a", "--format", "{{.Names}}") == "evil-one"
    assert {"shop-one", "evil-one"} <= set(ops.ok("ps", "--format", "{{.Names}}").split())
    assert shop.ok("network", "ls", "--format", "{{.Name}}") == "shop-net"
    assert shop.ok("volume", "ls", "-q") == "shop-data"
    assert "evil" not in shop.ok("system", "df", "-v")
    told = shop.ok("info", "--format", "{{json .}}")
    assert "evil" not in told
    assert "host2" not in told
    assert shop.ok("info", "--format", "{{.Containers}}") == "1"


def test_a_name_of_one_character_is_found_by_it(clients: dict[str, Client]) -> None:
    """Its engine calls it `a.qnet`."""
    shop, evil, ops = clients["shop"], clients["evil"], clients["ops"]
    shop.ok("create", "--network", "shop-net", "--name", "a", "busybox", "true")
    for words, found in (("name=^a$", "a"), ("name=^/a$", "a"), ("name=qnet", ""), ("name=^a.qnet$", "")):
        for client in (shop, ops):
            assert client.ok("ps", "-a", "--filter", words, "--format", "{{.Names}}") == found, words
            assert client.ok("ps", "-l", "--filter", words, "--format", "{{.Names}}") == found, words
        assert evil.ok("ps", "-a", "--filter", words, "--format", "{{.Names}}") == ""
    shop.ok("rm", "a")


def test_nobody_touches_anothers(clients: dict[str, Client]) -> None:
    """Every call that names something, with what is another tenant's, by name, id and beginning of the id."""
    shop, evil = clients["shop"], clients["evil"]
    id_ = shop.ok("inspect", "-f", "{{.Id}}", "shop-one")
    exec_ = shop.call("POST", "/v1.41/containers/shop-one/exec", {"Cmd": ["true"]})[1]["Id"]
    before = shop.ok("inspect", "shop-one")
    calls = [
        *(("GET", f"/containers/{{c}}/{what}") for what in ("json", "top", "logs?stdout=1", "changes", "stats")),
        *(("POST", f"/containers/{{c}}/{what}") for what in ("start", "stop", "restart", "kill", "pause", "unpause")),
        ("POST", "/containers/{c}/wait"),
        *(("POST", f"/containers/{{c}}/{what}") for what in ("attach?stream=1", "rename?name=mine", "resize?h=1&w=1")),
        ("DELETE", "/containers/{c}?force=1"), ("GET", "/containers/{c}/archive?path=/etc"),
        ("HEAD", "/containers/{c}/archive?path=/etc"), ("PUT", "/containers/{c}/archive?path=/tmp"),
        ("POST", "/commit?container={c}&repo=stolen"), ("GET", "/containers/{c}/attach/ws"),
    ]  # fmt: skip
    for name in ("shop-one", id_, id_[:12], id_[:4], f"/{id_}".removeprefix("/")):
        for method, path in calls:
            status, found = evil.call(method, f"/v1.41{path.replace('{c}', name)}")
            assert status == 404, (method, path, name, status, found)
        for path, body in (("update", {"Memory": 10 << 20}), ("exec", {"Cmd": ["id"]})):
            assert evil.call("POST", f"/v1.41/containers/{name}/{path}", body)[0] == 404
        for what in ("connect", "disconnect"):
            assert evil.call("POST", f"/v1.41/networks/evil-net/{what}", {"Container": name})[0] == 404
            assert evil.call("POST", f"/v1.41/networks/shop-net/{what}", {"Container": "evil-one"})[0] == 404
    for method, path in (("POST", "start"), ("GET", "json"), ("POST", "resize?h=1&w=1")):
        assert evil.call(method, f"/v1.41/exec/{exec_}/{path}", {} if path == "start" else None)[0] == 404
    for method, path in (("GET", "/networks/shop-net"), ("DELETE", "/networks/shop-net"), ("GET", "/volumes/shop-data"),
                         ("DELETE", "/volumes/shop-data")):  # fmt: skip
        assert evil.call(method, f"/v1.41{path}")[0] == 404, path
    assert evil.call("POST", "/v1.41/volumes/create", {"Name": "shop-data", "Driver": "sharedfs"})[0] == 409
    for change in ({"NetworkMode": "shop-net"}, {"Binds": ["shop-data:/d"]}, {"NetworkMode": "container:shop-one"},
                   {"Mounts": [{"Type": "volume", "Source": "shop-data", "Target": "/d"}]}):  # fmt: skip
        limits = {"NetworkMode": "evil-net", **change}
        status, found = evil.call("POST", "/v1.41/containers/create", {"Image": "busybox", "HostConfig": limits})
        assert status in (400, 404, 409), (change, status, found)
    assert shop.ok("inspect", "shop-one") == before
    assert evil.call("POST", "/v1.41/containers/create?name=shop-one", {"Image": "busybox"})[0] == 409


def test_no_spelling_gives_power(clients: dict[str, Client]) -> None:
    """Engines read field names in any case, and forms in bodies: nothing of that gets through."""
    evil = clients["evil"]
    own = {"NetworkMode": "evil-net"}
    bind = {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}
    for body in (
        {"HostConfig": {**own, "Privileged": True}},
        {"HostConfig": own, "hostconfig": {"Privileged": True}},
        {"HostConfig": own, "HOSTCONFIG": {"Binds": ["/:/h"]}},
        {"HostConfig": {**own, "binds": ["/:/h"]}},
        {"HostConfig": {**own, "Binds": ["/etc:/h"]}},
        {"HostConfig": {**own, "PidMode": "host"}},
        {"HostConfig": {**own, "IpcMode": "host"}},
        {"HostConfig": {**own, "CapAdd": ["ALL"]}},
        {"HostConfig": {**own, "Devices": [{"PathOnHost": "/dev/kmsg"}]}},
        {"HostConfig": {**own, "SecurityOpt": ["apparmor=unconfined"]}},
        {"HostConfig": {**own, "CgroupParent": "/"}},
        {"HostConfig": {**own, "VolumesFrom": ["shop-one"]}},
        {"HostConfig": {**own, "Mounts": [{"Type": "bind", "Source": "/", "Target": "/h"}]}},
        {"HostConfig": {**own, "Mounts": [{"Type": "volume", "Target": "/h", "type": "bind", "source": "/"}]}},
        {
            "HostConfig": {
                **own,
                "Mounts": [{"Type": "volume", "Target": "/h", "VolumeOptions": {"DriverConfig": bind}}],
            }
        },
        {"HostConfig": {**own, "Ulimits": [{"Name": "rtprio", "Soft": 99, "Hard": 99}]}},
        {"HostConfig": own, "networkingconfig": {"EndpointsConfig": {"shop-net": {"Aliases": ["a"]}}}},
        {
            "HostConfig": own,
            "NetworkingConfig": {"EndpointsConfig": {"evil-net": {"DriverOpts": {"qnet.egress": "none"}}}},
        },
        {"HostConfig": {"NetworkMode": "host"}},
        {"HostConfig": {"NetworkMode": "bridge"}},
        {"HostConfig": {}},
    ):
        status, found = evil.call("POST", "/v1.41/containers/create?name=bad", {"Image": "busybox", **body})
        assert status in (400, 403, 404, 409), (body, status, found)
    status, made = evil.call(
        "POST",
        "/v1.41/containers/create?name=masked",
        {
            "Image": "busybox",
            "HostConfig": {**own, "MaskedPaths": [], "ReadonlyPaths": []},
            "Labels": {"qnet.tenant": "shop"},
        },
    )
    assert status == 201
    host = next(one for one in evil.fleet.hosts if one.docker("inspect", made["Id"], check=False).returncode == 0)
    there = json.loads(host.docker("inspect", made["Id"]).stdout)[0]
    assert there["HostConfig"]["MaskedPaths"]
    assert there["Config"]["Labels"]["qnet.tenant"] == "evil"
    for path, text in (
        ("/v1.23/containers/masked/start", '{"Privileged":true}'),
        ("/v1.41/containers/evil-one/exec", '{"Cmd":["id"],"privileged":true}'),
        ("/v1.41/networks/evil-net/connect", '{"Container":"evil-one","container":"shop-one"}'),
        ("/v1.41/volumes/create", '{"Name":"v","Driver":"sharedfs","driver":"local"}'),
    ):
        evil.call("POST", path, text=text)
    shop = clients["shop"]
    assert "evil-net" not in shop.ok("inspect", "shop-one")
    assert all(
        "\nv\n" not in one.docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}").stdout
        for one in evil.fleet.hosts
    )
    assert evil.call("POST", "/v1.23/containers/masked/start", {})[0] == 400
    for path in ("/v1.41/containers/evil-one/../shop-one/json", "/v1.41//containers/shop-one/json",
                 "/v1.41/containers/evil-one%2f..%2fshop-one/json",
                 "/v1.41/containers/%2e%2e/containers/shop-one/json"):  # fmt: skip
        assert evil.call("GET", path)[0] == 404, path


def test_what_is_of_all_hosts_is_not_for_tenants(clients: dict[str, Client]) -> None:
    evil = clients["evil"]
    for method, path, body in (
        ("POST", "/build", None), ("POST", "/session", None), ("POST", "/grpc", None), ("POST", "/build/prune", None),
        ("POST", "/images/prune", None), ("POST", "/images/load", None), ("GET", "/metrics", None),
        ("POST", "/networks/create", {"Name": "b", "Driver": "bridge"}), ("POST", "/volumes/create", {"Name": "b"}),
        ("POST", "/images/create?fromSrc=http://127.0.0.1:1/x&repo=r", None),
        ("POST", "/networks/create", {"Name": "b", "Driver": "qnet", "Options": {"tenant": "shop"}}),
        ("POST", "/volumes/create", {"Name": "b", "Driver": "sharedfs", "DriverOpts": {"tenant": "shop"}}),
    ):  # fmt: skip
        status, found = evil.call(method, f"/v1.41{path}" if path != "/metrics" else path, body)
        assert status in (400, 403), (path, status, found)


def test_a_hosts_own_network_is_not_the_tenants_of_that_name(clients: dict[str, Client]) -> None:
    """It was made on host2's engine while nobody there told of it."""
    shop, host = clients["shop"], clients["shop"].fleet.hosts[1]
    shop.ok("run", "-d", "--network", "shop-net", "--label", AT_TWO, "--name", "shop-two", "busybox", "sleep", "1d")
    host.agent.stop()
    host.docker("network", "create", "both")
    host.docker("run", "-d", "--network", "both", "--name", "own", "busybox", "sleep", "1d")
    try:
        shop.ok("network", "create", "-d", "qnet", "-o", "mode=vxlan", "--subnet", "10.200.2.0/24", "both")
        host.agent.start()
        own_one = "network both is not here: this host has one of its own of that name"
        wait_for("the agent to tell", lambda: own_one in host.agent.log.read_text(), 20)
        assert "not found on host host2" in shop.docker("network", "connect", "both", "shop-two").err
        refused = shop.docker("run", "--network", "both", "--label", AT_TWO, "busybox", "true")
        assert "network both" in refused.err
        assert shop.ok("network", "inspect", "-f", "{{len .Containers}}", "both") == "0"
        warned = shop.fleet.qnet("doctor", check=False).stdout
        assert "network both of the cluster is not on host2" in warned
    finally:
        host.docker("rm", "-f", "own")
        host.docker("network", "rm", host.docker("network", "ls", "-q", "--filter", "driver=bridge", "--filter",
                                                 "name=^both$").stdout.strip())  # fmt: skip
    wait_for("the agent to make it", lambda: "qnet" in host.docker("network", "ls", "--filter", "name=both").stdout, 20)
    wait_for("the front to know", lambda: shop.docker("network", "connect", "both", "shop-two").status == 0, 20)
    assert shop.ok("network", "inspect", "-f", "{{range .Containers}}{{.Name}}{{end}}", "both") == "shop-two"
    shop.ok("rm", "-f", "shop-two")
    shop.ok("network", "rm", "both")


def test_images_belong_to_who_brought_them(clients: dict[str, Client]) -> None:
    shop, evil, ops = clients["shop"], clients["evil"], clients["ops"]
    shop.ok("commit", "shop-one", "shop/app:1")
    assert "shop/app" in shop.ok("images")
    assert "shop/app" not in evil.ok("images")
    for words in (("image", "inspect", "shop/app:1"), ("history", "shop/app:1"), ("save", "shop/app:1"),
                  ("rmi", "shop/app:1"),
                  ("tag", "shop/app:1", "mine"), ("create", "--network", "evil-net", "--pull", "never", "shop/app:1"),
                  ("image", "inspect", "docker.io/shop/app:1")):  # fmt: skip
        assert evil.docker(*words).status != 0, words
    for repo, tag in (("shop/app", "1"), ("docker.io/shop/app", "1"), ("busybox", "latest"),
                      ("docker.io/library/busybox", ""),
                      ("shop/app:x", "1")):  # fmt: skip
        path = f"/v1.41/images/busybox/tag?repo={repo}&tag={tag}"
        assert evil.call("POST", path)[0] in (400, 403), path
        assert evil.call("POST", f"/v1.41/commit?container=evil-one&repo={repo}&tag={tag}")[0] in (400, 403)
    assert shop.ok("run", "--rm", "--network", "shop-net", "shop/app:1", "echo", "own") == "own"
    shop.ok("create", "--network", "shop-net", "--name", "uses", "shop/app:1")
    assert shop.docker("rmi", "shop/app:1").status != 0
    assert "shop/app" not in evil.ok("images")  # what could not go is not everybody's
    assert evil.docker("create", "--network", "evil-net", "--pull", "never", "shop/app:1").status != 0
    shop.ok("rm", "uses")
    shop.ok("rmi", "shop/app:1")
    assert "shop/app" not in ops.ok("images")
    assert "Image is up to date" in evil.ok("pull", "busybox")  # no registry is asked what operators' names stand for
    evil.ok("rmi", "busybox")  # it gives up what it never had: operators' images stay
    assert ops.ok("image", "inspect", "-f", "{{.Os}}", "busybox") == "linux"


def test_no_filter_tells_of_a_name_of_others(clients: dict[str, Client]) -> None:
    shop, evil = clients["shop"], clients["evil"]
    shop.ok("tag", "busybox", "shop/same:1")
    for name, found in (("busybox", "evil-one"), ("shop/same:1", ""), ("shop/none:1", "")):
        assert evil.ok("ps", "-a", "--format", "{{.Names}}", "--filter", f"ancestor={name}") == found
    assert "shop-one" in shop.ok("ps", "-a", "--format", "{{.Names}}", "--filter", "ancestor=shop/same:1")
    for word in ("before", "since"):
        for name in ("shop/same:1", "shop/none:1"):
            assert f"No such image: {name}" in evil.docker("images", "--filter", f"{word}={name}").err
        evil.ok("images", "--filter", f"{word}=busybox")
        shop.ok("images", "--filter", f"{word}=shop/same:1")
    assert evil.ok("images", "-q", "shop/same") == ""
    assert shop.ok("images", "-q", "shop/same")
    shop.ok("rmi", "shop/same:1")


def test_what_a_trusted_tenant_builds_and_loads_is_its_own(clients: dict[str, Client]) -> None:
    shop, evil = clients["shop"], clients["evil"]
    shop.fleet.qnet("tenant", "set", "shop", "--trusted")
    file = b"FROM busybox\nLABEL made=here\n"
    shop.ok("tag", "busybox", "shop/loaded:1")
    saved = shop.side.docker("save", "shop/loaded:1").out
    assert "shop/loaded" not in evil.ok("inspect", "busybox")
    assert "shop/loaded" not in evil.ok("history", "busybox")
    shop.ok("rmi", "shop/loaded:1")
    assert "shop/loaded:1" in shop.side.ok("load", stdin=saved)
    classic = replace(shop.side, environment=(*shop.side.environment, ("DOCKER_BUILDKIT", "0")))
    nameless = classic.ok("build", "-q", "-", stdin=file)
    built = classic.ok("build", "-q", "-t", "shop/classic:1", "-", stdin=file.replace(b"here", b"there"))
    plain = shop.side.ok("buildx", "build", "-q", "-t", "shop/kit:1", "-", stdin=b"FROM scratch\nLABEL made=kit\n")
    nothing = shop.side.ok("buildx", "build", "-q", "-", stdin=b"FROM scratch\nLABEL made=kit2\n")
    ids = (nameless, built, plain, nothing)
    for image in ("shop/loaded:1", "shop/classic:1", "shop/kit:1", *ids, *(one[:19] for one in ids)):
        shop.ok("image", "inspect", image)
        assert evil.docker("image", "inspect", image).status != 0, image
    for image in (nameless, nameless.removeprefix("sha256:")[:12]):
        assert shop.ok("run", "--rm", "--network", "shop-net", image, "echo", "own") == "own"
    digest = shop.ok("inspect", "-f", "{{json .RepoDigests}}", "busybox")
    assert evil.ok("inspect", "-f", "{{json .RepoDigests}}", "busybox") == digest
    told = [one.ok("events", "--since", "60s", "--until", "0s", "--filter", "type=image") for one in (shop, evil)]
    assert "image tag" in told[0]
    assert "shop/" in told[0]
    assert told[1] == ""
    shop.ok("rmi", "shop/loaded:1", "shop/classic:1", "shop/kit:1", nameless[7:19], nothing)
    for image in ("shop/loaded:1", "shop/classic:1", "shop/kit:1", *ids):
        assert clients["ops"].docker("image", "inspect", image).status != 0, image
    shop.fleet.qnet("tenant", "set", "shop", "--untrusted")


def test_events_are_its_own(clients: dict[str, Client]) -> None:
    shop, evil = clients["shop"], clients["evil"]
    shop.ok("restart", "-t", "0", "shop-one")
    evil.ok("restart", "-t", "0", "evil-one")
    told = shop.ok("events", "--since", "30s", "--until", "0s")
    assert "shop-one" in told
    assert "evil" not in told


def test_each_hears_of_the_end_of_its_own(clients: dict[str, Client], tmp_path: Path) -> None:
    """Whose a network or a volume was nothing tells any more when its event comes."""
    shop, evil = clients["shop"], clients["evil"]
    words = ("events", "--filter", "type=network", "--filter", "type=volume")
    files = [tmp_path / f"{client.name}.events" for client in (shop, evil)]
    with files[0].open("wb") as one, files[1].open("wb") as other:
        hearing = [shop.side.popen(*words, stdout=one), evil.side.popen(*words, stdout=other)]
    try:
        for client, file in zip((shop, evil), files, strict=True):
            wait_for("events", lambda client=client, file=file: heard(client, file), 20)  # type: ignore[misc]
        shop.ok("network", "create", "-d", "qnet", "-o", "mode=vxlan", "--subnet", "10.200.3.0/24", "ends")
        shop.ok("volume", "create", "-d", "sharedfs", "ends")
        shop.ok("network", "rm", "ends")
        shop.ok("volume", "rm", "ends")
        ends = ("network destroy", "volume destroy ends")
        wait_for("the ends", lambda: all(end in files[0].read_text() for end in ends), 10)
    finally:
        for process in hearing:
            process.kill()
            process.wait()
    assert "network destroy" in shop.ok(*words, "--since", "60s", "--until", "0s")
    assert "ends" not in files[1].read_text()


def heard(client: Client, file: Path) -> bool:
    """Whether a client's stream has begun."""
    client.ok("volume", "create", "-d", "sharedfs", f"{client.name}-mark")
    client.ok("volume", "rm", f"{client.name}-mark")
    return "mark" in file.read_text()


def test_quotas_hold_whatever_the_way(clients: dict[str, Client]) -> None:
    shop = clients["shop"]
    shop.fleet.qnet("tenant", "set", "shop", "--cpus", "1", "--memory", "512M", "--containers", "4")
    shop.ok("rm", "-f", "shop-one")
    one = ("--network", "shop-net", "--cpus", "0.6", "-m", "128m")
    shop.ok("run", "-d", "--name", "shop-one", *one, "busybox", "sleep", "1d")
    shop.ok("create", "--name", "shop-two", *one[:3], "0.3", *one[4:], "busybox", "sleep", "1d")
    assert "CPUs" in shop.docker("update", "--cpus", "1.5", "shop-one").err
    shop.ok("stop", "-t", "0", "shop-one")
    shop.ok("start", "shop-two")
    shop.ok("update", "--cpus", "0.9", "shop-two")
    assert "CPUs" in shop.docker("start", "shop-one").err
    assert "CPUs" in shop.docker("restart", "shop-one").err
    assert shop.call("POST", "/v1.41/containers/shop-two/update", {"Memory": -4611686018427387904})[0] == 400
    assert shop.call("POST", "/v1.41/containers/shop-two/update", {"CpuQuota": -1})[0] == 400
    shop.fleet.qnet("tenant", "set", "shop", "--cpus", "0", "--memory", "0", "--containers", "0")


def test_nobody_without_a_certificate(fleet: Fleet, config: Path, tmp_path: Path) -> None:
    for role in ("host", "scheduler"):
        client = Client(fleet, tmp_path, role, "x", config)
        assert client.docker("ps").status == 1
    other = fleet.hosts[1].exec("curl", "-sk", f"https://{fleet.hosts[0].address}:2376/_ping", check=False)
    assert other.returncode != 0
    assert fleet.hosts[1].exec("curl", "-s", f"http://{fleet.hosts[0].address}:2376/_ping", check=False).returncode != 0
