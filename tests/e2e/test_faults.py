"""Engines and etcd that die, hosts that are cut off: no duplicate, no leaked record, no leaked link afterwards."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kit, truth
from tests.e2e.kit import address, address_records, at_once, becomes_free, network, refused, run, run_args, running
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIXED = "10.77.0.50"
POOL = "default/10.77.0.0/24"
FORGOTTEN = ("already exists", "already in use", "file exists")


def journal(host: Host) -> Path:
    """A host's journal of releases."""
    return host.node.disk / "private/var/lib/qnet/releases.journal"


def all_agree(lab: Lab, within: float = 15) -> None:
    """No duplicates, and every host's records, files and links agree with its engine."""
    at_once(lambda host: truth.agrees(lab, host, within), lab.hosts)
    assert truth.duplicates(lab, lab.hosts) == []


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.4])
def test_the_engine_is_killed_while_it_starts_a_container(lab: Lab, hosts: list[Host], delay: float) -> None:
    host = hosts[0]
    network(hosts[:2], "web", "-o", "host_access=true")
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(host.docker, *run_args("aa", "--ip", FIXED), check=False)
        time.sleep(delay)
        host.stop_engine(kill=True)
        doing.result()
    host.start_engine()
    truth.agrees(lab, host, 15)
    if "aa" in host.docker("ps", "-a", "--format", "{{.Names}}").stdout.split():
        wait_for("start", lambda: _started_or_lost(host, "aa"), 20)
        truth.agrees(lab, host, 15)
        host.docker("rm", "-f", "aa")
    becomes_free(hosts[1], "bb", "--ip", FIXED)
    all_agree(lab)


def _started_or_lost(host: Host, name: str) -> bool:
    """Whether a container runs with the address. Docker 20.10 can forget a task ("already exists"), a container ("id
    already in use") or a bundle ("file exists") that containerd has, and then nothing starts that container any more;
    one that is still being killed counts as running at first. Docker 28 can start it without its network, and asks no
    plugin for an address: it is stopped and started once more. One that was killed before it had written down the
    network, or which address was asked for, never asks for it again."""
    started = host.docker("start", name, check=False)
    if started.returncode != 0:
        assert any(words in started.stderr for words in FORGOTTEN), started.stderr
        return True
    kept = kit.inspect(host, "container", name)["NetworkSettings"]["Networks"].get("web") or {}
    if (kept.get("IPAMConfig") or {}).get("IPv4Address") != FIXED:
        return True
    given = address(host, name)
    if not given:
        host.docker("stop", "-t", "0", name)
    return given == FIXED


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2])
def test_the_engine_is_killed_while_it_stops_a_container(lab: Lab, hosts: list[Host], delay: float) -> None:
    host = hosts[0]
    network(hosts[:2], "web", "-o", "host_access=true")
    run(host, "aa", "--ip", FIXED)
    run(host, "bb")
    with ThreadPoolExecutor(2) as pool:
        doing = [pool.submit(host.docker, *words, check=False) for words in (("stop", "aa"), ("rm", "-f", "bb"))]
        time.sleep(delay)
        host.stop_engine(kill=True)
        for one in doing:
            one.result()
    host.start_engine()
    truth.agrees(lab, host, 15)
    assert not running(host, "aa")
    assert address_records(lab)[FIXED]["kind"] == "held"
    refused(hosts[1], *run_args("late", "--ip", FIXED))
    wait_for("start", lambda: _started_or_lost(host, "aa"), 20)
    all_agree(lab)


def test_etcd_loses_its_leader_under_load(three_members: Lab) -> None:
    lab = three_members
    network(lab.hosts)
    leader = lab.etcd_leader()
    assert leader.etcd
    results: list[Result] = []
    killed = threading.Event()

    def load(host: Host) -> None:
        number = 0
        while not killed.is_set() or number < 6:
            number += 1
            results.append(host.docker(*run_args(f"c{number}"), check=False))
            if number % 3 == 0:
                host.docker("rm", "-f", f"c{number - 1}")

    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load, host) for host in lab.hosts]
        try:
            time.sleep(1.5)
            leader.etcd.kill()
            wait_for("another leader", lambda: _leads(lab, leader), 20)
            time.sleep(1)
        finally:
            killed.set()  # or the load would never end
        for one in loads:
            one.result()
    run(leader, "after")
    assert sum(done.returncode == 0 for done in results) >= 6
    assert [done.stderr for done in results if done.returncode and "cannot" not in done.stderr] == []
    leader.etcd.start()
    all_agree(lab)


