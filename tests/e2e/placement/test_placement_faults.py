"""Runs while parts die: nothing runs twice, nothing that was acknowledged is lost, nothing is left half-way."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.e2e.conftest import DIRECTORY
from tests.e2e.placement import fleet as fleets
from tests.e2e.placement.faulty_scheduler import STEPS
from tests.e2e.placement.fleet import SLEEP, Fleet
from tests.lab.commands import wait_for
from tests.lab.host import Host

WAVES, INSTANCES = 3, 6


def kill_scheduler(host: Host) -> Callable[[], None]:
    host.scheduler.kill()
    return host.scheduler.start


def kill_engine(host: Host) -> Callable[[], None]:
    host.stop_engine(kill=True)
    return host.start_engine


def cut_off(host: Host) -> Callable[[], None]:
    host.partition("mgmt")
    return host.heal


def acknowledged(fleet: Fleet, wave: int, on: int, said: set[str]) -> None:
    """Runs several; the names of those that were answered for as running."""
    words = ("run", "--json", "--instances", str(INSTANCES), "--network", "web", "--name", f"w{wave}", *SLEEP)
    done = fleet.qnet(*words, on=on, check=False, timeout=180)
    try:
        said |= {one["name"] for one in json.loads(done.stdout or "[]") if not one.get("error")}
    except ValueError:
        return  # cut off in the middle: nothing was answered


@pytest.mark.parametrize("fault", [kill_scheduler, kill_engine, cut_off])
def test_kill_in_the_middle_of_runs(fleet: Fleet, fault: Callable[[Host], Callable[[], None]]) -> None:
    numbers = random.Random(fault.__name__)
    said: set[str] = set()
    for wave in range(WAVES):
        victim = fleet.hosts[wave % 3] if fault is not kill_scheduler else fleet.hosts[0]
        on = 0 if fault is kill_scheduler else (wave + 1) % 3
        running = threading.Thread(target=acknowledged, args=(fleet, wave, on, said))
        running.start()
        time.sleep(0.5 + 1.2 * numbers.random())  # the command takes a third of a second to start
        back = fault(victim)
        if fault is cut_off:
            time.sleep(6)
        back()
        running.join(200)
        assert not running.is_alive()
    fleet.agree()
    # an engine that was killed ends its containers when it is back: they are there, and do not run
    alive = {name for host in fleet.hosts for name in fleet.on(host.name, stopped=fault is kill_engine)}
    assert said <= alive, f"acknowledged and gone: {sorted(said - alive)}"


@pytest.mark.parametrize("kept", [True, False], ids=["seen", "never seen"])
def test_a_container_that_goes_while_its_agent_is_away_leaves_nothing(fleet: Fleet, kept: bool) -> None:
    """The agent was killed: it has seen the container, and wrote that down, or has not."""
    host = fleet.host(fleet.run("a1")["host"])
    host.agent.kill()
    host.docker("rm", "-f", "a1")
    if not kept:
        shutil.rmtree(host.node.disk / "private/var/lib/qnet/containers")
    host.agent.start()
    fleet.agree()
    assert fleet.records() == {}


def test_two_replicas_never_give_one_name_or_address_twice(fleet: Fleet) -> None:
    def ask(number: int) -> tuple[int, dict[str, object]]:
        body = {"container": {"Image": "busybox", "Cmd": ["sleep", "1d"]}, "networks": [{"name": "web"}]}
        if number < 6:
            body |= {"name": "only"}
        elif number < 12:
            body |= {"name": f"n{number}", "networks": [{"name": "web", "address": "10.77.0.99"}]}
        return fleet.api("POST", "/v1/runs", body, on=number % 3, timeout=120)

    done = kit.at_once(ask, range(18))
    good = [answer["containers"][0] for status, answer in done if status == 201]
    assert sum(one["name"] == "only" for one in good) == 1
    assert sum(one["addresses"]["web"] == ["10.77.0.99"] for one in good) == 1
    assert len(good) == 8, [answer for status, answer in done if status != 201]
    addresses = [one["addresses"]["web"][0] for one in good]
    assert len(set(addresses)) == len(addresses)
    fleet.agree()


def test_without_etcd_nothing_is_placed_and_afterwards_everything_is(fleet: Fleet) -> None:
    fleet.run("before")
    wait_for("it to be told as running", lambda: "before" in fleet.ps(), 30)
    etcd = fleet.hosts[0].etcd
    assert etcd is not None
    etcd.kill()
    began = time.monotonic()
    status, answer = fleet.api("POST", "/v1/runs", {"name": "x1", "container": {"Image": "busybox"}}, on=1)
    assert (status, answer["kind"]) == (503, "Unavailable")
    assert time.monotonic() - began < 20
    assert fleet.on(fleet.ps()["before"]["host"]) == {"before"}
    etcd.start()
    fleet.restore()
    fleet.run("after", on=1)
    fleet.agree()


def test_kill_of_etcds_leader_in_the_middle_of_runs(engine: str) -> None:
    with fleets.lab(engine, f"{DIRECTORY}-f3", etcd=3) as made:
        fleet = Fleet(made)
        fleet.network()
        said: set[str] = set()
        for wave in range(2):
            running = threading.Thread(target=acknowledged, args=(fleet, wave, wave, said))
            running.start()
            time.sleep(0.9)
            leader = made.etcd_leader()
            assert leader.etcd is not None
            leader.etcd.kill()
            running.join(200)
            leader.etcd.start()
        fleet.restore()
        fleet.agree()
        assert said <= {name for host in fleet.hosts for name in fleet.on(host.name)}
        assert said
        fleet.sweep()


def test_a_replica_stops_and_starts_without_leaving_anything(fleet: Fleet) -> None:
    folder = fleet.hosts[0].node.run / "qnet"
    fleet.hosts[0].scheduler.stop()
    assert fleet.api("GET", "/v1/health", on=1)[0] == 200
    assert "no answer from the placement service" in fleet.refused("ps")
    assert not Path(folder / "scheduler.sock").exists()
    fleet.hosts[0].scheduler.start()
    assert fleet.ps() == {}
    replicas = kit.records(fleet.lab, fleets.PLACEMENT + "replicas/")
    assert len(replicas) == 2 * len(fleet.hosts)  # the service and the front of each


@pytest.mark.parametrize("victim", ["scheduler", "agent", "engine", "plugin"])
def test_kill_at_each_step_of_a_run(fleet: Fleet, victim: str) -> None:
    """Of a run on host2, by the replica of host1: what was answered for is there, the rest is undone or finished."""
    first, second = fleet.hosts[:2]
    body = {"networks": [{"name": "web"}], "container": {"Image": "busybox", "Cmd": ["sleep", "1d"]}}
    body["container"] |= {"Labels": {"qnet.constraint": "host==host2"}}
    said = set()
    for step in STEPS if victim == "scheduler" else ("placed", "starting", "started"):
        pids = {"scheduler": 0, "agent": second.agent.pid, "engine": second.engine.pid, "plugin": second.plugin.pid}
        number = pids[victim] or 0
        env = {"QNET_LAB_STEP": step, "QNET_LAB_KILL": str(-number if victim == "plugin" else number)}
        first.scheduler.stop()
        first.scheduler.start([sys.executable, str(Path(__file__).with_name("faulty_scheduler.py"))], env)
        try:
            status, _ = fleet.api("POST", "/v1/runs", {**body, "name": f"s-{step}"}, timeout=120)
        except (OSError, http.client.HTTPException):
            status = 0  # it was killed before it could answer
        said |= {f"s-{step}"} if status == 201 else set()
        first.scheduler.kill()
        wait_for(f"the {victim}'s end", lambda pid=number: not pid or not Path(f"/proc/{pid}").exists(), 20)
        fleet.restore()
    fleet.agree()
    alive = fleet.on("host2", stopped=victim == "engine")
    assert said <= alive, f"acknowledged and gone: {sorted(said - alive)}"
    assert "s-started" in fleet.records()
