"""Fronts, agents, engines and replicas killed while clients work: nothing twice, nothing lost, others go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.front import sides
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import LabError, wait_for
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow

WORKERS, LASTS = 4, 12.0
FAULTS: dict[str, Callable[[Fleet], None]] = {
    "front": lambda fleet: fleet.hosts[1].gateway.kill(),
    "agent": lambda fleet: fleet.hosts[1].agent.kill(),
    "engine": lambda fleet: fleet.hosts[1].engine.kill(),
    "replica": lambda fleet: fleet.hosts[1].scheduler.kill(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_killed_in_the_middle_of_work(fleet: Fleet, config: Path, fault: str) -> None:
    """Four clients make and remove containers through two fronts while one part of host2 dies and comes back."""
    stop = threading.Event()
    kept: dict[str, str] = {}
    wrong: list[str] = []
    done = [0] * WORKERS

    def work(number: int) -> None:
        side = sides.front(fleet.hosts[number % 2], config, prefix=f"w{number}")
        turn = 0
        while not stop.is_set():
            turn += 1
            name = f"w{number}-{turn}"
            made = side.docker("run", "-d", "--network", "web", "--name", name, "busybox", "sleep", "1d", timeout=120)
            if made.status == 0:
                done[number] += 1
                kept[name] = made.out.decode().strip()
                if turn % 2:
                    del kept[name]  # gone, or not if that was broken off
                    side.docker("rm", "-f", name, timeout=120)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    time.sleep(LASTS / 4)
    FAULTS[fault](fleet)
    time.sleep(LASTS / 4)
    before = list(done)
    with suppress(LabError):
        wait_for("one to go on", lambda: done[0] > before[0] or done[2] > before[2], 30)
    going = [number for number in range(WORKERS) if done[number] > before[number]]
    fleet.restore()
    time.sleep(LASTS / 4)
    stop.set()
    for worker in workers:
        worker.join(150)
        assert not worker.is_alive()
    assert 0 in going or 2 in going, f"nobody at host1's front went on: {before} then {done}"
    fleet.agree()
    there = {name: ids(fleet, name) for name in kept}
    if fault != "engine":  # whose containers end with it, and keep their names
        wrong += [f"{name} was made and is gone" for name, found in there.items() if kept[name] not in found]
    wrong += [f"{name} is there {len(found)} times" for name, found in there.items() if len(found) > 1]
    assert wrong == []
    assert kept


def ids(fleet: Fleet, name: str) -> list[str]:
    """Of the containers of that name on all engines."""
    found = []
    for host in fleet.hosts:
        for one in call(host.docker_socket, "GET", "/containers/json?all=1", timeout=60)[1]:
            if f"/{name}" in one["Names"]:
                found.append(one["Id"])
    return found


def test_a_front_is_started_again_as_if_nothing_had_happened(fleet: Fleet, config: Path) -> None:
    side: Side = sides.front(fleet.hosts[0], config)
    name = side.ok("run", "-d", "--network", "web", "--name", "stays", "busybox", "sleep", "1d")
    exec_ = call(fleet.hosts[0].gateway.socket, "POST", "/v1.41/containers/stays/exec", {"Cmd": ["true"]})[1]["Id"]
    fleet.hosts[0].gateway.kill()
    assert side.docker("ps").status == 1
    fleet.hosts[0].gateway.start()
    assert side.ok("inspect", "-f", "{{.Id}}", "stays") == name
    assert call(fleet.hosts[0].gateway.socket, "GET", f"/v1.41/exec/{exec_}/json")[1]["ContainerID"] == name
    began = time.monotonic()
    fleet.hosts[0].gateway.stop()
    assert time.monotonic() - began < 5
    fleet.hosts[0].gateway.start()


def test_a_front_without_its_store_says_so(fleet: Fleet, config: Path) -> None:
    """What is known is still told; what has to be written is refused in time."""
    side: Side = sides.front(fleet.hosts[1], config)
    side.ok("run", "-d", "--network", "none", "--name", "known", "busybox", "sleep", "1d")
    etcd = fleet.hosts[0].etcd
    assert etcd is not None
    etcd.kill()
    try:
        assert "known" in side.ok("ps", "--format", "{{.Names}}")
        assert side.docker("exec", "known", "echo", "on").out == b"on\n"
        began = time.monotonic()
        said = side.docker("run", "-d", "--network", "none", "busybox", "true")
        assert said.status == 125
        assert time.monotonic() - began < 60
    finally:
        etcd.start()
    fleet.restore()
    wait_for(
        "work to be taken again",
        lambda: side.docker("run", "--rm", "--network", "none", "busybox", "true").status == 0,
        30,
    )


def test_what_was_built_on_one_host_runs_there(fleet: Fleet, config: Path, tmp_path: Path) -> None:
    """And a drained host builds nothing."""
    side = sides.front(fleet.hosts[0], config)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo built > /made\nCMD cat /made\n")
    fleet.qnet("host", "drain", "host1")
    fleet.qnet("host", "drain", "host3")
    for kit in ("0", "1"):
        said = side.sh(f"DOCKER_BUILDKIT={kit} docker build -q --network none -t own:{kit} {tmp_path}")
        assert said.status == 0, said
    fleet.qnet("host", "ready", "host1")
    fleet.qnet("host", "ready", "host3")
    there = json.loads(side.ok("inspect", "own:0"))[0]
    assert there["Config"]["Labels"]["qnet.host"] == "host2"
    for _ in range(4):
        assert side.ok("run", "--rm", "--network", "none", "own:1") == "built"
    side.ok("rmi", "own:0", "own:1")
    assert "own" not in side.ok("images")


def test_every_host_gets_what_is_brought(fleet: Fleet, config: Path, tmp_path: Path) -> None:
    """Loaded, tagged and removed on all; what a host does not have is told of that host."""
    side = sides.front(fleet.hosts[0], config)
    side.ok("tag", "busybox", "everywhere:1")
    for host in fleet.hosts:
        assert "everywhere" in host.docker("images").stdout
    side.ok("save", "-o", str(tmp_path / "one.tar"), "everywhere:1")
    side.ok("rmi", "everywhere:1")
    for host in fleet.hosts:
        assert "everywhere" not in host.docker("images").stdout
    side.ok("load", "-i", str(tmp_path / "one.tar"))
    for host in fleet.hosts:
        assert "everywhere" in host.docker("images").stdout
    listed = side.ok("images", "everywhere", "--format", "{{.ID}}").split()
    assert len(listed) == 1
    side.ok("rmi", "everywhere:1")


def test_compose_and_the_sdk(fleet: Fleet, config: Path, tmp_path: Path) -> None:
    """The docker SDK does with the front what it does with an engine; compose runs an application over the fleet."""
    import docker

    client = docker.DockerClient(f"unix://{fleet.hosts[0].gateway.socket}", timeout=60)
    try:
        assert client.ping()
        assert client.containers.run("busybox", "echo sdk", network="web", remove=True) == b"sdk\n"
        one = client.containers.run("busybox", "sleep 1d", network="web", name="sdk", detach=True)
        assert one.exec_run("echo in").output == b"in\n"
        assert [found.name for found in client.containers.list(filters={"name": "sdk"})] == ["sdk"]
        one.reload()
        assert one.labels["qnet.host"] in {"host1", "host2", "host3"}
        assert next(iter(one.stats(stream=False)["name"]))
        bits, _ = one.get_archive("/etc/hostname")
        assert b"".join(bits)
        one.remove(force=True)
        with pytest.raises(docker.errors.NotFound):
            client.containers.get("sdk")
        assert client.networks.get("web").name == "web"
    finally:
        client.close()
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    side = sides.front(fleet.hosts[0], config)
    side.ok("volume", "create", "-d", "sharedfs", "shared")
    where = ("compose", "--project-directory", str(tmp_path), "-f", str(tmp_path / "compose.yaml"))
    side.ok(*where, "up", "-d")
    names = side.ok("ps", "--format", '{{.Names}} {{.Label "qnet.host"}}').splitlines()
    assert len(names) == 5
    assert len({line.split()[1] for line in names if "-web-" in line}) == 3
    assert "ready" in side.ok(*where, "logs", "local")
    assert (
        side.ok(*where, "exec", "-T", "web", "ping", "-c", "1", "-W", "2", "10.77.0.60").count("1 packets received")
        == 1
    )
    side.ok(*where, "down", "-t", "0", "-v")
    assert side.ok("ps", "-aq") == ""
    side.ok("volume", "rm", "shared")


COMPOSE = """
name: app
services:
  database:
    image: busybox
    command: sleep 1d
    networks: {web: {ipv4_address: 10.77.0.60}}
    volumes: [shared:/data]
  web:
    image: busybox
    command: sleep 1d
    networks: [web]
    volumes: [shared:/data]
    depends_on: [database]
    deploy: {replicas: 3}
    labels: {"qnet.spread": "host:max_per=1", "qnet.group": web}
  local:
    image: busybox
    command: sh -c "echo ready; sleep 1d"
    volumes: [own:/own]
networks: {web: {external: true}}
volumes: {shared: {external: true}, own: {}}
"""