def _leads(lab: Lab, dead: Host) -> bool:
    return any(host.etcd and host is not dead and host.etcd.leads() for host in lab.hosts)


def timed_request(host: Host) -> tuple[float, str]:
    """One RequestAddress of a host that is cut off: how long it took, and what it said."""
    began = time.monotonic()
    status, answer = call(host.plugin_socket, "POST", "/IpamDriver.RequestAddress", {"PoolID": POOL}, timeout=30)
    assert status == 500
    return time.monotonic() - began, str(answer["Err"])


def start_pinging(host: Host, container: str, target: str) -> None:
    """Ping once a second from a container, until `pinged`."""
    host.docker("exec", "-d", container, "sh", "-c", f"exec ping -W 1 {target} >/tmp/pings 2>&1")


def pinged(host: Host, container: str) -> tuple[int, int]:
    """How many pings were sent and answered since `start_pinging`."""
    host.docker("exec", container, "killall", "-INT", "ping")
    time.sleep(0.3)
    line = next(
        line
        for line in host.docker("exec", container, "cat", "/tmp/pings").stdout.splitlines()
        if "transmitted" in line
    )
    words = line.split()
    return int(words[0]), int(words[3])


@pytest.mark.parametrize("seconds", [60])
def test_a_host_is_cut_off_from_etcd(lab: Lab, hosts: list[Host], seconds: float) -> None:
    near, far = hosts[0], hosts[2]
    network(hosts)
    run(near, "watcher")
    stays = run(far, "stays")
    run(far, "stops", "--ip", FIXED)
    gone = run(far, "goes")
    start_pinging(near, "watcher", stays)
    began = time.monotonic()
    far.partition("etcd" if kit.CREATE.mode == "vxlan" else "mgmt")  # its containers are reached all the same
    try:
        for command in (("stop", "stops"), ("rm", "-f", "goes")):
            took = time.monotonic()
            far.docker(*command)
            assert time.monotonic() - took < 15, command
        assert len(journal(far).read_text().splitlines()) == 2
        for _ in range(3):
            took, said = timed_request(far)
            assert took <= 5.0, said
            assert "10.99.0.11:2379" in said
        at_once(lambda number: _late_run(far, f"late{number}"), range(3))
        assert f"address {FIXED} of pool" in refused(near, *run_args("late", "--ip", FIXED))
        assert f"address {gone} of pool" in refused(near, *run_args("late2", "--ip", gone))
        # a restart of the plugin changes nothing of this
        far.plugin.kill()
        far.start_plugin()
        took, said = timed_request(far)
        assert took <= 5.0
        assert "10.99.0.11:2379" in said
        assert len(journal(far).read_text().splitlines()) == 2
        run(near, "meanwhile")
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    finally:
        far.heal()
    wait_for("releases are replayed", lambda: not journal(far).exists(), 20)
    sent, answered = pinged(near, "watcher")
    assert sent >= seconds - 1
    assert answered >= sent - 1
    near.docker("rm", "-f", "late", "late2")
    becomes_free(near, "next", "--ip", gone)
    wait_for("held", lambda: address_records(lab)[FIXED]["kind"] == "held", 10)
    far.docker("start", "stops")
    assert address(far, "stops") == FIXED
    all_agree(lab, within=20)


def _late_run(host: Host, name: str) -> None:
    began = time.monotonic()
    said = refused(host, *run_args(name))
    assert "10.99.0.11:2379" in said
    assert time.monotonic() - began < 15
    host.docker("rm", "-f", name)


@pytest.mark.parametrize("plugin_restarts", [False, True])
def test_a_late_release_frees_nobody_elses_address(lab: Lab, hosts: list[Host], plugin_restarts: bool) -> None:
    """The operator gives the address of a host that is cut off to another one; then the host comes back."""
    other, far = hosts[1], hosts[2]
    network(hosts)
    run(far, "goes", "--ip", FIXED)
    run(far, "stops", "--ip", "10.77.0.51")
    far.partition("mgmt")
    try:
        if plugin_restarts:
            far.plugin.kill()
            far.start_plugin()
        far.docker("rm", "-f", "goes")
        far.docker("stop", "stops")
        for key in kit.records(lab):
            if key.endswith((f"/{FIXED}", "/10.77.0.51")) or "/macs/" in key:
                lab.etcdctl("del", key)
        run(other, "moved", "--ip", FIXED)
        run(other, "moved2", "--ip", "10.77.0.51")
        before = {text: address_records(lab)[text]["claim"] for text in (FIXED, "10.77.0.51")}
    finally:
        far.heal()
    wait_for("releases are replayed", lambda: not journal(far).exists(), 20)
    time.sleep(4)  # longer than the grace: repair has looked twice
    after = address_records(lab)
    assert {text: after[text]["claim"] for text in before} == before
    assert {after[text]["host"] for text in before} == {"host2"}
    assert "in use by container moved2 on host2" in refused(far, "start", "stops")
    assert kit.pings(other, "moved", "10.77.0.51")
    far.docker("rm", "-f", "stops")
    time.sleep(1)
    assert {text: address_records(lab)[text]["claim"] for text in before} == before
    all_agree(lab)


def test_etcd_is_away_for_everybody(lab: Lab, hosts: list[Host]) -> None:
    network(hosts)
    run(hosts[1], "aa")
    keeps = run(hosts[2], "bb", "--ip", FIXED)
    etcd = hosts[0].etcd
    assert etcd
    etcd.kill()
    try:
        assert kit.pings(hosts[1], "aa", keeps)
        took, said = timed_request(hosts[1])
        assert took <= 5.0
        assert "10.99.0.11:2379" in said
        hosts[1].docker("rm", "-f", "aa")
        hosts[2].docker("stop", "bb")
        said = refused(hosts[1], *kit.CREATE, "--subnet", "10.78.0.0/24", "other")
        assert "10.99.0.11:2379" in said
    finally:
        etcd.start()
    all_agree(lab, within=20)
    hosts[2].docker("start", "bb")
    assert address(hosts[2], "bb") == FIXED


@pytest.mark.mode("macvlan")
def test_a_trunk_that_is_cut_is_no_business_of_qnets(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[:2])
    run(hosts[0], "aa")
    before: dict[str, Any] = {}
    there = run(hosts[1], "bb")
    wait_for("names", lambda: all(one.get("container") for one in _endpoints(lab)), 30)
    kit.networks_named(lab)
    before = {key: one.value for key, one in kit.records(lab).items()}
    hosts[1].partition("trunk")
    assert not kit.pings(hosts[0], "aa", there, tries=1)
    run(hosts[1], "cc")
    hosts[1].docker("rm", "-f", "cc")
    hosts[1].heal()
    assert kit.pings(hosts[0], "aa", there)
    after = {key: one.value for key, one in kit.records(lab).items()}
    assert before.items() <= after.items()


def _endpoints(lab: Lab) -> list[dict[str, Any]]:
    return [one for one in address_records(lab).values() if one["kind"] == "endpoint"]


def test_a_journaled_release_of_an_earlier_claim_does_nothing(lab: Lab, hosts: list[Host]) -> None:
    """The address was given out again since, by the same host."""
    host = hosts[1]
    network(host)
    given = run(host, "aa")
    before = address_records(lab)[given]
    host.stop_plugin()
    entry = {"tenant": "default", "subnet": kit.SUBNET, "address": given, "claim": "0123456789abcdef"}
    journal(host).write_text(json.dumps(entry) + "\n")
    host.start_plugin()
    wait_for("the journal is done", lambda: not journal(host).exists(), 10)
    after = address_records(lab)[given]
    assert (after["claim"], after["kind"]) == (before["claim"], "endpoint")
    assert kit.pings(host, "aa", given)
